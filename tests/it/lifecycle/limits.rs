//! A unit that gives too little: what fails then says so, and what comes later does not.

use std::{cell::RefCell, os::unix::net::UnixStream, path::Path};

use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::run_within,
    tasks::Tasks,
    wait::PATIENCE,
};

/// More than any run takes.
const MORE_MAX: usize = 200;

fn home(cluster: &Cluster) -> Pgkeep {
    Pgkeep::new().server("main", cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "attempts = 1",
    )
}

/// Runs with ever more of something, to the number that is enough: what fails is said to lack it. The answer is how
/// many clients were not even let in.
fn starved(home: &Pgkeep, limit: impl Fn(Option<usize>), hint: &str) -> usize {
    let (mut failed, mut enough, mut turned_away) = (0, 0, 0);
    for more in 0.. {
        assert!(more < MORE_MAX, "{more} more are not enough");
        limit(Some(more));
        let run = home.run(&["run", "nightly", "--json"]);
        limit(None);
        if run.code == 0 {
            enough += 1;
            // It may be that something else was closed just then.
            if enough == 3 {
                break;
            }
            continue;
        }
        enough = 0;
        failed += 1;
        if run.stdout.is_empty() {
            turned_away += 1;
            assert!(run.stderr.contains("error [resources]: "), "{more}: {}", run.stderr);
            assert!(run.stderr.contains(hint), "{more}: {}", run.stderr);
            continue;
        }
        let report = &run.json()["report"];
        let targets = report["targets"].as_array().unwrap().iter();
        let failures: Vec<_> = targets
            .map(|target| &target["outcome"]["detail"])
            .chain([&report["failure"]])
            .filter(|failure| failure.is_object())
            .collect();
        assert!(!failures.is_empty(), "{more}: {report}");
        for failure in failures {
            assert_eq!(failure["class"], "resources", "{more}: {failure}");
            assert!(failure["hint"].as_str().unwrap().contains(hint), "{more}: {failure}");
        }
    }
    assert!(failed > 3, "{failed} failed");
    home.run(&["run", "nightly"]).expect_code(0);
    turned_away
}

#[test]
fn a_daemon_without_descriptors_says_so_and_goes_on() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let silent = RefCell::new(Vec::new());
    let socket = home.runtime_dir().join("control.sock");
    // Under a limit that stands, the one in reserve is below it: clients that say nothing take what is free below.
    let limit = |more: Option<usize>| {
        let mut silent = silent.borrow_mut();
        silent.clear();
        let Some(more) = more else { return daemon.limit_descriptors(1024) };
        let taken = daemon.descriptors();
        let of_socket = |path: &Path| path.ends_with("control.sock.lock");
        let reserve = taken.iter().rfind(|(_, path)| of_socket(path)).unwrap();
        let most = reserve.0 + 1;
        daemon.limit_descriptors(most + more);
        let free = (0..most + more)
            .filter(|number| !taken.contains_key(number))
            .count()
            .saturating_sub(more);
        silent.extend((0..free).map(|_| UnixStream::connect(&socket).unwrap()));
    };
    let turned_away = starved(&home, limit, "LimitNOFILE");
    assert!(turned_away > 0, "no client was told why it was not let in");
    home.run(&["run", "nightly"]).expect_code(0);
    daemon.stop();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_daemon_without_threads_and_processes_says_so_and_goes_on() {
    let Some(tasks) = Tasks::new() else { return };
    let cluster = Cluster::start();
    let home = home(&cluster);
    let mut daemon = home.ready_daemon();
    tasks.take(daemon.pid());
    // As many as it has just now, which a unit's limit may come to in the middle of a life.
    let used = tasks.count();
    let limit = |more: Option<usize>| tasks.limit(more.map(|more| used + more));
    starved(&home, limit, "TasksMax");
    daemon.stop();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_command_without_threads_says_so_or_works() {
    let Some(tasks) = Tasks::new() else { return };
    let home = Pgkeep::new().local("disk");
    let mut worked = 0;
    for most in 1..12 {
        tasks.limit(Some(most));
        let said = run_within(&mut tasks.within(&home.command(&["list"])), "", PATIENCE);
        let all = format!("{}{}", said.text(), said.stderr);
        assert!(!all.contains("panicked"), "{most}: {said:?}");
        if said.code == 5 {
            worked += 1;
        } else {
            assert!(all.contains("TasksMax"), "{most}: {said:?}");
        }
    }
    assert!((1..10).contains(&worked), "{worked} worked");
}
