//! The end.

use super::*;

const NOON: &str = "2026-11-21T12:00:00Z";

#[test]
fn nothing_starts_what_waits_is_dropped_what_runs_is_cancelled_once() {
    let limits = Limits { running: 1, ..LIMITS };
    let clock = || job("clock").due("1 12 * * *").catch_up(DAY);
    let jobs = || vec![job("fails").attempts(3), job("runs").attempts(3), job("waits"), clock()];
    let mut rig = Rig::with_limits(jobs(), NOON, limits);
    rig.ask("fails", 1);
    rig.finish("fails", Verdict::Failed, &["x"]);
    rig.ask("runs", 2);
    rig.ask("waits", 3);
    rig.pass(Duration::from_secs(61));
    rig.said();
    rig.send(Event::Drain);
    let mut said = rig.said();
    said.sort();
    assert_eq!(
        said,
        [
            "cancel all",
            "ended clock cancelled 0 ShuttingDown",
            "ended fails failed 1 ShuttingDown answers 1",
            "ended waits cancelled 0 ShuttingDown",
            "refuse 3 ShuttingDown",
            "skip clock shutting-down 2026-11-21T12:01:00Z",
        ]
    );
    rig.send(Event::Drain);
    rig.ask("waits", 4);
    reload(&mut rig, jobs());
    rig.pass(DAY);
    assert_eq!(rig.said(), ["refuse 4 ShuttingDown"], "once, and no slot starts");
    rig.finish("runs", Verdict::Failed, &["x"]);
    assert_eq!(rig.said(), ["ended runs failed 1 Finished answers 2", "exit"]);
    rig.send(Event::Tick);
    rig.ask("waits", 5);
    assert_eq!(rig.said(), ["refuse 5 ShuttingDown"]);
    rig.restart(jobs(), "2026-11-21T13:00:00Z");
    assert_eq!(rig.said(), ["start clock 1 catch-up 2026-11-21T12:01:00Z"], "it was never run");
}

fn reload(rig: &mut Rig, jobs: Vec<JobSpec>) {
    let limits = rig.limits;
    rig.send(Event::Reloaded(jobs, limits));
}

#[test]
fn an_idle_daemon_leaves_at_once() {
    let mut rig = Rig::new(vec![job("a").due("0 13 * * *")], NOON);
    rig.send(Event::Drain);
    assert_eq!(rig.said(), ["cancel all", "exit"]);
}

#[test]
fn what_was_done_in_part_still_counts_for_those_that_follow() {
    let jobs = || vec![job("a").attempts(2), job("z").after(&["a"])];
    let mut rig = Rig::new(jobs(), NOON);
    rig.ask("a", 1);
    rig.finish("a", Verdict::Partial, &["x"]);
    rig.send(Event::Drain);
    rig.said();
    rig.restart(jobs(), NOON);
    assert_eq!(rig.said(), ["start z 1 after"]);
}
