//! Dumps from end to end: the real binary against real PostgreSQL and a real S3 server, on good
//! days and on bad ones.
//!
//! What is listed is restored and compared in every test; what failed has left nothing behind,
//! neither in the listing nor on the disk.

mod by_database;
mod bytes;
mod courtesy;
mod encrypted;
mod facts;
mod good;
mod limits;
mod names;
mod owner;
mod partitions;
mod rebuild;
mod retry;
mod runbook;
mod script;
mod selection;
mod server;
mod standby;
mod statistics;
mod tool;
mod volumes;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use pgkeep::{
    daemon::status::{JobLine, Status},
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Class, Failure},
        manifest::Manifest,
        report::{Outcome, Report, TargetReport, Verdict},
    },
    repository::layout::{self, MARKER_KEY},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;

use crate::harness::{
    chaos::Chaos,
    compare::assert_same,
    http::Metrics,
    pgkeep::{Daemon, Pgkeep, quote},
    postgres::{Cluster, SUPERUSER},
    process::{Output, code_of, command, run, spawn, wait_for},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
    wait::{PATIENCE, eventually},
};

/// The local repository of these tests.
const DISK: &str = "disk";
/// The S3 repository of these tests.
const OFFSITE: &str = "offsite";
/// One attempt, no globals: for tests of what one dump of one database does.
const ONCE: &str = "attempts = 1\nglobals = false\nworkers = 1";

/// What `run JOB --json` printed, and its exit code.
#[derive(Debug, Deserialize)]
struct Ran {
    verdict: Verdict,
    report: Report,
    #[serde(skip)]
    output: Option<Output>,
}

impl Ran {
    #[track_caller]
    fn of(output: Output, code: i32) -> Self {
        let output = output.expect_code(code);
        let ran: Self = serde_json::from_value(output.json()).unwrap();
        Self { output: Some(output), ..ran }
    }

    /// The target of a database (or `@globals`) in a repository.
    #[track_caller]
    fn target(&self, subject: &str, repository: &str) -> &TargetReport {
        let is = |report: &&TargetReport| {
            report.target.subject.as_ref().is_some_and(|it| it.to_string() == subject)
                && report.target.repository.as_ref().is_some_and(|it| it.to_string() == repository)
        };
        let found = self.report.targets.iter().find(is);
        found.unwrap_or_else(|| panic!("no target {subject} -> {repository}: {self:#?}"))
    }

    /// The failure of a target, which is to be of that class.
    #[track_caller]
    fn failed(&self, subject: &str, repository: &str, class: Class) -> &Failure {
        let Outcome::Failed(failure) = &self.target(subject, repository).outcome else {
            panic!("{subject} -> {repository} did not fail: {self:#?}");
        };
        assert_eq!(failure.class, class, "{failure:#?}");
        failure
    }

    /// The failure of the whole run, which is to be of that class.
    #[track_caller]
    fn failed_at_once(&self, class: Class) -> &Failure {
        let Some(failure) = &self.report.failure else { panic!("the run did not fail: {self:#?}") };
        assert_eq!(failure.class, class, "{failure:#?}");
        failure
    }

    #[track_caller]
    fn assert_succeeded(&self, subject: &str, repository: &str) {
        let outcome = &self.target(subject, repository).outcome;
        assert_eq!(*outcome, Outcome::Succeeded, "{subject} -> {repository}");
    }

    /// Every target, as `subject -> repository`.
    fn targets(&self) -> BTreeSet<String> {
        let names = self.report.targets.iter().map(|report| {
            let repository = report.target.repository.as_ref().map(ToString::to_string);
            let subject = report.target.subject.as_ref().map(ToString::to_string);
            format!("{} -> {}", subject.unwrap_or_default(), repository.unwrap_or_default())
        });
        names.collect()
    }
}

/// Runs a job to its end.
#[track_caller]
fn run_job(home: &Pgkeep, job: &str, code: i32) -> Ran {
    Ran::of(home.run(&["run", job, "--json"]), code)
}

/// A `pgkeep run` under way; killed when dropped.
struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

