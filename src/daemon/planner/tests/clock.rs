//! Both changes of the clocks, sleep, and a clock that is set.

use super::*;

fn nightly() -> JobSpec {
    job("nightly").due_in("30 2 * * *", "Europe/Zurich").catch_up(6 * HOUR)
}

fn starts(rig: &mut Rig) -> Vec<String> {
    rig.said().into_iter().filter(|line| line.starts_with("start")).collect()
}

#[test]
fn in_spring_a_nightly_job_runs_once_a_day() {
    let mut rig = Rig::new(vec![nightly()], "2026-03-28T00:00:00Z").instant();
    rig.pass(3 * DAY);
    assert_eq!(
        starts(&mut rig),
        [
            "start nightly 1 schedule 2026-03-28T01:30:00Z",
            "start nightly 1 schedule 2026-03-29T01:00:00Z",
            "start nightly 1 schedule 2026-03-30T00:30:00Z",
        ]
    );
}

#[test]
fn in_autumn_a_nightly_job_runs_once_a_day() {
    let mut rig = Rig::new(vec![nightly()], "2026-10-24T00:00:00Z").instant();
    rig.pass(3 * DAY);
    assert_eq!(
        starts(&mut rig),
        [
            "start nightly 1 schedule 2026-10-24T00:30:00Z",
            "start nightly 1 schedule 2026-10-25T00:30:00Z",
            "start nightly 1 schedule 2026-10-26T01:30:00Z",
        ]
    );
}

#[test]
fn every_half_hour_is_every_half_hour_through_both_changes() {
    for day in ["2026-03-28T20:05:00Z", "2026-10-24T20:05:00Z"] {
        let often = job("often").due_in("*/30 * * * *", "Europe/Zurich");
        let mut rig = Rig::new(vec![often], day).instant();
        rig.pass(12 * HOUR);
        let said = rig.said();
        assert_eq!(said.iter().filter(|line| line.contains("schedule")).count(), 24, "{said:?}");
        assert_eq!(said.len(), 48, "each started and ended, none was skipped: {said:?}");
    }
}

#[test]
fn jitter_moves_each_slot_by_the_same_time() {
    let spec = JobSpec { jitter: 10 * MINUTE, ..job("nightly").due("0 2 * * *") };
    let mut rig = Rig::new(vec![spec], "2026-11-21T01:00:00Z").instant();
    // 99 seconds: see the test of jitter_offset.
    assert_eq!(rig.planner.next_run(&name("nightly")), Some(at("2026-11-21T02:01:39Z")));
    rig.pass(HOUR + Duration::from_secs(98));
    assert_eq!(starts(&mut rig), [""; 0]);
    rig.pass(Duration::from_secs(1));
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-21T02:00:00Z"]);
    assert_eq!(rig.planner.next_run(&name("nightly")), Some(at("2026-11-22T02:01:39Z")));
}

#[test]
fn three_days_asleep_are_one_late_run() {
    let jobs = vec![
        nightly(),
        job("strict").due_in("30 2 * * *", "Europe/Zurich").catch_up(HOUR),
        job("often").due("*/5 * * * *"),
    ];
    let mut rig = Rig::new(jobs, "2026-11-21T10:01:00Z").instant();
    rig.step_to("2026-11-24T05:00:30Z");
    assert_eq!(
        rig.said(),
        [
            "skip strict missed 2026-11-24T01:30:00Z",
            "start nightly 1 catch-up 2026-11-24T01:30:00Z",
            "start often 1 schedule 2026-11-24T05:00:00Z",
            "ended often succeeded 1 Finished",
            "ended nightly succeeded 1 Finished",
        ]
    );
    rig.pass(4 * MINUTE);
    assert_eq!(rig.said(), [""; 0], "once is enough");
}

#[test]
fn a_run_under_way_through_the_sleep_overlaps_what_was_missed() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T01:29:00Z");
    rig.pass(2 * MINUTE);
    rig.step_to("2026-11-24T05:00:00Z");
    assert_eq!(
        rig.said(),
        [
            "start nightly 1 schedule 2026-11-21T01:30:00Z",
            "skip nightly overlap 2026-11-24T01:30:00Z",
        ]
    );
}

#[test]
fn a_clock_that_was_in_2037_does_not_silence_a_job() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T10:00:00Z").instant();
    rig.step_to("2037-06-01T01:00:00Z");
    assert_eq!(starts(&mut rig), ["start nightly 1 catch-up 2037-06-01T00:30:00Z"]);
    rig.step_to("2026-11-21T10:01:00Z");
    assert_eq!(rig.said(), [""; 0], "nothing is run again");
    assert_eq!(rig.planner.next_run(&name("nightly")), Some(at("2026-11-22T01:30:00Z")));
    rig.pass(DAY);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-22T01:30:00Z"]);
}

#[test]
fn a_clock_that_was_in_2037_is_set_right_while_the_daemon_is_down() {
    let mut rig = Rig::new(vec![nightly()], "2037-06-01T00:00:00Z").instant();
    rig.pass(HOUR);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2037-06-01T00:30:00Z"]);
    rig.restart(vec![nightly()], "2026-11-21T10:00:00Z");
    assert_eq!(rig.stored["nightly"].first_seen, at("2026-11-21T10:00:00Z"));
    rig.pass(DAY);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-22T01:30:00Z"]);
}

#[test]
fn a_machine_that_boots_in_1970_does_not_repeat_today() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T01:00:00Z").instant();
    rig.pass(HOUR);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-21T01:30:00Z"]);
    rig.restart(vec![nightly()], "1970-01-01T00:00:10Z");
    rig.pass(MINUTE);
    rig.restart(vec![nightly()], "1970-01-01T00:00:10Z");
    rig.pass(MINUTE);
    rig.step_to("2026-11-21T03:00:00Z");
    assert_eq!(starts(&mut rig), [""; 0], "it is within the catch-up window, but was run");
    rig.pass(DAY);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-22T01:30:00Z"]);
}

#[test]
fn a_small_step_back_repeats_nothing() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T01:29:00Z").instant();
    rig.pass(2 * MINUTE);
    assert_eq!(starts(&mut rig).len(), 1);
    rig.step_to("2026-11-21T01:15:00Z");
    rig.pass(HOUR);
    assert_eq!(rig.said(), [""; 0]);
    rig.pass(DAY);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-22T01:30:00Z"]);
}

#[test]
fn a_great_step_back_counts_slots_from_there() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T01:29:00Z").instant();
    rig.pass(2 * MINUTE);
    rig.step_to("2026-11-21T00:30:00Z");
    rig.said();
    rig.pass(2 * HOUR);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-21T01:30:00Z"]);
}

#[test]
fn a_clock_that_was_a_day_ahead_does_not_cost_a_night() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-22T01:29:00Z").instant();
    rig.pass(2 * MINUTE);
    rig.step_to("2026-11-21T10:00:00Z");
    rig.said();
    rig.pass(DAY);
    assert_eq!(starts(&mut rig), ["start nightly 1 schedule 2026-11-22T01:30:00Z"]);
}

#[test]
fn it_wakes_for_the_next_slot_but_looks_at_the_clock_meanwhile() {
    let mut rig = Rig::new(vec![nightly()], "2026-11-21T01:29:00Z");
    let start = rig.now.mono;
    assert_eq!(rig.wake, start + LONGEST_SLEEP);
    rig.pass(Duration::from_secs(40));
    assert_eq!(rig.wake, start + MINUTE, "the slot is nearer than the longest sleep");
}
