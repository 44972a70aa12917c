//! What a backup is called: its id, and the series that it belongs to.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil, tz};
use serde::{Deserialize, Serialize};

use super::{
    name::{DatabaseName, ServerName, escape, unescape},
    scope::Contents,
};

/// Crockford's base 32, lower case: no `i`, `l`, `o`, `u` to misread.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters behind the time: 8 × 5 = 40 bits.
const SUFFIX_LEN: usize = 8;
/// How many of those bits are random, the lowest; above them stand ten of milliseconds.
const RANDOM_BITS: u32 = 30;
/// `20261121T021500Z`
const TIME_LEN: usize = 16;
/// With a hyphen between the two.
const ID_LEN: usize = TIME_LEN + 1 + SUFFIX_LEN;

/// Why an id or a path is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct ParseError {
    what: &'static str,
    text: String,
}

/// Identifies one backup: the UTC time when it was started, to the second, the milliseconds of that
/// second, and 30 random bits: `20261121T021500Z-k3f9q2x7`. Ids sort by time as text, to the
/// millisecond, whichever process makes them: of two backups within one second the later is the
/// newer. The milliseconds are never read back, only sorted by: nobody who looks at an id has to
/// know that they are there.
///
/// It is held in place: a plan over a hundred thousand backups holds as many of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId([u8; ID_LEN]);

impl BackupId {
    /// Makes an id from the time and the lowest 30 of `random`'s bits.
    pub fn new(at: Timestamp, random: u64) -> Self {
        let millis = at.as_millisecond().rem_euclid(1000).unsigned_abs();
        let suffix = millis << RANDOM_BITS | random & ((1 << RANDOM_BITS) - 1);
        let mut text = [b'-'; ID_LEN];
        let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        for (byte, of_time) in text[..TIME_LEN].iter_mut().zip(time.bytes()) {
            *byte = of_time;
        }
        for (place, byte) in text[TIME_LEN + 1..].iter_mut().rev().enumerate() {
            let digit = (suffix >> (place * 5)) & 0x1f;
            *byte = BASE32[usize::try_from(digit).unwrap_or(0)];
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // It is ASCII, whatever made it.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// When the backup was started, to the second.
    pub fn time(&self) -> Timestamp {
        parse_time(&self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Reads `20261121T021500Z`, and nothing that is only like it.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.get(..TIME_LEN)?.split_at(8);
    let time = rest.strip_prefix(b"T")?.strip_suffix(b"Z")?;
    let two = |digits: &[u8], at: usize| two_digits(digits.get(at..at + 2)?);
    let year = i16::from(two(date, 0)?) * 100 + i16::from(two(date, 2)?);
    let date = civil::Date::new(year, two(date, 4)?, two(date, 6)?).ok()?;
    let time = civil::Time::new(two(time, 0)?, two(time, 2)?, two(time, 4)?, 0).ok()?;
    tz::Offset::UTC.to_timestamp(date.to_datetime(time)).ok()
}

fn two_digits(text: &[u8]) -> Option<i8> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
    let [tens, ones] = text else { return None };
    i8::try_from(digit(*tens)? * 10 + digit(*ones)?).ok()
}

impl FromStr for BackupId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError { what: "backup id", text: text.to_owned() };
        let id = <[u8; ID_LEN]>::try_from(text.as_bytes()).map_err(|_| error())?;
        let is_suffix = |suffix: &[u8]| suffix.iter().all(|byte| BASE32.contains(byte));
        let suffix = id[TIME_LEN..].strip_prefix(b"-").filter(|suffix| is_suffix(suffix));
        if parse_time(&id).is_none() || suffix.is_none() {
            return Err(error());
        }
        Ok(Self(id))
    }
}

impl TryFrom<String> for BackupId {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a backup was made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Database(DatabaseName),
    /// What belongs to the whole cluster: roles, tablespaces, their settings and grants.
    Globals,
}

impl Subject {
    /// The database, where it is one.
    pub fn database(&self) -> Option<&DatabaseName> {
        match self {
            Self::Database(name) => Some(name),
            Self::Globals => None,
        }
    }

