//! What the server says of archiving, and what it cannot say.

use pgkeep::{
    domain::{failure::Class, finding::Severity, report::Outcome},
    wal::space,
};

use super::{
    Ran, archive_of, archiving, check, copying, fill, job, set_command, switch, wait_archived,
};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::Cluster,
    versions::MAJORS,
    wait::{PATIENCE, eventually},
};

#[test]
fn archiving_that_is_off_and_a_command_that_is_not_set() {
    let cluster = Cluster::builder().empty().start();
    let home = job(Pgkeep::new().server("main", &cluster), "");
    check(&home).one("wal-archiving-off", Severity::Critical);
    let streamed = job(Pgkeep::new().server("main", &cluster), "expect_archiving = false");
    check(&streamed).assert_quiet();
    drop(cluster);
    let cluster = Cluster::builder().empty().setting("archive_mode", "on").start();
    let home = job(Pgkeep::new().server("main", &cluster), "");
    let ran = check(&home);
    ran.one("wal-archive-command-unset", Severity::Critical);
    assert!(ran.found("wal-never-archived").is_empty(), "one trouble is said once");
    set_command(&cluster, &copying(&archive_of(&cluster)));
    check(&home).one("wal-never-archived", Severity::Info);
    fill(&cluster, 1);
    check(&home).assert_quiet();
}

#[test]
fn archiving_that_fails_and_is_repaired() {
    let (cluster, archive) = archiving();
    set_command(&cluster, "false");
    let waiting = switch(&cluster);
    eventually("a failed attempt", PATIENCE, || {
        let sql = "SELECT failed_count FROM pg_stat_archiver";
        (cluster.psql("postgres", sql) != "0").then_some(())
    });
    let home = job(Pgkeep::new().server("main", &cluster), "end_to_end = true");
    let young = check(&home);
    young.one("wal-archiving-failing", Severity::Warning);
    assert!(young.found("wal-archiving-stalled").is_empty());
    assert_eq!(young.sample("wal_ready_files", &["segment"]), Some(1.0));
    let oldest = young.sample("wal_oldest_ready_timestamp_seconds", &[]).unwrap();
    assert!(oldest > 0.0);
    let failed = young.sample("wal_archiver_last_failed_timestamp_seconds", &[]).unwrap();
    assert!(failed >= oldest, "{failed} {oldest}");
    let probe = &young.target("end-to-end").outcome;
    assert!(matches!(probe, Outcome::Skipped(_)), "nothing is put into a queue that is stuck");

    let strict = job(Pgkeep::new().server("main", &cluster), "max_ready_age = \"1s\"");
    let stalled = eventually("an old file", PATIENCE, || {
        let ran = check(&strict);
        (!ran.found("wal-archiving-stalled").is_empty()).then_some(ran)
    });
    let found = stalled.one("wal-archiving-stalled", Severity::Critical);
    assert!(found.what.contains(&waiting), "{found:#?}");
    stalled.one("wal-archiving-failing", Severity::Critical);

    set_command(&cluster, &copying(&archive));
    wait_archived(&cluster, &waiting);
    check(&strict).assert_quiet();
}

#[test]
fn what_holds_pg_wal_back_is_named() {
    let cluster = Cluster::builder()
        .empty()
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .start();
    cluster.psql("postgres", "SELECT pg_create_physical_replication_slot('idle', true)");
    for _ in 0..12 {
        switch(&cluster);
    }
    cluster.psql("postgres", "CHECKPOINT");
    let home = job(Pgkeep::new().server("main", &cluster), "expect_archiving = false");
    let ran = check(&home);
    // Critical where the machine's disk is nearly full.
    let space = space::of(&cluster.data_dir()).unwrap();
    let filling = space.free < space.total / 10;
    let severity = if filling { Severity::Critical } else { Severity::Warning };
    let found = ran.one("wal-retained", severity);
    assert!(found.what.contains("replication slot idle"), "{found:#?}");
    assert!(found.hint.as_ref().unwrap().contains("pg_drop_replication_slot"), "{found:#?}");
    let kept = ran.sample("wal_replication_slot_retained_bytes", &["idle"]).unwrap();
    assert!(kept > 10.0 * 1024.0 * 1024.0, "{kept}");
    drop(home);

    cluster.psql("postgres", "SELECT pg_drop_replication_slot('idle')");
}

