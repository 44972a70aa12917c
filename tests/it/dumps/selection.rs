//! Selections: what is in them restores and compares, what is not is not, and none of them ever
//! passes for the backup of its database.

use std::collections::BTreeSet;

use pgkeep::domain::failure::Class;

use super::{
    Copy, DISK, OFFSITE, ONCE, Running, disk, listed, retry, run_job, shell, stop_after_failures,
    whole_status,
};
use crate::harness::{
    compare::assert_same,
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE},
    process::run,
    wait::{PATIENCE, eventually},
};

const FINGERPRINT_SQL: &str = include_str!("../../../packaging/demo/fingerprint.sql");
/// Matches what is in the tests' second selection, whatever the locale.
const VIEWS: &str = "tables = [\"shop.page_views*\"]\nexclude_tables = [\"*.*_q2\"]";

/// The lines of the fingerprint that are of tables, and of nothing else that a selection has.
fn tables(cluster: &Cluster, database: &str) -> BTreeSet<String> {
    let text = cluster.psql(database, FINGERPRINT_SQL);
    text.split("table ")
        .skip(1)
        .map(|it| it.split("sequence ").next().unwrap().trim().to_owned())
        .collect()
}

/// Restores a copy of a selection into a new database, where `before` is run first, by the lines of
/// its manifest.
pub(super) fn restore(cluster: &Cluster, copy: &Copy, before: &str) {
    let mut lines = copy.manifest.restore.clone();
    let made = lines.iter().position(|line| line.starts_with("createdb ")).unwrap();
    let before = before.replace('\'', r"'\''");
    lines.insert(made + 1, format!("psql -Xq -v ON_ERROR_STOP=1 -d restored -c '{before}'"));
    run(shell(cluster, &lines.join("\n")).current_dir(&copy.folder), "").expect_code(0);
}

#[test]
fn selection_of_tables_is_those_tables_whatever_their_names() {
    let cluster = Cluster::start();
    let hostile = "tables = ['\\.\\./\\.\\..a?b', 'public.Letters & \"*', 'public.select']";
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("views", "main", &[APP], &[DISK], &format!("attempts = 1\n{VIEWS}"))
        .dump("hostile", "main", &[HOSTILE], &[DISK], &format!("attempts = 1\n{hostile}"));
    for (job, database, before, count) in [
        ("views", APP, "CREATE SCHEMA shop", 2),
        ("hostile", HOSTILE, "CREATE SCHEMA \"../..\"", 3),
    ] {
        // Globals come only where they are asked for.
        assert_eq!(run_job(&home, job, 0).report.targets.len(), 1);
        let copies = listed(&home, &disk(&home));
        let copy = copies.iter().find(|copy| copy.subject() == database).unwrap();
        assert!(copy.manifest.series.contents.starts_with("part-"));
        assert_eq!(copy.manifest.format_version, 3);
        restore(&cluster, copy, before);
        let (there, all) = (tables(&cluster, "restored"), tables(&cluster, database));
        assert!(there.len() == count && there.is_subset(&all), "{there:#?}\n{all:#?}");
        cluster.psql("postgres", "DROP DATABASE restored");
    }
    let id = listed(&home, &disk(&home))[0].manifest.id.to_string();
    let shown = home.run(&["show", &id]).expect_code(0).text();
    assert!(shown.contains("selection     contents all, tables shop.page_views*"), "{shown}");
    let table = home.run(&["list"]).expect_code(0).text();
    assert!(table.contains("CONTENTS") && table.contains(" part-"), "{table}");
}

/// Neither is whole, and one behind the other they are.
#[test]
fn definitions_and_data_make_the_database_again() {
    definitions_and_data("custom");
}

#[test]
fn definitions_and_data_in_sql_make_the_database_again() {
    definitions_and_data("plain");
}

