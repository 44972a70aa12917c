//! A standby that becomes a primary, and archives on a new timeline.

use std::fs;

use pgkeep::domain::finding::Severity;

use super::{archiving, base_backup, check, copying, fill, job, job_with};
use crate::harness::{
    pgkeep::Pgkeep,
    postgres::Cluster,
    wait::{PATIENCE, eventually},
};

/// A standby of a cluster, which streams from it.
fn standby_of(primary: &Cluster) -> Cluster {
    let mut standby = Cluster::builder().empty().setting("archive_mode", "on").start();
    standby.stop();
    fs::remove_dir_all(standby.data_dir()).unwrap();
    base_backup(primary, &standby.data_dir(), &["--write-recovery-conf"]);
    standby.start_again();
    standby
}

#[test]
fn a_promotion_leaves_an_archive_whole() {
    let (mut primary, archive) = archiving();
    let standby = standby_of(&primary);
    let first = fill(&primary, 3);
    let caught_up = primary.psql("postgres", "SELECT pg_current_wal_lsn()");
    eventually("a standby that has it all", PATIENCE, || {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{caught_up}'");
        (standby.psql("postgres", &sql) == "t").then_some(())
    });

    // A standby archives nothing, and that is as it should be.
    let home = job_with(Pgkeep::new().server("main", &standby), &archive, "");
    let ran = check(&home);
    ran.assert_quiet();
    assert_eq!(ran.sample("wal_oldest_ready_timestamp_seconds", &[]), None);

    primary.stop_immediate();
    standby.psql("postgres", "SELECT pg_promote()");
    assert_eq!(standby.psql("postgres", "SHOW archive_command"), copying(&archive));
    let second = fill(&standby, 3);
    assert!(second.iter().all(|name| name.starts_with("00000002")), "{second:?}");
    assert!(archive.join("00000002.history").exists());
    let ran = check(&home);
    ran.assert_quiet();
    assert_eq!(ran.missing("recent"), Some(0.0));

    for lost in [&first[1], &second[1]] {
        fs::remove_file(archive.join(lost)).unwrap();
    }
    let ran = check(&home);
    assert_eq!(ran.missing("recent"), Some(2.0), "{:#?}", ran.report.findings);
    let gap = ran.one("wal-archive-gap", Severity::Critical);
    assert!(gap.what.contains(&first[1]) && gap.what.contains(&second[1]), "{gap:#?}");
    fs::remove_file(archive.join("00000002.history")).unwrap();
    check(&home).one("wal-archive-history", Severity::Critical);

    // The old primary comes back as if nothing had happened: to it, timeline 2 is a stranger's.
    primary.start_again();
    fs::write(archive.join("00000002.history"), "1\t0/3000000\tx\n").unwrap();
    let old = job_with(Pgkeep::new().server("main", &primary), &archive, "");
    check(&old).one("wal-archive-timeline", Severity::Warning);
    let plain = job(Pgkeep::new().server("main", &primary), "");
    assert!(check(&plain).found("wal-archive-timeline").is_empty());
}
