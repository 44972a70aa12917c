//! Good days: what is asked for is rebuilt and stays what it was.

use pgkeep::domain::report::{Outcome, Verdict};

use super::{
    DB, ODD, Pgkeep, Ran, SCHEMA, broken, home, indexes, job, make_invalid, records, run, shop,
};

#[test]
fn reindex_rebuilds_what_is_named_and_what_is_invalid() {
    let cluster = shop();
    make_invalid(&cluster, "items_unique");
    cluster.psql(
        DB,
        "CREATE TABLE log (at int, what text) PARTITION BY RANGE (at);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (10);
         CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (10) TO (20);
         CREATE INDEX log_at ON log (at);
         INSERT INTO log SELECT i, 'x' FROM generate_series(1, 19) AS i;
         DELETE FROM orders WHERE id % 10 <> 0",
    );
    let describe = "SELECT pg_get_indexdef(indexrelid), indisprimary, indisreplident, indisunique
        FROM pg_index WHERE indrelid >= 16384 ORDER BY 1";
    let (before, described) = (indexes(&cluster, DB), cluster.psql(DB, describe));
    let lines = "indexes = [\"public.orders_*\", \"public.log_at\"]\ninvalid = true";
    let home = home(&cluster, lines).toml(&job("rest", "invalid = true"));
    let mut daemon = home.ready_daemon();
    let ran = run(&home, "rx", 0);
    assert_eq!(ran.verdict, Verdict::Succeeded);
    let expected = [
        "items_unique",
        "log_1_at_idx",
        "log_2_at_idx",
        "orders_note",
        "orders_pkey",
        "orders_who",
    ];
    assert_eq!(ran.targets(), expected.map(|name| format!("succeeded public.{name}")));
    assert_eq!(ran.findings(), [""; 0]);
    let after = indexes(&cluster, DB);
    assert_eq!(cluster.psql(DB, describe), described, "definitions and roles stay");
    for (name, (oid, whole)) in &after {
        assert!(*whole, "{name}");
        assert_eq!(before[name].0 != *oid, expected.contains(&name.as_str()), "{name}");
    }
    let figures = &ran.assert_done("public.orders_pkey").figures.counts;
    assert!(figures["bytes_before"] > figures["bytes_after"], "{figures:?}");
    assert!(figures.contains_key("milliseconds"));
    let metrics = daemon.metrics();
    let of = [("job_name", "rx"), ("server", "main"), ("datname", DB)];
    assert_eq!(metrics.value("pgkeep_indexes_invalid", &of), Some(0.0));
    let reclaimed = metrics.value("pgkeep_reindex_reclaimed_bytes_total", &of).unwrap();
    assert!(reclaimed >= (figures["bytes_before"] - figures["bytes_after"]) as f64);

    // Nothing to do is a success.
    let ran = run(&home, "rest", 0);
    assert_eq!((ran.verdict, ran.report.targets.len()), (Verdict::Succeeded, 0));
    assert_eq!(records(&home), 0);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn reindex_reaches_hostile_names_in_every_database() {
    let cluster = shop();
    let odd = ODD.replace('"', "\"\"");
    cluster.psql("postgres", &format!("CREATE DATABASE \"{odd}\""));
    cluster.psql(ODD, SCHEMA);
    let long = format!("{} \"; DROP TABLE orders --", "🐘".repeat(9));
    let quoted = long.replace('"', "\"\"");
    cluster.psql(
        ODD,
        &format!(
            "CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".t (i int);
             CREATE INDEX \"{quoted}\" ON \"a.b\".t (i)"
        ),
    );
    let lines = "databases = [\"*\"]\nindexes = ['a.b.*', 'public.items_id']";
    let ran = run(&home(&cluster, lines), "rx", 0);
    assert_eq!(ran.target_in(ODD, &format!("a.b.{long}")).outcome, Outcome::Succeeded);
    assert_eq!(ran.target_in(ODD, "public.items_id").outcome, Outcome::Succeeded);
    ran.assert_done("public.items_id");
    assert_eq!(ran.report.targets.len(), 3);
    assert_eq!(cluster.psql(ODD, "SELECT count(*) FROM orders"), "2000");
}

#[test]
fn reindex_without_concurrently_rebuilds_what_concurrently_cannot() {
    let cluster = shop();
    cluster.psql(
        DB,
        "CREATE TABLE rooms (room int, EXCLUDE USING btree (room WITH =));
         INSERT INTO rooms SELECT generate_series(1, 100)",
    );
    let node = |index: &str| {
        cluster.psql(DB, &format!("SELECT pg_relation_filenode('{index}'::regclass)"))
    };
    let before = [node("rooms_room_excl"), node("pg_catalog.pg_class_oid_index")];
    let lines = "concurrently = false\n\
         indexes = [\"public.rooms_room_excl\", \"pg_catalog.pg_class_oid_index\"]";
    let ran = run(&home(&cluster, lines), "rx", 0);
    ran.assert_done("public.rooms_room_excl");
    ran.assert_done("pg_catalog.pg_class_oid_index");
    let after = [node("rooms_room_excl"), node("pg_catalog.pg_class_oid_index")];
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
}

#[test]
fn reindex_that_rehearses_changes_nothing() {
    let cluster = shop();
    make_invalid(&cluster, "items_unique");
    let before = indexes(&cluster, DB);
    let home: Pgkeep =
        home(&cluster, "indexes = [\"public.orders_pkey\", \"public.gone\"]\ninvalid = true");
    let ran = Ran::of(home.run(&["run", "rx", "--dry-run", "--json"]), 0);
    let plan: Vec<String> = ran
        .report
        .plan
        .iter()
        .map(|step| format!("{} {}", step.action, step.target.object.as_deref().unwrap()))
        .collect();
    assert_eq!(
        plan,
        ["rebuild public.items_unique", "rebuild public.orders_pkey", "refuse public.gone"]
    );
    assert!(ran.report.plan[0].reason.contains("invalid"), "{:?}", ran.report.plan);
    assert_eq!(indexes(&cluster, DB), before);
    assert_eq!(broken(&cluster), ["items_unique"]);
    assert_eq!(records(&home), 0);
}