fn definitions_and_data(format: &str) {
    let cluster = Cluster::start();
    let lines =
        |contents: &str| format!("attempts = 1\nformat = \"{format}\"\ncontents = \"{contents}\"");
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("schema", "main", &[APP], &[DISK], &lines("schema"))
        .dump("data", "main", &[APP], &[DISK], &lines("data"));
    for job in ["schema", "data"] {
        run_job(&home, job, 0);
    }
    let copies = listed(&home, &disk(&home));
    for contents in ["schema", "data"] {
        let copy = copies.iter().find(|copy| copy.manifest.series.contents == contents).unwrap();
        let totals = &copy.manifest.totals;
        assert_eq!(
            (totals.rows > 0, totals.large_objects > 0),
            (contents == "data", contents == "data")
        );
        let script = copy.manifest.restore.join("\n");
        run(shell(&cluster, &script).current_dir(&copy.folder), "").expect_code(0);
    }
    assert_same(&cluster, APP, "restored");
}

#[test]
fn schemas_data_of_tables_and_large_objects_can_be_left_out() {
    let cluster = Cluster::start();
    cluster.psql(APP, "CREATE SCHEMA log; CREATE TABLE log.a AS SELECT 1 AS one; CREATE TABLE public.big AS SELECT 2 AS two");
    let lines = "attempts = 1\nexclude_schemas = [\"sho?\"]\nexclude_table_data = [\"*.big\"]\n\
                 large_objects = false\nextra_options = [\"--no-comments\", \"--inserts\"]";
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("rest", "main", &[APP], &[DISK], lines);
    run_job(&home, "rest", 0);
    let copies = listed(&home, &disk(&home));
    let manifest = &copies[0].manifest;
    assert_eq!(manifest.totals.large_objects, 0);
    assert_eq!(manifest.selection.as_ref().unwrap().options, ["--no-comments"]);
    assert!(manifest.tool.command.iter().any(|word| word == "--inserts"));
    restore(&cluster, &copies[0], "SELECT");
    let sql = "SELECT count(*) FROM log.a UNION ALL SELECT count(*) FROM public.big UNION ALL \
               SELECT count(*) FROM pg_namespace WHERE nspname = 'shop' UNION ALL \
               SELECT count(*) FROM pg_largeobject_metadata";
    assert_eq!(cluster.psql("restored", sql), "1\n0\n0\n0");
}

