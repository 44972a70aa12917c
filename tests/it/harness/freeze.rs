//! A proxy that falls silent, or slows down to a byte a second, at a boundary between two messages: what a dead
//! network, a stopped process or a hung balancer look like from the other side. It closes nothing.
//!
//! Boundaries are counted over all connections and both directions. A run without harm tells how many there
//! are; then each can be tried. What is a message is said by a [`Framing`]: of PostgreSQL's protocol (without TLS),
//! of text in lines (HTTP heads, the control socket), where whatever comes without a line end is a message, too, or
//! of bytes alone.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::wait::{PATIENCE, eventually};

/// What passes as one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// PostgreSQL's messages. Rows that follow each other count as one.
    Postgres,
    /// Lines, and what comes without a line end.
    Lines,
    /// So many bytes, or what comes that is less.
    Pieces(usize),
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// `127.0.0.1:5432`
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What happens at the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Nothing passes any more on any connection, also on those that are opened later.
    All,
    /// Nothing passes any more on the connection that came to the boundary; others work.
    One,
    /// Everything passes at a byte a second, on every connection.
    Trickle,
}

#[derive(Debug)]
struct Shared {
    framing: Framing,
    place: Place,
    at: usize,
    harm: Harm,
    passed: AtomicUsize,
    /// The connection that came to the boundary.
    struck: Mutex<Option<usize>>,
    over: AtomicBool,
    changed: Condvar,
    open: Mutex<Vec<Stream>>,
}

/// A running proxy; all connections break when it is dropped.
#[derive(Debug)]
pub(crate) struct Freeze {
    shared: Arc<Shared>,
    address: String,
    folder: Option<TempDir>,
}

impl Freeze {
    /// Starts one on a Unix socket of that name, in a folder of its own, that does harm before the message
    /// of that number (from 0) passes. `usize::MAX` never comes.
    pub(crate) fn unix(name: &str, place: Place, framing: Framing, at: usize, harm: Harm) -> Self {
        let folder = tempfile::Builder::new().prefix("fr.").tempdir_in("/tmp").unwrap();
        let path = folder.path().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        // PostgreSQL's programs may run as another user than the test.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, open).unwrap();
        let shared = Shared::new(place, framing, at, harm);
        let accept = move || listener.accept().map(|(stream, _)| Stream::Unix(stream));
        serve(&shared, accept);
        Self { shared, address: path.display().to_string(), folder: Some(folder) }
    }

    /// The same on a free port of 127.0.0.1.
    pub(crate) fn tcp(place: Place, framing: Framing, at: usize, harm: Harm) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Shared::new(place, framing, at, harm);
        let accept = move || listener.accept().map(|(stream, _)| Stream::Tcp(stream));
        serve(&shared, accept);
        Self { shared, address, folder: None }
    }

    /// `127.0.0.1:1234`, or the path of the socket.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The folder of the socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().expect("a Unix socket").path()
    }

    /// How many messages came so far.
    pub(crate) fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Whether the boundary was reached.
    pub(crate) fn is_frozen(&self) -> bool {
        self.shared.struck.lock().unwrap().is_some()
    }

    /// Waits until the boundary is reached.
    #[track_caller]
    pub(crate) fn wait_frozen(&self) {
        eventually("a conversation that came so far", PATIENCE, || self.is_frozen().then_some(()));
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        for stream in &*self.shared.open.lock().unwrap() {
            stream.shut(Shutdown::Both);
        }
        // The thread that accepts sees that it is over.
        match &self.folder {
            Some(_) => drop(UnixStream::connect(&self.address)),
            None => drop(TcpStream::connect(&self.address)),
        }
    }
}

impl Shared {
    fn new(place: Place, framing: Framing, at: usize, harm: Harm) -> Arc<Self> {
        Arc::new(Self {
            framing,
            place,
            at,
            harm,
            passed: AtomicUsize::new(0),
            struck: Mutex::new(None),
            over: AtomicBool::new(false),
            changed: Condvar::new(),
            open: Mutex::default(),
        })
    }

    /// Whether anything is wrong with a connection now.
    fn harmed(&self, connection: usize, struck: Option<usize>) -> bool {
        struck.is_some_and(|it| self.harm != Harm::One || it == connection)
    }

