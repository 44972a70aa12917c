//! What an archive lacks, and what it should not have.

use super::ArchiveView;
use crate::{
    domain::{
        finding::{CheckName, Found, Severity},
        wal::{SegmentName, SegmentSet, Span, Timeline},
    },
    postgres::configuration::READ_FUNCTION,
};

/// A history file cannot be read, and the server does not tell what it says.
pub const HISTORY_UNREAD: CheckName = CheckName("wal-archive-history-unread");
/// Timelines do not hang together.
pub const TIMELINE: CheckName = CheckName("wal-archive-timeline");

/// The finding that the archive cannot be read: there is no inventory then to look at.
pub const UNREADABLE: CheckName = CheckName("wal-archive-unreadable");

/// Ranges or timelines that a message names.
const EXAMPLES: usize = 5;

fn ranges(view: &ArchiveView, spans: &[Span]) -> String {
    let size = view.seen.size();
    let named = spans.iter().take(EXAMPLES).map(|span| span.names(size).to_string());
    more(named.collect(), spans.len())
}

fn more(mut named: Vec<String>, all: usize) -> String {
    if all > named.len() {
        named.push(format!("and {} more", all - named.len()));
    }
    named.join(", ")
}

fn list(timelines: &[Timeline]) -> String {
    let named = timelines.iter().take(EXAMPLES).map(ToString::to_string).collect();
    more(named, timelines.len())
}

fn total(spans: &[Span]) -> u64 {
    spans.iter().map(Span::count).sum()
}

pub(super) fn empty(view: &ArchiveView) -> Vec<Found> {
    if !view.seen.is_empty() {
        return Vec::new();
    }
    let foreign = match view.seen.foreign + view.seen.misnamed {
        0 => "nothing at all".to_owned(),
        count => format!("only {count} files that are not WAL of this server"),
    };
    vec![Found::new(
        Severity::Warning,
        format!("{} holds no WAL, {foreign}", view.place),
        "is this where archive_command puts it? Is the filesystem mounted?",
    )]
}

pub(super) fn gap(view: &ArchiveView) -> Vec<Found> {
    let found = &view.continuity;
    // What is missing at the end is told by checks of its own.
    let mut recent = found.missing_recent.clone();
    recent.retain(|span| !found.never_arrived.contains(span) && !found.behind.contains(span));
    let mut gaps = Vec::from_iter((!recent.is_empty()).then(|| recent_gap(view, &recent)));
    if !found.missing_old.is_empty() {
        gaps.push(Found::new(
            Severity::Warning,
            format!(
                "{} segments are missing before the newest base backup, or on another timeline: {}",
                total(&found.missing_old),
                ranges(view, &found.missing_old)
            ),
            "older base backups recover only up to it. If that is known and accepted, list it in \
             known_losses",
        )
        .of("old"));
    }
    if !found.expired.is_empty() {
        gaps.push(Found::new(
            Severity::Info,
            format!(
                "{} segments between base backups are not there, as repo-retention-archive of pgBackRest \
                 leaves it: {}",
                total(&found.expired),
                ranges(view, &found.expired)
            ),
            "the base backups before them recover to where they ended, and to no later point. If \
             repo-retention-archive is not set, this is a loss",
        ));
    }
    gaps
}

/// What is missing since the newest base backup.
fn recent_gap(view: &ArchiveView, recent: &[Span]) -> Found {
    let (since, hint) = match view.continuity.newest_backup {
        Some(_) => (
            "since the newest base backup",
            "no recovery gets past it: make a base backup now. What is still in pg_wal of a \
             server or standby can be copied into the archive",
        ),
        None => (
            "and no base backup is known that starts after it",
            "no recovery gets past it: make a base backup now. If there is one whose .backup \
             file was not archived, set since to where it starts",
        ),
    };
    let what = format!("{} segments are missing {since}: {}", total(recent), ranges(view, recent));
    Found::new(Severity::Critical, what, hint).of("recent")
}

pub(super) fn lost(view: &ArchiveView) -> Vec<Found> {
    let lost = &view.continuity.never_arrived;
    if lost.is_empty() {
        return Vec::new();
    }
    vec![Found::new(
        Severity::Critical,
        format!(
            "the server takes {} segments for archived that are not in {}: {}",
            total(lost),
            view.place,
            ranges(view, lost)
        ),
        "the archive command exits with 0 before the file is there, or puts it elsewhere: run it by \
         hand. Make a base backup once it works",
    )]
}

pub(super) fn behind(view: &ArchiveView) -> Vec<Found> {
    let behind = &view.continuity.behind;
    if behind.is_empty() {
        return Vec::new();
    }
    vec![Found::new(
        Severity::Critical,
        format!(
            "the server wrote {} segments longer than archive_deadline ago that are not in {}: {}",
            total(behind),
            view.place,
            ranges(view, behind)
        ),
        "is what brings them there running (pg_receivewal, barman receive-wal, on a standby the primary's \
         archive_command), and does it keep up? A receiver without a slot cannot catch up once pg_wal no \
         longer has them: look again afterwards, and make a base backup if a gap is left",
    )]
}

