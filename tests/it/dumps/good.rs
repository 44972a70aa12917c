//! Good days.

use std::{collections::BTreeSet, fs};

use pgkeep::{
    codec::index,
    domain::{
        failure::Class,
        manifest::StoredObject,
        report::{Outcome, Verdict},
    },
};

use super::{
    Bucket, Copy, DISK, OFFSITE, ONCE, Running, assert_listed, assert_restores, bin_dir, disk,
    failures, last_run_failed, listed, run_job, shell, status, stop_after_failures, whole_status,
};
use crate::harness::{
    compare::assert_same,
    fakes::{Fake, fake_bin_dir},
    pgkeep::Pgkeep,
    postgres::{APP, Cluster, HOSTILE},
    process::run,
    wait::{PATIENCE, eventually},
};

/// Number of tables and sum of their rows, counted by the server.
const COUNT_SQL: &str = r"
SELECT string_agg(format('SELECT count(*) AS n FROM %I.%I', nspname, relname), ' UNION ALL ') AS q
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') \gset
SELECT count(*) || '|' || sum(n) || '|' || (SELECT count(*) FROM pg_largeobject_metadata)
FROM (:q) AS x";

/// Rows by table, counted by the server.
const ROWS_SQL: &str = r"
SELECT format('SELECT %L, %L, count(*) FROM %I.%I', nspname, relname, nspname, relname)
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') \gexec";

const ROLES_SQL: &str = "SELECT rolname, rolcanlogin, rolsuper, rolpassword \
    FROM pg_authid WHERE oid >= 16384 ORDER BY 1";

