//! Rebuilding indexes from end to end: the real binary on real PostgreSQL, on good days and bad.

mod busy;
mod debris;
mod good;
mod pooler;
mod refused;
mod stopped;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Stdio},
};

use pgkeep::domain::{
    failure::{Class, Failure},
    report::{Outcome, Report, TargetReport, Verdict},
};
use serde::Deserialize;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{Cluster, SUPERUSER, conninfo},
    process::{Output, code_of, spawn},
    wait::{PATIENCE, eventually},
};

/// The database of these tests.
const DB: &str = "shop";
/// One with a name to stumble over.
const ODD: &str = "we\"ird/.. 🐘";
/// A table with indexes of several sorts, and another.
const SCHEMA: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, who text NOT NULL, note text);
    INSERT INTO orders SELECT i, 'w' || i, repeat('x', 50) FROM generate_series(1, 2000) AS i;
    CREATE UNIQUE INDEX orders_who ON orders (who);
    CREATE INDEX orders_note ON orders (lower(note), id DESC) WHERE id > 10;
    ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_who;
    CREATE TABLE items (id int, item text);
    INSERT INTO items SELECT i, 'i' || i FROM generate_series(1, 500) AS i;
    CREATE INDEX items_id ON items (id);";

/// A cluster with [`DB`] and [`SCHEMA`].
fn shop() -> Cluster {
    shop_of(Cluster::builder())
}

fn shop_of(builder: crate::harness::postgres::Builder) -> Cluster {
    let cluster = builder.empty().start();
    cluster.psql("postgres", &format!("CREATE DATABASE {DB}"));
    cluster.psql(DB, SCHEMA);
    cluster
}

/// A home with the job `rx`; `databases` unless the lines say otherwise is [`DB`].
fn home(cluster: &Cluster, lines: &str) -> Pgkeep {
    Pgkeep::new().server("main", cluster).toml(&job("rx", lines))
}

fn job(name: &str, lines: &str) -> String {
    let databases =
        if lines.contains("databases") { String::new() } else { format!("databases = [\"{DB}\"]") };
    format!(
        "[job.{name}]\nkind = \"reindex\"\nserver = \"main\"\nattempts = 1\n{databases}\n{lines}"
    )
}

/// `[server.main]` as another role.
fn server_as(cluster: &Cluster, lines: &str) -> String {
    let host = quote(cluster.socket_dir().to_string_lossy());
    format!("[server.main]\nhost = {host}\nport = {}\n{lines}", cluster.port())
}

/// What `run JOB --json` printed.
#[derive(Debug, Deserialize)]
struct Ran {
    verdict: Verdict,
    report: Report,
}

impl Ran {
    #[track_caller]
    fn of(output: Output, code: i32) -> Self {
        let output = output.expect_code(code);
        serde_json::from_value(output.json()).unwrap()
    }

    /// The target of an index of [`DB`].
    #[track_caller]
    fn target(&self, index: &str) -> &TargetReport {
        self.target_in(DB, index)
    }

    #[track_caller]
    fn target_in(&self, database: &str, index: &str) -> &TargetReport {
        let is = |report: &&TargetReport| {
            report.target.object.as_deref() == Some(index)
                && report.target.subject.as_ref().is_some_and(|it| it.to_string() == database)
        };
        let found = self.report.targets.iter().find(is);
        found.unwrap_or_else(|| panic!("no target {database}/{index}: {self:#?}"))
    }

    #[track_caller]
    fn assert_done(&self, index: &str) -> &TargetReport {
        let report = self.target(index);
        assert_eq!(report.outcome, Outcome::Succeeded, "{index}: {self:#?}");
        report
    }

    #[track_caller]
    fn failed(&self, index: &str, class: Class) -> &Failure {
        let Outcome::Failed(failure) = &self.target(index).outcome else {
            panic!("{index} did not fail: {self:#?}");
        };
        assert_eq!(failure.class, class, "{failure:#?}");
        failure
    }

    #[track_caller]
    fn skipped(&self, index: &str) -> &str {
        let Outcome::Skipped(why) = &self.target(index).outcome else {
            panic!("{index} was not left out: {self:#?}");
        };
        why
    }

    /// Targets in short: `succeeded public.a`.
    fn targets(&self) -> Vec<String> {
        let line = |it: &TargetReport| {
            format!("{} {}", it.outcome.state(), it.target.object.as_deref().unwrap_or("-"))
        };
        self.report.targets.iter().map(line).collect()
    }

    /// Findings in short: `index-debris public.a_ccnew`.
    fn findings(&self) -> Vec<String> {
        let short = |what: &str| what.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let findings = self.report.findings.iter();
        findings.map(|it| format!("{} {}", it.check, short(&it.what))).collect()
    }

