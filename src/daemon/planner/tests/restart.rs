//! What one life leaves to the next.

use super::*;

fn nightly(catch_up: Duration) -> JobSpec {
    job("nightly").due("15 2 * * *").catch_up(catch_up)
}

#[test]
fn a_slot_missed_while_down_is_made_good_within_the_window_only() {
    for (catch_up, expected) in [
        (12 * HOUR, "start nightly 1 catch-up 2026-11-23T02:15:00Z"),
        (HOUR, "skip nightly missed 2026-11-23T02:15:00Z"),
        (Duration::ZERO, "skip nightly missed 2026-11-23T02:15:00Z"),
    ] {
        let mut rig = Rig::new(vec![nightly(catch_up)], "2026-11-21T10:00:00Z");
        rig.restart(vec![nightly(catch_up)], "2026-11-23T09:00:00Z");
        assert_eq!(rig.said(), [expected]);
        rig.restart(vec![nightly(catch_up)], "2026-11-23T09:05:00Z");
        assert_eq!(rig.said(), [""; 0], "not again after another restart");
    }
}

#[test]
fn a_restart_across_a_slot_is_on_time() {
    let mut rig = Rig::new(vec![nightly(Duration::ZERO)], "2026-11-21T02:14:50Z");
    rig.restart(vec![nightly(Duration::ZERO)], "2026-11-21T02:15:20Z");
    assert_eq!(rig.said(), ["start nightly 1 schedule 2026-11-21T02:15:00Z"]);
}

#[test]
fn what_was_due_before_a_job_was_first_seen_is_not_caught_up() {
    let mut rig = Rig::new(vec![], "2026-11-21T00:00:00Z");
    rig.restart(vec![nightly(DAY)], "2026-11-21T02:16:00Z");
    rig.restart(vec![nightly(DAY)], "2026-11-21T03:00:00Z");
    assert_eq!(rig.said(), [""; 0]);
    assert_eq!(rig.stored["nightly"].first_seen, at("2026-11-21T02:16:00Z"));
}

#[test]
fn a_schedule_changed_between_two_lives_starts_afresh() {
    let mut rig = Rig::new(vec![nightly(DAY)], "2026-11-21T00:00:00Z");
    let changed = || job("nightly").due("15 3 * * *").catch_up(DAY);
    rig.restart(vec![changed()], "2026-11-21T10:00:00Z");
    assert_eq!(rig.said(), [""; 0]);
    rig.restart(vec![changed()], "2026-11-22T10:00:00Z");
    assert_eq!(rig.said(), ["start nightly 1 catch-up 2026-11-22T03:15:00Z"]);
    assert_eq!(rig.stored["nightly"].first_seen, at("2026-11-21T00:00:00Z"));
}

#[test]
fn a_slot_that_was_still_queued_is_open_again() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = || vec![nightly(DAY), job("long")];
    let mut rig = Rig::with_limits(jobs(), "2026-11-21T02:00:00Z", limits);
    rig.ask("long", 1);
    rig.pass(HOUR);
    assert_eq!(rig.why("nightly"), Some(Wait::Running));
    rig.said();
    rig.restart(jobs(), "2026-11-21T04:00:00Z");
    assert_eq!(rig.said(), ["start nightly 1 catch-up 2026-11-21T02:15:00Z"]);
}

#[test]
fn slots_skipped_while_the_run_was_still_queued_are_open_with_it() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = || vec![job("often").due("0 * * * *").catch_up(DAY), job("long")];
    let mut rig = Rig::with_limits(jobs(), "2026-11-21T02:30:00Z", limits);
    rig.ask("long", 1);
    rig.pass(2 * HOUR);
    assert_eq!(rig.said().last().unwrap(), "skip often overlap 2026-11-21T04:00:00Z");
    rig.restart(jobs(), "2026-11-21T04:40:00Z");
    assert_eq!(rig.said(), ["start often 1 catch-up 2026-11-21T04:00:00Z"]);
}

#[test]
fn a_slot_whose_run_was_cancelled_in_the_queue_is_dealt_with() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = || vec![nightly(DAY), job("long")];
    let mut rig = Rig::with_limits(jobs(), "2026-11-21T02:00:00Z", limits);
    rig.ask("long", 1);
    rig.pass(HOUR);
    rig.send(Event::CancelRun(rig.run_of("nightly")));
    rig.said();
    rig.restart(jobs(), "2026-11-21T04:00:00Z");
    assert_eq!(rig.said(), [""; 0]);
}

#[test]
fn a_slot_is_remembered_before_its_run_is_started() {
    let now = Now { wall: at("2026-11-21T02:14:00Z"), mono: Duration::ZERO };
    let specs = vec![nightly(DAY)];
    let mut planner = Planner::new(specs, LIMITS, BTreeMap::new(), now, 1);
    let wall = at("2026-11-21T02:15:00Z");
    let actions = planner.handle(Event::Tick, Now { wall, mono: MINUTE });
    let remember = actions.iter().position(
        |action| matches!(action, Action::Remember { memory, .. } if memory.handled == wall),
    );
    let start = actions.iter().position(|action| matches!(action, Action::Start { .. }));
    assert!(remember.is_some() && remember < start, "{actions:?}");
}

#[test]
fn what_is_remembered_about_jobs_that_are_gone_is_forgotten() {
    let mut rig = Rig::new(vec![nightly(DAY)], "2026-11-21T00:00:00Z");
    rig.restart(vec![], "2026-11-21T01:00:00Z");
    assert_eq!(rig.said(), ["forget nightly"]);
    rig.restart(vec![nightly(DAY)], "2026-11-22T01:00:00Z");
    assert_eq!(rig.said(), [""; 0], "it is first seen now");
}

#[test]
fn ids_differ_from_one_life_to_the_next() {
    let mut rig = Rig::new(vec![job("a")], "2026-11-21T00:00:00Z");
    rig.ask("a", 1);
    let first = rig.run_of("a");
    rig.restart(vec![job("a")], "2026-11-21T00:00:00Z");
    rig.ask("a", 1);
    assert_ne!(rig.run_of("a"), first);
    assert_eq!(first.time(), at("2026-11-21T00:00:00Z"));
}