#[test]
fn a_selection_that_finds_nothing_is_a_failure_and_no_backup() {
    let cluster = Cluster::start();
    cluster.psql(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    fake.release();
    let mut home =
        Pgkeep::new().server_with("main", &cluster, &super::bin_dir(fake.path())).local(DISK);
    let cases = [
        (APP, "tables = [\"shop.orders\", \"shop.Orders\"]", "\"shop.Orders\""),
        (APP, "tables = [\"shop.orders\"]\nexclude_tables = [\"*.orders\"]", "not excluded"),
        (APP, "schemas = [\"shop\", \"shopp\"]", "\"shopp\""),
        (APP, "schemas = [\"shop\"]\nexclude_schemas = [\"s*\"]", "not excluded"),
        // To pg_dump, these are tables and a schema like others.
        (APP, "tables = [\"pg_catalog.pg_cl*\"]", "no table"),
        (APP, "schemas = [\"information_schema\"]", "no schema"),
        ("latin", "exclude_tables = [\"public.né\"]", "LATIN1"),
    ];
    for (at, (database, lines, _)) in cases.iter().enumerate() {
        home = home.dump(
            &format!("job{at}"),
            "main",
            &[*database],
            &[DISK],
            &format!("{ONCE}\n{lines}"),
        );
    }
    for (at, (database, lines, said)) in cases.iter().enumerate() {
        let ran = run_job(&home, &format!("job{at}"), 1);
        let failure = ran.failed(database, DISK, Class::Configuration);
        assert!(failure.what.contains(said) && failure.hint.is_some(), "{lines}: {failure:?}");
    }
    assert_eq!(fake.starts(), 0, "pg_dump was not asked");
    assert!(listed(&home, &disk(&home)).is_empty());
}

#[test]
fn a_wildcard_for_tables_does_not_bring_the_catalogue() {
    let cluster = Cluster::start();
    let lines = format!("{ONCE}\ntables = [\"*.*\"]");
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("all", "main", &[HOSTILE], &[DISK], &lines);
    run_job(&home, "all", 0);
    let copies = listed(&home, &disk(&home));
    restore(&cluster, &copies[0], "CREATE SCHEMA \"../..\"");
    assert_eq!(tables(&cluster, "restored"), tables(&cluster, HOSTILE));
}

#[test]
fn a_pg_dump_that_is_too_old_for_an_option_is_told_so() {
    let cluster = Cluster::start();
    if cluster.major() >= 18 {
        eprintln!("skipped: this pg_dump has every option");
        return;
    }
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let lines = format!("{ONCE}\nextra_options = [\"--statistics\"]");
    let home = home.dump("new", "main", &[APP], &[DISK], &lines);
    let ran = run_job(&home, "new", 1);
    let failure = ran.failed(APP, DISK, Class::ToolVersion);
    assert!(failure.what.contains("came with PostgreSQL 18"), "{failure:?}");
    assert!(listed(&home, &disk(&home)).is_empty());
}

/// What the whole backup has brought stays as it was, and the database counts as one without a
/// backup where there are only selections.
#[test]
fn a_selection_never_passes_for_the_backup_of_its_database() {
    let cluster = Cluster::start();
    let lines = format!("{ONCE}\nmax_age = \"1h\"");
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .dump("whole", "main", &[APP], &[DISK], &lines)
        .dump(
            "views",
            "main",
            &["*"],
            &[DISK],
            &format!("{lines}\nexclude = [\"post*\", \"we*\"]\n{VIEWS}"),
        );
    let mut daemon = home.ready_daemon();
    let labels = [("server", "main"), ("datname", APP), ("repository", DISK)];
    let value =
        |daemon: &crate::harness::pgkeep::Daemon, name: &str| daemon.metrics().value(name, &labels);
    run_job(&home, "views", 0);
    let selection = "pgkeep_backup_selection_last_success_timestamp_seconds";
    assert!(value(&daemon, selection) > Some(1.0));
    daemon.stop();
    // A new start reads the repository before it is scraped for long.
    let mut daemon = home.ready_daemon();
    let probed = [("repository", DISK)];
    eventually("a probe", PATIENCE, || {
        let at = "pgkeep_repository_last_probe_success_timestamp_seconds";
        daemon.metrics().value(at, &probed).filter(|at| *at > 0.5)
    });
    for name in [
        "newest_timestamp_seconds",
        "stored",
        "stored_bytes",
        "max_age_seconds",
        "last_success_timestamp_seconds",
    ] {
        let name = format!("pgkeep_backup_{name}");
        assert_eq!(value(&daemon, &name), None, "{name}");
    }
    let unprotected = eventually("a server that was asked", PATIENCE, || {
        whole_status(&home).unprotected.into_iter().next().map(|(_, names)| names)
    });
    // `app` is in the job for all of it; the job for the views leaves the two out, and that says
    // nothing about their backups.
    let names: Vec<String> = unprotected.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["postgres", HOSTILE]);

    run_job(&home, "whole", 0);
    let stored = || value(&daemon, "pgkeep_backup_stored");
    eventually("the whole backup", PATIENCE, || (stored() == Some(1.0)).then_some(()));
    let before = value(&daemon, "pgkeep_backup_newest_timestamp_seconds");
    let bytes = value(&daemon, "pgkeep_backup_stored_bytes");
    assert_eq!(value(&daemon, "pgkeep_backup_max_age_seconds"), Some(3600.0));
    let last = "pgkeep_repository_last_probe_success_timestamp_seconds";
    let look = || daemon.metrics().value(last, &probed);
    let at = look();
    run_job(&home, "views", 0);
    eventually("another probe", PATIENCE, || (look() > at).then_some(()));
    assert_eq!(stored(), Some(1.0));
    assert_eq!(value(&daemon, "pgkeep_backup_newest_timestamp_seconds"), before);
    assert_eq!(value(&daemon, "pgkeep_backup_stored_bytes"), bytes);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// Copied and pruned by itself, beside the whole one.
#[test]
fn a_selection_is_a_series_of_its_own_for_copy_and_prune() {
    let cluster = Cluster::start();
    let home = Pgkeep::new()
        .server("main", &cluster)
        .local(DISK)
        .local("second")
        .dump("whole", "main", &[APP], &[DISK], ONCE)
        .dump("views", "main", &[APP], &[DISK], &format!("{ONCE}\n{VIEWS}"))
        .toml(&format!("[job.bring]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"second\"]"))
        .toml("[retention.one]\nkeep_last = 1")
        .toml(&format!(
            "[job.tidy]\nkind = \"prune\"\nretention = \"one\"\nrepositories = [\"{DISK}\"]"
        ));
    run_job(&home, "whole", 0);
    let mut last = String::new();
    for _ in 0..2 {
        let ran = run_job(&home, "views", 0);
        last = ran.target(APP, DISK).figures.backup.clone().unwrap().to_string();
    }
    home.run(&["run", "bring", "--json"]).expect_code(0);
    home.run(&["run", "tidy", "--json"]).expect_code(0);
    let roots = [(DISK, home.repository_dir(DISK)), ("second", home.repository_dir("second"))];
    let copies = listed(&home, &roots);
    let of = |name: &str, whole: bool| {
        let is =
            |copy: &&Copy| copy.repository == name && (copy.manifest.series.is_whole() == whole);
        copies.iter().filter(is).collect::<Vec<_>>()
    };
    assert_eq!((of(DISK, true).len(), of(DISK, false).len()), (1, 1));
    assert_eq!((of("second", true).len(), of("second", false).len()), (1, 2));
    let kept = of(DISK, false)[0];
    assert_eq!(kept.manifest.id.as_str(), last);
    let brought =
        of("second", false).into_iter().find(|it| it.manifest.id.as_str() == last).unwrap();
    assert_eq!(brought.manifest, kept.manifest, "the selection and its lines arrive");
    restore(&cluster, brought, "CREATE SCHEMA shop");
    assert!(tables(&cluster, "restored").is_subset(&tables(&cluster, APP)));
}

#[test]
fn a_selection_that_a_repository_did_not_take_is_healed_by_copying() {
    let cluster = Cluster::start();
    let bucket = super::Bucket::start();
    let fake = retry::counted(&cluster);
    let home =
        Pgkeep::new().server_with("main", &cluster, &super::bin_dir(fake.path())).local(DISK);
    let home = bucket.configure(home, "");
    let lines = format!("{}\n{VIEWS}", retry::SOON);
    let home = home.dump("views", "main", &[APP], &[DISK, OFFSITE], &lines);
    let mut daemon = home.ready_daemon();
    bucket.refuse();
    let running = Running::start(&home, "views");
    daemon.wait_log("failed: ");
    bucket.calm();
    running.end(0).assert_succeeded(APP, OFFSITE);
    assert_eq!(fake.starts(), 1, "the database was read again");
    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let copies = listed(&home, &roots);
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].manifest.selection, copies[1].manifest.selection);
    let healed = copies.iter().find(|copy| copy.repository == OFFSITE).unwrap();
    restore(&cluster, healed, "CREATE SCHEMA shop");
    stop_after_failures(&mut daemon);
}

