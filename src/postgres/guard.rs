//! A bound on what a server may send: between the stream (above TLS) and tokio-postgres, which makes room for
//! whatever the head of a message promises, and keeps every setting that it is told of.
//!
//! Only the heads of messages are read here ("Message Formats" in the PostgreSQL manual); what is in them is
//! tokio-postgres's. Before the server has let us in next to nothing is taken: whoever answers on the port may
//! send it. Afterwards one message, the answer to one question, and what is said beside answers all have
//! a limit. An answer is held whole, so that its rows weigh what they take here, not on the wire.
//!
//! What can still go wrong: a server that sends within the limits without end. Questions have a limit in time
//! for that.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// Longest message before the session begins, in bytes. libpq takes 30,000 (`MAX_ERRLEN` in
/// fe-connect.c).
const EARLY_MESSAGE: u64 = 64 << 10;
/// All that is sent before the session begins.
const EARLY_TOTAL: u64 = 256 << 10;
/// Longest row, or other part of an answer. Twice a configuration file, the longest that is asked for,
/// and what tokio-postgres's buffer doubles to still fits the budget.
const MESSAGE: u64 = 4 << 20;
/// Longest error or notice.
const WORDS: u64 = 1 << 20;
/// The answer to one question, as it lies in memory. The largest honest one, of 10,000 indexes, has
/// about half of it.
const ANSWER: u64 = 16 << 20;
/// What a message takes beside its bytes, and each of its columns.
const MESSAGE_WEIGHT: u64 = 128;
const COLUMN_WEIGHT: u64 = 24;
/// Notices beside one answer: VACUUM VERBOSE of a table with many indexes has some thousand lines.
const NOTICES: u64 = 16 << 20;
/// Changes of settings in all of a session, in bytes: each is kept.
const SETTINGS: u64 = 256 << 10;
/// Answers to one question. It takes two: to its preparation, and to itself. tokio-postgres asks two more
/// for each type that it does not know, and for those that these name, without end.
const ROUNDS: u32 = 64;

/// A server sent more than is taken.
#[derive(Debug, thiserror::Error)]
#[error("the server sends {what}: more than {limit} are not taken")]
pub(super) struct Excess {
    what: &'static str,
    /// `65536 bytes`
    limit: String,
    pub(super) hint: &'static str,
}

/// Whoever answers on a port may not be PostgreSQL at all.
const NOT_POSTGRES: &str =
    "does PostgreSQL answer there? Look at host and port, and at what lies in between";
const TOO_MANY: &str =
    "does the server have far more objects than others, or is it not PostgreSQL that answers?";

/// What is counted of one connection, shared by its stream and its session.
#[derive(Debug, Default)]
pub(super) struct Meter {
    answer: AtomicU64,
    rounds: AtomicU32,
    notices: AtomicU64,
    backend: AtomicI32,
}

impl Meter {
    /// What comes from now on is about the next question.
    pub(super) fn next_question(&self) {
        self.answer.store(0, Ordering::Relaxed);
        self.rounds.store(0, Ordering::Relaxed);
        self.notices.store(0, Ordering::Relaxed);
    }

    /// The process id that the other side told for cancel requests; 0: it told none.
    pub(super) fn backend(&self) -> i32 {
        self.backend.load(Ordering::Relaxed)
    }

    fn answer(&self, weight: u64) -> Result<(), Excess> {
        let what = "too long an answer";
        over(self.answer.fetch_add(weight, Ordering::Relaxed) + weight, ANSWER, what, TOO_MANY)
    }

    fn notice(&self, weight: u64) -> Result<(), Excess> {
        let what = "notices without end";
        over(
            self.notices.fetch_add(weight, Ordering::Relaxed) + weight,
            NOTICES,
            what,
            NOT_POSTGRES,
        )
    }

    fn round(&self) -> Result<(), Excess> {
        let rounds = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
        if rounds <= ROUNDS {
            return Ok(());
        }
        let what = "types that nobody knows";
        Err(Excess { what, limit: format!("{ROUNDS} answers"), hint: NOT_POSTGRES })
    }
}

fn over(sum: u64, limit: u64, what: &'static str, hint: &'static str) -> Result<(), Excess> {
    if sum <= limit {
        return Ok(());
    }
    Err(Excess { what, limit: format!("{limit} bytes"), hint })
}

