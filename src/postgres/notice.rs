//! What a server says beside its answers: warnings, notices, the lines of VERBOSE.
//!
//! VACUUM that may not touch a table, or does not get its lock, says so in a warning and succeeds:
//! whoever runs it has to read them. Severity and SQLSTATE are the same in every language; the
//! message is in the language of the server (`lc_messages`, which only a superuser may set).
//!
//! What can still go wrong: more is said than is kept. The oldest goes first, and is counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_postgres::error::{DbError, Severity};

/// Notices that a session keeps.
const COUNT_MAX: usize = 200;
/// Bytes that a session keeps of all notices together.
const BYTES_MAX: usize = 256 << 10;
/// Bytes kept of one message, and of one detail.
const TEXT_MAX: usize = 16 << 10;

/// How much it matters, in the order of client_min_messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// `DEBUG1` to `DEBUG5`, and `LOG`.
    Debug,
    /// `INFO`: what was asked for by VERBOSE; always sent.
    Info,
    Notice,
    /// `WARNING`, and whatever is worse.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        })
    }
}

/// One thing that a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: Level,
    /// Its code (Appendix A of the manual): `01000`, `55P03`.
    pub sqlstate: String,
    /// The message, in the server's language.
    pub message: String,
    /// More of it; may have several lines.
    pub detail: Option<String>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)
    }
}

impl Notice {
    fn of(said: &DbError) -> Self {
        Self {
            severity: match said.parsed_severity() {
                Some(Severity::Debug | Severity::Log) => Level::Debug,
                Some(Severity::Info) => Level::Info,
                Some(Severity::Notice) => Level::Notice,
                _ => Level::Warning,
            },
            sqlstate: said.code().code().to_owned(),
            message: cut(said.message()),
            detail: said.detail().map(cut),
        }
    }

    fn bytes(&self) -> usize {
        self.message.len() + self.detail.as_ref().map_or(0, String::len)
    }

    /// Message and detail, line by line.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let first = self.to_string();
        let lines: Vec<String> = first
            .lines()
            .chain(self.detail.iter().flat_map(|d| d.lines()))
            .map(str::to_owned)
            .collect();
        lines.into_iter()
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

/// The notices of a session that nobody has taken yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Notices(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    notices: VecDeque<Notice>,
    bytes: usize,
    lost: usize,
}

impl Notices {
    pub(super) fn add(&self, said: &DbError) {
        self.keep(Notice::of(said));
    }

    fn keep(&self, notice: Notice) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += notice.bytes();
        kept.notices.push_back(notice);
        while kept.notices.len() > COUNT_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.notices.pop_front() else { break };
            kept.bytes -= oldest.bytes();
            kept.lost += 1;
        }
    }

    /// All that is kept, the oldest first, and how many older ones are lost.
    pub(super) fn take(&self) -> (Vec<Notice>, usize) {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (kept.notices.into(), kept.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(message: String) -> Notice {
        Notice { severity: Level::Info, sqlstate: "00000".to_owned(), message, detail: None }
    }

    #[test]
    fn the_newest_are_kept_within_the_bounds() {
        let notices = Notices::default();
        for number in 0..COUNT_MAX + 5 {
            notices.keep(notice(number.to_string()));
        }
        let (kept, lost) = notices.take();
        assert_eq!((kept.len(), lost), (COUNT_MAX, 5));
        assert_eq!(kept[0].message, "5");
        assert_eq!(notices.take(), (Vec::new(), 0));
        for _ in 0..COUNT_MAX {
            notices.keep(notice("x".repeat(TEXT_MAX)));
        }
        let (kept, lost) = notices.take();
        assert_eq!(kept.len(), BYTES_MAX / TEXT_MAX);
        assert_eq!(kept.len() + lost, COUNT_MAX);
    }

    #[test]
    fn a_notice_is_shown_line_by_line() {
        let notice = Notice { detail: Some("a\nb".to_owned()), ..notice("m".to_owned()) };
        assert_eq!(notice.lines().collect::<Vec<_>>(), ["INFO: m", "a", "b"]);
        assert_eq!(cut(&"é".repeat(TEXT_MAX)).len(), TEXT_MAX);
    }
}
