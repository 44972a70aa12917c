//! Whatever answers on the port: the memory that it costs is bounded, and the failure says what it was.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use pgkeep::domain::failure::Class;

use super::{Ran, peak};
use crate::harness::pgkeep::Pgkeep;

/// Most memory that the daemon may have had: the promise is 64 MiB.
const BUDGET_KIB: u64 = 64 << 10;
/// More than anybody has room for.
const FLOOD: u64 = 1 << 30;

/// What the server sends, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    /// In answer to the start-up message: one message of a gibibyte, of that type.
    EarlyLong(u8),
    /// After a login that works, before the first question: short messages of that type without end.
    EarlyMany(u8),
    /// A login that works, and in answer to the first question one message of a gibibyte.
    Long(u8),
    /// The same, short messages without end.
    Many(u8),
    /// Rows of as many columns as there can be, all of them null.
    Wide,
    /// Types that nobody knows, which are of types that nobody knows.
    Types,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// A body that fits the type.
fn body(kind: u8) -> &'static [u8] {
    match kind {
        b'S' => b"a.b\0c\0",
        b'N' | b'E' => b"SNOTICE\0C00000\0Mx\0\0",
        b'A' => b"\0\0\0\x01a\0b\0",
        b'D' => b"\0\0",
        _ => b"",
    }
}

/// A server that lets everybody in, and then does harm.
struct Hostile {
    port: u16,
    sends: Arc<Mutex<Sends>>,
    over: Arc<AtomicBool>,
}

impl Hostile {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sends = Arc::new(Mutex::new(Sends::Wide));
        let over = Arc::new(AtomicBool::new(false));
        let (what, end) = (Arc::clone(&sends), Arc::clone(&over));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (sends, end) = (*what.lock().unwrap(), Arc::clone(&end));
                // The client breaks off as soon as it has enough.
                thread::spawn(move || drop(serve(client, sends, &end)));
            }
        });
        Self { port, sends, over }
    }

    fn sends(&self, what: Sends) {
        *self.sends.lock().unwrap() = what;
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn serve(mut client: TcpStream, sends: Sends, over: &AtomicBool) -> io::Result<()> {
    read_bare(&mut client)?;
    match sends {
        Sends::EarlyLong(kind) => return flood_one(&mut client, kind, over),
        Sends::EarlyMany(kind) => {
            client.write_all(&message(b'R', &[0; 4]))?;
            return flood(&mut client, &message(kind, body(kind)), over);
        }
        _ => {}
    }
    let welcome = [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0018.4\0"),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 0]),
        message(b'Z', b"I"),
    ];
    client.write_all(&welcome.concat())?;
    loop {
        let (kind, text) = read(&mut client)?;
        let pid = String::from_utf8_lossy(&text).contains("pg_backend_pid");
        match (kind, sends) {
            // It is the server itself, as far as anybody can tell.
            (b'Q', _) if pid => {
                let row = [
                    message(b'T', &[&[0, 1][..], b"p\0", &column(23)].concat()),
                    message(b'D', b"\0\x01\0\0\0\x017"),
                    message(b'C', b"SELECT 1\0"),
                    message(b'Z', b"I"),
                ];
                client.write_all(&row.concat())?;
            }
            (b'Q', Sends::Types) => {
                client.write_all(&[message(b'C', b"SET\0"), message(b'Z', b"I")].concat())?;
            }
            (b'S', Sends::Types) => {
                let unknown = [
                    message(b'1', b""),
                    message(b't', b"\0\0"),
                    message(b'T', &[&[0, 1][..], b"x\0", &column(99_999)].concat()),
                    message(b'Z', b"I"),
                ];
                client.write_all(&unknown.concat())?;
            }
            (b'Q', Sends::Long(kind)) => return flood_one(&mut client, kind, over),
            (b'Q', Sends::Many(kind)) => {
                return flood(&mut client, &message(kind, body(kind)), over);
            }
            (b'Q', Sends::Wide) => {
                let nulls = vec![255; 65_535 * 4];
                let row = message(b'D', &[&[255, 255][..], &nulls].concat());
                return flood(&mut client, &row, over);
            }
            _ => {}
        }
    }
}

/// What RowDescription says of a column behind its name.
fn column(kind: u32) -> Vec<u8> {
    [&[0; 6][..], &kind.to_be_bytes(), &[0, 4, 255, 255, 255, 255, 0, 0]].concat()
}

fn flood(client: &mut TcpStream, message: &[u8], over: &AtomicBool) -> io::Result<()> {
    let many = message.repeat((256 << 10) / message.len() + 1);
    let mut sent = 0;
    while sent < FLOOD && !over.load(Ordering::SeqCst) {
        client.write_all(&many)?;
        sent += many.len() as u64;
    }
    Ok(())
}

fn flood_one(client: &mut TcpStream, kind: u8, over: &AtomicBool) -> io::Result<()> {
    client.write_all(&[kind])?;
    client.write_all(&u32::try_from(FLOOD).unwrap().to_be_bytes())?;
    flood(client, b"M0123456789abcdef", over)
}

fn read_bare(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut body)?;
    Ok(body)
}

fn read(client: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0];
    client.read_exact(&mut kind)?;
    Ok((kind[0], read_bare(client)?))
}

#[test]
fn a_server_that_sends_without_end_costs_no_memory() {
    let server = Hostile::start();
    let home = Pgkeep::new()
        .toml(&format!(
            "[server.main]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"x\"\nsslmode = \"disable\"\n\
             connect_timeout = \"20s\"",
            server.port
        ))
        .local("disk")
        .dump("nightly", "main", &["app"], &["disk"], "attempts = 1");
    let mut daemon = home.ready_daemon();
    let cases = [
        Sends::EarlyLong(b'E'),
        Sends::EarlyLong(b'R'),
        Sends::EarlyMany(b'S'),
        Sends::EarlyMany(b'N'),
        Sends::Long(b'E'),
        Sends::Long(b'N'),
        Sends::Long(b'D'),
        Sends::Many(b'S'),
        Sends::Many(b'N'),
        Sends::Many(b'A'),
        Sends::Many(b'D'),
        Sends::Wide,
        Sends::Types,
    ];
    for sends in cases {
        server.sends(sends);
        let output = home.run(&["run", "nightly", "--json"]).expect_code(1);
        let ran = Ran::of(&output);
        let failure = ran.failed(Class::Connection);
        assert!(failure.what.contains("not taken"), "{sends:?}: {failure:#?}");
        assert!(failure.hint.is_some(), "{sends:?}: {failure:#?}");
        let most = peak(daemon.pid()).unwrap();
        eprintln!("{sends:?}: {} MiB; {}", most >> 10, failure.what);
        assert!(most <= BUDGET_KIB, "{sends:?}: {most} KiB");
    }
    home.run(&["list", "--json"]).expect_code(5);
    daemon.stop();
    daemon.assert_log_clean(&["verdict=failed", "are not taken"]);
}
