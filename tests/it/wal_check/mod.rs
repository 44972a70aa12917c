//! The job kind `wal-check`: real servers that archive, archive nothing, or say that they do; real
//! archives with holes.

mod bucket;
mod folder;
mod receiver;
mod server;
mod timelines;

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgkeep::domain::{
    failure::{Class, Failure},
    finding::{Finding, Severity},
    report::{Report, TargetReport, Verdict},
};
use serde::Deserialize;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
    process::{Output, must},
    template::{Account, server_command},
    wait::{PATIENCE, eventually},
};

/// The template's segments have 1 MiB.
const SEGMENT: u64 = 1 << 20;

/// What `run JOB --json` printed.
#[derive(Debug, Deserialize)]
struct Ran {
    verdict: Verdict,
    report: Report,
}

impl Ran {
    #[track_caller]
    fn of(output: Output, code: i32) -> Self {
        serde_json::from_value(output.expect_code(code).json()).unwrap()
    }

    fn found(&self, check: &str) -> Vec<&Finding> {
        self.report.findings.iter().filter(|finding| finding.check == check).collect()
    }

    /// The one finding of that name, which is to be of that severity.
    #[track_caller]
    fn one(&self, check: &str, severity: Severity) -> &Finding {
        let found = self.found(check);
        assert_eq!(found.len(), 1, "{check}: {:#?}", self.report.findings);
        assert_eq!(found[0].severity, severity, "{found:#?}");
        assert!(found[0].hint.is_some(), "{found:#?}");
        found[0]
    }

    /// Nothing that an alert would speak of.
    #[track_caller]
    fn assert_quiet(&self) {
        let loud: Vec<_> =
            self.report.findings.iter().filter(|f| f.severity > Severity::Info).collect();
        assert!(loud.is_empty(), "{loud:#?}");
        assert_eq!(self.verdict, Verdict::Succeeded);
    }

    /// The value of a sample whose labels begin with the server's name.
    fn sample(&self, metric: &str, labels: &[&str]) -> Option<f64> {
        let same =
            |given: &[String]| given.iter().skip(1).map(String::as_str).eq(labels.iter().copied());
        let mut samples = self.report.samples.iter();
        samples.find(|s| s.metric == metric && same(&s.labels)).map(|s| s.value)
    }

    fn missing(&self, window: &str) -> Option<f64> {
        self.sample("wal_archive_missing_segments", &[window])
    }

    #[track_caller]
    fn target(&self, part: &str) -> &TargetReport {
        let is = |report: &&TargetReport| report.target.object.as_deref() == Some(part);
        let found = self.report.targets.iter().find(is);
        found.unwrap_or_else(|| panic!("no target {part}: {self:#?}"))
    }

    #[track_caller]
    fn failed(&self, class: Class) -> &Failure {
        let failure = self.report.failure.as_ref().expect("a failure");
        assert_eq!(failure.class, class, "{failure:#?}");
        failure
    }
}

#[track_caller]
fn check(home: &Pgkeep) -> Ran {
    Ran::of(home.run(&["run", "wal", "--json"]), 0)
}

/// A job `wal` that nothing starts but a test; with more lines.
fn job(home: Pgkeep, lines: &str) -> Pgkeep {
    home.toml(&format!(
        "[job.wal]\nkind = \"wal-check\"\nserver = \"main\"\nschedule = \"0 0 29 2 *\"\n\
         attempts = 1\n{lines}"
    ))
}

/// The same with an archive in a folder, listed at each run.
fn job_with(home: Pgkeep, archive: &Path, lines: &str) -> Pgkeep {
    let archive = quote(archive.to_string_lossy());
    job(
        home,
        &format!(
            "archive = {archive}\narchive_interval = \"0s\"\narchive_deadline = \"0s\"\n{lines}"
        ),
    )
}

/// A server that archives into a folder, by `cp`.
fn archiving() -> (Cluster, PathBuf) {
    let cluster = Cluster::builder().empty().setting("archive_mode", "on").start();
    let archive = archive_of(&cluster);
    set_command(&cluster, &copying(&archive));
    (cluster, archive)
}

/// A folder that belongs to the server's account.
fn archive_of(cluster: &Cluster) -> PathBuf {
    let archive = cluster.socket_dir().join("archive");
    fs::create_dir(&archive).unwrap();
    if let Some(account) = Account::for_server() {
        account.own(&archive);
    }
    archive
}

fn copying(archive: &Path) -> String {
    let to = format!("{}/%f", archive.display());
    // A segment that is there already, the same, is a success: a standby that is promoted archives
    // again what came with its base backup.
    format!("cmp -s %p {to} || (test ! -f {to} && cp %p {to})")
}

fn set_command(cluster: &Cluster, command: &str) {
    cluster.psql("postgres", &format!("ALTER SYSTEM SET archive_command = '{command}'"));
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    eventually("the new archive_command", PATIENCE, || {
        (cluster.psql("postgres", "SHOW archive_command") == command).then_some(())
    });
}

/// Writes a little and ends the segment; the answer is its name.
fn switch(cluster: &Cluster) -> String {
    cluster.psql("postgres", "SELECT pg_logical_emit_message(true, 'test', 'x')");
    let name = cluster.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    cluster.psql("postgres", "SELECT pg_switch_wal()");
    name
}

/// Ends `count` segments and waits until they are archived.
fn fill(cluster: &Cluster, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|_| switch(cluster)).collect();
    wait_archived(cluster, names.last().unwrap());
    names
}

/// Waits until the server takes a segment for archived, and has nothing left to archive.
fn wait_archived(cluster: &Cluster, name: &str) {
    let sql = "SELECT coalesce(left(last_archived_wal, 24), ''), \
               (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') \
               FROM pg_stat_archiver";
    eventually("a segment in the archive", PATIENCE, || {
        let answer = cluster.psql("postgres", sql);
        let (last, left) = answer.split_once('|').unwrap();
        (last >= name && left == "0").then_some(())
    });
}

/// A base backup, which leaves its label in the archive.
fn base_backup(cluster: &Cluster, to: &Path, more: &[&str]) {
    let mut tool = server_command(&cluster.bin_dir().join("pg_basebackup"));
    tool.env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .args(["--username", "postgres", "--checkpoint=fast", "--no-sync", "--pgdata"])
        .arg(to)
        .args(more);
    must(&mut tool);
}