#[test]
fn a_backlog_is_measured_against_its_limit() {
    let (cluster, _) = archiving();
    set_command(&cluster, "false");
    for _ in 0..4 {
        switch(&cluster);
    }
    let home = job(Pgkeep::new().server("main", &cluster), "max_wal_backlog = \"2MiB\"");
    let ran = check(&home);
    let found = &ran.found("wal-backlog")[0];
    assert!(found.what.contains("4 MiB") && found.what.contains("free"), "{found:#?}");
    let roomy = job(Pgkeep::new().server("main", &cluster), "max_wal_backlog = \"1GiB\"");
    assert!(check(&roomy).found("wal-backlog").is_empty());
}

#[test]
fn a_role_that_may_not_look_is_told_what_it_lacks() {
    let (cluster, _) = archiving();
    fill(&cluster, 1);
    cluster.psql("postgres", "CREATE ROLE watcher LOGIN");
    let host = cluster.socket_dir().display();
    let section =
        format!("[server.main]\nhost = \"{host}\"\nport = {}\nuser = \"watcher\"", cluster.port());
    let home = job(Pgkeep::new().toml(&section), "end_to_end = true");
    let ran = check(&home);
    let unmeasured = ran.found("wal-unmeasured");
    assert_eq!(unmeasured.len(), 3, "{unmeasured:#?}");
    for finding in unmeasured {
        assert_eq!(finding.severity, Severity::Warning);
        assert!(
            finding.hint.as_ref().unwrap().contains("GRANT pg_monitor TO watcher"),
            "{finding:#?}"
        );
    }
    let probe = ran.one("wal-end-to-end", Severity::Warning);
    assert!(probe.hint.as_ref().unwrap().contains("pg_switch_wal"), "{probe:#?}");
    for metric in ["wal_oldest_ready_timestamp_seconds", "wal_directory_bytes"] {
        assert_eq!(ran.sample(metric, &[]), None, "{metric} was not measured");
    }
    cluster.psql("postgres", "GRANT pg_monitor TO watcher");
    cluster.psql("postgres", "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO watcher");
    check(&home).assert_quiet();
}

#[test]
fn a_server_that_is_gone_is_a_failure_and_no_finding() {
    let (mut cluster, archive) = archiving();
    fill(&cluster, 1);
    let home = super::job_with(Pgkeep::new().server("main", &cluster), &archive, "");
    let mut daemon = home.ready_daemon();
    let missing = |daemon: &crate::harness::pgkeep::Daemon| {
        let labels = [("job_name", "wal"), ("server", "main"), ("window", "recent")];
        daemon.metrics().value("pgkeep_wal_archive_missing_segments", &labels)
    };
    check(&home).assert_quiet();
    assert_eq!(missing(&daemon), Some(0.0));
    cluster.stop();
    let ran = Ran::of(home.run(&["run", "wal", "--json"]), 1);
    ran.failed(Class::Connection);
    assert!(ran.report.findings.is_empty());
    let metrics = daemon.metrics();
    let labels = [("job_name", "wal"), ("server", "main")];
    let oldest = metrics.value("pgkeep_wal_oldest_ready_timestamp_seconds", &labels);
    assert_eq!(oldest, None, "what was not measured has no sample");
    assert_eq!(missing(&daemon), Some(0.0), "what the last listing found still holds");
    cluster.start_again();
    check(&home).assert_quiet();
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", " ended "]);
}

/// `idle_replication_slot_timeout` came with PostgreSQL 18: the slot keeps showing its restart_lsn.
#[test]
fn a_slot_that_was_given_up_for_idleness_is_told_as_such() {
    for major in MAJORS.into_iter().filter(|major| *major >= 18) {
        let Some(builder) = Cluster::of(major) else { continue };
        let cluster = builder
            .setting("idle_replication_slot_timeout", "1s")
            .setting("max_wal_size", "2MB")
            .setting("min_wal_size", "2MB")
            .start();
        cluster.psql("postgres", "SELECT pg_create_physical_replication_slot('idle', true)");
        eventually("a slot that was given up", PATIENCE, || {
            cluster.psql("postgres", "CHECKPOINT");
            let reason = "SELECT invalidation_reason FROM pg_replication_slots";
            (cluster.psql("postgres", reason) == "idle_timeout").then_some(())
        });
        let home = job(Pgkeep::new().server("main", &cluster), "expect_archiving = false");
        let ran = check(&home);
        let lost = ran.one("wal-slot-lost", Severity::Warning);
        assert!(lost.what.contains("idle_replication_slot_timeout"), "{lost:#?}");
        assert!(!lost.hint.as_ref().unwrap().contains("max_slot_wal_keep_size"), "{lost:#?}");
        assert_eq!(ran.sample("wal_replication_slot_retained_bytes", &["idle"]), None);
    }
}
