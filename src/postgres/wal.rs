//! What a server says of its write-ahead log and of archiving it, on PostgreSQL 11 to 19.
//!
//! What the role may not see is named in [`WalFacts::unmeasured`] and has no value; everything else
//! is an error. All of it is read in one session within milliseconds, but not in one snapshot: the
//! server goes on meanwhile.

mod read;

use std::{path::PathBuf, time::Duration};

use crate::domain::{
    Timestamp,
    wal::{Lsn, SegmentSize, Timeline},
};

pub use self::read::{archiver, history, may_execute, switch_wal, wal_facts};

/// When WAL is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMode {
    Off,
    /// By a primary; a standby archives nothing.
    On,
    /// By a standby as well.
    Always,
}

/// Settings that concern WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSettings {
    pub archive_mode: ArchiveMode,
    pub has_command: bool,
    /// Whether `archive_library` (15+) is set.
    pub has_library: bool,
    /// `archive_timeout`; zero is none.
    pub archive_timeout: Duration,
    /// `wal_keep_size`, or `wal_keep_segments` before 13, in bytes.
    pub keep_bytes: u64,
    pub max_wal_size: u64,
    /// `data_directory`, where the role may know it.
    pub data_directory: Option<PathBuf>,
}

/// `pg_stat_archiver`. Failures stay in it after a recovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archiver {
    /// Files that were archived since the statistics were reset.
    pub archived_count: u64,
    pub last_archived: Option<(String, Timestamp)>,
    /// Attempts that failed since the statistics were reset.
    pub failed_count: u64,
    /// The last file that could not be archived, and when.
    pub last_failed: Option<(String, Timestamp)>,
    /// Since when this is counted. A crash resets it too.
    pub stats_reset: Option<Timestamp>,
}

impl Archiver {
    /// Whether the last attempt failed. Counts and old failures say nothing.
    pub fn is_failing(&self) -> bool {
        match (&self.last_failed, &self.last_archived) {
            (Some((_, failed)), Some((_, archived))) => failed > archived,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// What waits to be archived: the `.ready` files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadyQueue {
    pub segments: u64,
    /// Histories of timelines. They are archived before everything else.
    pub histories: u64,
    pub backups: u64,
    pub partials: u64,
    /// Files of no such name; nobody will archive them.
    pub others: u64,
    /// Since when the oldest has been waiting, to the second; none where nothing waits.
    pub oldest: Option<Timestamp>,
    pub next: Option<String>,
    pub first_segment: Option<String>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub active: bool,
    /// The oldest byte that it keeps; none for a slot that keeps nothing.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost` (13+). One that is lost keeps nothing any more, whatever
    /// else it still shows.
    pub wal_status: Option<String>,
    /// Why it is lost (17+): `wal_removed`, `rows_removed`, `wal_level_insufficient`, `idle_timeout`.
    pub invalidation_reason: Option<String>,
    /// Bytes that can be written before the slot is lost (13+, and only with
    /// `max_slot_wal_keep_size`).
    pub safe_wal_size: Option<i64>,
}

impl Slot {
    /// The oldest byte that it keeps from being removed.
    pub fn kept_from(&self) -> Option<Lsn> {
        self.restart_lsn.filter(|_| self.wal_status.as_deref() != Some("lost"))
    }
}

/// Files of `pg_wal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalDirectory {
    pub bytes: u64,
    pub files: u64,
}

/// Something that the role may not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmeasured {
    pub what: &'static str,
    pub from: &'static str,
    /// The statement that changes that; none where the server has no such thing.
    pub grant: Option<String>,
}

/// What a server says of its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFacts {
    pub at: Timestamp,
    pub in_recovery: bool,
    pub segment_size: SegmentSize,
    /// Its timeline. A standby may learn of a new one late.
    pub timeline: Timeline,
    /// What was written; on a standby what was received or replayed.
    pub lsn: Lsn,
    /// Where a recovery after a crash would start: what was written when the last checkpoint began.
    pub redo: Lsn,
    pub redo_timeline: Timeline,
    /// When the last checkpoint (on a standby: restartpoint) was made.
    pub checkpoint_at: Timestamp,
    pub settings: WalSettings,
    pub archiver: Archiver,
    pub ready: Option<ReadyQueue>,
    pub directory: Option<WalDirectory>,
    /// Replication slots, those that keep most first.
    pub slots: Vec<Slot>,
    pub unmeasured: Vec<Unmeasured>,
}

impl WalFacts {
    /// Whether the server, in its present role, archives.
    pub fn archives(&self) -> bool {
        match self.settings.archive_mode {
            ArchiveMode::Off => false,
            ArchiveMode::On => !self.in_recovery,
            ArchiveMode::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_is_now_and_not_once() {
        let at = |second| Some(("x".to_owned(), Timestamp::from_second(second).unwrap()));
        let archiver = |archived, failed| Archiver {
            last_archived: archived,
            last_failed: failed,
            failed_count: 99,
            ..Archiver::default()
        };
        assert!(archiver(at(1), at(2)).is_failing());
        assert!(archiver(None, at(2)).is_failing());
        assert!(!archiver(at(2), at(1)).is_failing());
        assert!(!archiver(at(2), None).is_failing());
        assert!(!archiver(None, None).is_failing());
    }
}
