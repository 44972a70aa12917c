//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{CALL_MAX, Call, REPLY_MAX, Reply, Request, VERSION};

/// Why no daemon was reached. The command line does its work in place where none runs, and never
/// where one runs that does not let it in.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no socket, or nobody answers at it.
    #[error("no daemon is listening on {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket, or its folder, is closed to this user.
    #[error("the daemon at {} does not let this user in", .0.display())]
    Denied(PathBuf),
    #[error("cannot connect to {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon ended, or broke off. A run that it accepted may have ended or not.
    #[error("the daemon broke off")]
    Lost(#[source] Option<io::Error>),
    #[error("the daemon's reply cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("the daemon has not answered for {0:?}")]
    Silent(Duration),
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
}

/// A connection for one call.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
}

impl ControlClient {
    /// Connects to the daemon's socket.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self { stream }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ConnectError::NotRunning(path.to_owned())
                }
                io::ErrorKind::PermissionDenied => ConnectError::Denied(path.to_owned()),
                _ => ConnectError::Io { path: path.to_owned(), source },
            }),
        }
    }

    /// Sends the call; the answers are read from what it returns.
    pub async fn call(self, request: &Request) -> Result<Replies, CallError> {
        let request = serde_json::to_value(request).map_err(CallError::Unreadable)?;
        let call = Call { version: VERSION, request };
        let mut line = serde_json::to_vec(&call).map_err(CallError::Unreadable)?;
        line.push(b'\n');
        if line.len() > CALL_MAX {
            return Err(CallError::TooLong(CALL_MAX));
        }
        let (read, mut write) = self.stream.into_split();
        // A server that refuses may have written its reason and closed: that is read first.
        let sent = write.write_all(&line).await.err();
        Ok(Replies { read: BufReader::new(read), _write: write, sent, ended: false })
    }
}

/// The answers to one call.
#[derive(Debug)]
pub struct Replies {
    read: BufReader<OwnedReadHalf>,
    /// Kept open: closing it would look like going away.
    _write: OwnedWriteHalf,
    sent: Option<io::Error>,
    ended: bool,
}

impl Replies {
    /// The next reply; `None` after the last. Not to be dropped half-way and called again.
    pub async fn next(&mut self) -> Result<Option<Reply>, CallError> {
        if self.ended {
            return Ok(None);
        }
        let mut line = Vec::new();
        let mut bounded = (&mut self.read).take(REPLY_MAX as u64 + 1);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(_) if line.len() > REPLY_MAX => return Err(CallError::TooLong(REPLY_MAX)),
            Ok(_) => return Err(CallError::Lost(self.sent.take())),
            Err(error) => return Err(CallError::Lost(Some(error))),
        }
        let reply: Reply = serde_json::from_slice(&line).map_err(CallError::Unreadable)?;
        self.ended = reply.is_last();
        Ok(Some(reply))
    }

    /// The next reply, where it comes within `limit`. Else nothing more is to be read.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Option<Reply>, CallError> {
        tokio::time::timeout(limit, self.next()).await.unwrap_or(Err(CallError::Silent(limit)))
    }

    /// The last reply, for calls that are not followed; no reply may take longer than `limit`.
    pub async fn last(mut self, limit: Duration) -> Result<Reply, CallError> {
        let mut last = None;
        while let Some(reply) = self.next_within(limit).await? {
            last = Some(reply);
        }
        last.ok_or(CallError::Lost(None))
    }
}
