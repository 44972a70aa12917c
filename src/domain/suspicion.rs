//! What is suspicious about a backup, as its manifest and the mark in its folder say it, and who has
//! said that it is as it should be. [`super::measure`] judges.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup::{BackupId, Series};

/// The name of the object that marks a suspicious backup in its folder. It is put there before the
/// manifest: whatever is listed as complete shows at once whether it is suspicious.
pub const MARK_NAME: &str = "suspicious.json";
/// The name of the object that says who has acknowledged it.
pub const ACKNOWLEDGED_NAME: &str = "acknowledged.json";
/// What about a backup is suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    NoTables,
    NoRows,
    NoLargeObjects,
    FewerBytes,
    FewerRows,
    FewerTables,
    /// Its table of contents has fewer entries; the globals have fewer statements.
    FewerEntries,
    /// pg_dump or the server said something that casts doubt on what was read.
    ToolOutput,
    #[serde(other)]
    Other,
}

/// One thing that is suspicious about a backup, as it stands in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    pub kind: Kind,
    /// What it is, one line without a name: `12 rows, before 5000`.
    pub what: String,
}

impl Suspicion {
    /// A suspicion of that kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

/// All of them on one line.
pub fn phrase(suspicions: &[Suspicion]) -> String {
    suspicions.iter().map(|it| it.what.as_str()).collect::<Vec<_>>().join("; ")
}

/// Who has said that a suspicious backup is as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub at: Timestamp,
    /// The user, by name where there is one.
    pub user: String,
    pub host: String,
}

/// Which backups a person means by a word on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant<'a> {
    /// All backups of that server's database or globals: `main/app`, or the path of a series.
    Series(&'a str),
    Backup(&'a str),
}

impl<'a> Meant<'a> {
    /// Reads a word: a series has a slash in it, an id never has.
    pub fn read(word: &'a str) -> Self {
        if word.contains('/') { Self::Series(word) } else { Self::Backup(word) }
    }

    /// Whether it means that backup. The empty word means none.
    pub fn is(&self, series: &Series, id: &BackupId) -> bool {
        match self {
            Self::Backup(begin) => !begin.is_empty() && id.as_str().starts_with(begin),
            Self::Series(word) => {
                series.path() == *word
                    || word.split_once('/').is_some_and(|(server, subject)| {
                        series.server.as_str() == server && series.subject.to_string() == subject
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_a_newer_version_are_read() {
        let text = r#"[{"kind":"no-tables","what":"a"},{"kind":"from-tomorrow","what":"b"}]"#;
        let read: Vec<Suspicion> = serde_json::from_str(text).unwrap();
        assert_eq!(
            read.iter().map(|it| it.kind).collect::<Vec<_>>(),
            [Kind::NoTables, Kind::Other]
        );
        assert_eq!(phrase(&read), "a; b");
    }

    #[test]
    fn words_mean_backups_and_series() {
        let id: BackupId = "20261121T021500Z-k3f9q2x7".parse().unwrap();
        for (path, subject) in [
            ("main/7/app/all", "main/app"),
            ("main/7/a=2Fb/all", "main/a/b"),
            ("main/7/@globals/all", "main/@globals"),
        ] {
            let series = Series::from_path(path).unwrap();
            for word in [path, subject, "20261121T0215", id.as_str()] {
                assert!(Meant::read(word).is(&series, &id), "{word}");
            }
            for word in ["", "main/", "main", "other/app", "main/ap", "20261122"] {
                assert!(!Meant::read(word).is(&series, &id), "{word}");
            }
        }
    }
}
