//! Repositories on bad days, with the real binary: a job dumps into a folder and a bucket, one of
//! them has trouble, and the other has to get its backup all the same.

mod damage;
mod disk;
mod hostile;
mod leftovers;
mod lied;
mod linked;
mod memory;
mod network;
mod parts;
mod refused;
mod silence;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::harness::{
    chaos::Chaos,
    compare::assert_same,
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::{Daemon, Pgkeep, quote},
    postgres::{APP, Cluster, conninfo},
    process::{Output, must},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
    wait::{PATIENCE, eventually},
};

/// The local repository.
const DISK: &str = "disk";
/// The S3 repository. It comes before the local one in the order of names, so that a defect by
/// which one waits for the other shows.
const CLOUD: &str = "cloud";
/// The prefix of the S3 repository.
const PREFIX: &str = "host/a";
/// A database whose dump has many parts: see [`Setup::megabytes`].
const BIG: &str = "big";
/// Long enough for requests that work, on a machine that is busy.
const PATIENT: &str = "request_timeout = \"20s\"\ngive_up_after = \"40s\"";
/// A request has one second whatever it carries, and is repeated for two.
const HASTY: &str = "request_timeout = \"1s\"\nmin_rate = \"1GiB\"\ngive_up_after = \"2s\"\n\
                     parallel_parts = 1";
/// The name of the job.
const JOB: &str = "nightly";

/// What is to be tested.
#[derive(Debug, Clone)]
struct Setup {
    /// More lines of `[daemon]`.
    daemon: &'static str,
    /// Lines of the local repository.
    disk: &'static str,
    /// Lines of the S3 repository.
    cloud: &'static str,
    /// More lines of the job.
    job: &'static str,
    bucket: &'static str,
    secret: &'static str,
    /// Compressed megabytes of [`BIG`], which is dumped in place of [`APP`] where this is not 0.
    megabytes: u32,
    fake: Option<Fake>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            daemon: "",
            disk: "min_free = \"1MiB\"",
            cloud: PATIENT,
            job: "attempts = 1",
            bucket: BUCKET,
            secret: SECRET_KEY,
            megabytes: 0,
            fake: None,
        }
    }
}

/// A cluster, two repositories, and a job that dumps one database into both.
#[derive(Debug)]
struct Bench {
    home: Pgkeep,
    cluster: Cluster,
    server: S3Server,
    chaos: Chaos,
    fake: Option<FakeBin>,
    database: &'static str,
}

/// Does something at the end of a scope, also of one that panics.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Why a target failed.
#[derive(Debug)]
struct Trouble {
    class: String,
    what: String,
    hint: String,
}

impl Setup {
    async fn start(self) -> Bench {
        let server = S3Server::start().await;
        let chaos = Chaos::start(server.address(), 7).await;
        let cluster = Cluster::start();
        let database = if self.megabytes == 0 { APP } else { BIG };
        if self.megabytes > 0 {
            fill(&cluster, self.megabytes);
        }
        let fake = self.fake.map(|kind| fake_bin_dir(kind, cluster.bin_dir()));
        let programs = fake.as_ref().map_or_else(|| cluster.bin_dir().to_owned(), FakeBin::path);
        let keys = (ACCESS_KEY, self.secret);
        let home = Pgkeep::with_daemon(self.daemon)
            .server_with("main", &cluster, &bin_dir(&programs))
            .local_with(DISK, self.disk)
            .s3_with(
                CLOUD,
                &chaos.url(),
                self.bucket,
                keys,
                &format!("prefix = \"/{PREFIX}/\"\n{}", self.cloud),
            )
            .dump(
                JOB,
                "main",
                &[database],
                &[DISK, CLOUD],
                &format!("globals = false\n{}", self.job),
            );
        fs::create_dir_all(home.repository_dir(DISK)).unwrap();
        Bench { home, cluster, server, chaos, fake, database }
    }
}

fn bin_dir(path: &Path) -> String {
    format!("bin_dir = {}", quote(path.to_string_lossy()))
}

/// Makes a database of which a dump has so many megabytes, whatever compresses it.
fn fill(cluster: &Cluster, megabytes: u32) {
    cluster.psql("postgres", &format!("CREATE DATABASE {BIG}"));
    cluster.psql(
        BIG,
        &format!(
            "CREATE TABLE noise (line text); \
             COPY noise FROM PROGRAM 'head -c {megabytes}000000 /dev/urandom | base64 -w 6000'"
        ),
    );
}

impl Bench {
    fn fake(&self) -> &FakeBin {
        self.fake.as_ref().expect("a fake")
    }

    /// The folder that holds a repository, wherever it is.
    fn root(&self, repository: &str) -> PathBuf {
        match repository {
            DISK => self.home.repository_dir(DISK),
            _ => self.server.object_path(PREFIX),
        }
    }

    /// Everything that lies in a repository, hidden files too.
    fn files(&self, repository: &str) -> Vec<String> {
        files(&self.root(repository)).into_keys().collect()
    }

    /// Runs the job to its end.
    fn run(&self) -> Output {
        self.home.run(&["run", JOB, "--json"])
    }

    /// The backups that `list` shows of a repository, the oldest first.
    fn listed(&self, repository: &str) -> Vec<Value> {
        let rows = self.home.run(&["list", "--json"]).json();
        let rows = rows.as_array().expect("rows").iter();
        rows.filter(|row| row["repository"] == repository).cloned().collect()
    }