fn first_of(view: &ArchiveView, set: &SegmentSet) -> String {
    let size = view.seen.size();
    let named = set.all().take(EXAMPLES).map(|span| span.names(size).to_string());
    more(named.collect(), set.all().count())
}

pub(super) fn wrong_size(view: &ArchiveView) -> Vec<Found> {
    let wrong = &view.seen.wrong_size;
    if wrong.is_empty() {
        return Vec::new();
    }
    let recent = view.continuity.wrong_size_recent > 0;
    let severity = if recent { Severity::Critical } else { Severity::Warning };
    vec![Found::new(
        severity,
        format!(
            "{} segments are empty or not of {} bytes: {}",
            wrong.len(),
            view.seen.size().bytes(),
            first_of(view, wrong)
        ),
        "they were cut off while they were copied: copy what is still in pg_wal again, else make a \
         base backup. If they are compressed or encrypted without an ending in their names, set \
         archive_sizes = \"any\"",
    )]
}

pub(super) fn duplicates(view: &ArchiveView) -> Vec<Found> {
    let twice = &view.seen.duplicates;
    if twice.is_empty() {
        return Vec::new();
    }
    vec![Found::new(
        Severity::Warning,
        format!("{} segments are there more than once: {}", twice.len(), first_of(view, twice)),
        "do two servers archive here, or did a command copy a segment again in another form? Name \
         the folder or prefix of one cluster",
    )]
}

pub(super) fn history(view: &ArchiveView) -> Vec<Found> {
    let found = &view.continuity;
    let mut missing = Vec::new();
    if !found.no_history.is_empty() {
        let head = view.continuity.window.map(|(_, last)| last.timeline);
        let needed = found.no_history.iter().any(|timeline| Some(*timeline) == head);
        let severity = if needed { Severity::Critical } else { Severity::Warning };
        missing.push(Found::new(
            severity,
            format!("the history files of timelines {} are missing", list(&found.no_history)),
            "no recovery finds its way onto these timelines: copy NNNNNNNN.history from pg_wal of \
             the server into the archive",
        )
        .of(list(&found.no_history)));
    }
    missing
}

pub(super) fn history_unread(view: &ArchiveView) -> Vec<Found> {
    let each = view.continuity.unread_history.iter().map(|timeline| {
        Found::new(
            Severity::Warning,
            format!(
                "the history of timeline {timeline} cannot be read (encrypted, or compressed in a way \
                 that pgkeep does not know), and the role may not ask the server for it: earlier timelines \
                 are each looked at for themselves, and not as what leads up to it"
            ),
            format!(
                "as a superuser: GRANT EXECUTE ON FUNCTION pg_catalog.{READ_FUNCTION} TO the role of pgkeep \
                 (it can then read every file of the data directory). Or use the check of the tool that \
                 keeps the archive"
            ),
        )
        .of(timeline.to_string())
    });
    each.collect()
}

pub(super) fn timeline(view: &ArchiveView) -> Vec<Found> {
    let found = &view.continuity;
    let mut trouble = Vec::new();
    if !found.newer.is_empty() {
        trouble.push(Found::new(
            Severity::Warning,
            format!("timelines {} are newer than the server's", list(&found.newer)),
            "another server was promoted and archives here as well (a restore that was tried?): a \
             recovery to the latest timeline would follow it. Turn its archiving off, and move its \
             files away",
        )
        .of(list(&found.newer)));
    }
    for (timeline, parent) in found.conflicting.iter().take(EXAMPLES) {
        trouble.push(Found::new(
            Severity::Warning,
            format!(
                "the history of timeline {timeline} does not continue that of its parent {parent}"
            ),
            "files of two clusters, or of two promotions of one, lie in one archive: separate them",
        )
        .of(timeline.to_string()));
    }
    if !found.abandoned.is_empty() {
        trouble.push(Found::new(
            Severity::Info,
            format!("timelines {} do not lead to the server's", list(&found.abandoned)),
            "they were left at a recovery or a promotion; keep them as long as you may want to \
             recover to them",
        ));
    }
    trouble
}

pub(super) fn start(view: &ArchiveView) -> Vec<Found> {
    let found = &view.continuity;
    let count = found.backups_without_start;
    if count == 0 {
        return Vec::new();
    }
    let first = found.window.map_or_else(String::new, |(first, _): (SegmentName, SegmentName)| {
        format!(" (the archive is looked at from {first} on)")
    });
    vec![Found::new(
        Severity::Info,
        format!("{count} base backups start before the oldest segment of the archive{first}"),
        "if they are expired, their .backup files are left over; if not, they cannot be recovered",
    )]
}
