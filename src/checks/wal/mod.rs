//! Checks of archiving write-ahead log: what the server says of it, and what lies in the archive.
//!
//! The server's word is cheap and not enough: a command that exits with 0 and copies nothing is a
//! success to it. Only the archive itself tells.

mod archive;
mod archiving;
mod privilege;
mod queue;
mod recovery_point;
mod retained;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::Check;
use crate::{
    domain::{
        finding::CheckName,
        units::format_duration,
        wal::{Continuity, Inventory, SegmentName, WalFile},
    },
    postgres::wal::WalFacts,
    wal::space::Space,
};

pub use self::archive::{HISTORY_UNREAD, TIMELINE, UNREADABLE};

/// What the server's side is looked at with.
#[derive(Debug)]
pub struct ServerView {
    pub facts: Arc<WalFacts>,
    /// The filesystem of `pg_wal`, where it can be seen from here.
    pub space: Option<Space>,
    pub limits: ServerLimits,
    pub archive_has_segments: bool,
}

/// What is asked of archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Whether the server is to archive at all. WAL that is streamed (pg_receivewal) is not.
    pub expect_archiving: bool,
    pub max_ready_age: Duration,
    /// How much may wait, in bytes; none: `max_wal_size`.
    pub max_backlog: Option<u64>,
}

/// What an archive is looked at with.
#[derive(Debug)]
pub struct ArchiveView {
    /// Where it lies, for messages.
    pub place: String,
    pub seen: Inventory,
    pub continuity: Continuity,
}

/// The checks of what a server says.
pub const SERVER: &[Check<ServerView>] = &[
    Check { name: CheckName("wal-archiving-off"), look: archiving::off },
    Check { name: CheckName("wal-archive-command-unset"), look: archiving::command_unset },
    Check { name: CheckName("wal-never-archived"), look: archiving::never_archived },
    Check { name: CheckName("wal-archiving-failing"), look: queue::failing },
    Check { name: CheckName("wal-archiving-stalled"), look: queue::stalled },
    Check { name: CheckName("wal-backlog"), look: queue::backlog },
    Check { name: CheckName("wal-retained"), look: retained::retained },
    Check { name: CheckName("wal-slot-lost"), look: retained::slot_lost },
    Check { name: CheckName("wal-recovery-point"), look: recovery_point::recovery_point },
    Check { name: CheckName("wal-unmeasured"), look: privilege::privilege },
];

/// The checks of what lies in an archive.
pub const ARCHIVE: &[Check<ArchiveView>] = &[
    Check { name: CheckName("wal-archive-empty"), look: archive::empty },
    Check { name: CheckName("wal-archive-gap"), look: archive::gap },
    Check { name: CheckName("wal-archive-lost"), look: archive::lost },
    Check { name: CheckName("wal-archive-behind"), look: archive::behind },
    Check { name: CheckName("wal-archive-size"), look: archive::wrong_size },
    Check { name: CheckName("wal-archive-duplicates"), look: archive::duplicates },
    Check { name: CheckName("wal-archive-history"), look: archive::history },
    Check { name: archive::HISTORY_UNREAD, look: archive::history_unread },
    Check { name: archive::TIMELINE, look: archive::timeline },
    Check { name: CheckName("wal-archive-start"), look: archive::start },
];

impl ServerView {
    /// Whether the server, in its present role, archives.
    pub fn archives(&self) -> bool {
        self.facts.archives()
    }

    /// How long ago something was, by the server's clock; zero for the future.
    fn age(&self, at: Timestamp) -> Duration {
        Duration::try_from(self.facts.at.duration_since(at)).unwrap_or_default()
    }

    /// How long the oldest file has been waiting to be archived.
    fn oldest_ready(&self) -> Option<Duration> {
        self.facts.ready.as_ref()?.oldest.map(|at| self.age(at))
    }

    /// Whether archiving is known to be in trouble: nothing more should be put into its queue.
    pub fn is_stuck(&self) -> bool {
        let waits = self.oldest_ready();
        let fails = self.facts.archiver.is_failing() && waits.is_some();
        fails || waits.is_some_and(|age| age > self.limits.max_ready_age)
    }

    /// Bytes of the segments that wait.
    fn backlog(&self) -> u64 {
        let waiting = self.facts.ready.as_ref().map_or(0, |ready| ready.segments);
        waiting.saturating_mul(self.facts.segment_size.bytes())
    }

    /// How much may wait.
    fn backlog_limit(&self) -> u64 {
        self.limits.max_backlog.unwrap_or(self.facts.settings.max_wal_size)
    }

    /// The last whole segment that was archived, by the server's word.
    fn last_archived_segment(&self) -> Option<SegmentName> {
        match WalFile::parse(&self.facts.archiver.last_archived.as_ref()?.0)? {
            WalFile::Segment(name) => Some(name),
            _ => None,
        }
    }
}

/// A duration in a message: whole seconds, and no seconds above an hour.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let rounded = if seconds >= 3600 { seconds / 60 * 60 } else { seconds };
    format_duration(Duration::from_secs(rounded))
}
