//! The end: in order, at once, and without warning.

use std::fs;

use rustix::process::Signal;

use super::{
    Bench, assert_gone, assert_nothing_left, files_below, is_alive, memory, of_job, records,
    status_of, verdicts,
};
use crate::harness::{
    client::Client,
    fakes::{Fake, fake_bin_dir},
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, PASSWORD, SUPERUSER},
    wait::{PATIENCE, eventually},
};

#[test]
fn an_orderly_end_cancels_what_runs_and_leaves_nothing() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.log());
    assert_gone(&bench.fake.pids());
    let said = client.end().expect_code(130);
    assert!(said.text().contains("cancelled"), "{}", said.text());
    assert_eq!(verdicts(home, "nightly"), ["cancelled"]);
    let memory = memory(home, "nightly");
    assert!(memory["last_completion"].is_null() && memory["last_success"].is_null(), "{memory}");
    assert_nothing_left(home, "disk");
    daemon.assert_log_clean(&["verdict=cancelled"]);

    bench.fake.release();
    let mut again = home.ready_daemon();
    assert_eq!(of_job(&again, "job_last_completion_timestamp_seconds", "nightly"), Some(0.0));
    home.run(&["run", "nightly"]).expect_code(0);
    bench.assert_restores("disk");
    again.stop();
    again.assert_log_clean(&[]);
}

#[test]
fn while_it_stops_it_is_alive_and_not_ready_and_a_second_signal_ends_it_at_once() {
    let bench = Bench::with(Pgkeep::with_daemon("grace = \"10m\""), Fake::Deaf);
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    assert_eq!(daemon.get("/healthz").0, 200);
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    daemon.sigterm();
    eventually("a daemon that is not ready any more", PATIENCE, || {
        (daemon.get("/readyz").0 == 503).then_some(())
    });
    assert_eq!(daemon.get("/healthz").0, 200);
    assert_eq!(home.run(&["status", "--json"]).expect_code(0).json()["stopping"], true);
    let refused = home.run(&["run", "nightly"]).expect_code(6);
    assert!(!refused.stderr.is_empty());
    assert!(daemon.ended().is_none(), "pg_dump takes no TERM, and the grace is long");
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(), 143);
    let lost = client.end().expect_code(1);
    assert!(lost.stderr.contains("pgkeep status"), "{}", lost.stderr);
}

/// A pg_dump that goes on when its parent has gone, as one does that waits for the server.
fn clinging() -> (Pgkeep, Cluster, crate::harness::fakes::FakeBin) {
    let cluster = Cluster::builder().tcp().start();
    let fake = fake_bin_dir(Fake::Deaf, cluster.bin_dir());
    let program = fake.path().join("pg_dump");
    let text = fs::read_to_string(&program).unwrap();
    let clings = text.replace(" && kill -0 \"$PPID\" 2>/dev/null", "");
    assert_ne!(text, clings);
    fs::write(&program, clings).unwrap();
    let home = Pgkeep::with_daemon("grace = \"1s\"")
        .toml(&format!(
            "[server.main]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{SUPERUSER}\"\n\
             password = {}\nbin_dir = {}\n",
            cluster.port(),
            quote(PASSWORD),
            quote(fake.path().to_string_lossy())
        ))
        .local("disk")
        .dump("nightly", "main", &[APP], &["disk"], "globals = false\n");
    (home, cluster, fake)
}

