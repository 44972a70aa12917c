//! Copying from repository to repository, with the real binary: a job dumps into a folder, another
//! brings the backups to a bucket or to another folder.

mod breaks;
mod faults;
mod good;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use pgkeep::{
    domain::{
        backup::{BackupId, Series},
        name::RepositoryName,
    },
    repository::{
        local::{LocalOptions, LocalStore},
        repo::Repository,
    },
    sys::clock::{Clock as _, SystemClock},
};
use serde_json::Value;

use crate::harness::{
    chaos::Chaos,
    compare::assert_same,
    pgkeep::{Daemon, Pgkeep},
    postgres::{APP, Cluster, conninfo},
    process::must,
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
    wait::{PATIENCE, eventually},
};

/// Where the dumps go.
const DISK: &str = "disk";
/// Another folder.
const SECOND: &str = "second";
/// The S3 repository.
const CLOUD: &str = "cloud";
/// The prefix of the S3 repository.
const PREFIX: &str = "host/a";
/// Requests that carry a part.
const PART: &str = "partNumber=";
/// A request has one second whatever it carries, and is repeated for two.
const HASTY: &str = "request_timeout = \"1s\"\nmin_rate = \"1GiB\"\ngive_up_after = \"2s\"";
/// A request that hangs holds the test up until the proxy lets go of it.
const PATIENT: &str = "request_timeout = \"50s\"\nmin_rate = \"1KiB\"\ngive_up_after = \"50s\"";

/// A cluster, a folder that its dumps go to, and a bucket.
struct Bench {
    home: Pgkeep,
    cluster: Cluster,
    server: S3Server,
    chaos: Chaos,
}

impl Bench {
    /// With these lines in the S3 repository, and a job `upload` from the folder to the bucket.
    async fn new(cloud: &str, upload: &str) -> Self {
        Self::bare(cloud).await.job(&format!(
            "[job.upload]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"{CLOUD}\"]\n{upload}"
        ))
    }

    /// With a job `nightly` that dumps to the folder.
    async fn bare(cloud: &str) -> Self {
        let server = S3Server::start().await;
        let chaos = Chaos::start(server.address(), 7).await;
        let cluster = Cluster::start();
        let lines = format!("prefix = \"/{PREFIX}/\"\n{cloud}");
        let home = Pgkeep::new()
            .server("main", &cluster)
            .local(DISK)
            .local(SECOND)
            .s3_with(CLOUD, &chaos.url(), BUCKET, (ACCESS_KEY, SECRET_KEY), &lines)
            .dump("nightly", "main", &[APP], &[DISK], "globals = false\nattempts = 1");
        Self { home, cluster, server, chaos }
    }

    fn job(self, section: &str) -> Self {
        let home = self.home.toml(section);
        Self { home, ..self }
    }

    /// Dumps once, in a second of its own, and gives the id.
    fn dump(&self) -> String {
        let second = || SystemClock::new().now().wall.as_second();
        let now = second();
        eventually("the next second", PATIENCE, || (second() > now).then_some(()));
        let report = self.home.run(&["run", "nightly", "--json"]).expect_code(0).json();
        let target = &report["report"]["targets"][0];
        target["figures"]["backup"].as_str().expect("a backup").to_owned()
    }

    /// Runs a job to its end, and gives its report.
    #[track_caller]
    fn run(&self, job: &str, code: i32) -> Value {
        self.home.run(&["run", job, "--json"]).expect_code(code).json()["report"].clone()
    }

    /// The folder that holds a repository, wherever it is.
    fn root(&self, repository: &str) -> PathBuf {
        match repository {
            CLOUD => self.server.object_path(PREFIX),
            name => self.home.repository_dir(name),
        }
    }

    /// What `list` shows of a repository, the oldest first.
    fn listed(&self, repository: &str) -> Vec<Value> {
        let rows = self.home.run(&["list", "--json"]).json();
        let rows = rows.as_array().expect("rows").iter();
        rows.filter(|row| row["repository"] == repository).cloned().collect()
    }

    fn ids(&self, repository: &str) -> Vec<String> {
        let id = |row: &Value| row["id"].as_str().expect("an id").to_owned();
        self.listed(repository).iter().map(id).collect()
    }

    /// Where a listed backup lies.
    fn folder(&self, row: &Value) -> PathBuf {
        let text = |key: &str| row[key].as_str().expect(key).to_owned();
        let keys = ["repository", "server", "system_id", "subject", "contents", "id"].map(text);
        let [repository, rest @ ..] = keys;
        rest.iter().fold(self.root(&repository), |path, part| path.join(part))
    }

