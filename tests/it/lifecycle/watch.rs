//! What is looked at beside the runs: repositories that a run has touched, databases that nobody
//! backs up.

use super::{Bench, of_job};
use crate::harness::{
    client::Client,
    fakes::Fake,
    pgkeep::{Daemon, Pgkeep},
    postgres::{APP, Cluster, HOSTILE},
    wait::{PATIENCE, eventually},
};

fn probed(daemon: &Daemon, repository: &str) -> Option<f64> {
    let labels = [("repository", repository)];
    let value =
        daemon.metrics().value("pgkeep_repository_last_probe_success_timestamp_seconds", &labels);
    value.filter(|at| *at > 0.0)
}

#[test]
fn a_run_has_its_own_repositories_looked_at_and_no_others() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").local("other").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "globals = false\n",
    );
    let mut daemon = home.ready_daemon();
    let first = |name: &str| eventually("a first look", PATIENCE, || probed(&daemon, name));
    let (disk, other) = (first("disk"), first("other"));
    home.run(&["run", "nightly"]).expect_code(0);
    eventually("another look at what the run touched", PATIENCE, || {
        (probed(&daemon, "disk") > Some(disk)).then_some(())
    });
    assert_eq!(probed(&daemon, "other"), Some(other));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn databases_that_nobody_backs_up_are_counted_and_named() {
    let cluster = Cluster::start();
    // One that somebody marked as a template holds data all the same.
    let name = HOSTILE.replace('"', "\"\"");
    cluster.psql("postgres", &format!("ALTER DATABASE \"{name}\" IS_TEMPLATE true"));
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "globals = false\nexclude = [\"postgres\"]\nmax_age = \"30h\"\n",
    );
    let mut daemon = home.ready_daemon();
    let count = || {
        let labels = [("server", "main")];
        daemon.metrics().value("pgkeep_databases_unprotected", &labels)
    };
    eventually("a count", PATIENCE, || (count() == Some(1.0)).then_some(()));
    let status = home.run(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["unprotected"]["main"], serde_json::json!([HOSTILE]));
    assert!(home.run(&["status"]).expect_code(0).text().contains("NO JOB BACKS UP, on main"));

    let forgotten = format!("exclude = [\"postgres\", \"{}*\"]", &HOSTILE[..2]);
    home.rewrite(&home.config().replace("exclude = [\"postgres\"]", &forgotten));
    home.run(&["reload"]).expect_code(0);
    eventually("nothing forgotten", PATIENCE, || (count() == Some(0.0)).then_some(()));

    home.run(&["run", "nightly"]).expect_code(0);
    let labels = [("server", "main"), ("datname", APP), ("repository", "disk")];
    let max_age = daemon.metrics().value("pgkeep_backup_max_age_seconds", &labels);
    assert_eq!(max_age, Some(30.0 * 3600.0));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_server_that_is_away_has_no_count() {
    let mut cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "",
    );
    cluster.stop();
    let mut daemon = home.ready_daemon();
    let labels = [("server", "main")];
    eventually("a look", PATIENCE, || {
        let metrics = daemon.metrics();
        let at = metrics.value("pgkeep_server_last_probe_timestamp_seconds", &labels);
        (at > Some(0.0)).then_some(())
    });
    let metrics = daemon.metrics();
    let success = "pgkeep_server_last_probe_success_timestamp_seconds";
    assert_eq!(metrics.value(success, &labels), Some(0.0));
    assert_eq!(metrics.value("pgkeep_databases_unprotected", &labels), None);
    daemon.stop();
}

#[test]
fn a_run_is_cancelled_by_name() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    home.run(&["cancel", "nightly"]).expect_code(6);
    home.run(&["cancel", "nihgtly"]).expect_code(5);
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    let said = home.run(&["cancel", "nightly"]).expect_code(0);
    assert!(said.text().contains("is being cancelled"), "{}", said.text());
    client.end().expect_code(130);
    super::assert_nothing_left(home, "disk");
    assert_eq!(of_job(&daemon, "job_last_completion_timestamp_seconds", "nightly"), Some(0.0));
    daemon.stop();
    daemon.assert_log_clean(&["verdict=cancelled"]);
    home.run(&["cancel", "nightly"]).expect_code(1);
}

#[test]
fn a_kind_without_a_dry_run_says_so() {
    let bench = Bench::new(Fake::Gated);
    let said = bench.home.run(&["run", "nightly", "--dry-run"]).expect_code(2);
    assert!(said.stderr.contains("no dry run"), "{}", said.text());
    super::assert_nothing_left(&bench.home, "disk");
}

/// An alert on a finding sends people to `pgkeep status`: it has to be there as long as the alert fires.
#[test]
fn what_was_found_is_shown_as_long_as_its_metric_stands() {
    let mut cluster = Cluster::start();
    cluster.psql("postgres", &format!("ALTER DATABASE {APP} ALLOW_CONNECTIONS false"));
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &["*"],
        &["disk"],
        "attempts = 1\n",
    );
    let mut daemon = home.ready_daemon();
    let found = || {
        let labels = [("job_name", "nightly"), ("check", "database-closed")];
        daemon.metrics().value("pgkeep_findings", &labels)
    };
    let assert_shown = || {
        assert_eq!(found(), Some(1.0));
        let text = home.run(&["status"]).expect_code(0).text();
        assert!(text.contains("nightly warning database-closed: not dumped"), "{text}");
        let status = home.run(&["status", "--json"]).expect_code(0).json();
        let finding = &status["jobs"][0]["findings"][0];
        assert_eq!(finding["check"], "database-closed", "{status}");
        let target = serde_json::json!({"server": "main", "object": APP});
        assert_eq!(finding["target"], target, "{finding}");
    };
    home.run(&["run", "nightly"]).expect_code(0);
    assert_shown();
    cluster.stop();
    home.run(&["run", "nightly"]).expect_code(1);
    assert_shown();
    daemon.stop();
}
