//! Bad days of pg_dump: missing, old, killed, lying, loud.

use pgkeep::domain::{failure::Class, finding::Severity};

use super::{
    DISK, ONCE, assert_listed, bin_dir, disk, failures, last_run_failed, run_job,
    stop_after_failures,
};
use crate::harness::{
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
};

/// How pg_dump misbehaves, with the class and a part of what is said of it.
const FAKES: &[(Fake, Class, &str)] = &[
    (Fake::Missing, Class::ToolMissing, "it is not there"),
    (Fake::TooOld, Class::ToolVersion, "pg_dump 9 "),
    (Fake::Killed, Class::ToolKilled, "signal 9"),
    (Fake::Silent, Class::ArchiveInvalid, "empty"),
    (Fake::Truncated, Class::ArchiveInvalid, "ends"),
    (Fake::FailsAfterAll, Class::ToolFailed, "it was all for nothing"),
    (Fake::FailsAtOnce, Class::Connection, "no luck"),
];

#[test]
fn dump_by_a_pg_dump_that_fails_or_lies_is_no_backup() {
    let cluster = Cluster::start();
    let mut home = Pgkeep::new().local(DISK).server("main", &cluster);
    let mut bins = Vec::new();
    for (number, (kind, ..)) in FAKES.iter().enumerate() {
        let fake = fake_bin_dir(*kind, cluster.bin_dir());
        let name = format!("bad{number}");
        home = home.server_with(&name, &cluster, &bin_dir(fake.path()));
        home = home.dump(&name, &name, &[APP], &[DISK], ONCE);
        bins.push(fake);
    }
    let home = home.dump("good", "main", &[APP], &[DISK], ONCE);
    let mut daemon = home.ready_daemon();
    for (number, (kind, class, said)) in FAKES.iter().enumerate() {
        let name = format!("bad{number}");
        let ran = run_job(&home, &name, 1);
        // Without a program no target is tried.
        let failure = match class {
            Class::ToolMissing | Class::ToolVersion => ran.failed_at_once(*class),
            _ => ran.failed(APP, DISK, *class),
        };
        assert!(failure.what.contains(said), "{kind:?}: {failure:?}");
        let needs_hint = *class != Class::ToolFailed;
        assert!(!needs_hint || failure.hint.is_some(), "{kind:?}: {failure:?}");
        let metrics = daemon.metrics();
        assert_eq!(failures(&metrics, &name, *class), Some(1.0), "{kind:?}");
        assert!(last_run_failed(&metrics, &name), "{kind:?}");
        let labels = [("server", &*name), ("datname", APP)];
        let success = "pgkeep_backup_last_success_timestamp_seconds";
        assert!(metrics.find(success, &labels).is_empty(), "{kind:?}");
    }
    assert_listed(&home, &cluster, &disk(&home), &[]);
    run_job(&home, "good", 0);
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn dump_by_a_pg_dump_that_floods_its_error_output_is_a_backup_with_a_finding() {
    let cluster = Cluster::start();
    let fake = fake_bin_dir(Fake::FloodsStderr, cluster.bin_dir());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK).dump(
        "nightly",
        "main",
        &[APP],
        &[DISK],
        ONCE,
    );
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 0);
    // What was not kept may have said anything.
    let [finding, doubt] = &*ran.report.findings else { panic!("{:#?}", ran.report) };
    assert_eq!((&*finding.check, finding.severity), ("tool-output", Severity::Warning));
    assert_eq!((&*doubt.check, doubt.severity), ("suspicious-backup", Severity::Warning));
    assert!(finding.what.len() < 2000, "{} bytes", finding.what.len());
    let labels = [("job_name", "nightly"), ("check", "tool-output"), ("severity", "warning")];
    assert_eq!(daemon.metrics().value("pgkeep_findings", &labels), Some(1.0));
    let status = home.run(&["status"]).expect_code(0).text();
    assert!(status.contains("nightly warning tool-output: "), "{status}");
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    daemon.stop();
    assert!(daemon.log().len() < 20_000);
    daemon.assert_log_clean(&["there is no end to this", "SUSPICIOUS"]);
}