    /// Where a listed backup lies.
    fn folder(&self, row: &Value) -> PathBuf {
        let text = |key: &str| row[key].as_str().expect(key).to_owned();
        self.root(&text("repository"))
            .join(text("server"))
            .join(row["system_id"].as_str().unwrap())
            .join(text("subject"))
            .join(text("contents"))
            .join(text("id"))
    }

    /// Restores every backup that is listed with standard means and compares it with the database.
    #[track_caller]
    fn assert_all_restore(&self, repository: &str, count: usize) {
        let rows = self.listed(repository);
        assert_eq!(rows.len(), count, "backups in {repository}: {rows:?}");
        for row in &rows {
            assert_eq!(row["complete"], true);
            self.assert_restores(row);
        }
    }

    #[track_caller]
    fn assert_restores(&self, row: &Value) {
        let folder = self.folder(row);
        let manifest = fs::read(folder.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut stored = Vec::new();
        for object in manifest["objects"].as_array().unwrap() {
            stored.extend(fs::read(folder.join(object["name"].as_str().unwrap())).unwrap());
        }
        let archive = self.home.home().join("restored.dump");
        fs::write(&archive, zstd::decode_all(&stored[..]).unwrap()).unwrap();
        self.cluster.create_like("restored", self.database);
        let mut restore = self.cluster.tool("pg_restore");
        must(restore.args(["--exit-on-error", "-d", &conninfo("restored")]).arg(&archive));
        assert_same(&self.cluster, self.database, "restored");
        self.cluster.psql("postgres", "DROP DATABASE restored");
    }

    /// Runs the job through the daemon: one repository fails, which the exit code, the report, the
    /// log, the journal and the metrics tell, and the other has its backup.
    #[track_caller]
    fn run_partial(&self, daemon: &Daemon, bad: &str) -> Trouble {
        let good = if bad == DISK { CLOUD } else { DISK };
        let counts = || [good, bad].map(|repository| self.listed(repository).len());
        let before = counts();
        let report = self.run().expect_code(4).json();
        assert_eq!(report["verdict"], "partial");
        assert_eq!(target(&report, good)["outcome"]["state"], "succeeded");
        let trouble = trouble(&report, bad);
        daemon.wait_log(&trouble.what);
        assert_eq!(counts(), [before[0] + 1, before[1]], "{good}, {bad}");

        let status = self.home.run(&["status", "--json"]).expect_code(0).json();
        let last = &status["jobs"][0]["last"];
        assert_eq!(last["verdict"], "partial");
        assert_eq!(last["report"], report["report"], "the journal");

        let metrics = daemon.metrics();
        let job = ("job_name", JOB);
        let value = |name: &str, label| metrics.value(name, &[job, label]);
        let class = ("class", trouble.class.as_str());
        assert!(value("pgkeep_job_failures_total", class) >= Some(1.0), "{trouble:?}");
        assert!(value("pgkeep_job_runs_total", ("outcome", "partial")) >= Some(1.0));
        let completed = metrics.value("pgkeep_job_last_completion_timestamp_seconds", &[job]);
        let succeeded = metrics.value("pgkeep_job_last_success_timestamp_seconds", &[job]);
        assert!(completed > succeeded, "an alert reads that the last run failed");
        let delivered = "pgkeep_backup_last_success_timestamp_seconds";
        let of = |metrics: &crate::harness::http::Metrics, repository| {
            metrics.value(delivered, &[("repository", repository)]).unwrap_or(0.0)
        };
        assert!(of(&metrics, good) > of(&metrics, bad));
        let stored = before[0] + 1;
        eventually("a probe that counts the new backup", PATIENCE, || {
            let found = daemon.metrics().value("pgkeep_backup_stored", &[("repository", good)])?;
            ((found - stored as f64).abs() < 0.5).then_some(())
        });
        trouble
    }
}

/// The one target of a report that is of that repository.
#[track_caller]
fn target<'a>(report: &'a Value, repository: &str) -> &'a Value {
    let targets = report["report"]["targets"].as_array().expect("targets");
    let mut of = targets.iter().filter(|target| target["target"]["repository"] == repository);
    let found = of.next().unwrap_or_else(|| panic!("no target {repository}: {report}"));
    assert!(of.next().is_none(), "several targets {repository}: {report}");
    found
}

#[track_caller]
fn trouble(report: &Value, repository: &str) -> Trouble {
    let outcome = &target(report, repository)["outcome"];
    assert_eq!(outcome["state"], "failed", "{report}");
    let text = |key: &str| outcome["detail"][key].as_str().unwrap_or_default().to_owned();
    Trouble { class: text("class"), what: text("what"), hint: text("hint") }
}

impl Trouble {
    /// Holds class and what a person has to be told.
    #[track_caller]
    fn expect(&self, class: &str, what: &str, hint: &str) {
        assert_eq!(self.class, class, "{self:?}");
        assert!(self.what.contains(what), "{self:?}");
        assert!(self.hint.contains(hint), "{self:?}");
    }
}

/// Every file below a folder by its path, with length and time of the last change (nanoseconds).
fn files(root: &Path) -> BTreeMap<String, (u64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let facts = fs::symlink_metadata(entry.path()).unwrap();
            if facts.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(
                    path,
                    (facts.len(), facts.mtime() * 1_000_000_000 + facts.mtime_nsec()),
                );
            }
        }
    }
    found
}

/// What lies in a repository without a backup.
const EMPTY: [&str; 1] = ["pgkeep-repository.json"];
/// What the log may hold where one repository of a run failed.
const PARTIAL_LOG: [&str; 2] = ["failed: ", "ended"];
