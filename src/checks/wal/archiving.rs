//! Whether the server archives at all.

use std::time::Duration;

use super::{ServerView, about};
use crate::{
    domain::finding::{Found, Severity},
    postgres::wal::ArchiveMode,
};

/// Statistics that are younger say nothing about "never": a crash resets them, and a quiet server
/// may archive nothing for hours.
const YOUNG: Duration = Duration::from_hours(24);

pub(super) fn off(view: &ServerView) -> Vec<Found> {
    let settings = &view.facts.settings;
    if !view.limits.expect_archiving || settings.archive_mode != ArchiveMode::Off {
        return Vec::new();
    }
    let (severity, what) = if view.facts.in_recovery {
        (
            Severity::Warning,
            "archive_mode is off on this standby: once it is promoted, nothing is archived",
        )
    } else {
        (
            Severity::Critical,
            "archive_mode is off: no WAL is archived, and there is no recovery to a point in time",
        )
    };
    vec![Found::new(
        severity,
        what,
        "set archive_mode = on and archive_command, and restart the server; where WAL is streamed \
         to the archive (pg_receivewal), set expect_archiving = false in the job",
    )]
}

pub(super) fn command_unset(view: &ServerView) -> Vec<Found> {
    let settings = &view.facts.settings;
    let set = settings.has_command || settings.has_library;
    if settings.archive_mode == ArchiveMode::Off || set || !view.limits.expect_archiving {
        return Vec::new();
    }
    let severity = if view.archives() { Severity::Critical } else { Severity::Warning };
    vec![Found::new(
        severity,
        "archive_mode is on and neither archive_command nor archive_library is set: WAL is kept \
         in pg_wal until its filesystem is full",
        "set archive_command (or archive_library) and reload the server; nothing is lost yet",
    )]
}

pub(super) fn never_archived(view: &ServerView) -> Vec<Found> {
    let archiver = &view.facts.archiver;
    let settings = &view.facts.settings;
    let set = settings.has_command || settings.has_library;
    let quiet = archiver.last_archived.is_none() && archiver.last_failed.is_none();
    if !view.archives() || !set || !quiet || view.archive_has_segments {
        return Vec::new();
    }
    let counted = archiver.stats_reset.map(|at| view.age(at));
    let severity = match counted {
        Some(age) if age < YOUNG => Severity::Info,
        _ => Severity::Warning,
    };
    let since = counted.map_or_else(String::new, |age| format!(" in the last {}", about(age)));
    vec![Found::new(
        severity,
        format!("nothing was archived{since}, and no attempt failed"),
        "a quiet server fills no segment: SELECT pg_switch_wal() ends the present one. Set \
         archive_timeout so that this happens by itself",
    )]
}