/// Follows the heads of messages.
#[derive(Debug)]
struct Heads {
    /// Bytes before the first message: the answer to SSLRequest has no head.
    bare: usize,
    /// Type, length, and what is looked at of the body.
    head: [u8; HEAD_MAX],
    have: usize,
    /// Bytes of the present body that are still to come.
    left: u64,
    /// Whether the session has begun.
    begun: bool,
    early: u64,
    settings: u64,
}

/// Type and length.
const HEAD: usize = 5;
const HEAD_MAX: usize = HEAD + 4;

impl Heads {
    const fn new(bare: usize) -> Self {
        Self { bare, head: [0; HEAD_MAX], have: 0, left: 0, begun: false, early: 0, settings: 0 }
    }

    fn feed(&mut self, mut bytes: &[u8], meter: &Meter) -> Result<(), Excess> {
        let bare = self.bare.min(bytes.len());
        self.bare -= bare;
        bytes = &bytes[bare..];
        while !bytes.is_empty() {
            let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= passed as u64;
            bytes = &bytes[passed..];
            let Some((first, rest)) = bytes.split_first() else { break };
            self.head[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if self.have >= HEAD && self.have >= HEAD + self.looked_at() {
                self.left = self.body() - (self.have - HEAD) as u64;
                let judged = self.judge(meter);
                self.have = 0;
                judged?;
            }
        }
        Ok(())
    }

    /// Bytes of the body. The length counts itself; a shorter one is tokio-postgres's error.
    fn body(&self) -> u64 {
        let [_, a, b, c, d, ..] = self.head;
        u64::from(u32::from_be_bytes([a, b, c, d])).saturating_sub(4)
    }

    /// Bytes of the body that are looked at: how many columns a row has, and the process id.
    fn looked_at(&self) -> usize {
        let wanted: u64 = match self.head[0] {
            b'D' => 2,
            b'K' => 4,
            _ => 0,
        };
        usize::try_from(wanted.min(self.body())).unwrap_or(0)
    }

    fn judge(&mut self, meter: &Meter) -> Result<(), Excess> {
        let (kind, bytes) = (self.head[0], self.body() + HEAD as u64);
        let [.., a, b, c, d] = self.head;
        let weight = bytes + MESSAGE_WEIGHT;
        if !self.begun {
            over(bytes, EARLY_MESSAGE, "a long message before it lets anybody in", NOT_POSTGRES)?;
            self.early += weight;
            over(self.early, EARLY_TOTAL, "too much before it lets anybody in", NOT_POSTGRES)?;
        }
        match kind {
            b'K' if !self.begun => {
                meter.backend.store(i32::from_be_bytes([a, b, c, d]), Ordering::Relaxed);
            }
            b'Z' if !self.begun => self.begun = true,
            _ if !self.begun => {}
            b'S' => {
                self.settings += weight;
                over(self.settings, SETTINGS, "settings without end", NOT_POSTGRES)?;
            }
            b'N' | b'A' => {
                over(bytes, WORDS, "too long a notice", NOT_POSTGRES)?;
                meter.notice(weight)?;
            }
            b'Z' => meter.round()?,
            b'E' => over(bytes, WORDS, "too long an error", NOT_POSTGRES)?,
            _ => {
                over(bytes, MESSAGE, "too long a message", TOO_MANY)?;
                let columns = if kind == b'D' { u64::from(u16::from_be_bytes([a, b])) } else { 0 };
                meter.answer(weight + columns * COLUMN_WEIGHT)?;
            }
        }
        Ok(())
    }
}

/// A stream of messages that fails where a limit is passed.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    inner: S,
    heads: Heads,
    meter: Arc<Meter>,
}

