//! Dumps that hang, take too long, or are cancelled: nothing of them runs on, and nothing stays.

use pgkeep::domain::{
    failure::Class,
    report::{Outcome, Verdict},
};

use super::{
    DISK, ONCE, Running, assert_gone, assert_listed, bin_dir, disk, failures, last_run_failed,
    run_job, status, stop_after_failures, whole_status,
};
use crate::harness::{
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE},
    wait::{PATIENCE, eventually},
};

/// A home whose pg_dump is a fake, beside a server that works.
fn home(cluster: &Cluster, kind: Fake, daemon: &str, lines: &str) -> (Pgkeep, FakeBin) {
    let fake = fake_bin_dir(kind, cluster.bin_dir());
    let home = Pgkeep::with_daemon(daemon)
        .server_with("bad", cluster, &bin_dir(fake.path()))
        .server("good", cluster)
        .local(DISK)
        .dump("nightly", "bad", &[APP], &[DISK], &format!("{ONCE}\n{lines}"))
        .dump("other", "good", &[HOSTILE], &[DISK], ONCE);
    (home, fake)
}

/// The job is stopped for that reason; the other one works meanwhile.
fn is_stopped(kind: Fake, lines: &str, class: Class, option: &str) {
    let cluster = Cluster::start();
    let (home, fake) = home(&cluster, kind, "grace = \"1s\"", lines);
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    run_job(&home, "other", 0);
    let ran = running.end(1);
    assert_eq!(ran.verdict, Verdict::Failed);
    let failure = ran.failed(APP, DISK, class);
    assert!(failure.hint.as_ref().unwrap().contains(option), "{failure:?}");
    assert!(failure.doing.contains(APP), "{failure:?}");
    assert_eq!(fake.starts(), 1);
    assert_gone(fake.pids()[0]);
    let metrics = daemon.metrics();
    assert_eq!(failures(&metrics, "nightly", class), Some(1.0));
    assert!(last_run_failed(&metrics, "nightly"));
    assert!(!last_run_failed(&metrics, "other"));
    assert_no_backend(&cluster);
    let survivor = format!("{HOSTILE} -> {DISK}");
    assert_listed(&home, &cluster, &disk(&home), &[&survivor]);
    stop_after_failures(&mut daemon);
}

/// Nothing of ours is left on the server.
fn assert_no_backend(cluster: &Cluster) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'";
    eventually("a server without a backend of the dump", PATIENCE, || {
        (cluster.psql("postgres", sql) == "0").then_some(())
    });
}

#[test]
fn dump_that_stalls_is_stopped() {
    is_stopped(Fake::Gated, "stall_timeout = \"2s\"", Class::Stalled, "stall_timeout");
}

#[test]
fn dump_that_takes_too_long_is_stopped_even_if_it_is_deaf() {
    is_stopped(Fake::Deaf, "time_limit = \"2s\"", Class::TimeLimit, "time_limit");
}

#[test]
fn dump_that_reads_a_large_catalogue_is_not_stalled() {
    let cluster = Cluster::start();
    let (home, fake) = home(&cluster, Fake::Late, "", "stall_timeout = \"1s\"");
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    let since = whole_status(&home).running[0].since;
    let sql = format!("SELECT clock_timestamp() > timestamptz '{since}' + interval '3 s'");
    eventually("three times the stall limit", PATIENCE, || {
        let job = status(&home, "nightly");
        assert_eq!(job.state, "running", "{job:#?}");
        (cluster.psql("postgres", &sql) == "t").then_some(())
    });
    fake.release();
    running.end(0).assert_succeeded(APP, DISK);
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn dump_that_is_cancelled_leaves_nothing_even_if_it_is_deaf() {
    let cluster = Cluster::start();
    let (home, fake) = home(&cluster, Fake::Deaf, "grace = \"1s\"", "");
    // Without a daemon: the signal goes to the run.
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    running.interrupt();
    let ran = running.end(130);
    assert_eq!(ran.verdict, Verdict::Cancelled);
    assert_eq!(ran.target(APP, DISK).outcome, Outcome::Cancelled);
    assert_gone(fake.pids()[0]);
    assert_no_backend(&cluster);
    assert_listed(&home, &cluster, &disk(&home), &[]);

    let mut daemon = home.ready_daemon();
    assert_eq!(status(&home, "nightly").last.unwrap().verdict, Verdict::Cancelled);
    let completion = "pgkeep_job_last_completion_timestamp_seconds";
    let value = daemon.metrics().value(completion, &[("job_name", "nightly")]);
    assert_eq!(value, Some(0.0), "a run that was cancelled did not complete");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
