//! Dumps from a standby: skipped where they do not belong, refused where it is behind, tried again where
//! replay cancels them.

use pgkeep::domain::{failure::Class, report::Verdict};

use super::{
    DISK, ONCE, Running, assert_listed, bin_dir, disk, failures, run_job, status,
    stop_after_failures, whole_status,
};
use crate::harness::{
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::Cluster,
    wait::{PATIENCE, eventually},
};

/// A primary with one database, and its standby.
fn pair(settings: &[(&str, &str)]) -> (Cluster, Cluster) {
    let primary = Cluster::builder().empty().start();
    primary.psql("postgres", "CREATE DATABASE plain");
    primary.psql(
        "plain",
        "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) AS text \
         FROM generate_series(1, 20000) AS i",
    );
    let standby = primary.standby(settings);
    (primary, standby)
}

/// The standby has replayed what the primary has written.
fn wait_replayed(primary: &Cluster, standby: &Cluster) {
    // Commits are not waited for here: what is inserted is written a moment later.
    let inserted = primary.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{inserted}'");
    eventually("replay", PATIENCE, || (standby.psql("postgres", &sql) == "t").then_some(()));
}

#[test]
fn dump_runs_only_where_it_belongs() {
    let (primary, standby) = pair(&[]);
    let only = |on: &str| format!("only_on = \"{on}\"\n{ONCE}");
    let home = Pgkeep::new()
        .server("main", &standby)
        .local(DISK)
        .dump("primary", "main", &["plain"], &[DISK], &only("primary"))
        .dump("standby", "main", &["plain"], &[DISK], &only("standby"))
        .dump("safe", "main", &["plain"], &[DISK], &format!("deferrable = true\n{ONCE}"));
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "primary", 6);
    assert_eq!(ran.verdict, Verdict::Skipped);
    let reason = ran.report.skipped.as_ref().unwrap();
    assert!(reason.contains("is a standby") && reason.contains("only_on"), "{reason}");
    assert!(ran.report.targets.is_empty() && ran.report.failure.is_none(), "{ran:#?}");
    let metrics = daemon.metrics();
    let job = ("job_name", "primary");
    let runs = |outcome| metrics.value("pgkeep_job_runs_total", &[job, ("outcome", outcome)]);
    assert_eq!(
        (runs("skipped"), runs("succeeded"), runs("failed")),
        (Some(1.0), Some(0.0), Some(0.0))
    );
    // It neither succeeded nor completed: in time it is stale.
    for name in ["success", "completion"] {
        let name = format!("pgkeep_job_last_{name}_timestamp_seconds");
        assert_eq!(metrics.value(&name, &[job]), Some(0.0), "{name}");
    }
    assert!(metrics.value("pgkeep_job_max_age_seconds", &[job]).unwrap() > 0.0);
    assert_eq!(status(&home, "primary").last.unwrap().verdict, Verdict::Skipped);
    assert!(home.run(&["status"]).text().contains("primary skipped: the server is a standby"));

    let failure = run_job(&home, "safe", 1);
    assert!(failure.failed_at_once(Class::Configuration).what.contains("standby"));
    run_job(&home, "standby", 0).assert_succeeded("plain", DISK);
    let copies = assert_listed(&home, &primary, &disk(&home), &["plain -> disk"]);
    assert!(copies[0].manifest.snapshot.standby);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_that_replay_cancels_is_told_and_tried_again() {
    let (primary, standby) =
        pair(&[("max_standby_streaming_delay", "0"), ("hot_standby_feedback", "off")]);
    let fake = fake_bin_dir(Fake::Midway, standby.bin_dir());
    let lines = "attempts = 3\nretry_backoff = \"1s\"\nglobals = false\nworkers = 1";
    let home = Pgkeep::new().server_with("main", &standby, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &["plain"],
        &[DISK],
        lines,
    );
    let mut daemon = home.ready_daemon();
    let running = Running::start(&home, "nightly");
    fake.wait_stopped();
    primary.psql("plain", "DELETE FROM big WHERE i > 10");
    // The idle session that holds the snapshot goes at once.
    let exporters = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'plain' \
                     AND application_name = 'pgkeep'";
    eventually("a conflict with recovery", PATIENCE, || {
        // Nothing is removed while anybody on the primary may see it: autovacuum, too, is somebody.
        primary.psql("plain", "VACUUM big");
        (standby.psql("postgres", exporters) == "0").then_some(())
    });
    fake.release();
    let line = daemon.wait_log("failed: ");
    assert!(line.contains("class=standby") && line.contains("conflict with recovery"), "{line}");
    assert!(line.contains("max_standby_streaming_delay"), "{line}");
    wait_replayed(&primary, &standby);
    let ran = running.end(0);
    ran.assert_succeeded("plain", DISK);
    assert!(status(&home, "nightly").last.unwrap().attempts >= 2);
    assert_listed(&home, &primary, &disk(&home), &["plain -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_is_refused_where_the_standby_is_behind_and_not_where_the_primary_is_idle() {
    let (primary, standby) = pair(&[]);
    let home = Pgkeep::new().server("main", &standby).local(DISK).dump(
        "nightly",
        "main",
        &["plain"],
        &[DISK],
        &format!("max_replay_lag = \"1s\"\n{ONCE}"),
    );
    let mut daemon = home.ready_daemon();
    wait_replayed(&primary, &standby);
    // Nothing was committed for longer than the limit, and nothing is missing.
    let idle = "SELECT pg_last_xact_replay_timestamp() < clock_timestamp() - interval '2 s'";
    primary.psql("plain", "CREATE TABLE more ()");
    wait_replayed(&primary, &standby);
    eventually("an idle primary", PATIENCE, || {
        (standby.psql("postgres", idle) == "t").then_some(())
    });
    run_job(&home, "nightly", 0);

    standby.psql("postgres", "SELECT pg_wal_replay_pause()");
    primary.psql("plain", "CREATE TABLE even_more ()");
    let behind = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    eventually("WAL that is not replayed", PATIENCE, || {
        (standby.psql("postgres", behind) == "t").then_some(())
    });
    let ran = run_job(&home, "nightly", 1);
    let failure = ran.failed_at_once(Class::Standby);
    assert!(failure.what.contains("behind, more than 1s"), "{failure:?}");
    assert!(failure.hint.is_some());
    assert_eq!(failures(&daemon.metrics(), "nightly", Class::Standby), Some(1.0));
    assert!(whole_status(&home).running.is_empty());

    standby.psql("postgres", "SELECT pg_wal_replay_resume()");
    wait_replayed(&primary, &standby);
    run_job(&home, "nightly", 0);
    stop_after_failures(&mut daemon);
}

/// What a standby never has is known to be left out: it is no loss.
#[test]
fn unlogged_tables_are_not_missed_in_a_dump_from_a_standby() {
    let (primary, standby) = pair(&[]);
    primary.psql(
        "plain",
        "CREATE UNLOGGED TABLE cache AS SELECT i, repeat('x', 100) AS x FROM generate_series(1, 90000) i; \
         CREATE UNLOGGED TABLE session AS SELECT 1 AS one",
    );
    wait_replayed(&primary, &standby);
    let home = Pgkeep::new().server("main", &primary).local(DISK).dump(
        "nightly",
        "main",
        &["plain"],
        &[DISK],
        ONCE,
    );
    run_job(&home, "nightly", 0);
    let (from, to) =
        (primary.socket_dir().display().to_string(), standby.socket_dir().display().to_string());
    let at = |cluster: &Cluster| format!("port = {}", cluster.port());
    let text = home.config().replace(&from, &to).replace(&at(&primary), &at(&standby));
    home.rewrite(&text);
    let ran = run_job(&home, "nightly", 0);
    let odd: Vec<_> =
        ran.report.findings.iter().filter(|it| it.check == "suspicious-backup").collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let copies = super::listed(&home, &disk(&home));
    let copy =
        copies.iter().find(|copy| copy.manifest.snapshot.standby).expect("one of the standby");
    assert_eq!(copy.manifest.left_out[0].what, "rows of 2 unlogged tables");
}
