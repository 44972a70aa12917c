//! Trying again.

use super::*;

const NOON: &str = "2026-11-21T12:00:00Z";

#[test]
fn the_pause_doubles_up_to_its_limit() {
    let spec = JobSpec { backoff_max: 3 * MINUTE, ..job("a").attempts(4) };
    let mut rig = Rig::new(vec![spec], NOON);
    rig.ask("a", 1);
    for pause in [1, 2, 3] {
        rig.finish("a", Verdict::Failed, &["x"]);
        rig.pass(pause * MINUTE);
    }
    rig.finish("a", Verdict::Failed, &["x"]);
    assert_eq!(
        rig.said(),
        [
            "accepted 1",
            "start a 1 manual",
            "retry a 2 2026-11-21T12:01:00Z",
            "start a 2 manual only x",
            "retry a 3 2026-11-21T12:03:00Z",
            "start a 3 manual only x",
            "retry a 4 2026-11-21T12:06:00Z",
            "start a 4 manual only x",
            "ended a failed 4 Finished answers 1",
        ]
    );
}

#[test]
fn only_what_failed_is_tried_again_and_all_attempts_count() {
    for (second, end) in [
        (Verdict::Succeeded, "ended a succeeded 2 Finished answers 1"),
        (Verdict::Failed, "ended a partial 2 Finished answers 1"),
        (Verdict::Partial, "ended a partial 2 Finished answers 1"),
        (Verdict::Cancelled, "ended a cancelled 2 Finished answers 1"),
    ] {
        let mut rig = Rig::new(vec![job("a").attempts(2)], NOON);
        rig.ask("a", 1);
        rig.finish("a", Verdict::Partial, &["x", "y"]);
        rig.pass(MINUTE);
        rig.finish("a", second, &["x"]);
        assert_eq!(rig.said()[3..], ["start a 2 manual only x only y", end]);
    }
}

#[test]
fn a_retry_that_fails_before_any_target_keeps_its_targets() {
    let mut rig = Rig::new(vec![job("a").attempts(3)], NOON);
    rig.ask("a", 1);
    rig.finish("a", Verdict::Partial, &["x"]);
    rig.pass(MINUTE);
    rig.finish("a", Verdict::Failed, &[]);
    rig.pass(2 * MINUTE);
    assert_eq!(rig.said().last().unwrap(), "start a 3 manual only x");
}

#[test]
fn what_would_not_help_is_not_tried_again() {
    let end = |verdict, retry_worth| {
        let mut rig = Rig::new(vec![job("a").attempts(3)], NOON);
        rig.ask("a", 1);
        let (run, failed) = (rig.run_of("a"), BTreeSet::new());
        rig.send(Event::Finished { run, verdict, failed, retry_worth });
        rig.said().pop().unwrap()
    };
    assert_eq!(end(Verdict::Failed, false), "ended a failed 1 Finished answers 1");
    assert_eq!(end(Verdict::Cancelled, true), "ended a cancelled 1 Finished answers 1");
    assert_eq!(end(Verdict::Interrupted, true), "ended a interrupted 1 Finished answers 1");
    assert_eq!(end(Verdict::Succeeded, true), "ended a succeeded 1 Finished answers 1");
    assert_eq!(end(Verdict::Failed, true), "retry a 2 2026-11-21T12:01:00Z");
}

#[test]
fn a_run_that_waits_holds_nothing_and_queues_anew() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = vec![job("a").attempts(2), job("b"), job("c")];
    let mut rig = Rig::with_limits(jobs, NOON, limits);
    rig.ask("a", 1);
    rig.ask("b", 2);
    rig.finish("a", Verdict::Failed, &[]);
    assert!(matches!(rig.state("a"), JobState::WaitingRetry { attempt: 2, .. }));
    assert!(matches!(rig.state("b"), JobState::Running { .. }));
    rig.ask("c", 3);
    rig.pass(MINUTE);
    rig.said();
    rig.finish("b", Verdict::Succeeded, &[]);
    rig.finish("c", Verdict::Succeeded, &[]);
    let starts: Vec<String> =
        rig.said().into_iter().filter(|line| line.starts_with("start")).collect();
    assert_eq!(starts, ["start c 1 manual", "start a 2 manual"]);
}

#[test]
fn retries_that_are_due_together_go_by_their_time() {
    let limits = Limits { running: 1, ..LIMITS };
    // The second one asked for has the shorter pause; ids do not decide.
    for seed in 0..8 {
        let slow = JobSpec { backoff: 2 * MINUTE, ..job("slow").attempts(2) };
        let jobs = vec![slow, job("fast").attempts(2)];
        let mut rig = Rig::with_limits(jobs, NOON, limits);
        rig.planner.random = seed;
        rig.ask("slow", 1);
        rig.finish("slow", Verdict::Failed, &[]);
        rig.ask("fast", 2);
        rig.finish("fast", Verdict::Failed, &[]);
        rig.said();
        rig.now.mono += HOUR;
        rig.send(Event::Tick);
        assert_eq!(rig.said(), ["start fast 2 manual"]);
    }
}