#[test]
fn after_a_kill_the_next_start_ends_clears_and_marks_what_is_left() {
    let (home, cluster, fake) = clinging();
    let mut daemon = home.ready_daemon();
    let client = Client::start(&home, &["run", "nightly"]);
    fake.wait_stopped();
    let scratch = home.state_dir().join("scratch");
    daemon.kill9();
    client.end().expect_code(1);
    let orphan = fake.pids()[0];
    assert!(is_alive(orphan), "the test needs an orphan");
    // pg_dump, which has the password, is still there; no file of ours has it.
    for folder in [home.state_dir(), home.runtime_dir()] {
        for file in files_below(&folder) {
            // The control socket is no file to read.
            let bytes = fs::read(&file).unwrap_or_default();
            let has_it = bytes.windows(PASSWORD.len()).any(|at| at == PASSWORD.as_bytes());
            assert!(!has_it, "{file} holds the password");
        }
    }
    // What a run leaves in its folder goes at the next start.
    fs::create_dir_all(&scratch).unwrap();
    fs::write(scratch.join("left"), "").unwrap();
    assert_eq!(verdicts(&home, "nightly"), ["running"]);
    home.run(&["list", "--json"]).expect_code(5);

    let mut daemon = home.ready_daemon();
    assert_gone(&[orphan]);
    assert_eq!(files_below(&scratch), Vec::<String>::new());
    assert_eq!(verdicts(&home, "nightly"), ["interrupted"]);
    assert_eq!(status_of(&home, "nightly")["last"]["verdict"], "interrupted");
    for metric in ["completion", "success"] {
        let name = format!("job_last_{metric}_timestamp_seconds");
        assert_eq!(of_job(&daemon, &name, "nightly"), Some(0.0), "{name}");
    }
    home.run(&["list", "--json"]).expect_code(5);
    fake.release();
    home.run(&["run", "nightly"]).expect_code(0);
    super::assert_restores(&home, &cluster, "disk");
    assert_eq!(verdicts(&home, "nightly"), ["interrupted", "succeeded"]);
    // What the killed run had begun to write is gone from the folder as well.
    let list = home.run(&["list", "--incomplete", "--json"]).expect_code(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    eventually("the sweep of what was left in the repository", PATIENCE, || {
        let id = list[0]["id"].as_str().unwrap();
        let files = files_below(&home.repository_dir("disk"));
        let known = |name: &String| name.contains(id) || name.ends_with("/pgkeep-repository.json");
        files.iter().all(known).then_some(())
    });
    daemon.stop();
    daemon.assert_log_clean(&["left behind", "a run was interrupted"]);
}

#[test]
fn a_run_in_place_ends_at_a_signal_and_leaves_nothing() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let bench = Bench::new(Fake::Gated);
        let home = &bench.home;
        let client = Client::start(home, &["run", "nightly"]);
        bench.fake.wait_stopped();
        client.signal(signal);
        client.end().expect_code(code);
        assert_gone(&bench.fake.pids());
        assert_eq!(verdicts(home, "nightly"), ["cancelled"]);
        assert_nothing_left(home, "disk");
        bench.fake.release();
        home.run(&["run", "nightly"]).expect_code(0);
        bench.assert_restores("disk");
    }
}

#[test]
fn a_run_through_the_daemon_goes_on_when_its_client_is_stopped() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    client.signal(Signal::INT);
    let left = client.end().expect_code(130);
    assert!(left.stderr.contains("goes on") && left.stderr.contains("pgkeep cancel nightly"));
    assert_eq!(status_of(home, "nightly")["state"], "running");
    bench.fake.release();
    eventually("the end of the run", PATIENCE, || {
        (verdicts(home, "nightly") == ["succeeded"]).then_some(())
    });
    assert_eq!(records(home, "nightly")[0]["trigger"], "manual");
    bench.assert_restores("disk");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_daemon_that_hangs_is_said_to_hang() {
    let bench = Bench::new(Fake::Gated);
    let home = &bench.home;
    home.run(&["status"]).expect_code(1);
    let mut daemon = home.ready_daemon();
    let running = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    daemon.signal(Signal::STOP);
    let asked = [&["status"][..], &["run", "nightly"]];
    for client in asked.map(|words| Client::start(home, words)) {
        let said = client.end().expect_code(1).stderr;
        assert!(said.contains("has not answered for 10s") && said.contains("hangs"), "{said}");
    }
    daemon.signal(Signal::CONT);
    bench.fake.release();
    running.end().expect_code(0);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
