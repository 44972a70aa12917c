//! Reloads: taken whole or not at all, never lost, and never under a running job's feet.

use std::{fmt::Write as _, os::unix::net::UnixDatagram};

use super::{Bench, NOWHERE, job, job_names, of_job, status_of};
use crate::harness::{
    client::Client,
    fakes::Fake,
    pgkeep::{Pgkeep, quote},
    wait::{PATIENCE, eventually},
};

fn home() -> Pgkeep {
    Pgkeep::new().toml(NOWHERE).local("disk")
}

#[test]
fn jobs_come_go_and_change_with_their_series() {
    let home = home();
    let base = home.config().to_owned();
    home.rewrite(&format!("{base}{}{}", job("old", ""), job("kept", "max_age = \"1h\"")));
    let mut daemon = home.ready_daemon();
    assert_eq!(job_names(&home), ["kept", "old"]);
    assert_eq!(of_job(&daemon, "job_max_age_seconds", "kept"), Some(3600.0));
    let configured = of_job(&daemon, "job_configured_timestamp_seconds", "kept").unwrap();
    let next = of_job(&daemon, "job_next_run_timestamp_seconds", "kept").unwrap();
    let loaded = daemon.metrics().value("pgkeep_config_last_reload_success_timestamp_seconds", &[]);

    let kept = job("kept", "max_age = \"2h\"").replace("29 2 *", "1 3 *");
    home.rewrite(&format!("{base}{}{kept}", job("new", "")));
    daemon.sighup();
    let metrics = eventually("the time of the reload", PATIENCE, || {
        let metrics = daemon.metrics();
        let name = "pgkeep_config_last_reload_success_timestamp_seconds";
        (metrics.value(name, &[]) > loaded).then_some(metrics)
    });
    assert!(!metrics.text.contains("job_name=\"old\""), "{}", metrics.text);
    assert_eq!(metrics.value("pgkeep_config_last_reload_successful", &[]), Some(1.0));
    for (metric, value) in [
        ("job_max_age_seconds", 7200.0),
        ("job_last_success_timestamp_seconds", 0.0),
        ("job_configured_timestamp_seconds", configured),
    ] {
        assert_eq!(of_job(&daemon, metric, "kept"), Some(value), "{metric}");
    }
    assert_ne!(of_job(&daemon, "job_next_run_timestamp_seconds", "kept"), Some(next));
    assert_eq!(of_job(&daemon, "job_last_success_timestamp_seconds", "new"), Some(0.0));
    assert_eq!(job_names(&home), ["kept", "new"]);
    home.run(&["run", "old"]).expect_code(5);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn what_is_wrong_is_refused_and_the_old_configuration_runs_on() {
    let home = home();
    let good = format!("{}{}", home.config(), job("a", ""));
    home.rewrite(&good);
    let mut daemon = home.ready_daemon();
    let metric = |daemon: &crate::harness::pgkeep::Daemon, name: &str| {
        daemon.metrics().value(&format!("pgkeep_config_last_reload_{name}"), &[])
    };
    let loaded = metric(&daemon, "success_timestamp_seconds");

    home.rewrite(&good.replace("[\"disk\"]", "[\"disc\"]"));
    daemon.sighup();
    let said = daemon.wait_log("reload refused");
    assert!(said.contains("there is no [repository.disc]"), "{said}");
    eventually("the metric of a refused reload", PATIENCE, || {
        (metric(&daemon, "successful") == Some(0.0)).then_some(())
    });
    assert_eq!(metric(&daemon, "success_timestamp_seconds"), loaded);
    assert_eq!(job_names(&home), ["a"]);
    let status = home.run(&["status", "--json"]).expect_code(0).json();
    assert!(status["reload_refused"].as_str().unwrap().contains("[repository.disc]"), "{status}");
    assert!(home.run(&["status"]).expect_code(0).text().contains("last reload REFUSED: 1 error"));

    let refused = home.run(&["reload"]).expect_code(3);
    for text in
        ["pgkeep.toml:", "^^^^^^", "did you mean \"disk\"?", "the old configuration runs on"]
    {
        assert!(refused.stderr.contains(text), "{text:?} is not in:\n{}", refused.stderr);
    }
    let refused = home.run(&["reload", "--json"]).expect_code(3).json();
    assert_eq!(refused["accepted"], false);

    home.rewrite(&good);
    home.run(&["reload"]).expect_code(0);
    assert_eq!(metric(&daemon, "successful"), Some(1.0));
    assert!(home.run(&["status", "--json"]).json()["reload_refused"].is_null());
    daemon.stop();
    daemon.assert_log_clean(&["reload refused"]);
}

#[test]
fn a_file_that_is_no_toml_does_not_hide_the_daemon() {
    let home = home();
    let good = format!("{}{}", home.config(), job("a", ""));
    home.rewrite(&good);
    let mut daemon = home.ready_daemon();
    home.rewrite(&format!("{good}\n[job.b\nkind ="));
    daemon.sighup();
    daemon.wait_log("reload refused");
    let status = home.run(&["status", "--json"]).expect_code(0).json();
    assert!(status["reload_refused"].is_string(), "{status}");
    let refused = home.run(&["reload"]).expect_code(3);
    assert!(refused.stderr.contains("the old configuration runs on"), "{}", refused.stderr);
    daemon.stop();
    daemon.assert_log_clean(&["reload refused"]);
}

#[test]
fn what_holds_for_the_life_of_the_process_is_refused_by_name() {
    let home = home().toml(&job("a", ""));
    let mut daemon = home.ready_daemon();
    let elsewhere = home.home().join("elsewhere");
    let elsewhere = quote(elsewhere.to_string_lossy());
    let lines: [(&str, &str, String); 3] = [
        ("listen", "daemon.listen", "listen = \"off\"".to_owned()),
        ("state_dir", "daemon.state_dir", format!("state_dir = {elsewhere}")),
        ("runtime_dir", "daemon.runtime_dir", format!("runtime_dir = {elsewhere}")),
    ];
    for (key, name, line) in &lines {
        let other = |old: &str| {
            if old.starts_with(&format!("{key} = ")) { line.clone() } else { old.to_owned() }
        };
        let text: Vec<String> = home.config().lines().map(other).collect();
        home.rewrite(&(text.join("\n") + &job("b", "")));
        daemon.sighup();
        daemon.wait_log(&format!("{name} cannot change while the daemon runs: restart it"));
        if *key != "runtime_dir" {
            // With that one changed, the command line looks for the daemon elsewhere.
            let refused = home.run(&["reload"]).expect_code(3);
            assert!(refused.stderr.contains(name), "{}", refused.stderr);
        }
        let metrics = daemon.metrics();
        assert_eq!(metrics.value("pgkeep_config_last_reload_successful", &[]), Some(0.0));
        assert!(!metrics.text.contains("job_name=\"b\""), "half of it was taken");
    }
    daemon.stop();
    daemon.assert_log_clean(&["reload refused"]);
}

#[test]
fn a_running_dump_ends_on_what_it_started_with() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    let start = home.config().to_owned();
    std::fs::create_dir(home.repository_dir("other")).unwrap();
    let other = quote(home.repository_dir("other").to_string_lossy());
    let other =
        format!("\n[repository.other]\nkind = \"local\"\npath = {other}\nmin_free = \"1MiB\"\n");
    let mut daemon = home.ready_daemon();
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();

    home.rewrite(
        &(start.replace("repositories = [\"disk\"]", "repositories = [\"other\"]") + &other),
    );
    home.run(&["reload"]).expect_code(0);
    assert_eq!(status_of(home, "nightly")["state"], "running");
    let since = of_job(&daemon, "job_running_since_timestamp_seconds", "nightly");
    assert!(since > Some(0.0), "{since:?}");
    bench.fake.release();
    client.end().expect_code(0);
    let rows = home.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["repository"]), (1, &"disk".into()));
    bench.assert_restores("disk");

    home.run(&["run", "nightly"]).expect_code(0);
    let rows = home.run(&["list", "--repository", "other", "--json"]).expect_code(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    let seconds = of_job(&daemon, "job_last_success_timestamp_seconds", "nightly");
    assert!(seconds > since, "{seconds:?} {since:?}");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_job_that_is_taken_out_while_it_runs_still_ends() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    let start = home.config().to_owned();
    let mut daemon = home.ready_daemon();
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    let without = &start[..start.find("\n[job.nightly]").unwrap()];
    home.rewrite(without);
    home.run(&["reload"]).expect_code(0);
    assert!(!daemon.metrics().text.contains("job_name=\"nightly\""));
    bench.fake.release();
    client.end().expect_code(0);
    bench.assert_restores("disk");
    home.rewrite(&start);
    home.run(&["reload"]).expect_code(0);
    // What it did while it was out is remembered.
    assert_eq!(status_of(home, "nightly")["last"]["verdict"], "succeeded");
    assert!(of_job(&daemon, "job_last_success_timestamp_seconds", "nightly") > Some(0.0));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_burst_of_signals_ends_in_the_last_configuration() {
    let home = home();
    let base = home.config().to_owned();
    let mut daemon = home.ready_daemon();
    for number in 0..50 {
        home.rewrite(&format!("{base}{}", job(&format!("j{number}"), "")));
        daemon.sighup();
    }
    eventually("the last configuration", PATIENCE, || {
        of_job(&daemon, "job_configured_timestamp_seconds", "j49")
    });
    assert_eq!(job_names(&home), ["j49"]);
    let metrics = daemon.metrics();
    assert_eq!(metrics.value("pgkeep_config_last_reload_successful", &[]), Some(1.0));
    assert_eq!(metrics.find("pgkeep_job_configured_timestamp_seconds", &[]).len(), 1);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_signal_during_a_reload_is_not_lost() {
    let home = home();
    let base = home.config().to_owned();
    let many = (0..400).fold(base.clone(), |mut text, number| {
        write!(text, "{}", job(&format!("j{number}"), "")).unwrap();
        text
    });
    let path = home.home().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let home = home.env("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut daemon = home.ready_daemon();
    home.rewrite(&many);
    daemon.sighup();
    let mut buffer = [0; 4096];
    loop {
        let length = manager.recv(&mut buffer).unwrap();
        if buffer[..length].starts_with(b"RELOADING") {
            break;
        }
    }
    // It is at work on the many jobs.
    home.rewrite(&format!("{base}{}", job("last", "")));
    daemon.sighup();
    eventually("the configuration of the second signal", PATIENCE, || {
        of_job(&daemon, "job_configured_timestamp_seconds", "last")
    });
    assert_eq!(job_names(&home), ["last"]);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
