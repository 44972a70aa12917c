//! A job has at most one run.

use super::*;

fn often() -> JobSpec {
    job("often").due("*/5 * * * *").attempts(2)
}

#[test]
fn slots_during_a_run_are_skipped_and_counted() {
    let mut rig = Rig::new(vec![often()], "2026-11-21T09:59:00Z");
    rig.pass(11 * MINUTE);
    assert_eq!(
        rig.said(),
        [
            "start often 1 schedule 2026-11-21T10:00:00Z",
            "skip often overlap 2026-11-21T10:05:00Z",
            "skip often overlap 2026-11-21T10:10:00Z",
        ]
    );
    rig.finish("often", Verdict::Succeeded, &[]);
    rig.pass(5 * MINUTE);
    assert_eq!(
        rig.said(),
        ["ended often succeeded 1 Finished", "start often 1 schedule 2026-11-21T10:15:00Z"]
    );
}

#[test]
fn slots_while_the_run_is_queued_are_skipped_and_counted() {
    let limits = Limits { running: 1, ..LIMITS };
    let mut rig = Rig::with_limits(vec![often(), job("long")], "2026-11-21T09:59:00Z", limits);
    rig.ask("long", 1);
    rig.pass(7 * MINUTE);
    rig.finish("long", Verdict::Succeeded, &[]);
    assert_eq!(
        rig.said(),
        [
            "accepted 1",
            "start long 1 manual",
            "skip often overlap 2026-11-21T10:05:00Z",
            "ended long succeeded 1 Finished answers 1",
            "start often 1 schedule 2026-11-21T10:00:00Z",
        ]
    );
    assert_eq!(rig.stored["often"].handled, at("2026-11-21T10:05:00Z"));
}

#[test]
fn slots_while_the_run_waits_to_be_tried_again_are_skipped_and_counted() {
    let spec = JobSpec { backoff: 7 * MINUTE, ..often() };
    let mut rig = Rig::new(vec![spec], "2026-11-21T09:59:00Z");
    rig.pass(MINUTE);
    rig.finish("often", Verdict::Failed, &["x"]);
    rig.pass(7 * MINUTE);
    assert_eq!(
        rig.said(),
        [
            "start often 1 schedule 2026-11-21T10:00:00Z",
            "retry often 2 2026-11-21T10:07:00Z",
            "skip often overlap 2026-11-21T10:05:00Z",
            "start often 2 schedule 2026-11-21T10:00:00Z only x",
        ]
    );
}

#[test]
fn requests_for_a_busy_job_are_refused() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = vec![job("a").attempts(2), job("b")];
    let mut rig = Rig::with_limits(jobs, "2026-11-21T10:00:00Z", limits);
    rig.ask("a", 1);
    rig.ask("a", 2);
    rig.ask("b", 3);
    rig.ask("b", 4);
    rig.finish("a", Verdict::Failed, &[]);
    rig.finish("b", Verdict::Succeeded, &[]);
    rig.ask("a", 5);
    rig.ask("c", 6);
    assert_eq!(
        rig.said(),
        [
            "accepted 1",
            "start a 1 manual",
            "refuse 2 AlreadyRunning",
            "accepted 3",
            "refuse 4 AlreadyQueued",
            "retry a 2 2026-11-21T10:01:00Z",
            "start b 1 manual",
            "ended b succeeded 1 Finished answers 3",
            "accepted 5",
            "start a 2 manual",
            "refuse 6 UnknownJob",
        ]
    );
}

#[test]
fn a_slot_goes_before_a_request_of_the_same_moment() {
    let mut rig = Rig::new(vec![often()], "2026-11-21T09:59:59Z");
    rig.now.wall = at("2026-11-21T10:00:00Z");
    rig.ask("often", 1);
    assert_eq!(
        rig.said(),
        ["refuse 1 AlreadyQueued", "start often 1 schedule 2026-11-21T10:00:00Z"]
    );
}

#[test]
fn a_run_that_was_asked_for_overlaps_a_slot() {
    let mut rig = Rig::new(vec![often()], "2026-11-21T09:59:00Z");
    rig.ask("often", 1);
    rig.pass(2 * MINUTE);
    assert_eq!(
        rig.said(),
        ["accepted 1", "start often 1 manual", "skip often overlap 2026-11-21T10:00:00Z"]
    );
}