    /// The failure of the whole run.
    #[track_caller]
    fn failed_at_once(&self, class: Class) -> &Failure {
        let Some(failure) = &self.report.failure else { panic!("the run did not fail: {self:#?}") };
        assert_eq!(failure.class, class, "{failure:#?}");
        failure
    }
}

#[track_caller]
fn run(home: &Pgkeep, job: &str, code: i32) -> Ran {
    Ran::of(home.run(&["run", job, "--json"]), code)
}

/// Indexes of the public schema: name, with oid and whether it is whole.
fn indexes(cluster: &Cluster, database: &str) -> BTreeMap<String, (u32, bool)> {
    let rows = cluster.psql(
        database,
        "SELECT c.oid, i.indisvalid AND i.indisready AND i.indislive, c.relname
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relnamespace = 'public'::regnamespace",
    );
    let row = |line: &str| {
        let mut parts = line.splitn(3, '|');
        let oid = parts.next().unwrap().parse().unwrap();
        let whole = parts.next().unwrap() == "t";
        (parts.next().unwrap().to_owned(), (oid, whole))
    };
    rows.lines().map(row).collect()
}

/// Names of the invalid indexes.
fn broken(cluster: &Cluster) -> Vec<String> {
    let all = indexes(cluster, DB);
    all.into_iter().filter(|(_, (_, whole))| !whole).map(|(name, _)| name).collect()
}

/// Builds that are recorded in the state directory.
fn records(home: &Pgkeep) -> usize {
    std::fs::read_dir(home.state_dir().join("index-builds")).map_or(0, Iterator::count)
}

/// A session that holds something until it is dropped.
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Holder {
    /// Runs SQL in a session that stays.
    #[track_caller]
    fn of(cluster: &Cluster, database: &str, sql: &str) -> Self {
        let mut psql = cluster.tool("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database)]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut psql);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("{sql};\n\\echo held\n").as_bytes()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "held"), "psql ended: {sql}");
        Self { child, stdin: Some(stdin) }
    }

    /// A snapshot: a build waits for it before it takes the old index's place, and leaves `_ccnew`
    /// behind where it does not wait long enough. The table can be locked all the same.
    fn snapshot(cluster: &Cluster) -> Self {
        Self::of(cluster, DB, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    }

    /// A transaction that has written to a table.
    fn writer(cluster: &Cluster, table: &str) -> Self {
        Self::of(cluster, DB, &format!("BEGIN; DELETE FROM {table} WHERE false"))
    }

    /// A transaction that has read from a table, without a snapshot: a build only waits for it
    /// before it drops the old index, and leaves `_ccold` behind.
    fn reader(cluster: &Cluster, table: &str) -> Self {
        Self::of(cluster, DB, &format!("BEGIN; SELECT count(*) FROM {table}"))
    }

    #[track_caller]
    fn release(mut self) {
        drop(self.stdin.take());
        assert_eq!(code_of(self.child.wait().unwrap()), 0);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until a statement that begins so waits for a lock; its process.
#[track_caller]
fn wait_blocked(cluster: &Cluster, statement: &str) -> String {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event_type = 'Lock' \
         AND query LIKE '{statement}%'"
    );
    eventually(&format!("{statement} that waits"), PATIENCE, || {
        let pid = cluster.psql("postgres", &sql);
        (!pid.is_empty()).then_some(pid)
    })
}

/// Waits until no session runs a statement that begins so.
#[track_caller]
fn wait_ended(cluster: &Cluster, statement: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '{statement}%'"
    );
    eventually(&format!("the end of {statement}"), PATIENCE, || {
        (cluster.psql("postgres", &sql) == "0").then_some(())
    });
}

/// An invalid index, as a failed CREATE INDEX CONCURRENTLY leaves it behind; what made it fail is
/// gone.
fn make_invalid(cluster: &Cluster, name: &str) {
    cluster.psql(DB, "INSERT INTO items VALUES (1, 'twice')");
    let sql = format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON items (id)");
    assert_ne!(cluster.try_psql(DB, &sql).code, 0);
    cluster.psql(DB, "DELETE FROM items WHERE item = 'twice'");
}

/// Rebuilds an index by hand, without success.
fn rebuild_in_vain(cluster: &Cluster, index: &str) {
    let sql = format!("SET lock_timeout = '200ms'; REINDEX INDEX CONCURRENTLY {index}");
    let mut psql = cluster.tool("psql");
    psql.args(["-XqAt", "-d", DB, "-c", "SET lock_timeout = '200ms'", "-c"]);
    psql.arg(format!("REINDEX INDEX CONCURRENTLY {index}"));
    assert_ne!(crate::harness::process::run(&mut psql, "").code, 0, "{sql}");
}

#[track_caller]
fn as_superuser(cluster: &Cluster) -> String {
    server_as(cluster, &format!("user = \"{SUPERUSER}\""))
}
