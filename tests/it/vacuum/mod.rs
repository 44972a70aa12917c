//! The kind `vacuum` from end to end: the real binary against a real PostgreSQL, as a role that is
//! no superuser wherever that is possible.

mod bad;
mod chosen;
mod during;
mod holders;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Stdio},
};

use pgkeep::domain::{
    failure::{Class, Failure},
    report::{Outcome, Report, Sample, TargetReport, Verdict},
};
use serde::Deserialize;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Builder, Cluster, conninfo},
    process::{Output, spawn},
    wait::{PATIENCE, eventually},
};

/// Three tables of `keeper`, who is nobody else: `small` has 100 dead rows, `big` 2000, `clean`
/// none.
const TABLES: &str = "CREATE ROLE keeper LOGIN; CREATE SCHEMA w AUTHORIZATION keeper;
    SET ROLE keeper;
    CREATE TABLE w.small AS SELECT i FROM generate_series(1, 1000) i;
    CREATE TABLE w.big AS SELECT i FROM generate_series(1, 4000) i;
    CREATE TABLE w.clean AS SELECT i FROM generate_series(1, 10) i;
    DELETE FROM w.small WHERE i <= 100; DELETE FROM w.big WHERE i <= 2000;";

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

    /// The target of a database, or of a table in it.
    fn find(&self, database: &str, table: Option<&str>) -> Option<&TargetReport> {
        self.report.targets.iter().find(|report| {
            report.target.subject.as_ref().is_some_and(|it| it.to_string() == database)
                && report.target.object.as_deref() == table
        })
    }

    #[track_caller]
    fn database(&self, name: &str) -> &TargetReport {
        self.find(name, None).unwrap_or_else(|| panic!("no target {name}: {self:#?}"))
    }

    #[track_caller]
    fn table(&self, name: &str) -> &TargetReport {
        self.find(APP, Some(name)).unwrap_or_else(|| panic!("no target {name}: {self:#?}"))
    }

    #[track_caller]
    fn count(&self, key: &str) -> u64 {
        self.database(APP).figures.counts[key]
    }

    #[track_caller]
    fn skipped(&self, table: &str) -> &str {
        let Outcome::Skipped(why) = &self.table(table).outcome else {
            panic!("{table} was not skipped: {self:#?}");
        };
        why
    }

    fn finding(&self, check: &str) -> Option<&str> {
        let found = self.report.findings.iter().find(|finding| finding.check == check);
        found.map(|finding| finding.what.as_str())
    }

    /// The plan as `action object`, without databases.
    fn plan(&self) -> Vec<String> {
        let steps =
            self.report.plan.iter().filter_map(|step| {
                Some(format!("{} {}", step.action, step.target.object.as_ref()?))
            });
        steps.collect()
    }
}

#[track_caller]
fn failure(report: &TargetReport, class: Class) -> &Failure {
    let Outcome::Failed(failure) = &report.outcome else { panic!("it did not fail: {report:#?}") };
    assert_eq!(failure.class, class, "{failure:#?}");
    failure
}

#[track_caller]
fn run_job(home: &Pgkeep, code: i32) -> Ran {
    Ran::of(home.run(&["run", "tidy", "--json"]), code)
}

/// A cluster with [`TABLES`] in it, and more.
fn cluster(more: &str) -> Cluster {
    cluster_of(Cluster::builder(), more)
}

fn cluster_of(builder: Builder, more: &str) -> Cluster {
    let cluster = builder.start();
    cluster.psql(APP, &format!("{TABLES}\nRESET ROLE;\n{more}"));
    cluster
}

/// A home with the job `tidy` on the tables of schema `w`, as `keeper`.
fn home(cluster: &Cluster, lines: &str) -> Pgkeep {
    home_for(cluster, "databases = [\"app\"]\ntables = [\"w.*\"]", lines)
}

fn home_for(cluster: &Cluster, what: &str, lines: &str) -> Pgkeep {
    let server = "maintenance_user = \"keeper\"";
    Pgkeep::new().server_with("main", cluster, server).toml(&job(what, lines))
}

fn job(what: &str, lines: &str) -> String {
    format!(
        "[job.tidy]\nkind = \"vacuum\"\nserver = \"main\"\nschedule = \"0 0 29 2 *\"\n{what}\n\
         {lines}"
    )
}

fn dead(cluster: &Cluster, table: &str) -> String {
    let sql = format!("SELECT pg_stat_get_dead_tuples('{table}'::regclass)");
    cluster.psql(APP, &sql)
}

fn vacuums(cluster: &Cluster, table: &str) -> String {
    let sql = format!("SELECT pg_stat_get_vacuum_count('{table}'::regclass)");
    cluster.psql(APP, &sql)
}

/// A session that holds locks until it is dropped.
struct Holder {
    psql: Child,
}

impl Holder {
    fn of(cluster: &Cluster, sql: &str) -> Self {
        let mut psql = cluster.tool("psql");
        psql.args(["-XqAt", "-d", &conninfo(APP)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = spawn(&mut psql);
        let text = format!("BEGIN; {sql};\n\\echo held\n");
        psql.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(psql.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self { psql }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.psql.stdin.take());
        drop(self.psql.wait());
    }
}

/// Waits until a statement of ours that begins so is under way, waiting for a lock or not.
fn wait_statement(cluster: &Cluster, begin: &str, waits: bool) {
    let lock = if waits { "AND wait_event_type = 'Lock'" } else { "" };
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep' \
         AND state = 'active' AND query LIKE '{begin}%' {lock}"
    );
    eventually(&format!("{begin} under way"), PATIENCE, || {
        (cluster.psql("postgres", &sql) == "1").then_some(())
    });
}

/// Waits until nothing of ours is on the server.
fn wait_no_backend(cluster: &Cluster) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'";
    eventually("a server without a backend of ours", PATIENCE, || {
        (cluster.psql("postgres", sql) == "0").then_some(())
    });
}
