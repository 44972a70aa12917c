//! A proxy between an HTTP client and a server that does harm on demand.
//!
//! One request per connection (it says `connection: close` to both sides), so that a fault hits
//! exactly the requests that a rule names. What it saw is kept for the tests to read. Chance
//! comes from a seed.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What is done to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Reads the request and answers itself: status, further header lines, body.
    Answer(u16, &'static str, String),
    /// Answers with a beginning and then one piece again and again, for so many bytes.
    Flood { status: u16, begin: &'static str, piece: &'static str, bytes: u64 },
    /// Answers a listing with a page that holds nothing and says that there is more; with ever new
    /// tokens or with the same one, after so long.
    EmptyPage { with_new_token: bool, after: Duration },
    /// Sends the head of its answer one byte at a time, two a second.
    TrickleHead,
    /// Reads the request and never answers. The server does not see it.
    BlackHole,
    /// Reads no further than the head of the request.
    NeverRead,
    /// Passes bodies at this many bytes/s.
    Throttle(u64),
    /// Closes both connections after this many bytes of the request's body.
    CutRequest(u64),
    /// Closes the connection after this many bytes of the answer's body.
    CutAnswer(u64),
    /// Falls silent after this many bytes of the answer's body.
    StallAnswer(u64),
    /// Lets the server do it and closes the connection in place of its answer.
    SwallowAnswer,
    /// Lets the server do it and answers 200 with nothing.
    EmptyAnswer,
    /// Waits before it passes the request on.
    Delay(Duration),
    /// Passes on another body than the server's, which ends with the connection and says no length.
    Rewrite(fn(&str) -> String),
}

impl Fault {
    /// The answer of a store that has too much to do.
    pub(crate) fn slow_down() -> Self {
        let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.\
                    </Message></Error>";
        Self::Answer(503, "", body.into())
    }
}

/// Which requests a fault hits.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    method: &'static str,
    target: &'static str,
    fault: Fault,
    /// Requests that it lets pass first.
    skip: usize,
    times: u32,
    percent: u64,
}

/// A request that came by.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `PUT`, …
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    /// The value of a header, named in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    random: Mutex<u64>,
}

/// A running proxy; passes everything on until told otherwise; ends when dropped.
#[derive(Debug)]
pub(crate) struct Chaos {
    address: SocketAddr,
    shared: Arc<Shared>,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Chaos {
    /// Starts a proxy before `server`.
    pub(crate) async fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            server,
            rules: Mutex::default(),
            seen: Mutex::default(),
            random: Mutex::new(seed | 1),
        });
        let (open, state) = watch::channel(true);
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), state));
        Self { address, shared, open, task }
    }

    /// Its address for a client.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does harm to every request of this method ("" is any) whose target contains the text.
    pub(crate) fn on(&self, method: &'static str, target: &'static str, fault: Fault) {
        self.some(method, target, fault, u32::MAX, 100);
    }

    /// The same, to the next `times` of them only.
    pub(crate) fn next(
        &self,
        times: u32,
        method: &'static str,
        target: &'static str,
        fault: Fault,
    ) {
        self.some(method, target, fault, times, 100);
    }

    /// The same, to `percent` of them.
    pub(crate) fn chance(&self, percent: u64, fault: Fault) {
        self.some("", "", fault, u32::MAX, percent);
    }

    fn some(
        &self,
        method: &'static str,
        target: &'static str,
        fault: Fault,
        times: u32,
        percent: u64,
    ) {
        let rule = Rule { method, target, fault, skip: 0, times, percent };
        self.shared.rules.lock().expect("rules").push(rule);
    }

    /// Does harm to every request but the next `skip`.
    pub(crate) fn after(&self, skip: usize, fault: Fault) {
        let (times, percent) = (u32::MAX, 100);
        let rule = Rule { method: "", target: "", fault, skip, times, percent };
        self.shared.rules.lock().expect("rules").push(rule);
    }

    /// How many requests came by.
    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().expect("the log").len()
    }

    /// Passes everything on again.
    pub(crate) async fn calm(&self) {
        self.shared.rules.lock().expect("rules").clear();
        self.open.send_replace(true);
        while TcpStream::connect(self.address).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Refuses connections from now on.
    pub(crate) async fn refuse(&self) {
        self.open.send_replace(false);
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// The requests of this method whose target contains the text, since the start.
    pub(crate) fn seen(&self, method: &str, target: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().expect("the log").clone();
        let hit = |seen: &Seen| seen.method == method && seen.target.contains(target);
        seen.into_iter().filter(hit).collect()
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn fault(&self, seen: &Seen) -> Option<Fault> {
        let mut rules = self.rules.lock().expect("rules");
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0
                && (rule.method.is_empty() || rule.method == seen.method)
                && seen.target.contains(rule.target)
                && (rule.percent == 100 || self.dice() < rule.percent)
        })?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    /// 0 to 99 (xorshift64).
    fn dice(&self) -> u64 {
        let mut state = self.random.lock().expect("the dice");
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 20) % 100
    }
}

