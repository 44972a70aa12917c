//! `--statistics` of PostgreSQL 18 and newer: the planner's statistics are in the backup and come back with it, the
//! manifest says so, and nobody doubts the next backup for being without.

use pgkeep::domain::name::DatabaseName;

use super::{Copy, DISK, ONCE, disk, listed, run_job, shell};
use crate::harness::{
    compare::assert_same,
    pgkeep::Pgkeep,
    postgres::{Cluster, KEEPER, SUPERUSER},
    process::run,
    versions::MAJORS,
};

/// The first version that has it.
const SINCE: u32 = 18;
/// Extended statistics have their data in a dump since then.
const EXTENDED_SINCE: u32 = 19;
/// So many tables that their statistics are more than a tenth of all entries.
const SQL: &str = "
    DO $$ BEGIN FOR n IN 1..30 LOOP
        EXECUTE format('CREATE TABLE t%s AS SELECT g AS a, g %% 7 AS b FROM generate_series(1, 300) AS g', n);
        EXECUTE format('CREATE STATISTICS s%s (ndistinct, dependencies) ON a, b FROM t%s', n, n);
    END LOOP; END $$;
    ANALYZE;";
/// Columns that the planner knows, and extended statistics that it has.
const KNOWN: &str = "SELECT (SELECT count(*) FROM pg_stats WHERE schemaname = 'public') || ' ' || \
    (SELECT count(*) FROM pg_stats_ext WHERE n_distinct IS NOT NULL)";

fn is_of(copy: &Copy, database: &str, with: bool) -> bool {
    let name: DatabaseName = database.parse().unwrap();
    copy.subject() == name.to_string() && copy.manifest.tool.has_statistics() == with
}

/// Runs the lines up to the one that would make the statistics anew.
fn restore_without_analyze(cluster: &Cluster, copy: &Copy) {
    let lines = copy.manifest.restore.iter().filter(|line| !line.starts_with("vacuumdb"));
    let script: Vec<&str> = lines.map(String::as_str).collect();
    run(shell(cluster, &script.join("\n")).current_dir(&copy.folder), "").expect_code(0);
}

fn check(cluster: &Cluster, role: &str) {
    let home = Pgkeep::new()
        .server("main", cluster)
        .local(DISK)
        .dump(
            "with",
            "main",
            &["stats"],
            &[DISK],
            &format!("{ONCE}\nextra_options = [\"--statistics\"]"),
        )
        .dump("without", "main", &["stats"], &[DISK], ONCE);
    home.rewrite(
        &home.config().replace(&format!("user = \"{KEEPER}\""), &format!("user = \"{role}\"")),
    );
    run_job(&home, "with", 0);
    let ran = run_job(&home, "without", 0);
    let odd: Vec<_> =
        ran.report.findings.iter().filter(|it| it.check == "suspicious-backup").collect();
    assert!(odd.is_empty(), "statistics that are not asked for are not missed: {odd:#?}");

    let copies = listed(&home, &disk(&home));
    let of = |with| copies.iter().find(|copy| is_of(copy, "stats", with)).expect("a backup");
    let (with, without) = (of(true), of(false));
    // pg_stats_ext shows them to the tables' owner alone, and pg_dump leaves out what it does not see.
    let sees_extended = cluster.major() >= EXTENDED_SINCE && role == SUPERUSER;
    let extended = if sees_extended { 30 } else { 0 };
    assert_eq!(with.manifest.totals.statistics, 30 + extended);
    assert_eq!(without.manifest.totals.statistics, 0);
    let entries = |copy: &Copy| copy.manifest.totals.entries - copy.manifest.totals.statistics;
    assert_eq!(entries(with), entries(without));
    let has = |copy: &Copy, text: &str| copy.manifest.restore.iter().any(|it| it.contains(text));
    assert!(has(with, "statistics are in it") && !has(with, "Statistics are not in it"));
    assert!(has(with, "--missing-stats-only") && !has(without, "--missing-stats-only"));
    assert!(has(without, "Statistics are not in it"));

    assert_eq!(cluster.psql("stats", KNOWN), "60 30");
    for (copy, known) in [(with, format!("60 {extended}")), (without, "0 0".to_owned())] {
        restore_without_analyze(cluster, copy);
        assert_same(cluster, "stats", "restored");
        assert_eq!(cluster.psql("restored", KNOWN), known);
        // The last line makes what is missing.
        let last = copy.manifest.restore.last().unwrap();
        assert!(last.starts_with("vacuumdb "), "{last}");
        run(&mut shell(cluster, last), "").expect_code(0);
        assert_eq!(cluster.psql("restored", KNOWN), "60 30");
        cluster.psql("postgres", "DROP DATABASE restored");
    }
    // What shows it is `show`.
    let id = with.manifest.id.to_string();
    let shown = home.run(&["show", &id]).expect_code(0).text();
    assert!(shown.contains(&format!("{} entries of statistics", 30 + extended)), "{shown}");
}

#[test]
fn statistics_come_back_and_are_not_missed_in_the_next_backup_long() {
    for major in MAJORS.into_iter().filter(|major| *major >= SINCE) {
        let Some(builder) = Cluster::of(major) else { continue };
        let cluster = builder.empty().start();
        cluster.psql("postgres", "CREATE DATABASE stats");
        cluster.psql("stats", SQL);
        for role in [KEEPER, SUPERUSER] {
            check(&cluster, role);
        }
        eprintln!("PostgreSQL {major}: as it should be");
    }
}
