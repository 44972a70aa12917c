//! A job that is paused is shown as such wherever one looks, runs when it is asked to, and goes on with a reload.

use super::{of_job, status_of};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    wait::{PATIENCE, eventually},
};

#[test]
fn a_pause_is_shown_until_a_reload_ends_it() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "globals = false\nmax_age = \"1h\"\nenabled = false",
    );
    let mut daemon = home.ready_daemon();
    let line = status_of(&home, "nightly");
    assert_eq!(line["state"], "paused", "{line}");
    assert!(line["detail"].as_str().unwrap().contains("enabled = false"), "{line}");
    assert!(line["next"].is_null(), "{line}");
    let text = home.run(&["status"]).expect_code(0).text();
    let line = text.lines().find(|line| line.contains("nightly")).unwrap();
    assert!(line.contains("paused"), "{text}");
    assert_eq!(of_job(&daemon, "job_paused", "nightly"), Some(1.0));
    assert_eq!(of_job(&daemon, "job_next_run_timestamp_seconds", "nightly"), Some(0.0));
    // A pause that was forgotten alerts: its objective goes on.
    assert_eq!(of_job(&daemon, "job_max_age_seconds", "nightly"), Some(3600.0));
    let next = home.run(&["schedule", "next", "--json"]).expect_code(0).json();
    assert_eq!((&next[0]["job"], &next[0]["paused"]), (&"nightly".into(), &true.into()), "{next}");
    assert!(next[0]["at"].is_null(), "{next}");
    assert!(home.run(&["schedule", "next"]).expect_code(0).text().contains("paused"));

    home.run(&["run", "nightly"]).expect_code(0);
    let line = status_of(&home, "nightly");
    assert_eq!(line["state"], "paused", "{line}");
    assert_eq!(line["last"]["verdict"], "succeeded", "{line}");
    assert!(of_job(&daemon, "job_last_success_timestamp_seconds", "nightly") > Some(0.0));

    home.rewrite(&home.config().replace("enabled = false", "enabled = true"));
    home.run(&["reload"]).expect_code(0);
    eventually("the end of the pause", PATIENCE, || {
        (of_job(&daemon, "job_paused", "nightly") == Some(0.0)).then_some(())
    });
    let line = status_of(&home, "nightly");
    assert_eq!(line["state"], "idle", "{line}");
    assert!(line["next"].is_string(), "{line}");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
