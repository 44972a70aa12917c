//! The daemon's end of the control socket.
//!
//! Whoever holds the lock beside the socket may replace a socket that nobody answers at: two daemons
//! that start at once cannot unlink each other's. A socket that answers, and a file that is no
//! socket, are never removed. What can still go wrong: someone with the daemon's rights unlinks the
//! socket; the daemon runs on and cannot be reached until it is started again.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::geteuid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{CALL_MAX, Call, ControlRequest, REPLY_MAX, Reply, ReplySender, Request, VERSION};
use crate::{
    domain::failure::{Class, Failure},
    sys::{
        crowd::{Crowd, Place, Room},
        files::open_plain,
        time_limits, trust,
    },
};

/// Connections at once. The oldest that says nothing makes room; where all are being answered, one more is
/// told so and closed.
const ROOM: Room =
    Room { all: 64, of_one: 64, served_go: false, moment: Duration::from_millis(100) };
/// Time that a client has to send its call, and the daemon's loop to take it.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Time that a client has to read one reply.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Time that connections have at the end to deliver their last replies.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after `accept` failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log says so, while it goes on.
const ACCEPT_TOLD: Duration = Duration::from_mins(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon answers there, or is about to.
    #[error("another pgkeep daemon is listening on {}", .0.display())]
    Live(PathBuf),
    /// There is a file in its place that is no socket.
    #[error("{} is in the way: it is no socket", .0.display())]
    InTheWay(PathBuf),
    /// The folder can be written by others, or is another user's.
    #[error("the folder {} belongs to another user or can be written by others", .0.display())]
    Folder(PathBuf),
    #[error("cannot listen on {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A control socket that listens.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our socket: only that one is removed at the end.
    identity: (u64, u64),
    /// Held for as long as the socket is ours.
    lock: File,
}

impl ControlServer {
    /// Listens at `path`; makes its folder, with the mode 0700, where it is missing. Needs a
    /// runtime with I/O.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let io = |source| ServeError::Io { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        trust::check_folder(folder).map_err(|_| ServeError::Folder(folder.to_owned()))?;
        let lock = lock(path)?;
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(io)?;
        // Until here others are kept out by the peer's credentials alone.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io)?;
        let meta = fs::symlink_metadata(path).map_err(io)?;
        let identity = (meta.dev(), meta.ino());
        Ok(Self { listener, path: path.to_owned(), identity, lock })
    }

    /// Answers calls until `stop` is cancelled; then gives those under way a moment to deliver
    /// their last reply. Requests go to `requests`, the daemon's loop.
    pub async fn serve(self, requests: mpsc::Sender<ControlRequest>, stop: CancellationToken) {
        let crowd = Crowd::new(ROOM);
        let (connections, end) = (TaskTracker::new(), CancellationToken::new());
        let mut spare = Spare::new(&self.lock);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    spare.renew(&self.lock);
                    let place = crowd.admit(()).await;
                    let (requests, end) = (requests.clone(), end.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = end.cancelled() => {}
                            () = connection(stream, requests, place.as_ref()) => {}
                        }
                    });
                }
                Err(error) => {
                    spare.turn_away(&self, &error).await;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(requests);
        connections.close();
        if timeout(time_limits::limit(DRAIN_TIME), connections.wait()).await.is_err() {
            end.cancel();
            connections.wait().await;
        }
    }
}

/// A descriptor in reserve. Where none is left, it is given up for as long as it takes to tell one client
/// why: without an answer the daemon would look as if it hung.
#[derive(Debug)]
struct Spare {
    descriptor: Option<File>,
    told: Option<Instant>,
}

impl Spare {
    fn new(any: &File) -> Self {
        Self { descriptor: any.try_clone().ok(), told: None }
    }

    /// Has one again: somebody else may have been faster where the last was given up.
    fn renew(&mut self, any: &File) {
        if self.descriptor.is_none() {
            self.descriptor = any.try_clone().ok();
        }
    }

    /// Tells the next client why it is not served.
    async fn turn_away(&mut self, server: &ControlServer, error: &io::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= ACCEPT_TOLD) {
            tracing::warn!(%error, "cannot accept a control connection");
            self.told = Some(Instant::now());
        }
        drop(self.descriptor.take());
        if let Ok(Ok((mut stream, _))) = timeout(ACCEPT_PAUSE, server.listener.accept()).await {
            let doing = "take a call on the control socket";
            let failure = Failure::from_error(Class::Resources, doing, error);
            let (_, mut write) = stream.split();
            let sent = async { write.write_all(&encode(Reply::Failed(failure))?).await };
            if let Err(error) = timeout(ACCEPT_PAUSE, sent).await {
                tracing::debug!(%error, "cannot turn a control connection away");
            }
        }
        self.renew(&server.lock);
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove the control socket");
        }
    }
}

/// Takes the lock beside the socket; its file stays.
fn lock(path: &Path) -> Result<File, ServeError> {
    let io = |source| ServeError::Io { path: path.to_owned(), source };
    let beside = path.with_added_extension("lock");
    let file = open_plain(&beside, true).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::Live(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Removes a socket that nobody answers at.
fn clear(path: &Path) -> Result<(), ServeError> {
    let io = |source| ServeError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServeError::InTheWay(path.to_owned()));
        }
        Ok(_) => {}
    }
    if answers(path).map_err(io)? {
        return Err(ServeError::Live(path.to_owned()));
    }
    tracing::info!(path = %path.display(), "removing the control socket of a daemon that has gone");
    fs::remove_file(path).map_err(io)
}