    fn row(&self, repository: &str, id: &str) -> Value {
        self.listed(repository).into_iter().find(|row| row["id"] == id).expect("a row")
    }

    /// A repository has these backups and nothing else; each is restored with standard means and
    /// compared with the database.
    #[track_caller]
    fn assert_has(&self, repository: &str, ids: &[&String]) {
        let rows = self.listed(repository);
        assert_eq!(self.ids(repository).iter().collect::<Vec<_>>(), ids, "in {repository}");
        let folders: Vec<PathBuf> = rows.iter().map(|row| self.folder(row)).collect();
        let mut files = Vec::new();
        walk(&self.root(repository), &mut files);
        files.retain(|file| !folders.iter().any(|folder| file.starts_with(folder)));
        files.retain(|file| !file.ends_with("pgkeep-repository.json"));
        assert!(files.is_empty(), "what is not listed lies in {repository}: {files:?}");
        if repository == CLOUD {
            assert_eq!((self.server.parts(), self.server.uploads().len()), (0, 0));
        }
        for folder in folders {
            self.assert_restores(&folder);
        }
    }

    #[track_caller]
    fn assert_restores(&self, folder: &Path) {
        let manifest = fs::read(folder.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let mut stored = Vec::new();
        for object in manifest["objects"].as_array().unwrap() {
            stored.extend(fs::read(folder.join(object["name"].as_str().unwrap())).unwrap());
        }
        let archive = self.home.home().join("restored.dump");
        fs::write(&archive, zstd::decode_all(&stored[..]).unwrap()).unwrap();
        self.cluster.create_like("restored", APP);
        let mut restore = self.cluster.tool("pg_restore");
        must(restore.args(["--exit-on-error", "-d", &conninfo("restored")]).arg(&archive));
        assert_same(&self.cluster, APP, "restored");
        self.cluster.psql("postgres", "DROP DATABASE restored");
    }

    /// Waits until so many parts are on their way to the bucket.
    fn wait_parts(&self, count: usize) {
        eventually("parts on their way", PATIENCE, || {
            (self.chaos.seen("PUT", PART).len() >= count).then_some(())
        });
    }

    /// Removes a backup of a folder as another host's prune does.
    async fn delete_elsewhere(&self, repository: &str, id: &str) {
        let row = self.row(repository, id);
        let text = |key: &str| row[key].as_str().unwrap();
        let path = ["server", "system_id", "subject", "contents"].map(text).join("/");
        let (series, id) = (Series::from_path(&path).unwrap(), id.parse::<BackupId>().unwrap());
        let options =
            LocalOptions { path: self.root(repository), min_free: 0, others_may_write: false };
        let name: RepositoryName = repository.parse().unwrap();
        let store = Arc::new(LocalStore::new(options));
        let other = Repository::open(name, store, false).await.unwrap();
        assert!(other.delete_backup(&series, &id).await.unwrap().is_some());
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// The one target of a report that is of that repository.
#[track_caller]
fn target<'a>(report: &'a Value, repository: &str) -> &'a Value {
    let targets = report["targets"].as_array().expect("targets");
    let mut of = targets.iter().filter(|target| target["target"]["repository"] == repository);
    let found = of.next().unwrap_or_else(|| panic!("no target {repository}: {report:#}"));
    assert!(of.next().is_none(), "several targets {repository}: {report:#}");
    found
}

/// What was counted of a target; 0 where nothing was.
#[track_caller]
fn count(report: &Value, repository: &str, name: &str) -> u64 {
    target(report, repository)["figures"]["counts"][name].as_u64().unwrap_or(0)
}

/// Holds class, text and hint of a target's failure.
#[track_caller]
fn expect_failed(report: &Value, repository: &str, class: &str, what: &str, hint: &str) {
    let outcome = &target(report, repository)["outcome"];
    assert_eq!(outcome["state"], "failed", "{report:#}");
    assert_eq!(outcome["detail"]["class"], class, "{report:#}");
    for (key, text) in [("what", what), ("hint", hint)] {
        let said = outcome["detail"][key].as_str().unwrap_or_default();
        assert!(said.contains(text), "{key}: {said}");
    }
}

/// A metric of the job `upload` about the bucket.
fn metric(daemon: &Daemon, name: &str) -> Option<f64> {
    let labels = [("job_name", "upload"), ("repository", CLOUD)];
    daemon.metrics().value(&format!("pgkeep_{name}"), &labels)
}