async fn accept(mut listener: TcpListener, shared: Arc<Shared>, mut open: watch::Receiver<bool>) {
    let address = listener.local_addr().expect("an address");
    loop {
        loop {
            let is_open = *open.borrow_and_update();
            if !is_open {
                break;
            }
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("a connection");
                    let shared = Arc::clone(&shared);
                    // Either side may break off at any time: that is what this is for.
                    tokio::spawn(async move { drop(pass(client, &shared).await) });
                }
                _ = open.changed() => {}
            }
        }
        drop(listener);
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        listener = TcpListener::bind(address).await.expect("the port again");
    }
}

async fn pass(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let seen = parse(&head);
    let fault = shared.fault(&seen);
    let length: u64 =
        seen.header("content-length").map_or(0, |value| value.parse().expect("a length"));
    let server = shared.server;
    shared.seen.lock().expect("the log").push(seen);
    let mut body = (&rest[..]).chain(&mut client).take(length);
    match &fault {
        Some(Fault::NeverRead) => std::future::pending().await,
        Some(Fault::BlackHole) => {
            tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
            // Until the client has enough of it.
            client.read(&mut [0; 1]).await.map(drop)
        }
        Some(Fault::Answer(status, headers, answer)) => {
            tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
            let length = answer.len();
            let text = format!(
                "HTTP/1.1 {status} By chaos\r\nconnection: close\r\n{headers}content-length: \
                 {length}\r\n\r\n{answer}"
            );
            client.write_all(text.as_bytes()).await?;
            client.shutdown().await
        }
        Some(Fault::Flood { status, begin, piece, bytes }) => {
            tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
            flood(&mut client, *status, begin, piece, *bytes).await
        }
        Some(Fault::EmptyPage { with_new_token, after }) => {
            tokio::time::sleep(*after).await;
            let count = shared.seen.lock().expect("the log").len();
            let token = if *with_new_token { count } else { 0 };
            let page = format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{token}\
                 </NextContinuationToken></ListBucketResult>"
            );
            let length = page.len();
            let text = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{page}"
            );
            client.write_all(text.as_bytes()).await?;
            client.shutdown().await
        }
        Some(Fault::TrickleHead) => {
            for byte in "HTTP/1.1 200 OK\r\nx-slow: ".bytes().chain(std::iter::repeat(b'x')) {
                client.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        }
        _ => {
            if let Some(Fault::Delay(time)) = fault {
                tokio::time::sleep(time).await;
            }
            let mut server = TcpStream::connect(server).await?;
            server.write_all(head.as_bytes()).await?;
            let most = if let Some(Fault::CutRequest(most)) = fault { most } else { u64::MAX };
            // A server may answer and close before it has read all.
            let sent = relay(&mut body, &mut server, rate(fault.as_ref()), most).await;
            if sent.is_ok_and(|sent| sent < length) && most < length {
                return Ok(());
            }
            answer(&mut server, &mut client, fault.as_ref()).await
        }
    }
}