/// Rows are unknown where INSERT brings them, not gone; nor are statistics that are no longer asked for.
#[test]
fn another_form_is_not_suspicious() {
    let cluster = Cluster::start();
    cluster.psql(APP, "CREATE TABLE public.many AS SELECT generate_series(1, 60000) AS n");
    let forms = [
        "format = \"plain\"",
        "format = \"plain\"\nextra_options = [\"--inserts\"]",
        "format = \"plain\"\nextra_options = [\"--inserts\", \"--rows-per-insert=500\"]",
        "extra_options = [\"--inserts\"]",
        "",
    ];
    let mut home = Pgkeep::new().server("main", &cluster).local(DISK);
    for (at, form) in forms.iter().enumerate() {
        let lines = format!("{ONCE}\n{form}");
        home = home.dump(&format!("job{at}"), "main", &[APP], &[DISK], &lines);
    }
    for (at, form) in forms.iter().enumerate() {
        let ran = run_job(&home, &format!("job{at}"), 0);
        let odd: Vec<_> =
            ran.report.findings.iter().filter(|it| it.check == "suspicious-backup").collect();
        assert!(odd.is_empty(), "{form}: {odd:#?}");
    }
    // What is gone is still seen, in the form that the last one has.
    cluster.psql(APP, "TRUNCATE public.many");
    let ran = run_job(&home, "job4", 0);
    let odd = ran.report.findings.iter().find(|it| it.check == "suspicious-backup");
    assert!(odd.is_some_and(|it| it.what.contains(" rows, before ")), "{ran:#?}");
}
