//! The checks, on states of the world that a server takes long to get into.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    checks::look,
    domain::{
        finding::Severity,
        wal::{SegmentSize, Timeline},
    },
    postgres::wal::{ArchiveMode, Archiver, ReadyQueue, Slot, WalDirectory, WalSettings},
};

fn now() -> Timestamp {
    "2026-11-21T02:15:00Z".parse().unwrap()
}

fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

fn archived(minutes: i64) -> (String, Timestamp) {
    ("000000010000000000000005".to_owned(), ago(minutes))
}

/// A primary that archives, with nothing to do.
fn healthy() -> ServerView {
    let settings = WalSettings {
        archive_mode: ArchiveMode::On,
        has_command: true,
        has_library: false,
        archive_timeout: Duration::from_mins(5),
        keep_bytes: 0,
        max_wal_size: 1 << 30,
        data_directory: None,
    };
    let facts = WalFacts {
        at: now(),
        in_recovery: false,
        segment_size: SegmentSize::DEFAULT,
        timeline: Timeline::FIRST,
        lsn: "0/6000100".parse().unwrap(),
        redo: "0/6000028".parse().unwrap(),
        redo_timeline: Timeline::FIRST,
        checkpoint_at: ago(3),
        settings,
        archiver: Archiver {
            last_archived: Some(archived(600)),
            archived_count: 5,
            ..Archiver::default()
        },
        ready: Some(ReadyQueue::default()),
        directory: Some(WalDirectory { bytes: 5 << 24, files: 5 }),
        slots: Vec::new(),
        unmeasured: Vec::new(),
    };
    ServerView {
        facts: Arc::new(facts),
        space: None,
        limits: ServerLimits {
            expect_archiving: true,
            max_ready_age: Duration::from_mins(15),
            max_backlog: None,
        },
        archive_has_segments: false,
    }
}

/// What is found when `change` has happened to a healthy server: names and severities.
fn after(change: impl FnOnce(&mut WalFacts)) -> Vec<(String, Severity)> {
    let mut view = healthy();
    change(Arc::get_mut(&mut view.facts).unwrap());
    found(&view)
}

fn found(view: &ServerView) -> Vec<(String, Severity)> {
    look(SERVER, view).into_iter().map(|finding| (finding.check, finding.severity)).collect()
}

fn one(name: &str, severity: Severity) -> Vec<(String, Severity)> {
    vec![(name.to_owned(), severity)]
}

fn waiting(minutes: i64, segments: u64) -> ReadyQueue {
    let next = Some("000000010000000000000006".to_owned());
    let oldest = Some(ago(minutes));
    ReadyQueue { segments, oldest, first_segment: next.clone(), next, ..ReadyQueue::default() }
}

#[test]
fn an_idle_server_is_no_trouble() {
    assert_eq!(found(&healthy()), []);
}

#[test]
fn an_old_failure_is_no_failure_now() {
    let old = |facts: &mut WalFacts| {
        facts.archiver.last_failed = Some(archived(900));
        facts.archiver.failed_count = 99_999;
    };
    assert_eq!(after(old), []);
    let got_over_it = |facts: &mut WalFacts| facts.archiver.last_failed = Some(archived(1));
    assert_eq!(after(got_over_it), [], "the queue is empty again");
}

#[test]
fn failures_are_told_before_they_are_old_and_are_critical_then() {
    let failing = |minutes| {
        move |facts: &mut WalFacts| {
            facts.archiver.last_failed = Some(archived(1));
            facts.ready = Some(waiting(minutes, 1));
        }
    };
    assert_eq!(after(failing(2)), one("wal-archiving-failing", Severity::Warning));
    let mut both = one("wal-archiving-failing", Severity::Critical);
    both.extend(one("wal-archiving-stalled", Severity::Critical));
    assert_eq!(after(failing(16)), both);
    // Killed by a signal: the statistics know nothing of it.
    let stalled = |facts: &mut WalFacts| facts.ready = Some(waiting(16, 1));
    assert_eq!(after(stalled), one("wal-archiving-stalled", Severity::Critical));
}

#[test]
fn a_standby_archives_only_when_it_is_told_to() {
    let standby = |mode| {
        move |facts: &mut WalFacts| {
            facts.in_recovery = true;
            facts.settings.archive_mode = mode;
            facts.ready = Some(waiting(60, 3));
            facts.archiver = Archiver::default();
        }
    };
    assert_eq!(after(standby(ArchiveMode::On)), []);
    assert_eq!(after(standby(ArchiveMode::Off)), one("wal-archiving-off", Severity::Warning));
    let mut always = one("wal-never-archived", Severity::Warning);
    always.extend(one("wal-archiving-stalled", Severity::Critical));
    assert_eq!(after(standby(ArchiveMode::Always)), always);
}

