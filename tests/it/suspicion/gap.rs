//! Tables that change between the snapshot and pg_dump's locks.

use super::{
    DB, DISK,
    said::{bench, bench_on},
};
use crate::{
    harness::{liar::Fault, postgres::Cluster},
    rounds::world::Running,
};

#[test]
fn a_table_that_was_emptied_behind_the_snapshot_is_no_empty_table_in_a_backup() {
    let (bench, liar) = bench();
    bench.cluster.psql(DB, "CREATE TABLE loaded AS SELECT i FROM generate_series(1, 500) i");
    for (sql, table) in [
        ("BEGIN; TRUNCATE items; INSERT INTO items SELECT 1; COMMIT", "public.items"),
        ("ALTER TABLE loaded ALTER COLUMN i TYPE bigint", "public.loaded"),
    ] {
        liar.set(&Fault::Late);
        let running = Running::start(&bench.home, "nightly");
        liar.wait_stopped();
        bench.cluster.psql(DB, sql);
        liar.release();
        let ran = running.end();
        assert_eq!(ran.code, 1, "{ran:#?}");
        let report = ran.report.unwrap();
        let failure = &report["targets"][0]["outcome"]["detail"];
        assert_eq!(failure["class"], "lock", "{report:#}");
        assert!(failure["what"].as_str().unwrap().contains(table), "{failure}");
    }
    assert!(bench.ids(DISK).is_empty());
    bench.home.run(&["list", "--incomplete"]).expect_code(5);
    // Rows that come and go are the snapshot's business.
    liar.set(&Fault::Late);
    let running = Running::start(&bench.home, "nightly");
    liar.wait_stopped();
    bench.cluster.psql(DB, "DELETE FROM items; INSERT INTO loaded SELECT 7; VACUUM items");
    liar.release();
    assert_eq!(running.end().code, 0);
    assert_eq!(bench.ids(DISK).len(), 1);
}

/// `REPACK (CONCURRENTLY)` lets writers in and is not MVCC-safe: a snapshot from before sees no row of the
/// table.
#[test]
fn a_table_that_was_repacked_concurrently_is_no_empty_table_in_a_backup() {
    let Some(builder) = Cluster::of(19) else { return };
    let (bench, liar) =
        bench_on(builder.empty().setting("max_repack_replication_slots", "5").start());
    bench.cluster.psql(DB, "ALTER TABLE items ADD PRIMARY KEY (i)");
    liar.set(&Fault::Late);
    let running = Running::start(&bench.home, "nightly");
    liar.wait_stopped();
    bench.cluster.psql(DB, "REPACK (CONCURRENTLY) items");
    liar.release();
    let ran = running.end();
    assert_eq!(ran.code, 1, "{ran:#?}");
    let report = ran.report.unwrap();
    let failure = &report["targets"][0]["outcome"]["detail"];
    assert_eq!(failure["class"], "lock", "{report:#}");
    assert!(failure["what"].as_str().unwrap().contains("public.items"), "{failure}");
    assert!(failure["hint"].as_str().unwrap().contains("REPACK"), "{failure}");
    assert!(bench.ids(DISK).is_empty());
}
