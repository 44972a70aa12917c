//! An HTTP server that takes notifications, remembers them, and answers as it is told to. With TLS
//! where it is given a certificate.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::wait::{PATIENCE, eventually};

/// A request that came in whole.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// With its query.
    pub(crate) path: String,
    /// The request line and all headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

impl Request {
    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// What it tells of.
    pub(crate) fn event(&self) -> String {
        self.json()["event"].as_str().unwrap().to_owned()
    }
}

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status line with more headers (`503 Later\r\nRetry-After: 1`), and a body.
    Say(&'static str, &'static str),
    /// Nothing, for ever.
    Hang,
    /// 200, and a body of which a byte comes now and then, until the client has enough.
    Trickle,
}

/// The answer that takes a notification.
pub(crate) const OK: Answer = Answer::Say("200 OK", "OK");

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    answers: VecDeque<Answer>,
    /// Connections that get no answer stay open.
    held: Vec<TcpStream>,
    hanging: bool,
}

/// Such a server. Its thread ends with the tests.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    address: String,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// One that speaks plain HTTP.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// One that speaks TLS.
    pub(crate) fn tls(config: ServerConfig) -> Self {
        Self::with(Some(Arc::new(config)))
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let new = Self { address, scheme, state: Arc::default() };
        let state = new.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, tls) = (state.clone(), tls.clone());
                // A client that goes away is part of the tests.
                thread::spawn(move || drop(serve(stream.unwrap(), tls, &state)));
            }
        });
        new
    }

    /// An address on it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// What it answers to the next requests, in their order; 200 after that.
    pub(crate) fn answers(&self, answers: &[Answer]) {
        self.state.lock().unwrap().answers = answers.iter().cloned().collect();
    }

    /// Whether it leaves all requests without an answer.
    pub(crate) fn hang(&self, hanging: bool) {
        self.state.lock().unwrap().hanging = hanging;
    }

    /// All that came so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits until so many have come, and returns them; a panic where there are more.
    #[track_caller]
    pub(crate) fn wait(&self, count: usize) -> Vec<Request> {
        eventually(&format!("{count} notifications"), PATIENCE, || {
            (self.requests().len() >= count).then_some(())
        });
        let requests = self.requests();
        assert_eq!(requests.len(), count, "more than expected: {requests:#?}");
        requests
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    state: &Mutex<State>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    match tls {
        None => answer(stream.try_clone()?, stream, state),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            answer(StreamOwned::new(connection, stream.try_clone()?), stream, state)
        }
    }
}

fn answer(
    mut channel: impl Read + Write,
    stream: TcpStream,
    state: &Mutex<State>,
) -> io::Result<()> {
    let request = read(&mut channel)?;
    let answer = {
        let mut state = state.lock().unwrap();
        state.requests.push(request);
        let next = state.answers.pop_front();
        if state.hanging { Answer::Hang } else { next.unwrap_or(OK) }
    };
    match answer {
        Answer::Hang => state.lock().unwrap().held.push(stream),
        Answer::Trickle => {
            write!(channel, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            loop {
                channel.write_all(b"x")?;
                channel.flush()?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        Answer::Say(status, body) => {
            let length = body.len();
            write!(channel, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")?;
            channel.flush()?;
        }
    }
    Ok(())
}

fn read(channel: &mut impl Read) -> io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        channel.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    channel.read_exact(&mut body)?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(Request { path, head, body: String::from_utf8_lossy(&body).into_owned() })
}
