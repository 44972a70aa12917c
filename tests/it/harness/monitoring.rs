//! A real Prometheus and a real Alertmanager on free ports, and a webhook that hears what they tell.
//!
//! `tests/run.sh` installs the programs, without their services. What can still go wrong: neither program takes port
//! 0, so another process may take the port between the moment it was found free and their start; they
//! then end, and another port is tried.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    http,
    postgres::free_port,
    process::{command, spawn},
    wait::{PATIENCE, eventually},
};

/// Starts that are tried before a port that is taken is taken for something else.
const STARTS: usize = 5;
/// Longest body that the webhook reads.
const BODY_MAX: usize = 1 << 20;

/// The first of these programs that is in `PATH`.
pub(crate) fn program(names: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    places.find(|place| place.is_file()).unwrap_or_else(|| {
        panic!("none of {names:?} is installed: `sh tests/run.sh` installs it (docs/TESTING.md)")
    })
}

/// The program that checks rules and configurations.
pub(crate) fn promtool() -> PathBuf {
    program(&["promtool"])
}

/// One of the two programs. Killed when dropped; its log is printed where the test fails.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
    address: String,
    home: TempDir,
}

impl Monitor {
    /// Prometheus, with the files of `home` (`prometheus.yml` among them) as its configuration.
    #[track_caller]
    pub(crate) fn prometheus(home: TempDir) -> Self {
        let program = program(&["prometheus", "prometheus2"]);
        Self::start(home, &program, |folder| {
            let at = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
            vec![
                at("config.file", "prometheus.yml"),
                at("storage.tsdb.path", "data"),
                "--log.level=warn".to_owned(),
            ]
        })
    }

    /// Alertmanager, with `alertmanager.yml` of `home` as its configuration.
    #[track_caller]
    pub(crate) fn alertmanager(home: TempDir) -> Self {
        let program = program(&["prometheus-alertmanager", "alertmanager"]);
        Self::start(home, &program, |folder| {
            let at = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
            vec![
                at("config.file", "alertmanager.yml"),
                at("storage.path", "data"),
                // No peers, and no port for them.
                "--cluster.listen-address=".to_owned(),
                "--log.level=warn".to_owned(),
            ]
        })
    }

    #[track_caller]
    fn start(home: TempDir, program: &Path, flags: impl Fn(&Path) -> Vec<String>) -> Self {
        for _ in 0..STARTS {
            let address = format!("127.0.0.1:{}", free_port());
            let log = fs::File::create(home.path().join("log")).unwrap();
            let mut server = command(program);
            server.args(flags(home.path())).arg(format!("--web.listen-address={address}"));
            server.current_dir(home.path());
            server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let mut child = spawn(&mut server);
            let ready =
                eventually(&format!("{} that is ready", program.display()), PATIENCE, || {
                    if child.try_wait().unwrap().is_some() {
                        return Some(false);
                    }
                    matches!(http::get(&address, "/-/ready"), Ok((200, _))).then_some(true)
                });
            if ready {
                return Self { child, address, home };
            }
            let log = fs::read_to_string(home.path().join("log")).unwrap();
            assert!(log.contains("address already in use"), "{} ended:\n{log}", program.display());
        }
        panic!("no free port for {}", program.display());
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Prometheus alone: the value of the one series that an expression without blanks gives.
    #[track_caller]
    pub(crate) fn query(&self, expression: &str) -> Option<f64> {
        let mut escaped = String::new();
        expression.bytes().for_each(|byte| write!(escaped, "%{byte:02x}").unwrap());
        let (_, body) =
            http::get(&self.address, &format!("/api/v1/query?query={escaped}")).unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {body}");
        answer["data"]["result"][0]["value"][1].as_str().map(|value| value.parse().unwrap())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            eprintln!("--- the log of {}\n{log}", self.address);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Takes what Alertmanager posts, and answers 200.
#[derive(Debug)]
pub(crate) struct Webhook {
    address: String,
    received: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    /// Listens until the test's process ends.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let received = Arc::new(Mutex::new(Vec::new()));
        let to = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is opened anew by the sender.
                if let Ok(body) = take_post(stream) {
                    to.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
            }
        });
        Self { address, received }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Every alert of every message so far, in their order.
    pub(crate) fn alerts(&self) -> Vec<Value> {
        let received = self.received.lock().unwrap();
        received.iter().flat_map(|m| m["alerts"].as_array().unwrap()).cloned().collect()
    }

    /// Waits until an alert of that name was told with that status (`firing`, `resolved`).
    #[track_caller]
    pub(crate) fn wait(&self, name: &str, status: &str) -> Value {
        let told =
            |alert: &Value| alert["labels"]["alertname"] == name && alert["status"] == status;
        eventually(&format!("{name}, {status}, at the webhook"), PATIENCE, || {
            self.alerts().into_iter().find(told)
        })
    }
}

/// Reads one request and answers it: the body.
fn take_post(stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    assert!(length <= BODY_MAX, "a message of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    reader.into_inner().write_all(answer)?;
    Ok(body)
}