#[test]
fn dump_good_day_to_disk_and_s3_at_once() {
    let cluster = Cluster::start();
    let bucket = Bucket::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = bucket.configure(home, "").dump("nightly", "main", &["*"], &[DISK, OFFSITE], "");
    let mut daemon = home.ready_daemon();
    let before = daemon.metrics();
    let zero = [("job_name", "nightly")];
    assert_eq!(before.value("pgkeep_job_last_success_timestamp_seconds", &zero), Some(0.0));

    let ran = run_job(&home, "nightly", 0);
    assert_eq!(ran.verdict, Verdict::Succeeded);
    assert_eq!(ran.report.targets.len(), 8, "{:#?}", ran.targets());
    assert!(ran.report.findings.is_empty(), "{:#?}", ran.report.findings);

    let roots = [(DISK, home.repository_dir(DISK)), (OFFSITE, bucket.root())];
    let copies = listed(&home, &roots);
    assert_eq!(copies.len(), 8);
    let metrics = daemon.metrics();
    for copy in &copies {
        ran.assert_succeeded(&copy.subject(), &copy.repository);
        assert_stored_as_said(&cluster, copy);
        if copy.manifest.database.is_some() {
            assert_counts(&cluster, copy);
            assert_restores(&cluster, copy);
        }
        let subject = copy.subject();
        let labels = [("server", "main"), ("datname", &*subject), ("repository", &copy.repository)];
        let value = |name: &str| metrics.value(name, &labels).unwrap();
        let at = copy.manifest.snapshot.at.as_duration().as_secs_f64();
        assert!((value("pgkeep_backup_last_success_timestamp_seconds") - at).abs() < 0.001);
        let rows = value("pgkeep_backup_last_rows");
        assert!((rows - copy.manifest.totals.rows as f64).abs() < 0.5, "{rows}");
        assert!(value("pgkeep_backup_last_size_bytes") > 0.0);
    }
    assert!(!last_run_failed(&metrics, "nightly"));
    assert_restore_lines_work(&cluster, &copies);
    assert_taken_together(&copies);
    assert!(bucket.server.uploads().is_empty());
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// Sizes and digests of what is stored and of the plain bytes are those of the manifest.
fn assert_stored_as_said(cluster: &Cluster, copy: &Copy) {
    let manifest = &copy.manifest;
    let sum = |script: &str, objects: &[&StoredObject]| {
        let mut sh = shell(cluster, script);
        sh.args(objects.iter().map(|object| &object.name)).current_dir(&copy.folder);
        let text = run(&mut sh, "").expect_code(0).text();
        text.split_whitespace().next().unwrap().to_owned()
    };
    for object in manifest.stored() {
        assert_eq!(sum("sha256sum -- \"$@\"", &[object]), object.sha256, "{}", object.name);
        let size = fs::metadata(copy.folder.join(&object.name)).unwrap().len();
        assert_eq!(size, object.bytes, "{}", object.name);
    }
    let volumes: Vec<&StoredObject> = manifest.objects.iter().collect();
    let plain = sum("cat -- \"$@\" | zstd -dc | sha256sum", &volumes);
    assert_eq!(plain, manifest.plain.sha256, "{}", copy.subject());
    let bytes = sum("cat -- \"$@\" | zstd -dc | wc -c", &volumes);
    assert_eq!(bytes, manifest.plain.bytes.to_string());
}

/// Totals and index say what the server counts.
fn assert_counts(cluster: &Cluster, copy: &Copy) {
    let name = copy.subject();
    let totals = &copy.manifest.totals;
    let found = format!("{}|{}|{}", totals.tables, totals.rows, totals.large_objects);
    let index = copy.manifest.index.as_ref().unwrap();
    let index = index::decode(&fs::read(copy.folder.join(&index.name)).unwrap()).unwrap();
    assert_eq!(index.plain_bytes, copy.manifest.plain.bytes);
    assert_eq!(index.totals, *totals);
    if name == "postgres" {
        assert_eq!(found, "0|0|0");
        return;
    }
    assert_eq!(found, cluster.psql(&name, COUNT_SQL), "{name}");
    let entries = index.entries.iter().filter(|entry| entry.kind == "TABLE DATA");
    let rows = entries.map(|entry| {
        format!("{}|{}|{}\n", entry.schema.as_deref().unwrap(), entry.name, entry.rows.unwrap())
    });
    let mut rows: Vec<String> = rows.collect();
    let mut counted: Vec<String> = Vec::new();
    // A name may hold a line end: what is compared is all lines together.
    for line in cluster.psql(&name, ROWS_SQL).lines() {
        counted.push(line.to_owned());
    }
    rows.sort();
    let rows = rows.concat();
    let (mut rows, counted): (Vec<&str>, BTreeSet<String>) =
        (rows.lines().collect(), counted.into_iter().collect());
    rows.sort_unstable();
    let rows: BTreeSet<String> = rows.into_iter().map(str::to_owned).collect();
    assert_eq!(rows, counted, "{name}");
}

/// The lines of the manifests, as they stand there, run by sh.
fn assert_restore_lines_work(cluster: &Cluster, copies: &[Copy]) {
    for copy in copies.iter().filter(|copy| copy.manifest.database.is_some()) {
        let script = copy.manifest.restore.join("\n");
        run(shell(cluster, &script).current_dir(&copy.folder), "").expect_code(0);
        assert_same(cluster, &copy.subject(), "restored");
        cluster.psql("postgres", "DROP DATABASE restored");
    }
    let other = Cluster::builder().empty().start();
    let globals = copies.iter().find(|copy| copy.subject() == "@globals").unwrap();
    let script = globals.manifest.restore.join("\n");
    run(shell(&other, &script).current_dir(&globals.folder), "").expect_code(0);
    let roles = cluster.psql("postgres", ROLES_SQL);
    assert!(roles.contains("SCRAM-SHA-256"), "{roles}");
    assert_eq!(other.psql("postgres", ROLES_SQL), roles);
}

/// One dump feeds both repositories, and the globals come last.
fn assert_taken_together(copies: &[Copy]) {
    let of = |repository: &str| {
        let copies = copies.iter().filter(move |copy| copy.repository == repository);
        copies.map(|copy| (copy.subject(), copy.manifest.id.clone())).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(DISK), of(OFFSITE));
    let globals = copies.iter().find(|copy| copy.subject() == "@globals").unwrap();
    for copy in copies.iter().filter(|copy| copy.manifest.database.is_some()) {
        assert!(copy.manifest.snapshot.at < globals.manifest.snapshot.at);
        assert!(copy.manifest.finished_at <= globals.manifest.started_at);
    }
}

#[test]
fn dump_patterns_choose_anew_at_each_run() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE shape IS_TEMPLATE true");
    cluster.psql("postgres", "CREATE DATABASE tmp_1");
    cluster.psql("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    let lines = format!("exclude = [\"tmp_*\", \"postgres\"]\n{ONCE}");
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["*"], &[DISK], &lines);
    // What somebody marked as a template holds data as well.
    let mut expected = vec![
        format!("{APP} -> {DISK}"),
        format!("shape -> {DISK}"),
        format!("{HOSTILE} -> {DISK}"),
    ];
    let targets = |ran: super::Ran| ran.targets().into_iter().collect::<Vec<_>>();
    assert_eq!(targets(run_job(&home, "nightly", 0)), expected);

    cluster.psql("postgres", "CREATE DATABASE later");
    cluster.psql("later", "CREATE TABLE t AS SELECT 1 AS one");
    cluster.psql("postgres", "CREATE DATABASE tmp_2");
    cluster.psql("postgres", "DROP DATABASE tmp_1");
    expected.insert(1, format!("later -> {DISK}"));
    assert_eq!(targets(run_job(&home, "nightly", 0)), expected);
    let all: Vec<String> =
        [0, 0, 1, 2, 2, 3, 3].into_iter().map(|at: usize| expected[at].clone()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_listed(&home, &cluster, &disk(&home), &all);
}

#[test]
fn dump_of_a_named_database_that_is_missing_fails_alone() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let names = ["missing", APP, "template0", "none_such_*"];
    let home = home.dump("nightly", "main", &names, &[DISK], ONCE);
    let mut daemon = home.ready_daemon();
    let ran = run_job(&home, "nightly", 4);
    assert_eq!(ran.verdict, Verdict::Partial);
    let failure = ran.failed("missing", DISK, Class::DatabaseGone);
    assert!(failure.what.contains("\"missing\"") && failure.hint.is_some(), "{failure:?}");
    let failure = ran.failed("template0", DISK, Class::Configuration);
    assert!(failure.what.contains("template"), "{failure:?}");
    ran.assert_succeeded(APP, DISK);
    assert_eq!(ran.report.targets.len(), 3);

    let metrics = daemon.metrics();
    assert_eq!(failures(&metrics, "nightly", Class::DatabaseGone), Some(1.0));
    assert_eq!(failures(&metrics, "nightly", Class::Configuration), Some(1.0));
    assert!(last_run_failed(&metrics, "nightly"));
    assert_listed(&home, &cluster, &disk(&home), &["app -> disk"]);
    stop_after_failures(&mut daemon);
}