    /// The path segment: the escaped name, or `@globals` (no escaped name has an `@`).
    pub fn segment(&self) -> String {
        match self {
            Self::Database(name) => escape(name.as_str()),
            Self::Globals => "@globals".to_owned(),
        }
    }

    /// What stands in the label `datname` of metrics: the globals are `@globals`, and a database
    /// that is really called so is written with an escape.
    pub fn label(&self) -> String {
        match self {
            Self::Database(name) if name.as_str() == "@globals" => escape(name.as_str()),
            other => other.to_string(),
        }
    }

    fn from_segment(segment: &str) -> Option<Self> {
        if segment == "@globals" {
            return Some(Self::Globals);
        }
        unescape(segment)?.parse().ok().map(Self::Database)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(name) => f.pad(name.as_str()),
            Self::Globals => f.pad("@globals"),
        }
    }
}

/// All backups that retention counts together: same server, same cluster, same subject, same
/// contents. A dump that left tables out is of another series than a whole one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series {
    /// The `[server.NAME]` that it was read from.
    pub server: ServerName,
    /// `system_identifier` of `pg_control_system()`: unique for each initdb. Text in JSON, since
    /// many readers keep numbers as doubles and would round it.
    #[serde(with = "as_text")]
    pub system_id: u64,
    pub subject: Subject,
    /// `all`, `schema`, `data`, or the name of a selection ([`super::scope::Scope::series`]).
    pub contents: String,
}

impl Series {
    /// Whether its backups hold all of their subject. Only such a one counts as the database's
    /// backup: what is said of its newest is never said of a selection.
    pub fn is_whole(&self) -> bool {
        self.contents == Contents::All.as_str()
    }

    /// The path of the series below the root of a repository, without a slash at the end:
    /// `<server>/<system id>/<database>/<contents>`.
    pub fn path(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.server,
            self.system_id,
            self.subject.segment(),
            escape(&self.contents)
        )
    }

    /// Reads what [`Series::path`] wrote.
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let series = Self {
            server: parts.next()?.parse().ok()?,
            system_id: parts.next()?.parse().ok()?,
            subject: Subject::from_segment(parts.next()?)?,
            contents: unescape(parts.next()?)?,
        };
        (parts.next().is_none() && series.path() == path).then_some(series)
    }
}

/// A number as text.
pub mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes it.
    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_sort_by_time() {
        let at = |time: &str, random| BackupId::new(time.parse().unwrap(), random);
        let early = at("2026-11-21T02:15:00.999Z", u64::MAX);
        assert_eq!(early.as_str(), "20261121T021500Z-z7zzzzzz");
        assert!(early < at("2026-11-21T02:15:01Z", 0));
        // Within one second as well, whatever chance says.
        assert!(at("2026-11-21T02:15:00.998999Z", u64::MAX) < at("2026-11-21T02:15:00.999Z", 0));
        assert_ne!(at("2026-11-21T02:15:00Z", 1), at("2026-11-21T02:15:00Z", 2));
        assert_eq!(early.as_str().parse::<BackupId>().unwrap(), early);
        assert_eq!(early.time(), "2026-11-21T02:15:00Z".parse().unwrap());
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for bad in [
            "",
            "20261121T021500Z",
            "20261121T021500Z-",
            "20261121T021500Z-k3f9q2xi",
            "20261121T021500Z-k3f9q2x77",
            "20261321T021500Z-k3f9q2x7",
            "2026112é021500Z-k3f9q2x7",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn series_paths_round_trip_for_hostile_names() {
        for name in ["app", "a/b", "..", "@globals", "\"q\"", "🐘", "%", "="] {
            let series = Series {
                server: "main".parse().unwrap(),
                system_id: 7_300_000_000_000_000_000,
                subject: Subject::Database(name.parse().unwrap()),
                contents: "all".to_owned(),
            };
            let path = series.path();
            assert_eq!(path.matches('/').count(), 3, "{path}");
            assert_eq!(Series::from_path(&path), Some(series));
        }
        assert_eq!(Series::from_path("main/1/../all"), None);
        assert_eq!(Series::from_path("main/01/app/all"), None);
    }
}