#[test]
fn never_is_a_question_of_since_when() {
    let never = |minutes| {
        move |facts: &mut WalFacts| {
            facts.archiver = Archiver { stats_reset: Some(ago(minutes)), ..Archiver::default() };
        }
    };
    assert_eq!(after(never(10)), one("wal-never-archived", Severity::Info));
    assert_eq!(after(never(3000)), one("wal-never-archived", Severity::Warning));
    let mut view = healthy();
    Arc::get_mut(&mut view.facts).unwrap().archiver = Archiver::default();
    view.archive_has_segments = true;
    assert_eq!(found(&view), [], "the statistics were lost, the archive was not");
}

#[test]
fn without_a_timeout_a_quiet_server_has_no_recovery_point() {
    let timeout = |minutes, lsn: &'static str| {
        move |facts: &mut WalFacts| {
            facts.settings.archive_timeout = Duration::ZERO;
            facts.archiver.last_archived = Some(archived(minutes));
            facts.lsn = lsn.parse().unwrap();
        }
    };
    let name = "wal-recovery-point";
    assert_eq!(after(timeout(600, "0/6100000")), one(name, Severity::Warning));
    assert_eq!(after(timeout(600, "0/6000100")), one(name, Severity::Info), "nothing to lose");
    assert_eq!(after(timeout(10, "0/6100000")), one(name, Severity::Info), "busy");
}

#[test]
fn a_backlog_is_worse_where_it_fills_the_filesystem() {
    let mut view = healthy();
    Arc::get_mut(&mut view.facts).unwrap().ready = Some(waiting(2, 100));
    assert_eq!(found(&view), one("wal-backlog", Severity::Warning));
    view.space = Some(Space { total: 100 << 30, free: 50 << 30 });
    assert_eq!(found(&view), one("wal-backlog", Severity::Warning));
    view.space = Some(Space { total: 100 << 30, free: 1 << 30 });
    assert_eq!(found(&view), one("wal-backlog", Severity::Critical));
    view.limits.max_backlog = Some(4 << 30);
    assert_eq!(found(&view), []);
}

#[test]
fn the_one_that_keeps_most_is_named() {
    let slot = Slot {
        name: "idle".to_owned(),
        active: false,
        restart_lsn: Some("0/1000000".parse().unwrap()),
        wal_status: Some("extended".to_owned()),
        safe_wal_size: None,
        invalidation_reason: None,
    };
    let mut view = healthy();
    let facts = Arc::get_mut(&mut view.facts).unwrap();
    facts.directory = Some(WalDirectory { bytes: 3 << 30, files: 192 });
    facts.lsn = "0/C0000000".parse().unwrap();
    facts.redo = "0/BF000000".parse().unwrap();
    facts.slots = vec![slot];
    let what = |view: &ServerView| look(SERVER, view)[0].what.clone();
    assert!(what(&view).contains("inactive replication slot idle"), "{}", what(&view));
    let facts = Arc::get_mut(&mut view.facts).unwrap();
    facts.slots[0].restart_lsn = Some(facts.lsn);
    facts.settings.keep_bytes = 1 << 30;
    assert!(what(&view).contains("wal_keep_size keeps 1024 MiB"), "{}", what(&view));
    let lost = |facts: &mut WalFacts| {
        facts.slots = vec![Slot {
            name: "x".to_owned(),
            active: false,
            restart_lsn: None,
            wal_status: Some("lost".to_owned()),
            safe_wal_size: None,
            invalidation_reason: None,
        }];
    };
    assert_eq!(after(lost), one("wal-slot-lost", Severity::Warning));
}

/// As PostgreSQL 18 shows one after idle_replication_slot_timeout: with its restart_lsn.
#[test]
fn a_slot_that_is_lost_keeps_nothing_and_is_told_with_its_reason() {
    let slot = |reason: Option<&str>| Slot {
        name: "gone".to_owned(),
        active: false,
        restart_lsn: Some("0/1000000".parse().unwrap()),
        wal_status: Some("lost".to_owned()),
        safe_wal_size: None,
        invalidation_reason: reason.map(str::to_owned),
    };
    let hints = [
        (Some("idle_timeout"), "idle_replication_slot_timeout", false),
        (Some("rows_removed"), "hot_standby_feedback", false),
        (Some("wal_level_insufficient"), "effective_wal_level", false),
        (Some("wal_removed"), "max_slot_wal_keep_size", true),
        (None, "max_slot_wal_keep_size", true),
    ];
    for (reason, part, raises) in hints {
        let mut view = healthy();
        let facts = Arc::get_mut(&mut view.facts).unwrap();
        facts.directory = Some(WalDirectory { bytes: 3 << 30, files: 192 });
        facts.lsn = "0/C0000000".parse().unwrap();
        facts.redo = "0/BF000000".parse().unwrap();
        facts.slots = vec![slot(reason)];
        let found = look(SERVER, &view);
        let retained = found.iter().find(|finding| finding.check == "wal-retained").unwrap();
        assert!(!retained.what.contains("slot"), "{retained:?}");
        let lost = found.iter().find(|finding| finding.check == "wal-slot-lost").unwrap();
        let hint = lost.hint.as_ref().unwrap();
        assert!(hint.contains(part), "{reason:?}: {hint}");
        assert_eq!(hint.contains("max_slot_wal_keep_size"), raises, "{reason:?}: {hint}");
    }
}