#[test]
fn what_is_dropped_or_renamed_while_the_run_is_elsewhere_is_no_failure() {
    let cluster = Cluster::start();
    for name in ["gone", "old_name", "z_again"] {
        cluster.psql("postgres", &format!("CREATE DATABASE {name}"));
    }
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let home = Pgkeep::new().server_with("main", &cluster, &bin_dir(fake.path())).local(DISK);
    let named = "[job.named]\nkind = \"dump\"\nserver = \"main\"\ndatabases = [\"a*\", \"gone\"]\n\
                 schedule = \"0 0 29 2 *\"\nrepositories = [\"disk\"]\n";
    let lines = "exclude = [\"postgres\", \"we*\"]\nattempts = 1\nworkers = 1";
    let home = home.toml(&format!("{named}{ONCE}")).dump("nightly", "main", &["*"], &[DISK], lines);
    let nightly = Running::start(&home, "nightly");
    fake.wait_stopped();
    for sql in [
        "DROP DATABASE gone",
        "ALTER DATABASE old_name RENAME TO new_name",
        "DROP DATABASE z_again",
        "CREATE DATABASE z_again",
    ] {
        cluster.psql("postgres", sql);
    }
    fake.release();
    let ran = nightly.end(0);
    for name in ["app", "z_again", "new_name", "@globals"] {
        ran.assert_succeeded(name, DISK);
    }
    for name in ["gone", "old_name"] {
        let outcome = &ran.target(name, DISK).outcome;
        assert!(matches!(outcome, Outcome::Skipped(_)), "{name}: {outcome:?}");
    }
    assert_eq!(ran.report.targets.len(), 6);
    // One that is named has to be there.
    run_job(&home, "named", 4).failed("gone", DISK, Class::DatabaseGone);
}

