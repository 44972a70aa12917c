//! Jobs that run after others.

use super::*;

const NOON: &str = "2026-11-21T12:00:00Z";

fn rig() -> Rig {
    Rig::new(vec![job("a"), job("b"), job("z").after(&["a", "b"])], NOON)
}

fn run(rig: &mut Rig, job: &str, verdict: Verdict) -> Vec<String> {
    rig.ask(job, 0);
    rig.said();
    rig.finish(job, verdict, &["x"]);
    let lines = rig.said();
    lines[1..].to_vec()
}

const NOTHING: [&str; 0] = [];

#[test]
fn it_starts_when_each_has_ended_with_something_done() {
    let mut rig = rig();
    assert_eq!(run(&mut rig, "a", Verdict::Succeeded), NOTHING);
    assert_eq!(run(&mut rig, "b", Verdict::Failed), NOTHING, "a failure does not count");
    assert_eq!(run(&mut rig, "b", Verdict::Cancelled), NOTHING);
    assert_eq!(run(&mut rig, "b", Verdict::Partial), ["start z 1 after"], "partial does");
    rig.finish("z", Verdict::Failed, &["x"]);
    rig.said();
    assert_eq!(run(&mut rig, "b", Verdict::Succeeded), NOTHING, "both, since its last start");
    assert_eq!(run(&mut rig, "a", Verdict::Succeeded), ["start z 1 after"]);
}

#[test]
fn ends_during_its_own_run_count_for_the_next() {
    let mut rig = rig();
    run(&mut rig, "a", Verdict::Succeeded);
    run(&mut rig, "b", Verdict::Succeeded);
    assert_eq!(run(&mut rig, "a", Verdict::Succeeded), NOTHING);
    assert_eq!(run(&mut rig, "b", Verdict::Succeeded), NOTHING, "it is under way");
    rig.finish("z", Verdict::Succeeded, &[]);
    assert_eq!(rig.said(), ["ended z succeeded 1 Finished", "start z 1 after"]);
    rig.finish("z", Verdict::Succeeded, &[]);
    assert_eq!(rig.said(), ["ended z succeeded 1 Finished"]);
}

#[test]
fn it_waits_for_the_retry() {
    let mut rig = Rig::new(vec![job("a").attempts(2), job("z").after(&["a"])], NOON);
    rig.ask("a", 0);
    rig.finish("a", Verdict::Partial, &["x"]);
    rig.said();
    rig.pass(MINUTE);
    rig.finish("a", Verdict::Failed, &["x"]);
    assert_eq!(
        rig.said(),
        ["start a 2 manual only x", "ended a partial 2 Finished answers 0", "start z 1 after"]
    );
}

#[test]
fn what_has_ended_is_remembered() {
    let jobs = || vec![job("a"), job("b"), job("z").after(&["a", "b"])];
    let mut rig = rig();
    run(&mut rig, "a", Verdict::Succeeded);
    rig.restart(jobs(), "2026-11-22T12:00:00Z");
    assert_eq!(run(&mut rig, "b", Verdict::Succeeded), ["start z 1 after"]);
    rig.restart(jobs(), "2026-11-22T13:00:00Z");
    assert_eq!(rig.said(), NOTHING, "it had started");
}

#[test]
fn a_follower_that_was_queued_starts_in_the_next_life() {
    let jobs = || vec![job("a"), job("b"), job("z").after(&["a"])];
    let mut rig = Rig::with_limits(jobs(), NOON, Limits { running: 2, ..LIMITS });
    rig.ask("b", 1);
    rig.ask("a", 2);
    rig.planner.limits.running = 1;
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(rig.why("z"), Some(Wait::Running));
    rig.said();
    rig.restart(jobs(), NOON);
    assert_eq!(rig.said(), ["start z 1 after"]);
}

#[test]
fn a_follower_that_was_cancelled_in_the_queue_does_not_come_back() {
    let jobs = vec![job("a"), job("b"), job("z").after(&["a"])];
    let mut rig = Rig::with_limits(jobs, NOON, Limits { running: 2, ..LIMITS });
    rig.ask("b", 1);
    rig.ask("a", 2);
    rig.planner.limits.running = 1;
    rig.finish("a", Verdict::Succeeded, &[]);
    rig.send(Event::CancelRun(rig.run_of("z")));
    rig.finish("b", Verdict::Succeeded, &[]);
    assert_eq!(rig.state("z"), JobState::Idle);
}

#[test]
fn a_chain_runs_to_its_end_and_a_schedule_may_stand_beside() {
    let z = job("z").after(&["y"]).due("0 13 * * *");
    let jobs = vec![job("x"), job("y").after(&["x"]), z, job("off").after(&["x"]).disabled()];
    let mut rig = Rig::new(jobs, NOON).instant();
    rig.ask("x", 1);
    rig.pass(HOUR);
    let starts: Vec<String> =
        rig.said().into_iter().filter(|line| line.starts_with("start")).collect();
    assert_eq!(
        starts,
        [
            "start x 1 manual",
            "start y 1 after",
            "start z 1 after",
            "start z 1 schedule 2026-11-21T13:00:00Z"
        ]
    );
}
