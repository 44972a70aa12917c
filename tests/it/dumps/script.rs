//! Dumps in SQL: as good as archives, but for the index.

use pgkeep::domain::failure::Class;

use super::{Copy, DISK, ONCE, bin_dir, disk, listed, run_job, shell, stop_after_failures};
use crate::harness::{
    compare::assert_same,
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE},
    process::run,
    wait::{PATIENCE, eventually},
};

const PLAIN: &str = "format = \"plain\"";

/// Restores by the lines of the manifest, and compares.
#[track_caller]
fn assert_restores(cluster: &Cluster, copy: &Copy) {
    let script = copy.manifest.restore.join("\n");
    assert!(script.contains("psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1"), "{script}");
    run(shell(cluster, &script).current_dir(&copy.folder), "").expect_code(0);
    assert_same(cluster, &copy.subject(), "restored");
    cluster.psql("postgres", "DROP DATABASE restored");
}

#[test]
fn dump_in_sql_restores_with_psql_and_counts_as_a_backup() {
    let cluster = Cluster::start();
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .local("second")
        .dump("archive", "main", &[APP], &[DISK], ONCE)
        .dump("script", "main", &[APP, HOSTILE], &[DISK], &format!("{ONCE}\n{PLAIN}"))
        .toml(&format!("[job.bring]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"second\"]"));
    let mut daemon = home.ready_daemon();
    run_job(&home, "script", 0);
    let labels = [("server", "main"), ("datname", APP), ("repository", DISK)];
    eventually("a probe", PATIENCE, || {
        let stored = daemon.metrics().value("pgkeep_backup_stored", &labels);
        (stored == Some(1.0)).then_some(())
    });
    assert!(
        !super::whole_status(&home).unprotected.values().flatten().any(|it| it.as_str() == APP)
    );
    run_job(&home, "archive", 0);
    home.run(&["run", "bring", "--json"]).expect_code(0);
    daemon.stop();
    daemon.assert_log_clean(&[]);

    let roots = [(DISK, home.repository_dir(DISK)), ("second", home.repository_dir("second"))];
    let copies = listed(&home, &roots);
    assert_eq!(copies.len(), 6);
    let archive = copies.iter().find(|copy| copy.manifest.index.is_some()).unwrap();
    for copy in copies.iter().filter(|copy| copy.manifest.is_script()) {
        let manifest = &copy.manifest;
        assert_eq!((manifest.format_version, manifest.series.contents.as_str()), (3, "all"));
        assert!(manifest.index.is_none() && manifest.objects[0].name.ends_with(".sql.zst"));
        if copy.subject() == APP {
            assert_eq!(manifest.objects[0].name, "app.sql.zst");
            let (here, there) = (&manifest.totals, &archive.manifest.totals);
            assert_eq!(
                (here.tables, here.rows, here.large_objects),
                (there.tables, there.rows, there.large_objects)
            );
        }
        assert_restores(&cluster, copy);
    }
}

#[test]
fn dump_in_sql_with_inserts_restores_too() {
    let cluster = Cluster::start();
    let lines = format!(
        "{ONCE}\n{PLAIN}\nextra_options = [\"--rows-per-insert=50\", \"--quote-all-identifiers\"]"
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("script", "main", &[HOSTILE], &[DISK], &lines);
    run_job(&home, "script", 0);
    let copies = listed(&home, &disk(&home));
    let totals = &copies[0].manifest.totals;
    assert!(totals.rows == 0 && totals.tables > 3, "{totals:?}");
    assert_restores(&cluster, &copies[0]);
}

#[test]
fn dump_in_sql_by_a_pg_dump_that_lies_is_no_backup() {
    let cluster = Cluster::start();
    let mut home = Pgkeep::new().local(DISK);
    let fakes = [
        (Fake::Silent, Class::ArchiveInvalid, "empty"),
        (Fake::Truncated, Class::ArchiveInvalid, "ends early"),
        (Fake::FailsAfterAll, Class::ToolFailed, "it was all for nothing"),
        (Fake::Killed, Class::ToolKilled, "signal 9"),
    ];
    let mut bins = Vec::new();
    for (at, (kind, ..)) in fakes.iter().enumerate() {
        let fake = fake_bin_dir(*kind, cluster.bin_dir());
        let name = format!("bad{at}");
        home = home.server_with(&name, &cluster, &bin_dir(fake.path()));
        home = home.dump(&name, &name, &[APP], &[DISK], &format!("{ONCE}\n{PLAIN}"));
        bins.push(fake);
    }
    let mut daemon = home.ready_daemon();
    for (at, (_, class, said)) in fakes.iter().enumerate() {
        let ran = run_job(&home, &format!("bad{at}"), 1);
        let failure = ran.failed(APP, DISK, *class);
        assert!(failure.what.contains(said), "{failure:?}");
    }
    assert!(listed(&home, &disk(&home)).is_empty());
    stop_after_failures(&mut daemon);
}
