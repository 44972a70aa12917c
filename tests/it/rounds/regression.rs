//! PostgreSQL's own regression database, with about everything that can be in one, through dump and
//! restore.
//!
//! Its sources are not in this repository: `tests/run.sh --long` fetches them where the system's
//! package sources have them, and the test says that it is skipped where they are not.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::harness::{
    compare::Fingerprint,
    long_tests,
    pgkeep::Pgkeep,
    postgres::{Cluster, SUPERUSER},
    process::{command, must, run_within},
};

const DB: &str = "regression";
const DISK: &str = "disk";
/// All tests of PostgreSQL, one after the other.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(30);

#[test]
fn regression_long() {
    if !long_tests() {
        return;
    }
    let cluster = Cluster::builder()
        .empty()
        .setting("allow_in_place_tablespaces", "on")
        .setting("max_prepared_transactions", "2")
        .start();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/postgresql/regress");
    if !sources.join(format!("done-{}", cluster.major())).exists() {
        eprintln!("SKIPPED: no regression tests in {}: see docs/TESTING.md", sources.display());
        return;
    }
    // The functions in C are found as long as this is there.
    let _work = build(&cluster, &sources);
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        "nightly",
        "main",
        &[DB],
        &[DISK],
        "attempts = 1\nglobals = false",
    );
    let report = home.run(&["run", "nightly", "--json"]).expect_code(0).json();
    assert!(report["report"]["findings"].is_null(), "{report:#}");
    let shown = home.run(&["list", "--json"]).expect_code(0).json();
    let shown = home.run(&["show", shown[0]["id"].as_str().unwrap(), "--json"]).json();
    let folder = home.repository_dir(DISK).join(shown[0]["folder"].as_str().unwrap());
    restore(&cluster, &folder, &shown[0]["manifest"]);
    compare(&cluster);
}

fn build(cluster: &Cluster, sources: &Path) -> tempfile::TempDir {
    // Where the server's user may go.
    let work = tempfile::Builder::new().prefix("pgk-regress.").tempdir_in("/tmp").unwrap();
    let mut sh = command("sh");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/regression_database.sh");
    let path = std::env::var("PATH").unwrap();
    sh.arg(script).arg(sources).arg(work.path()).arg(DB);
    sh.env("PATH", format!("{}:{path}", cluster.bin_dir().display()))
        .env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", SUPERUSER);
    run_within(&mut sh, "", LIMIT).expect_code(0);
    let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384";
    let tables: u32 = cluster.psql(DB, tables).parse().unwrap();
    assert!(tables > 400, "{tables} tables: the tests did not run");
    work
}

fn restore(cluster: &Cluster, folder: &Path, manifest: &Value) {
    cluster.create_like("restored", DB);
    let objects = manifest["objects"].as_array().unwrap();
    let mut archive = Vec::new();
    for object in objects {
        archive.extend(fs::read(folder.join(object["name"].as_str().unwrap())).unwrap());
    }
    let file = folder.join("restored.dump");
    fs::write(&file, zstd::decode_all(&archive[..]).unwrap()).unwrap();
    must(cluster.tool("pg_restore").args(["--exit-on-error", "-d", "restored"]).arg(&file));
}

/// What a materialized view holds is made anew by a restore; it may have been stale before.
const VIEWS: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c \
                     JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE relkind = 'm'";

/// The columns of tables that inherit stand in another order after a restore, since pg_dump writes
/// those of the parent first: rows are compared by name there, and definitions without their order.
fn compare(cluster: &Cluster) {
    let [before, after] = [DB, "restored"].map(|name| Fingerprint::of(cluster, name));
    let differences = before.differences(&after);
    let of = |line: &String| {
        line.strip_prefix("- table ").map(|rest| rest.split('|').next().unwrap().to_owned())
    };
    let mut turned: BTreeSet<String> = differences.iter().filter_map(of).collect();
    for view in cluster.psql(DB, VIEWS).lines() {
        turned.remove(view);
    }
    for table in &turned {
        let sql = format!(
            "SELECT count(*), sum(hashtextextended(to_jsonb(x)::text COLLATE \"C\", 1)::numeric) \
             FROM ONLY {table} AS x"
        );
        assert_eq!(cluster.psql(DB, &sql), cluster.psql("restored", &sql), "{table}");
        let inherits = format!(
            "SELECT count(*) FROM pg_inherits WHERE inhrelid = '{}'::regclass",
            table.replace('\'', "''")
        );
        assert_ne!(cluster.psql(DB, &inherits), "0", "{table} differs, and inherits nothing");
    }
    // Definitions are compared below.
    let other = ["sequence ", "large object ", "database "];
    let is_other = |line: &&String| other.iter().any(|it| line[2..].starts_with(it));
    let others: Vec<&String> = differences.iter().filter(is_other).collect();
    assert!(others.is_empty(), "{others:#?}");
    let [before, after] = [DB, "restored"].map(|name| definitions(cluster, name));
    assert_eq!(before, after, "definitions, line by line in any order");
}

fn definitions(cluster: &Cluster, database: &str) -> Vec<String> {
    let text = must(cluster.tool("pg_dump").args(["--schema-only", "-d", database]));
    let is_noise = |line: &str| {
        line.is_empty()
            || line.starts_with("--")
            || line.starts_with("\\restrict ")
            || line.starts_with("\\unrestrict ")
    };
    let lines = text.lines().filter(|line| !is_noise(line));
    let mut lines: Vec<String> =
        lines.map(|line| line.trim().trim_end_matches(',').to_owned()).collect();
    lines.sort();
    lines
}