    /// Comes to the next boundary; says whether the message may pass whole.
    fn come(&self, connection: usize, counts: bool) -> bool {
        let mut struck = self.struck.lock().unwrap();
        if counts && self.passed.fetch_add(1, Ordering::SeqCst) == self.at {
            struck.get_or_insert(connection);
        }
        !self.harmed(connection, *struck)
    }

    /// Waits for the end of the proxy.
    fn wait_over(&self) {
        let mut struck = self.struck.lock().unwrap();
        while !self.over.load(Ordering::SeqCst) {
            struck = self.changed.wait_timeout(struck, Duration::from_millis(100)).unwrap().0;
        }
    }
}

fn serve(shared: &Arc<Shared>, accept: impl Fn() -> io::Result<Stream> + Send + 'static) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        for number in 0.. {
            let Ok(client) = accept() else { return };
            if shared.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(server) = Stream::connect(&shared.place) else { continue };
            {
                let mut open = shared.open.lock().unwrap();
                open.extend([client.twin(), server.twin()]);
            }
            for (from, to, is_client) in
                [(client.twin(), server.twin(), true), (server, client, false)]
            {
                let shared = Arc::clone(&shared);
                let frames = Frames::new(shared.framing, is_client);
                // Either side may break off at any time.
                thread::spawn(move || drop(pump(from, to, frames, number, &shared)));
            }
        }
    });
}

fn pump(
    mut from: Stream,
    mut to: Stream,
    mut frames: Frames,
    number: usize,
    shared: &Shared,
) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        while let Some((length, counts)) = frames.next(&pending) {
            let frame: Vec<u8> = pending.drain(..length).collect();
            if shared.come(number, counts) {
                to.write_all(&frame)?;
            } else if shared.harm == Harm::Trickle {
                for byte in frame {
                    to.write_all(&[byte])?;
                    pause(shared);
                }
            } else {
                shared.wait_over();
                return Ok(());
            }
        }
        let got = from.read(&mut chunk)?;
        if got == 0 {
            // What is silent passes no end on either.
            if !shared.come(number, false) && shared.harm != Harm::Trickle {
                shared.wait_over();
            }
            to.shut(Shutdown::Write);
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..got]);
    }
}

/// A second, or until it is over.
fn pause(shared: &Shared) {
    let struck = shared.struck.lock().unwrap();
    let over = |_: &mut Option<usize>| !shared.over.load(Ordering::SeqCst);
    drop(shared.changed.wait_timeout_while(struck, Duration::from_secs(1), over));
}

/// Finds the messages of one direction of a connection.
#[derive(Debug)]
struct Frames {
    framing: Framing,
    /// A client of PostgreSQL begins with messages that have no type.
    bare: bool,
    last: u8,
}

/// CancelRequest, SSLRequest and GSSENCRequest (pqcomm.h): more without a type may follow.
const SPECIAL: [[u8; 4]; 3] =
    [[0x04, 0xd2, 0x16, 0x2e], [0x04, 0xd2, 0x16, 0x2f], [0x04, 0xd2, 0x16, 0x30]];

impl Frames {
    const fn new(framing: Framing, is_client: bool) -> Self {
        Self { framing, bare: is_client, last: 0 }
    }

    /// The length of the first message, if it is whole, and whether it counts.
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        if bytes.is_empty() {
            return None;
        }
        match self.framing {
            Framing::Lines => {
                let line = bytes.iter().position(|byte| *byte == b'\n');
                return Some((line.map_or(bytes.len(), |at| at + 1), true));
            }
            Framing::Pieces(most) => return Some((bytes.len().min(most), true)),
            Framing::Postgres => {}
        }
        let head = usize::from(!self.bare);
        let length = bytes.get(head..head + 4)?;
        let length = head + u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let whole = bytes.get(..length)?;
        if self.bare {
            self.bare = SPECIAL.iter().any(|code| whole.get(4..8) == Some(&code[..]));
            return Some((length, true));
        }
        let kind = whole[0];
        let repeats = std::mem::replace(&mut self.last, kind) == kind;
        Some((length, !(repeats && matches!(kind, b'D' | b'd' | b'S'))))
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => TcpStream::connect(address).map(Self::Tcp),
            Place::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    fn twin(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    fn shut(&self, how: Shutdown) {
        // It may be closed already.
        drop(match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        });
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