#[test]
fn the_pause_does_not_heed_the_wall_clock() {
    let mut rig = Rig::new(vec![job("a").attempts(2)], NOON);
    rig.ask("a", 1);
    rig.finish("a", Verdict::Failed, &[]);
    rig.step_to("2037-01-01T00:00:00Z");
    rig.step_to("2020-01-01T00:00:00Z");
    rig.pass(Duration::from_millis(59_999));
    assert_eq!(rig.said().len(), 3);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.said(), ["start a 2 manual"]);
}

#[test]
fn a_person_cancels_a_run_in_each_of_its_states() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = vec![job("a").attempts(2), job("b"), job("c").attempts(2)];
    let mut rig = Rig::with_limits(jobs, NOON, limits);
    rig.ask("a", 1);
    rig.ask("b", 2);
    rig.send(Event::CancelRun(rig.run_of("b")));
    rig.send(Event::CancelRun(rig.run_of("a")));
    rig.finish("a", Verdict::Failed, &["x"]);
    rig.ask("c", 3);
    rig.finish("c", Verdict::Partial, &["x"]);
    rig.send(Event::CancelRun(rig.run_of("c")));
    rig.send(Event::CancelRun(RunId::new(at(NOON), 0)));
    assert_eq!(
        rig.said(),
        [
            "accepted 1",
            "start a 1 manual",
            "accepted 2",
            "ended b cancelled 0 Cancelled answers 2",
            "cancel",
            "ended a failed 1 Finished answers 1",
            "accepted 3",
            "start c 1 manual",
            "retry c 2 2026-11-21T12:01:00Z",
            "ended c partial 1 Cancelled answers 3",
        ]
    );
}

#[test]
fn an_end_that_was_reported_already_is_ignored() {
    let mut rig = Rig::new(vec![job("a").attempts(2)], NOON);
    rig.ask("a", 1);
    let run = rig.run_of("a");
    rig.finish("a", Verdict::Failed, &[]);
    rig.said();
    rig.send(finished(run.clone(), Verdict::Succeeded, &[]));
    assert_eq!(rig.said(), [""; 0], "it waits to be tried again");
    rig.pass(MINUTE);
    rig.finish("a", Verdict::Succeeded, &[]);
    rig.said();
    rig.send(finished(run, Verdict::Succeeded, &[]));
    assert_eq!(rig.said(), [""; 0], "it is over");
}

/// A person who has mended the cause does not wait for the rest of the pause.
#[test]
fn a_request_starts_the_attempt_that_waits() {
    let spec = job("a").due("0 12 * * *").attempts(3);
    let mut rig = Rig::new(vec![spec], "2026-11-21T11:59:00Z");
    rig.pass(MINUTE);
    rig.finish("a", Verdict::Partial, &["x"]);
    rig.ask("a", 1);
    rig.finish("a", Verdict::Failed, &["x"]);
    assert!(matches!(rig.state("a"), JobState::WaitingRetry { attempt: 3, .. }));
    rig.ask("a", 2);
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(
        rig.said(),
        [
            "start a 1 schedule 2026-11-21T12:00:00Z",
            "retry a 2 2026-11-21T12:01:00Z",
            "accepted 1",
            "start a 2 manual only x",
            "retry a 3 2026-11-21T12:02:00Z",
            "accepted 2",
            "start a 3 manual only x",
            "ended a succeeded 3 Finished answers 1 answers 2",
        ]
    );
    rig.pass(HOUR);
    assert_eq!(rig.said(), [""; 0], "the pause is over with it");
}

/// It is a person's now: no blackout holds it, and no reload that switches the job off ends it.
#[test]
fn an_attempt_that_was_asked_for_is_a_persons() {
    let dark = || job("a").due("0 12 * * *").dark(&["12:00-18:00"], "Etc/UTC").attempts(3);
    let mut rig = Rig::new(vec![job("a").due("0 12 * * *").attempts(3)], "2026-11-21T11:59:00Z");
    rig.pass(MINUTE);
    rig.finish("a", Verdict::Failed, &[]);
    rig.send(Event::Reloaded(vec![dark()], LIMITS));
    rig.ask("a", 1);
    rig.finish("a", Verdict::Failed, &[]);
    rig.send(Event::Reloaded(vec![dark().disabled()], LIMITS));
    rig.pass(5 * MINUTE);
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(
        rig.said()[2..],
        [
            "accepted 1",
            "start a 2 manual",
            "retry a 3 2026-11-21T12:02:00Z",
            "start a 3 manual",
            "ended a succeeded 3 Finished answers 1",
        ]
    );
}
