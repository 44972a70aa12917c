//! What is remembered between two runs: the last listing, and what it means; what the server took for
//! archived, what it had written, and when; the last end-to-end probe.
//!
//! It lies in the state directory, is written atomically, and may be removed at any time: the next run
//! then lists everything. What was found of another archive, or with other rules, is not used.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    checks::{
        look,
        wal::{ARCHIVE, ArchiveView, HISTORY_UNREAD, TIMELINE},
    },
    domain::{
        finding::{Finding, Severity},
        wal::{Expectation, Inventory, Lsn, SegmentName, Span, Timeline, examine},
    },
    sys::files::{self, FileError},
    wal::archive::{Listed, Resume},
};

/// Of this form. An older one is taken over but for its listing, a newer one is passed over.
const VERSION: u32 = 3;
/// A state that is longer is not read again: everything is listed then.
const STATE_MAX: u64 = 16 << 20;
/// Moments that a trail keeps; they are thinned out above.
const TRAIL_MAX: usize = 64;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Of what it speaks: server, archive, rules.
    subject: String,
    /// The last listing that reached its end.
    pub(crate) listed: Option<Listing>,
    /// What the server took for archived.
    pub(crate) claims: Trail<SegmentName>,
    /// Up to where the server had written, and on which timeline. Since version 2.
    #[serde(default)]
    pub(crate) written: Trail<(Timeline, Lsn)>,
    pub(crate) probe: Option<Probe>,
}

/// What every version has.
#[derive(Deserialize)]
struct Form {
    version: u32,
}

/// A listing that reached its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    pub(crate) at: Timestamp,
    /// When the last one began that listed everything.
    pub(crate) full_at: Timestamp,
    pub(crate) seen: Inventory,
    /// From where the next can go on.
    pub(crate) resume: Option<Resume>,
    pub(crate) findings: Vec<Finding>,
    /// Segments that are missing since the newest base backup.
    pub(crate) missing_recent: u64,
    /// Segments that are missing before it.
    pub(crate) missing_old: u64,
}

/// An end-to-end probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) at: Timestamp,
    pub(crate) segment: SegmentName,
    pub(crate) arrived_at: Option<Timestamp>,
    pub(crate) finding: Option<Finding>,
}

impl Listing {
    /// What a listing brought, looked at as a whole. It began at `at`, the last one of everything at
    /// `full_at`; `place` is that of the archive, for messages.
    pub(crate) fn of(
        listed: Listed,
        place: String,
        (at, full_at): (Timestamp, Timestamp),
        expected: &Expectation<'_>,
    ) -> Self {
        let continuity = examine(&listed.seen, expected);
        let view = ArchiveView { place, seen: listed.seen, continuity };
        let total = |spans: &[Span]| spans.iter().map(Span::count).sum::<u64>();
        Self {
            at,
            full_at,
            findings: look(ARCHIVE, &view),
            missing_recent: total(&view.continuity.missing_recent),
            missing_old: total(&view.continuity.missing_old),
            seen: view.seen,
            resume: listed.resume,
        }
    }

    /// From where the next listing can go on, for a server on timeline `head`; none where everything
    /// is to be listed.
    ///
    /// What is not as it should be may be mended anywhere: everything is listed as long as that lasts,
    /// each `archive_interval`. In a bucket of a million objects that is a thousand requests. Timelines
    /// that do not fit together are no reason: what goes on there comes behind the server's own. Nor is a
    /// history that nobody can read: it stays so.
    pub(crate) fn resume(&self, head: Timeline) -> Option<&Resume> {
        let elsewhere = [TIMELINE.0, HISTORY_UNREAD.0];
        let amiss = |found: &Finding| {
            found.severity >= Severity::Warning && !elsewhere.contains(&found.check.as_str())
        };
        let resume = self.resume.as_ref().filter(|resume| resume.segment.timeline == head);
        resume.filter(|_| !self.findings.iter().any(amiss))
    }
}

impl State {
    /// Nothing remembered.
    pub(crate) fn new(subject: String) -> Self {
        Self {
            version: VERSION,
            subject,
            listed: None,
            claims: Trail::default(),
            written: Trail::default(),
            probe: None,
        }
    }

    /// Reads what is remembered of `subject`; nothing where there is none, or it speaks of something
    /// else. What cannot be read as such is set aside.
    ///
    /// # Errors
    /// When the file is there and the system does not give it.
    pub(crate) fn load(path: &Path, subject: &str) -> Result<Self, FileError> {
        const DAMAGED: &str = "not read and set aside; everything is listed anew";
        // A newer one has what nobody knows here: it is left where it is.
        let read = |bytes: &[u8]| {
            let is_known = serde_json::from_slice::<Form>(bytes)?.version <= VERSION;
            is_known.then(|| serde_json::from_slice::<Self>(bytes)).transpose()
        };
        let known = files::read_json(path, STATE_MAX, DAMAGED, read)?.flatten();
        let ours = known.filter(|state| state.subject == subject).map(Self::taken_over);
        Ok(ours.unwrap_or_else(|| Self::new(subject.to_owned())))
    }

