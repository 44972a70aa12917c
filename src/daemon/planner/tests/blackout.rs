//! Nothing starts by itself in a blackout, and what came due in it starts once, at its end.

use super::*;

const OFFICE: &[&str] = &["mon-fri 08:00-18:00"];

// 2026-11-16 is a Monday.
fn every_hour() -> JobSpec {
    job("a").due("0 * * * *").dark(OFFICE, "Etc/UTC").attempts(3)
}

#[test]
fn slots_of_a_blackout_become_one_start_at_its_end() {
    let mut rig = Rig::new(vec![every_hour()], "2026-11-16T06:30:00Z").instant();
    rig.pass(HOUR);
    assert_eq!(rig.said()[0], "start a 1 schedule 2026-11-16T07:00:00Z");
    rig.pass(10 * HOUR);
    assert_eq!(rig.said(), [""; 0], "and no slot is counted as skipped");
    assert_eq!(rig.planner.next_run(&name("a")), Some(at("2026-11-16T18:00:00Z")));
    rig.pass(HOUR);
    assert_eq!(
        rig.said(),
        ["start a 1 schedule 2026-11-16T18:00:00Z", "ended a succeeded 1 Finished"]
    );
}

#[test]
fn a_slot_in_a_blackout_is_on_time_at_its_end() {
    // Without any time to catch up, and with a jitter that moves it into the window.
    let spec = job("a").due("30 7 * * *").dark(&["07:30-18:10"], "Etc/UTC");
    let mut rig = Rig::new(vec![spec], "2026-11-16T06:00:00Z").instant();
    rig.pass(12 * HOUR);
    assert_eq!(rig.said(), [""; 0]);
    rig.pass(HOUR);
    assert_eq!(rig.said()[0], "start a 1 schedule 2026-11-16T07:30:00Z");
    assert_eq!(rig.stored["a"].handled, at("2026-11-16T07:30:00Z"));
}

#[test]
fn a_restart_in_a_blackout_loses_no_slot() {
    let mut rig = Rig::new(vec![every_hour()], "2026-11-16T07:30:00Z");
    rig.pass(2 * HOUR);
    rig.restart(vec![every_hour()], "2026-11-16T12:10:00Z");
    assert_eq!(rig.said(), [""; 0]);
    rig.pass(6 * HOUR);
    assert_eq!(rig.said(), ["start a 1 schedule 2026-11-16T18:00:00Z"]);
    // One that was down at the end of the window makes it good, or not.
    for (catch_up, said) in [
        (DAY, "start a 1 catch-up 2026-11-17T17:00:00Z"),
        (MINUTE, "skip a missed 2026-11-17T17:00:00Z"),
    ] {
        let spec = job("a").due("0 17 * * *").dark(OFFICE, "Etc/UTC").catch_up(catch_up);
        let mut rig = Rig::new(vec![spec.clone()], "2026-11-17T07:00:00Z");
        rig.restart(vec![spec], "2026-11-17T18:30:00Z");
        assert_eq!(rig.said(), [said]);
    }
}

#[test]
fn a_slot_that_was_slept_through_is_made_good_at_the_end() {
    let spec = job("a").due("30 7 * * *").dark(OFFICE, "Etc/UTC").catch_up(DAY);
    let mut rig = Rig::new(vec![spec], "2026-11-16T07:00:00Z");
    rig.step_to("2026-11-16T09:00:00Z");
    // It does not keep the daemon awake meanwhile.
    rig.pass(9 * HOUR);
    assert_eq!(rig.said(), ["start a 1 catch-up 2026-11-16T07:30:00Z"]);
    assert_eq!(rig.now.wall, at("2026-11-16T18:00:00Z"));
}

#[test]
fn followers_and_retries_wait_for_the_end() {
    let follower = job("b").after(&["a"]).dark(OFFICE, "Etc/UTC");
    let jobs = vec![job("a").dark(OFFICE, "Etc/UTC").due("55 7 * * *").attempts(2), follower];
    let mut rig = Rig::new(jobs, "2026-11-16T07:00:00Z");
    rig.pass(HOUR);
    rig.finish("a", Verdict::Partial, &["x"]);
    assert_eq!(rig.said()[1], "retry a 2 2026-11-16T08:01:00Z");
    rig.pass(HOUR);
    let until = Some(Wait::Blackout(at("2026-11-16T18:00:00Z")));
    assert_eq!((rig.said(), rig.why("a")), (vec![], until.clone()));
    // Somebody wants it now.
    rig.ask("a", 1);
    assert_eq!(rig.said(), ["accepted 1", "start a 2 manual only x"]);
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(rig.said(), ["ended a succeeded 2 Finished answers 1"]);
    assert_eq!(rig.why("b"), until);
    rig.pass(9 * HOUR);
    assert_eq!(rig.said(), ["start b 1 after"]);
    assert_eq!(rig.now.wall, at("2026-11-16T18:00:00Z"));
}

#[test]
fn a_person_starts_in_a_blackout_with_all_attempts() {
    let mut rig = Rig::new(vec![every_hour()], "2026-11-16T12:30:00Z");
    rig.ask("a", 1);
    rig.finish("a", Verdict::Failed, &[]);
    rig.pass(2 * MINUTE);
    assert_eq!(
        rig.said(),
        ["accepted 1", "start a 1 manual", "retry a 2 2026-11-16T12:31:00Z", "start a 2 manual"]
    );
}

#[test]
fn who_waits_for_the_end_of_a_blackout_delays_nobody() {
    let jobs = vec![
        job("a").due("0 7 * * *").uses(&["x"], 500).dark(OFFICE, "Etc/UTC"),
        job("b").due("1 7 * * *").uses(&["x"], 500).dark(OFFICE, "Etc/UTC"),
        job("c").due("0 9 * * *").uses(&["x"], 500),
    ];
    let mut rig = Rig::new(jobs, "2026-11-16T06:59:00Z");
    rig.pass(HOUR + 2 * MINUTE);
    assert!(
        rig.said().len() == 1 && rig.why("b").is_some_and(|why| matches!(why, Wait::Blackout(_)))
    );
    rig.finish("a", Verdict::Succeeded, &[]);
    rig.pass(HOUR);
    let said = rig.said();
    assert_eq!(said.last().unwrap(), "start c 1 schedule 2026-11-16T09:00:00Z");
}

#[test]
fn a_blackout_that_a_reload_takes_away_makes_nothing_late() {
    let spec = job("a").due("0 9 * * *").dark(OFFICE, "Etc/UTC");
    let mut rig = Rig::new(vec![spec.clone()], "2026-11-16T08:30:00Z");
    rig.pass(2 * HOUR);
    rig.send(Event::Reloaded(vec![JobSpec { blackout: None, ..spec }], LIMITS));
    assert_eq!(rig.said(), ["start a 1 schedule 2026-11-16T09:00:00Z"]);
}
