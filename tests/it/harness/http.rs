//! The daemon's pages, asked for without any library of its own, and the samples on `/metrics`.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// One GET: status and body. HTTP/1.0, so that the body ends with the connection.
pub(crate) fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    Ok((status, body.to_owned()))
}

/// One sample of the text exposition format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// With the prefix.
    pub(crate) name: String,
    /// In their order on the page.
    pub(crate) labels: Vec<(String, String)>,
    /// `NaN` and `+Inf` are numbers here.
    pub(crate) value: f64,
}

/// All samples of one scrape.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// The page as it came.
    pub(crate) text: String,
    /// In their order on the page.
    pub(crate) samples: Vec<Sample>,
}

impl Metrics {
    /// Reads a page; panics on a line that is no sample.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| parse_sample(line).unwrap_or_else(|| panic!("no sample: {line:?}")))
            .collect();
        Self { text: text.to_owned(), samples }
    }

    /// The samples of that name which have at least these labels.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &Sample, (key, value): &(&str, &str)| {
            sample.labels.iter().any(|(k, v)| k == key && v == value)
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name && labels.iter().all(|label| has(sample, label)))
            .collect()
    }

    /// The value of the one sample of that name with at least these labels; none where there is
    /// none, a panic where there are several.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.find(name, labels);
        assert!(found.len() <= 1, "{name} with {labels:?} is ambiguous: {found:?}");
        found.first().map(|sample| sample.value)
    }
}

/// `name{key="value",…} 1.5`, with `\\`, `\"` and `\n` in values; a time stamp is not expected.
fn parse_sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((key.to_owned(), value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ')?.trim().replace("Inf", "inf").parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[test]
fn samples_are_read_with_hostile_labels() {
    let metrics = Metrics::parse(
        "# HELP a b\n# TYPE a gauge\nup 1\na{datname=\"we\\\"ird/.. {x=\\\"y\\\"}\",b=\"\\\\\\n\"} 1.5e3\na{b=\"2\"} +Inf\n",
    );
    assert_eq!(metrics.value("up", &[]), Some(1.0));
    assert_eq!(metrics.value("a", &[("datname", "we\"ird/.. {x=\"y\"}")]), Some(1500.0));
    assert_eq!(metrics.value("a", &[("b", "\\\n")]), Some(1500.0));
    assert_eq!(metrics.value("a", &[("b", "2")]), Some(f64::INFINITY));
    assert_eq!(metrics.value("a", &[("b", "3")]), None);
}

#[test]
fn a_page_is_read_to_its_end() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let answers = ["HTTP/1.0 503 Not yet\r\nX: y\r\n\r\na\r\n\r\nb", "not HTTP"];
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            assert!(request.starts_with(b"GET /readyz HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert_eq!(get(&address, "/readyz").unwrap(), (503, "a\r\n\r\nb".to_owned()));
    assert_eq!(get(&address, "/readyz").unwrap_err().kind(), io::ErrorKind::InvalidData);
    thread.join().unwrap();
    assert!(get(&address, "/readyz").is_err());
}
