//! A unit that gives too little: what fails then says so, and what comes later does not.

use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    wait::{PATIENCE, eventually},
};

/// More than a run takes.
const MORE: usize = 24;

#[test]
fn a_daemon_without_descriptors_says_so_and_goes_on() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "attempts = 1",
    );
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let used = daemon.descriptors();
    let mut failed = 0;
    for more in 0..MORE {
        daemon.limit_descriptors(used + more);
        let run = home.run(&["run", "nightly", "--json"]);
        daemon.limit_descriptors(1024);
        if run.code == 0 {
            continue;
        }
        failed += 1;
        if run.stdout.is_empty() {
            // Not even the call could be taken.
            assert!(run.stderr.contains("error [resources]: "), "{more}: {}", run.stderr);
            assert!(run.stderr.contains("LimitNOFILE"), "{more}: {}", run.stderr);
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
            let hint = failure["hint"].as_str().unwrap();
            assert!(hint.contains("LimitNOFILE"), "{more}: {failure}");
        }
    }
    assert!(failed > 3, "{failed} failed");
    // Not one is left; it may open or close something else just then.
    eventually("a client that is told why", PATIENCE, || {
        daemon.limit_descriptors(daemon.lowest_free_descriptor());
        let turned_away = home.run(&["status"]);
        daemon.limit_descriptors(1024);
        assert!(!turned_away.stderr.contains("has not answered"), "{}", turned_away.stderr);
        (turned_away.code == 1 && turned_away.stderr.contains("LimitNOFILE")).then_some(())
    });
    home.run(&["run", "nightly"]).expect_code(0);
    daemon.stop();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}