#[test]
fn a_database_that_is_half_dropped_is_told_with_what_helps() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE half");
    cluster.psql("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    cluster.psql(APP, "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'");
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let lines = format!("exclude = [\"postgres\"]\n{ONCE}");
    let ran = run_job(&home.dump("nightly", "main", &["*"], &[DISK], &lines), "nightly", 0);
    let told: Vec<(&str, &str)> = ran
        .report
        .findings
        .iter()
        .map(|it| (it.check.as_str(), it.hint.as_deref().unwrap()))
        .collect();
    let [("database-closed", closed), ("database-half-dropped", half)] = told[..] else {
        panic!("{told:?}")
    };
    assert!(closed.contains("ALTER DATABASE \"closed\" ALLOW_CONNECTIONS true"), "{closed}");
    assert!(half.contains("DROP DATABASE \"half\""), "{half}");
    cluster.psql("postgres", "DROP DATABASE half");
}

#[test]
fn dump_where_patterns_select_nothing_is_a_failure() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["none_such_*"], &[DISK], ONCE);
    let ran = run_job(&home, "nightly", 1);
    assert!(ran.failed_at_once(Class::Configuration).hint.is_some());
    assert_listed(&home, &cluster, &disk(&home), &[]);
}

#[test]
fn dump_without_a_daemon_is_remembered_by_the_next() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &[APP], &[DISK], "");
    let ran = run_job(&home, "nightly", 0);
    assert_eq!(ran.report.targets.len(), 2);
    assert_listed(&home, &cluster, &disk(&home), &["@globals -> disk", "app -> disk"]);

    let mut daemon = home.ready_daemon();
    let last = status(&home, "nightly").last.unwrap();
    assert_eq!((last.verdict, last.attempts), (Verdict::Succeeded, 1));
    let metrics = daemon.metrics();
    assert!(!last_run_failed(&metrics, "nightly"));
    let labels = [("datname", APP), ("repository", DISK)];
    let at = metrics.value("pgkeep_backup_last_success_timestamp_seconds", &labels);
    assert!(at.unwrap() > 1.0);
    eventually("a probe of the repository", PATIENCE, || {
        daemon.metrics().value("pgkeep_backup_stored", &labels).filter(|count| *count > 0.5)
    });
    // From now on it is the daemon that runs it.
    run_job(&home, "nightly", 0);
    let runs = [("job_name", "nightly"), ("outcome", "succeeded")];
    assert_eq!(daemon.metrics().value("pgkeep_job_runs_total", &runs), Some(1.0));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn dump_two_jobs_never_work_on_one_database_at_once() {
    let cluster = Cluster::start();
    let fake = fake_bin_dir(Fake::Gated, cluster.bin_dir());
    let home = Pgkeep::new()
        .server_with("main", &cluster, &super::bin_dir(fake.path()))
        .local(DISK)
        .dump("one", "main", &[APP], &[DISK], ONCE)
        .dump("two", "main", &[APP], &[DISK], ONCE);
    let mut daemon = home.ready_daemon();
    let one = Running::start(&home, "one");
    fake.wait_stopped();
    let two = Running::start(&home, "two");
    eventually("the second job at its database", PATIENCE, || {
        let running = whole_status(&home).running;
        running
            .iter()
            .any(|run| run.job.to_string() == "two" && run.stage.contains(APP))
            .then_some(())
    });
    assert_eq!(fake.starts(), 1);
    fake.release();
    let (one, two) = (one.end(0), two.end(0));
    one.assert_succeeded(APP, DISK);
    two.assert_succeeded(APP, DISK);
    let copies = assert_listed(&home, &cluster, &disk(&home), &["app -> disk"; 2]);
    let mut times: Vec<_> =
        copies.iter().map(|copy| (copy.manifest.started_at, copy.manifest.finished_at)).collect();
    times.sort();
    assert!(times[0].1 <= times[1].0, "they overlap: {times:?}");
    assert_eq!(fake.starts(), 2);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
