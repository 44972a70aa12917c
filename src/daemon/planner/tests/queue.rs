//! Permits, and who waits for whom.

use super::*;

const NOON: &str = "2026-11-21T12:00:00Z";

fn rig(jobs: Vec<JobSpec>, limits: Limits) -> Rig {
    let mut rig = Rig::with_limits(jobs, NOON, limits);
    let names: Vec<String> = rig.planner.jobs.keys().map(ToString::to_string).collect();
    for (request, name) in (0..).zip(names) {
        rig.ask(&name, request);
    }
    rig.lines.retain(|line| line.starts_with("start"));
    rig
}

fn started(rig: &mut Rig) -> Vec<String> {
    let lines = rig.said().into_iter();
    lines.filter_map(|line| Some(line.strip_prefix("start ")?.split(' ').next()?.into())).collect()
}

#[test]
fn no_more_runs_at_once_than_allowed_first_come_first_served() {
    let limits = Limits { running: 2, ..LIMITS };
    let mut rig = rig(vec![job("a"), job("b"), job("c"), job("d")], limits);
    assert_eq!(started(&mut rig), ["a", "b"]);
    assert_eq!(rig.why("c"), Some(Wait::Running));
    rig.finish("b", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["c"]);
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["d"]);
}

#[test]
fn slots_are_queued_by_their_time() {
    let due = |name: &str, cron: &str| job(name).due(cron).catch_up(DAY);
    let jobs = || vec![due("a", "0 3 * * *"), due("b", "0 1 * * *"), due("c", "0 2 * * *")];
    let limits = Limits { running: 1, ..LIMITS };
    let mut rig = Rig::with_limits(jobs(), "2026-11-21T00:00:00Z", limits).instant();
    rig.restart(jobs(), "2026-11-21T04:00:00Z");
    assert_eq!(started(&mut rig), ["b", "c", "a"]);
}

#[test]
fn one_run_per_server_and_others_pass() {
    let jobs = vec![
        job("a").uses(&["main"], 0),
        job("b").uses(&["main", "other"], 0),
        job("c").uses(&["third"], 0),
        job("d").uses(&["other"], 0),
    ];
    let mut rig = rig(jobs, LIMITS);
    assert_eq!(started(&mut rig), ["a", "c"]);
    assert_eq!(rig.why("b"), Some(Wait::Server("main".parse().unwrap())));
    assert_eq!(rig.why("d"), Some(Wait::Turn), "b wants that server too, and came first");
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["b"]);
    rig.finish("b", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["d"]);
}

#[test]
fn memory_is_a_budget() {
    let jobs = vec![job("a").uses(&[], 300), job("b").uses(&[], 300), job("c").uses(&[], 200)];
    let mut rig = rig(jobs, LIMITS);
    assert_eq!(started(&mut rig), ["a", "c"], "c fits beside a now, and beside b later");
    assert_eq!(rig.why("b"), Some(Wait::Memory));
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["b"]);
}

#[test]
fn a_job_larger_than_the_budget_runs_alone_rather_than_never() {
    let jobs = vec![
        job("a").uses(&[], 100),
        job("huge").uses(&[], 9000),
        job("small").uses(&[], 1),
        job("weightless"),
    ];
    let mut rig = rig(jobs, LIMITS);
    assert_eq!(started(&mut rig), ["a", "weightless"]);
    assert_eq!(rig.why("small"), Some(Wait::Turn));
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["huge"]);
    assert_eq!(rig.why("small"), Some(Wait::Memory));
    rig.finish("huge", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["small"]);
}

#[test]
fn small_jobs_never_keep_a_large_one_out() {
    let mut jobs = vec![job("a").uses(&[], 300), job("large").uses(&[], 450)];
    jobs.extend(["s1", "s2", "s3"].map(|name| job(name).uses(&[], 50)));
    let mut rig = Rig::new(jobs, NOON);
    for (request, name) in (0..).zip(["a", "large", "s1", "s2"]) {
        rig.ask(name, request);
    }
    assert_eq!(started(&mut rig), ["a", "s1"], "large fits beside s1, but not beside s2 as well");
    // A stream of small jobs, one always under way.
    for request in 10..30 {
        rig.finish(if request % 2 == 0 { "s1" } else { "s2" }, Verdict::Succeeded, &[]);
        rig.ask(if request % 2 == 0 { "s1" } else { "s2" }, request);
    }
    assert_eq!(started(&mut rig).len(), 20, "they go on");
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["large"]);
}

#[test]
fn limits_of_zero_count_as_one() {
    let limits = Limits { running: 0, per_server: 0, memory: 0 };
    let mut rig = rig(vec![job("a").uses(&["main"], 10), job("b").uses(&["main"], 10)], limits);
    assert_eq!(started(&mut rig), ["a"]);
    rig.finish("a", Verdict::Succeeded, &[]);
    assert_eq!(started(&mut rig), ["b"]);
}

#[test]
fn what_a_queued_run_waits_for_is_shown() {
    let rig = rig(vec![job("a").uses(&["main"], 0), job("b").uses(&["main"], 0)], LIMITS);
    let JobState::Queued { run, attempt: 1, since, why } = rig.state("b") else {
        panic!("{:?}", rig.state("b"))
    };
    assert_eq!((run, since), (rig.run_of("b"), at(NOON)));
    assert_eq!(why.to_string(), "as many runs as are allowed use the server main");
    assert!(matches!(rig.state("a"), JobState::Running { attempt: 1, .. }));
}
