//! What pg_dump says although it succeeds.

use serde_json::Value;

use super::{Bench, DB, DISK, NIGHTLY};
use crate::harness::{
    liar::{Fault, Liar},
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
};

/// A database, and a pg_dump that says what it is told to.
pub(super) fn bench() -> (Bench, Liar) {
    bench_on(Cluster::builder().empty().start())
}

/// The same on a cluster that is empty.
pub(super) fn bench_on(cluster: Cluster) -> (Bench, Liar) {
    cluster.psql("postgres", &format!("CREATE DATABASE {DB}"));
    cluster.psql(DB, "CREATE TABLE items AS SELECT i FROM generate_series(1, 500) i");
    let liar = Liar::new(cluster.bin_dir());
    let bin_dir = format!("bin_dir = {}", quote(liar.path().to_string_lossy()));
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir).local(DISK).dump(
        "nightly",
        "main",
        &[DB],
        &[DISK],
        NIGHTLY,
    );
    (Bench { cluster, home }, liar)
}

#[track_caller]
fn run(bench: &Bench, code: i32) -> Value {
    bench.home.run(&["run", "nightly", "--json"]).expect_code(code).json()["report"].clone()
}

#[test]
fn what_pg_dump_says_in_spite_of_success_is_told_apart() {
    let (bench, liar) = bench();
    // It left something out: no backup.
    let subscriptions =
        "pg_dump: warning: subscriptions not dumped because current user is not a superuser\n";
    let zeroed = "WARNING:  invalid page in block 0 of relation base/5/16384; zeroing out page\n";
    for (text, class) in [(subscriptions, "privilege"), (zeroed, "incomplete")] {
        liar.set(&Fault::Says(text.to_owned()));
        let report = run(&bench, 1);
        assert_eq!(report["targets"][0]["outcome"]["detail"]["class"], class, "{report:#}");
        bench.home.run(&["list", "--incomplete"]).expect_code(5);
    }
    // Nobody needs to know of this.
    liar.set(&Fault::Says(
        "pg_dump: warning: there are circular foreign-key constraints on this table:\n\
         pg_dump: detail: items\n"
            .to_owned(),
    ));
    let report = run(&bench, 0);
    assert!(report["findings"].is_null() && report["targets"][0]["output"].is_null(), "{report:#}");
    // What is not known is warned of, and kept.
    liar.set(&Fault::Says("pg_dump: warning: a word from tomorrow\nhello\n".to_owned()));
    let report = run(&bench, 0);
    let [finding] = &**report["findings"].as_array().unwrap() else { panic!("{report:#}") };
    assert_eq!(
        (&finding["check"], &finding["severity"]),
        (&"tool-output".into(), &"warning".into())
    );
    let output = &report["targets"][0]["output"];
    assert_eq!(*output, serde_json::json!(["warning: a word from tomorrow", "hello"]));
    // What casts doubt on what was read makes the backup suspicious.
    liar.set(&Fault::Says(
        "WARNING:  page verification failed, calculated checksum 1 but expected 2\n".to_owned(),
    ));
    let report = run(&bench, 0);
    let told: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["check"].clone(), it["severity"].clone()))
        .collect();
    let expected = [("tool-output", "critical"), ("suspicious-backup", "warning")];
    assert_eq!(told, expected.map(|(check, severity)| (check.into(), severity.into())));
    let doubted = |row: &Value| row["suspicious"] == true;
    assert_eq!(bench.rows(DISK).iter().filter(|row| doubted(row)).count(), 1);
}