impl<S> Guarded<S> {
    /// Begins with the first byte that the server sends. `asks_for_tls`: the first is its answer to
    /// SSLRequest.
    pub(super) const fn new(inner: S, asks_for_tls: bool, meter: Arc<Meter>) -> Self {
        Self { inner, heads: Heads::new(if asks_for_tls { 1 } else { 0 }), meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let read = this.heads.feed(&buf.filled()[before..], &this.meter);
        Poll::Ready(read.map_err(|excess| io::Error::new(io::ErrorKind::InvalidData, excess)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// Puts the guard above TLS: below, it would see nothing of what is said.
pub(super) struct GuardedTls<T> {
    pub(super) tls: T,
    pub(super) meter: Arc<Meter>,
}

impl<S, T> TlsConnect<Guarded<S>> for GuardedTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
{
    type Stream = Guarded<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: Guarded<S>) -> Self::Future {
        let connecting = self.tls.connect(stream.inner);
        let meter = self.meter;
        Box::pin(async move { Ok(Guarded::new(connecting.await?, false, meter)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    /// What a server says until it takes questions.
    fn welcome(backend: i32) -> Vec<u8> {
        let key = [backend.to_be_bytes(), [7; 4]].concat();
        let parts = [
            message(b'R', &[0; 4]),
            message(b'S', b"server_version\x0018.4\0"),
            message(b'K', &key),
            message(b'Z', b"I"),
        ];
        parts.concat()
    }

    fn begun() -> (Heads, Meter) {
        let (mut heads, meter) = (Heads::new(0), Meter::default());
        heads.feed(&welcome(1), &meter).unwrap();
        assert!(heads.begun);
        (heads, meter)
    }

    fn promise(kind: u8, length: u32) -> Vec<u8> {
        [&[kind], &length.to_be_bytes()[..]].concat()
    }

    #[test]
    fn messages_are_followed_however_they_come_in() {
        let said = [b"N".to_vec(), welcome(-77)].concat();
        for piece in 1..said.len() {
            let (mut heads, meter) = (Heads::new(1), Meter::default());
            for bytes in said.chunks(piece) {
                heads.feed(bytes, &meter).unwrap();
            }
            assert!(heads.begun && heads.have == 0 && heads.left == 0, "{piece}");
            assert_eq!(meter.backend(), -77, "{piece}");
        }
    }

    #[test]
    fn a_promise_is_refused_before_room_is_made_for_it() {
        for kind in [b'E', b'R', b'S', b'N', b'x'] {
            let (mut heads, meter) = (Heads::new(0), Meter::default());
            let refused = heads.feed(&promise(kind, 1 << 30), &meter).unwrap_err();
            assert!(refused.to_string().contains("65536"), "{refused}");
        }
        for (kind, fits) in [(b'E', WORDS), (b'N', WORDS), (b'D', MESSAGE), (b'T', MESSAGE)] {
            let (mut heads, meter) = begun();
            let length = u32::try_from(fits - 1).unwrap();
            heads.feed(&[promise(kind, length), vec![0; 2]].concat(), &meter).unwrap();
            let (mut heads, meter) = begun();
            let long = [promise(kind, length + 1), vec![0; 2]].concat();
            heads.feed(&long, &meter).unwrap_err();
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        let settings = message(b'S', b"a\0b\0");
        let (mut heads, meter) = (Heads::new(0), Meter::default());
        let early = (0..1_000_000).find(|_| heads.feed(&settings, &meter).is_err());
        assert!(early.unwrap() < 2_000);
        for (kind, body) in [(b'S', &b"a\0b\0"[..]), (b'N', b"\0"), (b'D', b"\0\0"), (b'Z', b"I")] {
            let (mut heads, meter) = begun();
            let said = message(kind, body);
            let refused = (0..1_000_000).find(|_| heads.feed(&said, &meter).is_err());
            assert!(refused.unwrap() < 200_000, "{}", char::from(kind));
        }
    }

    #[test]
    fn rows_weigh_what_they_take_and_each_question_begins_anew() {
        let row = |columns: u16| message(b'D', &[&columns.to_be_bytes()[..], &[255; 40]].concat());
        let (mut heads, meter) = begun();
        let wide = (0..1_000_000).find(|_| heads.feed(&row(10_000), &meter).is_err()).unwrap();
        assert_eq!(u64::try_from(wide).unwrap(), ANSWER / (47 + 128 + 240_000));
        let (mut heads, meter) = begun();
        for _ in 0..1_000 {
            meter.next_question();
            heads.feed(&row(10_000), &meter).unwrap();
            heads.feed(&message(b'Z', b"I"), &meter).unwrap();
        }
    }
}
