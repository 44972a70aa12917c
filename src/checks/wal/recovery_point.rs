//! How far back a recovery from the archive alone would fall.

use std::time::Duration;

use super::{ServerView, about};
use crate::{
    domain::{
        finding::{Found, Severity},
        text::size,
        wal::Lsn,
    },
    postgres::wal::ArchiveMode,
};

/// A server that archived nothing for so long is quiet.
const QUIET: Duration = Duration::from_hours(1);
/// What a server without clients writes by itself (checkpoints, running transactions) stays below;
/// nobody would miss it.
const HOUSEKEEPING: u64 = 64 << 10;

pub(super) fn recovery_point(view: &ServerView) -> Vec<Found> {
    let facts = &view.facts;
    let settings = &facts.settings;
    // The timeout is the primary's to keep, whoever archives.
    if facts.in_recovery
        || settings.archive_mode == ArchiveMode::Off
        || !settings.archive_timeout.is_zero()
    {
        return Vec::new();
    }
    let segment = facts.segment_size;
    let archived_to = view
        .last_archived_segment()
        .and_then(|name| name.number(segment))
        .map(|number| segment.start_of(number + 1));
    let waiting = facts
        .lsn
        .since(archived_to.unwrap_or(Lsn(facts.lsn.0 / segment.bytes() * segment.bytes())));
    let last = facts.archiver.last_archived.as_ref().map(|(_, at)| view.age(*at));
    let quiet = last.is_none_or(|age| age > QUIET);
    let severity = if quiet && waiting > HOUSEKEEPING { Severity::Warning } else { Severity::Info };
    let ago = last.map_or_else(
        || "nothing was archived yet".to_owned(),
        |age| format!("the last file was archived {} ago", about(age)),
    );
    vec![Found::new(
        severity,
        format!(
            "archive_timeout is 0: changes reach the archive when a segment of {} is full, however \
             long that takes; {ago}, and {} were written since",
            size(segment.bytes()),
            size(waiting)
        ),
        "set archive_timeout to the loss that you can bear (\"5min\"), and reload the server",
    )]
}
