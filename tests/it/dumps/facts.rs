//! What the manifest says of a database beside its data: enough to make one that sorts as it did.

use super::{DISK, ONCE, disk, listed, run_job, shell};
use crate::harness::{
    compare::assert_same,
    pgkeep::Pgkeep,
    postgres::{APP, Cluster},
    process::run,
};

#[test]
fn manifest_says_what_the_database_needs_of_a_server() {
    let cluster = Cluster::start();
    if cluster.major() < 15 {
        eprintln!("skipped: databases have no locale provider before PostgreSQL 15");
        return;
    }
    let option = if cluster.major() < 17 { "ICU_LOCALE" } else { "LOCALE" };
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE swiss TEMPLATE template0 LOCALE_PROVIDER icu {option} 'de-CH' LC_COLLATE 'C' LC_CTYPE 'C'"),
    );
    cluster.psql(
        "swiss",
        "CREATE EXTENSION citext VERSION '1.5'; CREATE TABLE t (a text COLLATE \"de-x-icu\", b text COLLATE \"fr-x-icu\"); \
         CREATE TABLE u (a text COLLATE \"C\"); INSERT INTO t VALUES ('ä', 'é'); \
         UPDATE pg_collation SET collversion = '1.2.3' WHERE collname IN ('de-x-icu', 'it-x-icu'); \
         UPDATE pg_database SET datcollversion = '9.9' WHERE datname = current_database()",
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["swiss", APP], &[DISK], ONCE);
    run_job(&home, "nightly", 0);
    let copies = listed(&home, &disk(&home));
    let copy = copies.iter().find(|copy| copy.subject() == "swiss").unwrap();
    let facts = copy.manifest.database.as_ref().unwrap();
    let said = (facts.locale_provider.as_deref(), facts.locale.as_deref());
    assert_eq!(said, (Some("icu"), Some("de-CH")));
    assert_eq!(facts.collation_version.as_deref(), Some("9.9"));
    let actual = cluster.psql(
        "swiss",
        "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = 'swiss'",
    );
    assert_eq!(facts.collation_actual_version.as_deref(), Some(actual.as_str()));
    // The one that is used and was built with another version; not the one that nothing uses.
    let [collation] = &facts.collations[..] else { panic!("{:?}", facts.collations) };
    assert_eq!((collation.name.as_str(), collation.provider.as_str()), ("de-x-icu", "icu"));
    assert_eq!(
        (collation.recorded_version.as_str(), &collation.actual_version),
        ("1.2.3", &actual)
    );
    let citext = facts.extensions.iter().find(|it| it.name == "citext").unwrap();
    let default = cluster
        .psql("swiss", "SELECT default_version FROM pg_available_extensions WHERE name = 'citext'");
    assert_eq!(
        (citext.version.as_str(), citext.available_version.as_deref()),
        ("1.5", Some(default.as_str()))
    );
    assert!(default != "1.5");

    let app = copies.iter().find(|copy| copy.subject() == APP).unwrap();
    let facts = app.manifest.database.as_ref().unwrap();
    assert_eq!((facts.locale_provider.as_deref(), &facts.locale), (Some("libc"), &None));
    assert!(facts.collations.is_empty());
    // The lines make a database of that locale.
    let script = copy.manifest.restore.join("\n");
    run(shell(&cluster, &script).current_dir(&copy.folder), "").expect_code(0);
    assert_same(&cluster, "swiss", "restored");
    let sql = "SELECT count(DISTINCT (datlocprovider, pg_database_collation_actual_version(oid))) FROM pg_database WHERE datname IN ('swiss', 'restored')";
    assert_eq!(cluster.psql("postgres", sql), "1");
}

/// PostgreSQL 19 knows standard strings alone, and takes literals that were written for others with another
/// meaning (findings/standard-strings-off.sh).
#[test]
fn literals_are_written_so_that_every_version_reads_them_alike() {
    let cluster = Cluster::start();
    if cluster.major() >= 19 {
        eprintln!("skipped: there are only standard strings since PostgreSQL 19");
        return;
    }
    cluster.psql("postgres", "CREATE DATABASE old");
    cluster.psql("postgres", "ALTER DATABASE old SET standard_conforming_strings = off");
    cluster.psql(
        "old",
        r"SET escape_string_warning = off; CREATE VIEW v AS SELECT E'C:\\temp' AS path;
          CREATE TABLE t (path text DEFAULT E'C:\\temp'); INSERT INTO t DEFAULT VALUES",
    );
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["old"], &[DISK], ONCE);
    run_job(&home, "nightly", 0);
    let copies = listed(&home, &disk(&home));
    let copy = copies.iter().find(|copy| copy.subject() == "old").unwrap();
    let restore = |options: &str| {
        let mut sh = shell(&cluster, &format!("cat -- \"$@\" | zstd -dc | pg_restore {options}"));
        sh.args(copy.manifest.objects.iter().map(|object| &object.name)).current_dir(&copy.folder);
        String::from_utf8(run(&mut sh, "").expect_code(0).stdout).unwrap()
    };
    let sql = restore("--schema-only --file=-");
    assert!(sql.contains("SET standard_conforming_strings = on;"), "{sql}");
    assert_eq!(sql.matches(r"'C:\temp'").count(), 2, "{sql}");
    assert!(!sql.contains(r"C:\\temp"), "{sql}");
    cluster.psql("postgres", "CREATE DATABASE restored");
    restore("--exit-on-error --dbname=restored");
    cluster.psql("restored", "INSERT INTO t DEFAULT VALUES");
    let values = "SELECT string_agg(path, ' ') FROM (TABLE v UNION ALL TABLE t) AS all_of_them";
    assert_eq!(cluster.psql("restored", values), r"C:\temp C:\temp C:\temp");
}
