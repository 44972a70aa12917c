//! A new configuration.

use super::*;

const NOON: &str = "2026-11-21T12:00:00Z";

fn reload(rig: &mut Rig, jobs: Vec<JobSpec>) {
    let limits = rig.limits;
    rig.send(Event::Reloaded(jobs, limits));
}

#[test]
fn a_changed_schedule_starts_afresh_and_an_unchanged_one_goes_on() {
    let day = |name: &str, cron: &str| job(name).due(cron).catch_up(DAY);
    let zurich = || job("zone").due_in("30 11 * * *", "Europe/Zurich").catch_up(DAY);
    let jobs = vec![day("changed", "0 13 * * *"), day("same", "0 13 * * *"), zurich()];
    let mut rig = Rig::new(jobs, NOON).instant();
    let jobs = vec![
        day("changed", "0 11 * * *"),
        day("same", "0  13 * * *"),
        job("zone").due_in("30 11 * * *", "Etc/UTC").catch_up(DAY),
        day("added", "0 11 * * *"),
    ];
    reload(&mut rig, jobs);
    assert_eq!(rig.said(), [""; 0], "nothing that was due before the reload is caught up");
    let next = |job: &str| rig.planner.next_run(&name(job)).unwrap().to_string();
    assert_eq!(next("changed"), "2026-11-22T11:00:00Z");
    assert_eq!(next("same"), "2026-11-21T13:00:00Z");
    assert_eq!(next("zone"), "2026-11-22T11:30:00Z");
    assert_eq!(next("added"), "2026-11-22T11:00:00Z");
    // Asleep over the reload: what was due under the old configuration is run under it.
    rig.now.wall = at("2026-11-21T13:30:00Z");
    reload(&mut rig, vec![day("same", "0 14 * * *")]);
    assert_eq!(rig.said()[0], "forget added");
    assert_eq!(rig.planner.next_run(&name("same")), Some(at("2026-11-21T14:00:00Z")));
}

#[test]
fn a_slot_that_came_due_just_before_the_reload_is_not_lost() {
    let spec = || job("a").due("0 13 * * *");
    let mut rig = Rig::new(vec![spec()], NOON);
    rig.now.wall = at("2026-11-21T13:00:01Z");
    reload(&mut rig, vec![job("a").due("0 14 * * *")]);
    assert_eq!(rig.said(), ["start a 1 schedule 2026-11-21T13:00:00Z"]);
}

#[test]
fn less_jitter_does_not_make_a_slot_late() {
    let spec = |jitter| JobSpec { jitter, ..job("nightly").due("0 13 * * *") };
    let mut rig = Rig::new(vec![spec(12 * HOUR)], NOON);
    let old = rig.planner.next_run(&name("nightly")).unwrap();
    assert!(old > at("2026-11-21T14:00:00Z"), "{old}");
    rig.pass(HOUR + 30 * MINUTE);
    reload(&mut rig, vec![spec(Duration::ZERO)]);
    rig.pass(MINUTE);
    assert_eq!(rig.said(), ["start nightly 1 schedule 2026-11-21T13:00:00Z"]);
}

#[test]
fn runs_of_a_removed_job_that_wait_end_and_one_under_way_goes_on() {
    let limits = Limits { running: 2, ..LIMITS };
    let jobs = || vec![job("runs").attempts(3), job("waits").attempts(3)];
    let mut all = jobs();
    all.push(job("queued"));
    let mut rig = Rig::with_limits(all, NOON, limits);
    rig.ask("runs", 1);
    rig.ask("waits", 2);
    rig.finish("waits", Verdict::Partial, &["x"]);
    rig.limits.running = 1;
    reload(&mut rig, [jobs(), vec![job("queued")]].concat());
    rig.ask("queued", 3);
    rig.said();
    reload(&mut rig, vec![]);
    assert_eq!(
        rig.said(),
        [
            "ended queued cancelled 0 Withdrawn answers 3",
            "ended waits partial 1 Withdrawn answers 2",
            "forget queued",
            "forget runs",
            "forget waits",
        ]
    );
    assert!(matches!(rig.state("runs"), JobState::Running { .. }), "it is still shown");
    rig.ask("runs", 4);
    reload(&mut rig, jobs());
    rig.ask("runs", 5);
    rig.finish("runs", Verdict::Failed, &["x"]);
    assert_eq!(
        rig.said(),
        [
            "refuse 4 UnknownJob",
            "refuse 5 AlreadyRunning",
            "ended runs failed 1 Finished answers 1",
        ],
        "it is not tried again, though the job is back"
    );
}

#[test]
fn a_disabled_job_rests_but_can_be_asked_for() {
    let spec = || job("a").due("0 13 * * *").catch_up(DAY);
    let mut rig = Rig::new(vec![spec().disabled()], NOON).instant();
    assert_eq!(rig.planner.next_run(&name("a")), None);
    rig.pass(2 * HOUR);
    rig.ask("a", 1);
    assert_eq!(
        rig.said(),
        ["accepted 1", "start a 1 manual", "ended a succeeded 1 Finished answers 1"]
    );
    reload(&mut rig, vec![spec()]);
    assert_eq!(rig.said(), [""; 0], "what it slept through is not made good");
    rig.pass(DAY);
    assert_eq!(rig.said()[0], "start a 1 schedule 2026-11-22T13:00:00Z");
}

#[test]
fn disabling_ends_what_waits_unless_a_person_asked_for_it() {
    let limits = Limits { running: 1, ..LIMITS };
    let by_clock = || job("clock").due("1 12 * * *");
    let jobs = vec![by_clock(), job("long"), job("asked")];
    let mut rig = Rig::with_limits(jobs, NOON, limits);
    rig.ask("long", 1);
    rig.ask("asked", 2);
    rig.pass(2 * MINUTE);
    rig.said();
    let jobs = vec![by_clock().disabled(), job("long"), job("asked").disabled()];
    reload(&mut rig, jobs);
    assert_eq!(rig.said(), ["ended clock cancelled 0 Withdrawn"]);
    assert_eq!(rig.why("asked"), Some(Wait::Running));
}

#[test]
fn new_limits_hold_at_once() {
    let limits = Limits { running: 1, ..LIMITS };
    let jobs = || vec![job("a"), job("b"), job("c")];
    let mut rig = Rig::with_limits(jobs(), NOON, limits);
    for (request, name) in (0..).zip(["a", "b", "c"]) {
        rig.ask(name, request);
    }
    rig.said();
    rig.send(Event::Reloaded(jobs(), LIMITS));
    assert_eq!(rig.said(), ["start b 1 manual", "start c 1 manual"]);
}

#[test]
fn ends_that_are_no_longer_waited_for_are_dropped() {
    let jobs = |after: &[&str]| vec![job("a"), job("b"), job("z").after(after)];
    let mut rig = Rig::new(jobs(&["a", "b"]), NOON).instant();
    rig.ask("a", 1);
    rig.said();
    reload(&mut rig, jobs(&["b"]));
    reload(&mut rig, jobs(&["a", "b"]));
    rig.ask("b", 2);
    assert!(!rig.said().iter().any(|line| line.starts_with("start z")));
    reload(&mut rig, jobs(&["b"]));
    assert_eq!(rig.said()[0], "start z 1 after", "b has ended, and nothing else is missing");
}