/// Whether somebody listens. Does not wait: a full queue (`EAGAIN`) is somebody.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn connection(
    stream: UnixStream,
    requests: mpsc::Sender<ControlRequest>,
    place: Option<&Place>,
) {
    let credentials = stream.peer_cred();
    let (read, mut write) = stream.into_split();
    let uid = match credentials {
        Ok(peer) if [geteuid().as_raw(), 0].contains(&peer.uid()) => peer.uid(),
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused a control connection of another user");
            return refuse(&mut write, "only the daemon's user and root may speak to it").await;
        }
        Err(error) => {
            tracing::warn!(%error, "refused a control connection without credentials");
            return refuse(&mut write, "the peer's credentials cannot be read").await;
        }
    };
    let Some(place) = place else {
        return refuse(&mut write, "too many control connections").await;
    };
    let mut read = BufReader::new(read);
    let called = tokio::select! {
        called = timeout(CALL_TIME, read_call(&mut read)) => called,
        () = place.lost() => return,
    };
    place.served();
    let request = match called {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return,
        Ok(Err(reason)) => return refuse(&mut write, &reason).await,
        Err(_) => return refuse(&mut write, "no call came in time").await,
    };
    let (reply, replies) = ReplySender::channel();
    let request = ControlRequest { request, uid, reply };
    match timeout(CALL_TIME, requests.send(request)).await {
        Ok(Ok(())) => answer(read.into_inner(), write, replies).await,
        Ok(Err(_)) => refuse(&mut write, "the daemon is ending").await,
        Err(_) => refuse(&mut write, "the daemon is busy").await,
    }
}

/// Reads the call; `None` where the client says nothing.
async fn read_call(read: &mut BufReader<OwnedReadHalf>) -> Result<Option<Request>, String> {
    let mut line = Vec::new();
    let mut bounded = read.take(CALL_MAX as u64 + 1);
    bounded.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > CALL_MAX {
        return Err(format!("the call is longer than {CALL_MAX} bytes"));
    }
    let call: Call =
        serde_json::from_slice(&line).map_err(|error| format!("this is no call: {error}"))?;
    if call.version > VERSION {
        let theirs = call.version;
        return Err(format!(
            "the daemon speaks version {VERSION}, the client {theirs}: restart it"
        ));
    }
    let request = serde_json::from_value(call.request);
    request.map(Some).map_err(|error| format!("the daemon does not know this request: {error}"))
}

/// Passes the replies on until the last, or until the client has gone.
async fn answer(read: OwnedReadHalf, mut write: OwnedWriteHalf, mut from: mpsc::Receiver<Reply>) {
    let mut hung_up = std::pin::pin!(hung_up(read));
    let mut listening = true;
    loop {
        let reply = tokio::select! {
            reply = from.recv() => reply,
            gone = &mut hung_up, if listening => {
                if gone || is_closed(&write).await {
                    return;
                }
                listening = false;
                continue;
            }
        };
        let Some(reply) = reply else { return };
        let last = reply.is_last();
        if write_reply(&mut write, reply).await.is_err() || last {
            return;
        }
    }
}

/// Waits until the client says that it will write no more: `true` if it broke off. A client that
/// closed only its writing side still reads.
async fn hung_up(mut read: OwnedReadHalf) -> bool {
    let mut ignored = [0; 256];
    let mut count = 0;
    // Who goes on and on after its call is no client.
    while count <= CALL_MAX {
        match read.read(&mut ignored).await {
            Ok(0) => return false,
            Ok(more) => count += more,
            Err(_) => return true,
        }
    }
    true
}

async fn is_closed(write: &OwnedWriteHalf) -> bool {
    write.ready(Interest::WRITABLE).await.is_ok_and(tokio::io::Ready::is_write_closed)
}

async fn refuse(write: &mut OwnedWriteHalf, reason: &str) {
    let reply = Reply::Refused { reason: reason.to_owned() };
    if let Err(error) = write_reply(write, reply).await {
        tracing::debug!(%error, "cannot refuse a control connection");
    }
}

async fn write_reply(write: &mut OwnedWriteHalf, reply: Reply) -> io::Result<()> {
    let line = encode(reply)?;
    timeout(WRITE_TIME, write.write_all(&line)).await.map_err(io::Error::from)?
}

/// A reply as a line. One that would be too long is abridged, or replaced by a failure.
fn encode(reply: Reply) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&reply)?;
    if line.len() >= REPLY_MAX {
        let shorter = match reply {
            Reply::Ended { run, verdict, report } => {
                let report = Box::new(report.abridged());
                Reply::Ended { run, verdict, report }
            }
            _ => Reply::Failed(Failure::new(
                Class::Internal,
                "answer a control request",
                format!("the reply is longer than {REPLY_MAX} bytes"),
            )),
        };
        line = serde_json::to_vec(&shorter)?;
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::{Report, Sample, Verdict};

    #[test]
    fn replies_that_are_too_long_are_abridged() {
        let sample = Sample { metric: "x".repeat(REPLY_MAX), labels: Vec::new(), value: 0.0 };
        let report = Box::new(Report { samples: vec![sample], ..Report::default() });
        let (run, verdict) = ("r1".to_owned(), Verdict::Failed);
        let line = encode(Reply::Ended { run, verdict, report }).unwrap();
        assert!(line.len() < 1000);
        let read: Reply = serde_json::from_slice(&line).unwrap();
        assert!(matches!(read, Reply::Ended { verdict: Verdict::Failed, .. }));
        let line = encode(Reply::Done("x".repeat(REPLY_MAX))).unwrap();
        assert!(matches!(serde_json::from_slice(&line).unwrap(), Reply::Failed(_)));
    }
}
