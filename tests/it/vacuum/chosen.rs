//! Which tables are chosen, in which order, and what is done to them.

use super::*;
use crate::harness::postgres::HOSTILE;

#[test]
fn vacuum_does_what_the_thresholds_say_the_most_needed_first() {
    let cluster = cluster("");
    let home = home(&cluster, "min_dead_tuples = 100\nmode = \"vacuum\"");
    let dry = Ran::of(home.run(&["run", "tidy", "--dry-run", "--json"]), 0);
    let all = ["vacuum w.big", "vacuum w.small", "leave w.clean"];
    assert_eq!(dry.plan(), all);
    assert!(dry.report.plan[0].reason.contains("2000 dead rows"), "{dry:#?}");
    assert!(dry.report.plan[2].reason.contains("0 of 10 rows dead"), "{dry:#?}");
    assert_eq!(dead(&cluster, "w.big"), "2000", "a dry run changes nothing");

    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, 0);
    assert_eq!(
        (ran.verdict, ran.plan()),
        (Verdict::Succeeded, all[..2].to_vec().iter().map(ToString::to_string).collect())
    );
    assert_eq!((ran.count("tables_vacuumed"), ran.count("tables")), (2, 3));
    assert_eq!(ran.report.targets.len(), 1, "tables that went well are no targets");
    let said = ran.database(APP).output.join("\n");
    assert!(said.find("w.big") < said.find("w.small") && said.contains("INFO"), "{said}");
    assert_eq!((dead(&cluster, "w.big"), dead(&cluster, "w.small")), ("0".into(), "0".into()));
    assert_eq!(vacuums(&cluster, "w.clean"), "0");

    let metrics = daemon.metrics();
    let labels =
        |state| [("job_name", "tidy"), ("server", "main"), ("datname", APP), ("state", state)];
    let value = |state| metrics.value("pgkeep_vacuum_last_tables", &labels(state));
    assert_eq!(
        (value("vacuumed"), value("skipped"), value("failed")),
        (Some(2.0), Some(0.0), Some(0.0))
    );
    let age = [("datname", "template0"), ("server", "main")];
    assert!(
        metrics.value("pgkeep_vacuum_oldest_xid_age", &age).unwrap() > 0.0,
        "it allows no connections"
    );
    assert_eq!(metrics.value("pgkeep_vacuum_held_back_xmin_age", &[("server", "main")]), Some(0.0));

    // Nothing is due any more: a success that says so.
    let ran = run_job(&home, 0);
    assert_eq!((ran.verdict, ran.count("tables_due")), (Verdict::Succeeded, 0));
    assert!(ran.database(APP).output[0].contains("no table is due: 3 were looked at"), "{ran:#?}");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn vacuum_leaves_a_partitioned_parent_to_its_partitions_and_analyzes_it() {
    let parent = "SET ROLE keeper; CREATE TABLE w.parent (i int) PARTITION BY RANGE (i);
        CREATE TABLE w.part PARTITION OF w.parent FOR VALUES FROM (0) TO (100);
        INSERT INTO w.parent SELECT i FROM generate_series(0, 99) i;";
    let cluster = cluster(parent);
    let job = |mode: &str| {
        let what = "databases = [\"app\"]\ntables = [\"w.par*\"]";
        home_for(&cluster, what, &format!("mode = \"{mode}\""))
    };
    let plain = job("vacuum");
    let dry = Ran::of(plain.run(&["run", "tidy", "--dry-run", "--json"]), 0);
    assert_eq!(dry.plan(), ["vacuum w.part", "leave w.parent"]);
    assert_eq!(run_job(&plain, 0).count("tables_vacuumed"), 1);
    assert_eq!(vacuums(&cluster, "w.part"), "1");

    let analyzed = "SELECT count(*) FROM pg_statistic WHERE starelid = 'w.parent'::regclass";
    assert_eq!(cluster.psql(APP, analyzed), "0");
    assert_eq!(run_job(&job("vacuum-analyze"), 0).count("tables_vacuumed"), 2);
    assert_eq!(cluster.psql(APP, analyzed), "1", "autovacuum never does that");
    assert_eq!(vacuums(&cluster, "w.part"), "2");
}

#[test]
fn vacuum_full_is_for_tables_that_are_named() {
    let cluster = cluster("");
    let refused = home(&cluster, "mode = \"full\"\nparallel = 2");
    let said = refused.run(&["check-config"]).expect_code(3).stderr;
    assert!(said.contains("without wildcards") && said.contains("ACCESS EXCLUSIVE"), "{said}");
    assert!(said.contains("`parallel` does nothing to VACUUM FULL"), "{said}");
    let all = home_for(&cluster, "tables = [\"w.big\"]", "mode = \"full\"");
    all.run(&["check-config"]).expect_code(3);

    let file = |table: &str| cluster.psql(APP, &format!("SELECT pg_relation_filenode('{table}')"));
    let (big, small) = (file("w.big"), file("w.small"));
    let what = "databases = [\"app\"]\ntables = [\"w.big\"]";
    let named = home_for(&cluster, what, "mode = \"full\"");
    assert_eq!(run_job(&named, 0).count("tables_vacuumed"), 1);
    assert!(file("w.big") != big && file("w.small") == small);
}

#[test]
fn vacuum_freezes_the_oldest_first() {
    let cluster = cluster("CREATE TABLE w.young (i int); ALTER TABLE w.young OWNER TO keeper;");
    let xid = |table: &str| {
        cluster.psql(
            APP,
            &format!("SELECT age(relfrozenxid) FROM pg_class WHERE oid = '{table}'::regclass"),
        )
    };
    let least: u64 = xid("w.small").parse().unwrap();
    let home = home(&cluster, &format!("mode = \"freeze\"\nxid_age = {}", least - 1));
    let ran = run_job(&home, 0);
    // Each was created by a later transaction than the one before.
    assert_eq!(ran.plan(), ["freeze w.small", "freeze w.big"]);
    assert!(xid("w.small").parse::<u64>().unwrap() < least);
}

#[test]
fn vacuum_takes_names_as_they_are() {
    let cluster = Cluster::start();
    // In single quotes: TOML leaves the backslashes alone.
    let tables = r"['\.\./\.\..*', 'public.*']";
    let what = format!("databases = [{}]\ntables = {tables}", quote(HOSTILE));
    let home = Pgkeep::new().server("main", &cluster).toml(&job(&what, ""));
    let ran = run_job(&home, 0);
    let database = ran.database(HOSTILE);
    assert_eq!(database.outcome, Outcome::Succeeded);
    assert_eq!(database.figures.counts["tables_vacuumed"], 5, "{ran:#?}");
    let sql = "SELECT min(vacuum_count) FROM pg_stat_user_tables";
    assert_eq!(cluster.psql(HOSTILE, sql), "2", "once by the template, once by us");
}

#[test]
fn vacuum_of_everything_takes_the_catalogues_that_it_may() {
    let cluster =
        cluster("ALTER DATABASE app OWNER TO keeper; GRANT USAGE ON SCHEMA shop TO keeper");
    let home = home_for(&cluster, "databases = [\"app\"]", "mode = \"vacuum\"");
    let ran = run_job(&home, 0);
    assert_eq!(ran.count("tables_skipped"), 0, "shared catalogues are nobody's business: {ran:#?}");
    assert!(ran.count("tables_vacuumed") > 50);
    let sql = "SELECT pg_stat_get_vacuum_count('pg_class'::regclass), \
               pg_stat_get_vacuum_count('shop.orders'::regclass)";
    assert_eq!(cluster.psql(APP, sql), "2|2", "once by the template, once by us");
}