impl Running {
    fn start(home: &Pgkeep, job: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut command = home.command(&["run", job, "--json"]);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: spawn(&mut command), folder }
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    #[track_caller]
    fn end(mut self, code: i32) -> Ran {
        let status = wait_for(&mut self.child, "the end of a run", PATIENCE);
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let stderr = String::from_utf8_lossy(&read("err")).into_owned();
        Ran::of(Output { code: code_of(status), stdout: read("out"), stderr }, code)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An S3 server with a proxy before it, for tests that wait by blocking.
struct Bucket {
    server: S3Server,
    chaos: Chaos,
    runtime: tokio::runtime::Runtime,
}

impl Bucket {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(S3Server::start());
        let chaos = runtime.block_on(Chaos::start(server.address(), 11));
        Self { server, chaos, runtime }
    }

    fn refuse(&self) {
        self.runtime.block_on(self.chaos.refuse());
    }

    fn calm(&self) {
        self.runtime.block_on(self.chaos.calm());
    }

    /// The folder that holds the bucket's objects.
    fn root(&self) -> PathBuf {
        self.server.object_path("")
    }

    /// `[repository.offsite]`, with limits that a test can wait for.
    fn configure(&self, home: Pgkeep, lines: &str) -> Pgkeep {
        let lines = format!("request_timeout = \"1s\"\ngive_up_after = \"2s\"\n{lines}");
        home.s3_with(OFFSITE, &self.chaos.url(), BUCKET, (ACCESS_KEY, SECRET_KEY), &lines)
    }
}

/// A backup that is listed, in one repository.
struct Copy {
    repository: String,
    folder: PathBuf,
    manifest: Manifest,
}

impl Copy {
    fn subject(&self) -> String {
        self.manifest.series.subject.to_string()
    }
}

/// Everything that `list --json` names, found in the folders `roots` of the repositories. Holds
/// that nothing else lies there.
#[track_caller]
fn listed(home: &Pgkeep, roots: &[(&str, PathBuf)]) -> Vec<Copy> {
    let output = home.run(&["list", "--json"]);
    let rows = output.json();
    let rows = rows.as_array().unwrap();
    assert_eq!(output.code, if rows.is_empty() { 5 } else { 0 }, "{}", output.stderr);
    let copies: Vec<Copy> = rows.iter().map(|row| copy(row, roots)).collect();
    for (repository, root) in roots {
        let ours = |file: &PathBuf| copies.iter().any(|copy| file.starts_with(&copy.folder));
        let mut files = Vec::new();
        walk(root, &mut files);
        files.retain(|file| !ours(file) && *file != root.join(MARKER_KEY));
        assert!(files.is_empty(), "what is not listed lies in {repository}: {files:#?}");
    }
    copies
}

fn copy(row: &serde_json::Value, roots: &[(&str, PathBuf)]) -> Copy {
    let text = |key: &str| row[key].as_str().unwrap();
    let subject = match text("subject") {
        "@globals" => Subject::Globals,
        name => Subject::Database(name.parse().unwrap()),
    };
    let series = Series {
        server: text("server").parse().unwrap(),
        system_id: row["system_id"].as_str().unwrap().parse().unwrap(),
        subject,
        contents: text("contents").to_owned(),
    };
    let id: BackupId = text("id").parse().unwrap();
    assert_eq!(row["complete"], true);
    let (_, root) = roots.iter().find(|(name, _)| *name == text("repository")).unwrap();
    let folder = root.join(layout::folder(&series, &id));
    let bytes = fs::read(folder.join("manifest.json")).unwrap();
    let manifest = Manifest::from_bytes(&bytes, &series, &id).unwrap();
    Copy { repository: text("repository").to_owned(), folder, manifest }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// The one local repository.
fn disk(home: &Pgkeep) -> Vec<(&'static str, PathBuf)> {
    vec![(DISK, home.repository_dir(DISK))]
}

/// A shell with the programs of the cluster's version, set to connect to it.
fn shell(cluster: &Cluster, script: &str) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut sh = command("sh");
    sh.env("PATH", format!("{}:{path}", cluster.bin_dir().display()))
        .env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", SUPERUSER)
        .args(["-euc", script, "sh"]);
    sh
}

/// Restores a copy of a database with standard tools, and compares it with the database.
#[track_caller]
fn assert_restores(cluster: &Cluster, copy: &Copy) {
    let name = &copy.manifest.database.as_ref().expect("a database").name;
    cluster.create_like("restored", name);
    let mut sh = shell(cluster, "cat -- \"$@\" | zstd -dc | pg_restore -e -d restored");
    sh.args(copy.manifest.objects.iter().map(|object| &object.name)).current_dir(&copy.folder);
    run(&mut sh, "").expect_code(0);
    assert_same(cluster, name, "restored");
    cluster.psql("postgres", "DROP DATABASE restored");
}

/// What is listed is these databases (and `@globals`) and nothing else; each database is restored
/// and compared.
#[track_caller]
fn assert_listed(
    home: &Pgkeep,
    cluster: &Cluster,
    roots: &[(&str, PathBuf)],
    expected: &[&str],
) -> Vec<Copy> {
    let copies = listed(home, roots);
    let names = copies.iter().map(|copy| format!("{} -> {}", copy.subject(), copy.repository));
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, expected);
    for copy in copies.iter().filter(|copy| copy.manifest.database.is_some()) {
        assert_restores(cluster, copy);
    }
    copies
}

/// What `status --json` says of a job.
#[track_caller]
fn status(home: &Pgkeep, job: &str) -> JobLine {
    let status = whole_status(home);
    status.jobs.into_iter().find(|line| line.job.to_string() == job).unwrap()
}

#[track_caller]
fn whole_status(home: &Pgkeep) -> Status {
    serde_json::from_value(home.run(&["status", "--json"]).expect_code(0).json()).unwrap()
}

/// Failures of a job, by class, as an alert reads them.
fn failures(metrics: &Metrics, job: &str, class: Class) -> Option<f64> {
    metrics.value("pgkeep_job_failures_total", &[("job_name", job), ("class", class.as_str())])
}

/// Whether the last run of a job failed, as an alert works it out.
#[track_caller]
fn last_run_failed(metrics: &Metrics, job: &str) -> bool {
    let of = |name: &str| metrics.value(name, &[("job_name", job)]).unwrap();
    let completion = of("pgkeep_job_last_completion_timestamp_seconds");
    assert!(completion > 0.0, "job {job} never ended");
    completion > of("pgkeep_job_last_success_timestamp_seconds")
}

/// The process is gone, and was waited for.
fn assert_gone(pid: i32) {
    let pid = Pid::from_raw(pid).unwrap();
    eventually("the end of pg_dump", PATIENCE, || test_kill_process(pid).is_err().then_some(()));
}

/// `bin_dir = "…"`
fn bin_dir(path: impl AsRef<Path>) -> String {
    format!("bin_dir = {}", quote(path.as_ref().to_string_lossy()))
}

/// Ends a daemon whose runs failed on purpose; nothing else may stand in its log.
#[track_caller]
fn stop_after_failures(daemon: &mut Daemon) {
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", " ended ", "cannot sweep", "cannot list"]);
}
