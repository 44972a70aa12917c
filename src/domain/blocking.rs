//! Who waits behind the locks of a backup, whom the backup itself waits for, how much of the xmin
//! horizon it holds back, and what is made of it: report, or give way.
//!
//! A look at the server is a [`Look`]; all looks of one backup together are a [`Ledger`]. What can
//! still go wrong: who waited for less than the time between two looks is not seen.

mod ledger;
mod statement;

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;

pub use ledger::{Held, Ledger, Names};
pub use statement::first_words;

use super::units::{format_duration, parse_duration};

/// The shortest wait at which a backup may give way: that long is the time between two looks.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is done about sessions that wait behind a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenBlocking {
    #[default]
    Report,
    /// The backup gives way as soon as somebody has waited for so long.
    CancelAfter(Duration),
}

/// Why the text is not a [`WhenBlocking`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PolicyError {
    pub what: String,
    pub hint: String,
}

impl FromStr for WhenBlocking {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let refused = |what: String, hint: String| PolicyError { what, hint };
        let text = text.trim();
        if text == "report" {
            return Ok(Self::Report);
        }
        let Some(after) = text.strip_prefix("cancel-after") else {
            return Err(refused(
                "this is not known".to_owned(),
                "write \"report\", or \"cancel-after 30s\"".to_owned(),
            ));
        };
        if after.is_empty() {
            return Err(refused(
                "\"cancel-after\" needs a duration".to_owned(),
                "write how long others may wait: \"cancel-after 30s\"".to_owned(),
            ));
        }
        let limit = parse_duration(after.trim())
            .map_err(|error| refused(error.what, format!("cancel-after: {}", error.hint)))?;
        if !after.starts_with(' ') {
            return Err(refused(
                "\"cancel-after\" and its duration are two words".to_owned(),
                format!("write \"cancel-after {}\"", format_duration(limit)),
            ));
        }
        if limit < SHORTEST {
            return Err(refused(
                "nobody is looked for more often than each second".to_owned(),
                "write \"cancel-after 1s\" or longer".to_owned(),
            ));
        }
        Ok(Self::CancelAfter(limit))
    }
}

impl fmt::Display for WhenBlocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::CancelAfter(limit) => write!(f, "cancel-after {}", format_duration(*limit)),
        }
    }
}

/// The lock that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `AccessExclusiveLock`
    pub mode: String,
    /// Oid of the database, and of the relation in it; none for a lock on something else.
    pub relation: Option<(u32, u32)>,
}

/// A session on the server, as far as the role may see it; or a prepared transaction, which has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Its process on the server; 0: it is a prepared transaction.
    pub pid: i32,
    pub database: Option<String>,
    pub role: Option<String>,
    /// Its `application_name`; the name (`gid`) of a prepared transaction.
    pub application: Option<String>,
    /// `active`, `idle in transaction`.
    pub state: Option<String>,
    /// The first words of its statement, without literals.
    pub statement: Option<String>,
    /// The lock that one waits for: the session itself, or for one that is in the way, the backup.
    pub wanted: Option<Wanted>,
    /// Since when it waits; for one that is in the way, since when its transaction is open. None
    /// where the server does not tell.
    pub since: Option<Timestamp>,
}

/// What one look at the server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub at: Timestamp,
    /// The age in transactions of the xmin that the backup holds.
    pub xmin_age: Option<u64>,
    /// How many sessions wait behind the backup, directly or behind others that do.
    pub count: usize,
    /// The first of them.
    pub behind: Vec<Party>,
    /// Those that the backup itself waits for.
    pub ahead: Vec<Party>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_shown() {
        for (text, policy) in [
            ("report", WhenBlocking::Report),
            ("cancel-after 30s", WhenBlocking::CancelAfter(Duration::from_secs(30))),
            ("cancel-after  1m 30s", WhenBlocking::CancelAfter(Duration::from_secs(90))),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }

    #[test]
    fn what_is_not_a_policy_says_what_to_write() {
        for (text, hint) in [
            ("", "\"report\""),
            ("cancel", "cancel-after 30s"),
            ("cancel-after", "how long"),
            ("cancel-after 30", "\"30s\""),
            ("cancel-after30s", "cancel-after 30s"),
            ("cancel-after 500ms", "1s"),
            ("Report", "\"report\""),
        ] {
            let error = text.parse::<WhenBlocking>().unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
    }
}