    /// What an older version wrote, without the listing: names were read by other rules.
    fn taken_over(mut self) -> Self {
        if self.version < VERSION {
            self.version = VERSION;
            self.listed = None;
        }
        self
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), FileError> {
        if let Some(folder) = path.parent() {
            files::create_private_dir_all(folder)?;
        }
        let bytes = serde_json::to_vec(self)
            .map_err(|error| FileError::at("write", path)(std::io::Error::other(error)))?;
        files::write_atomic(path, &bytes, 0o600)
    }
}

/// What was so, and since when, by the server's clock; in order. It keeps the newest that is old enough,
/// and what came after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Trail<T>(Vec<(Timestamp, T)>);

impl<T> Default for Trail<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy + PartialEq> Trail<T> {
    /// Remembers that something was so. What was so already keeps its time.
    pub(crate) fn saw(&mut self, at: Timestamp, what: T) {
        if self.0.iter().any(|(since, known)| *known == what && *since <= at) {
            return;
        }
        if self.0.len() >= TRAIL_MAX {
            // Every other one: the oldest and the newest stay.
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        let place = self.0.partition_point(|(since, _)| *since <= at);
        self.0.insert(place, (at, what));
    }

    /// The newest that was so at `now` for at least `deadline`. What is older is forgotten.
    pub(crate) fn due(&mut self, now: Timestamp, deadline: Duration) -> Option<T> {
        let is_due = |(at, _): &(Timestamp, T)| {
            Duration::try_from(now.duration_since(*at)).is_ok_and(|age| age >= deadline)
        };
        let due = self.0.iter().rposition(is_due)?;
        self.0.drain(..due);
        self.0.first().map(|(_, what)| *what)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::wal::{SegmentSize, Sizes};

    fn now() -> Timestamp {
        "2026-11-21T02:15:00Z".parse().unwrap()
    }

    fn ago(minutes: i64) -> Timestamp {
        now() - SignedDuration::from_mins(minutes)
    }

    #[test]
    fn claims_fall_due_and_are_bounded() {
        let name = |number| SegmentName::new(Timeline::FIRST, number, SegmentSize::DEFAULT);
        let mut state = State::new("x".to_owned());
        let deadline = Duration::from_mins(10);
        assert_eq!(state.claims.due(now(), deadline), None);
        for minute in 0..200 {
            state.claims.saw(ago(200 - minute), name(minute.unsigned_abs()));
        }
        let due = state.claims.due(now(), deadline).unwrap().number(SegmentSize::DEFAULT).unwrap();
        assert!((180..=190).contains(&due), "{due}");
        assert_eq!(state.claims.due(now(), Duration::ZERO), Some(name(199)));
    }

    #[test]
    fn a_state_of_something_else_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal-archives/wal.json");
        let mut state = State::new("x".to_owned());
        state.claims.saw(now(), "000000010000000000000005".parse().unwrap());
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, "x").unwrap(), state);
        let other = State::new("y".to_owned());
        assert_eq!(State::load(&path, "y").unwrap(), other);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(State::load(&path, "y").unwrap(), other);
    }

    #[test]
    fn a_state_of_an_older_version_is_taken_over_without_its_listing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal.json");
        let seen = Inventory::new(SegmentSize::DEFAULT, Sizes::Exact);
        let mut seen = serde_json::to_value(seen).unwrap();
        seen.as_object_mut().unwrap().remove("summed").unwrap();
        let segment: SegmentName = "000000010000000000000005".parse().unwrap();
        let first = serde_json::json!({
            "version": 1,
            "subject": "x",
            "listed": {
                "at": now(), "full_at": now(), "seen": seen, "resume": null, "findings": [],
                "missing_recent": 0, "missing_old": 0,
            },
            "claims": [[now(), segment]],
            "probe": {"at": now(), "segment": segment, "arrived_at": now(), "finding": null},
        });
        let write = |state: &serde_json::Value| std::fs::write(&path, state.to_string()).unwrap();
        write(&first);
        let mut state = State::load(&path, "x").unwrap();
        assert_eq!(state.claims.due(now(), Duration::ZERO), Some(segment));
        assert!(state.probe.is_some() && state.listed.is_none());
        assert_eq!(state.written, Trail::default());
        state.save(&path).unwrap();
        assert_eq!(State::load(&path, "x").unwrap(), state);
        // A newer one has what nobody knows here: it is left where it is.
        write(&serde_json::json!({"version": 99, "subject": "x", "claims": "?"}));
        assert_eq!(State::load(&path, "x").unwrap(), State::new("x".to_owned()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
