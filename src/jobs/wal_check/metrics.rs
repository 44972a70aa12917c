//! The kind's metrics, and the numbers of a run for them.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    checks::wal::ServerView,
    domain::{metric::metrics, name::ServerName, report::Sample},
};

use super::state::Listing;

metrics! {
    /// The metrics of the kind.
    pub(super) METRICS:
    READY_FILES = Gauge "wal_ready_files" ["server", "file"]
        "Files that wait to be archived, by what they are: segment, history, backup, partial, other.";
    OLDEST_READY = Gauge "wal_oldest_ready_timestamp_seconds" ["server"]
        "Since when the oldest file has been waiting to be archived; 0 if none waits, no series for a \
         server that archives nothing in its role.";
    DIRECTORY_BYTES = Gauge "wal_directory_bytes" ["server"]
        "Bytes of the files in pg_wal.";
    LAST_ARCHIVED = Gauge "wal_archiver_last_archived_timestamp_seconds" ["server"]
        "When the server last archived a file, by its own word; no series if never since its \
         statistics were reset. A quiet server archives nothing.";
    LAST_FAILED = Gauge "wal_archiver_last_failed_timestamp_seconds" ["server"]
        "When archiving a file last failed; no series if never since the server's statistics were \
         reset. It fails now if this is greater than the last archived.";
    SLOT_RETAINED = Gauge "wal_replication_slot_retained_bytes" ["server", "slot"]
        "WAL that a replication slot keeps; of the 32 that keep most.";
    MISSING_SEGMENTS = Covered "wal_archive_missing_segments" ["server", "window"]
        "Segments that the last listing of the archive missed: since the newest base backup (recent), \
         or before it (old); no series where the archive cannot be read.";
    LAST_LISTED = Covered "wal_archive_last_listed_timestamp_seconds" ["server"]
        "When the archive was last looked through to its end; 0 if never, no series where none is \
         named.";
    MAX_READY_AGE = Covered "wal_max_ready_age_seconds" ["server"]
        "How long a file may wait to be archived: the job's own limit.";
    MAX_AGE = Covered "wal_archive_max_age_seconds" ["server"]
        "How old the last listing of the archive may become: a quarter more than its interval, and \
         the job's own objective; no series where no archive is named.";
    LAST_END_TO_END = Covered "wal_last_end_to_end_timestamp_seconds" ["server"]
        "When a segment that was ended for that purpose last arrived in the archive; 0 if never, no \
         series where end_to_end is not set.";
}

/// Slots that have a series: one per slot of a busy cluster would be without bounds.
const SLOTS_MAX: usize = 32;

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// What the server says.
pub(super) fn of_server(view: &ServerView, server: &ServerName) -> Vec<Sample> {
    let facts = &view.facts;
    let limit = view.limits.max_ready_age.as_secs_f64();
    let mut samples = vec![MAX_READY_AGE.sample([server], limit)];
    if let Some(ready) = &facts.ready {
        for (file, count) in [
            ("segment", ready.segments),
            ("history", ready.histories),
            ("backup", ready.backups),
            ("partial", ready.partials),
            ("other", ready.others),
        ] {
            samples.push(READY_FILES.sample([server, &file], count as f64));
        }
        // What a standby keeps from its time as a primary is nobody's to archive.
        if view.archives() {
            let oldest = ready.oldest.map_or(0.0, seconds);
            samples.push(OLDEST_READY.sample([server], oldest));
        }
    }
    if let Some(directory) = facts.directory {
        samples.push(DIRECTORY_BYTES.sample([server], directory.bytes as f64));
    }
    for (metric, event) in
        [(LAST_ARCHIVED, &facts.archiver.last_archived), (LAST_FAILED, &facts.archiver.last_failed)]
    {
        samples.extend(event.iter().map(|(_, at)| metric.sample([server], seconds(*at))));
    }
    let kept = facts.slots.iter().filter_map(|slot| {
        let bytes = facts.lsn.since(slot.kept_from()?) as f64;
        Some(SLOT_RETAINED.sample([server, &slot.name], bytes))
    });
    samples.extend(kept.take(SLOTS_MAX));
    samples
}

/// What the last listing of the archive brought. An archive that cannot be read now brings no counts.
pub(super) fn of_archive(
    listed: Option<&Listing>,
    readable: bool,
    server: &ServerName,
) -> Vec<Sample> {
    let at = listed.map_or(0.0, |listed| seconds(listed.at));
    let mut samples = vec![LAST_LISTED.sample([server], at)];
    if let Some(listed) = listed.filter(|_| readable) {
        for (window, count) in [("recent", listed.missing_recent), ("old", listed.missing_old)] {
            samples.push(MISSING_SEGMENTS.sample([server, &window], count as f64));
        }
    }
    samples
}

/// Without an objective a job runs by hand: its archive then has a day.
const MAX_AGE_BY_HAND: Duration = Duration::from_hours(24);

/// How old the last listing may become. `max_age` is the objective of the job, which lists when it
/// runs and the interval is over.
pub(super) fn archive_max_age(
    interval: Duration,
    max_age: Option<Duration>,
    server: &ServerName,
) -> Sample {
    let age = interval + interval / 4 + max_age.unwrap_or(MAX_AGE_BY_HAND);
    MAX_AGE.sample([server], age.as_secs_f64())
}

/// When a probe last arrived.
pub(super) fn of_probe(arrived: Option<Timestamp>, server: &ServerName) -> Sample {
    LAST_END_TO_END.sample([server], arrived.map_or(0.0, seconds))
}