async fn flood(
    client: &mut TcpStream,
    status: u16,
    begin: &str,
    piece: &str,
    bytes: u64,
) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} By chaos\r\nconnection: close\r\n");
    let length = format!("content-length: {}\r\n\r\n", begin.len() as u64 + bytes);
    client.write_all(format!("{head}{length}{begin}").as_bytes()).await?;
    let block = piece.repeat((64 * 1024 / piece.len()).max(1));
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        client.write_all(&block.as_bytes()[..now]).await?;
        left -= now as u64;
    }
    client.shutdown().await
}

async fn answer(
    server: &mut TcpStream,
    client: &mut TcpStream,
    fault: Option<&Fault>,
) -> io::Result<()> {
    let (head, rest) = read_head(server).await?;
    let mut body = (&rest[..]).chain(server);
    if let Some(Fault::SwallowAnswer) = fault {
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    if let Some(Fault::Rewrite(rewrite)) = fault {
        let mut text = String::new();
        body.read_to_string(&mut text).await?;
        let lower = |line: &&str| line.to_ascii_lowercase();
        assert!(!head.lines().any(|line| lower(&line).starts_with("transfer-encoding")), "{head}");
        let keep = |line: &&str| !lower(line).starts_with("content-length");
        let head: Vec<&str> = head.split("\r\n").filter(keep).collect();
        client.write_all(head.join("\r\n").as_bytes()).await?;
        client.write_all(rewrite(&text).as_bytes()).await?;
        return client.shutdown().await;
    }
    if let Some(Fault::EmptyAnswer) = fault {
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        client.write_all(head.as_bytes()).await?;
        return client.shutdown().await;
    }
    client.write_all(head.as_bytes()).await?;
    let most = match fault {
        Some(Fault::CutAnswer(most) | Fault::StallAnswer(most)) => *most,
        _ => u64::MAX,
    };
    relay(&mut body, client, rate(fault), most).await?;
    if let Some(Fault::StallAnswer(_)) = fault {
        return client.read(&mut [0; 1]).await.map(drop);
    }
    client.shutdown().await
}

fn rate(fault: Option<&Fault>) -> Option<u64> {
    if let Some(Fault::Throttle(rate)) = fault { Some(*rate) } else { None }
}

/// Copies at most `most` bytes, 20 pieces a second where there is a rate.
async fn relay(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut TcpStream,
    rate: Option<u64>,
    most: u64,
) -> io::Result<u64> {
    let piece = rate.map_or(64 * 1024, |rate| (rate / 20).clamp(1, 64 * 1024));
    let mut buffer = vec![0; usize::try_from(piece).expect("a small number")];
    let mut done = 0;
    while done < most {
        let wanted = usize::try_from((most - done).min(piece)).expect("a small number");
        let got = from.read(&mut buffer[..wanted]).await?;
        if got == 0 {
            break;
        }
        to.write_all(&buffer[..got]).await?;
        done += got as u64;
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(got as f64 / rate as f64)).await;
        }
    }
    to.flush().await?;
    Ok(done)
}

/// Reads a head, and what of the body came with it; says `connection: close` in it.
async fn read_head(from: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).expect("a head in UTF-8");
            let keep = |line: &&str| {
                !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:")
            };
            let lines: Vec<&str> = head.split("\r\n").filter(keep).collect();
            return Ok((format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n")), rest));
        }
        if from.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(head: &str) -> Seen {
    let mut lines = head.lines();
    let mut words = lines.next().expect("a request line").split(' ').map(str::to_owned);
    let headers = lines.filter_map(|line| line.split_once(':'));
    Seen {
        method: words.next().expect("a method"),
        target: words.next().expect("a target"),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
    }
}
