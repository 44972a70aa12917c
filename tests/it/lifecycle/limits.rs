//! A unit that gives too little: what fails then says so, and what comes later does not.

use std::os::unix::net::UnixStream;

use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::run_within,
    tasks::Tasks,
    wait::{PATIENCE, eventually},
};

fn home(cluster: &Cluster) -> Pgkeep {
    Pgkeep::new().server("main", cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "attempts = 1",
    )
}

/// Runs with ever more of something, to the number that is enough: what fails is said to lack it.
fn starved(home: &Pgkeep, limit: impl Fn(Option<usize>), hint: &str) {
    let (mut failed, mut enough) = (0, 0);
    for more in 0.. {
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
            // Not even the call could be taken.
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
}

#[test]
fn a_daemon_without_descriptors_says_so_and_goes_on() {
    let cluster = Cluster::start();
    let home = home(&cluster);
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let used = daemon.descriptors();
    let limit =
        |more: Option<usize>| daemon.limit_descriptors(more.map_or(1024, |more| used + more));
    starved(&home, limit, "LimitNOFILE");
    // Not one is left; it may open or close something else just then.
    eventually("a client that is told why", PATIENCE, || {
        let most = daemon.highest_descriptor() + 1;
        daemon.limit_descriptors(most);
        let socket = home.runtime_dir().join("control.sock");
        let silent: Vec<_> =
            (daemon.descriptors()..most).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let turned_away = home.run(&["status"]);
        drop(silent);
        daemon.limit_descriptors(1024);
        assert!(!turned_away.stderr.contains("has not answered"), "{}", turned_away.stderr);
        (turned_away.code == 1 && turned_away.stderr.contains("LimitNOFILE")).then_some(())
    });
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
