//! The daemon's life, from outside: what the service manager hears, reloads, the orderly end and
//! the other one, what outlives it, and what it says of itself.

mod ground;
mod hang;
mod limits;
mod notify;
mod outside;
mod pause;
mod reload;
mod restart;
mod stop;
mod unit;
mod watch;

use std::{fs, path::Path};

use serde_json::Value;

use crate::harness::{
    compare::assert_same,
    fakes::{Fake, FakeBin, fake_bin_dir},
    pgkeep::{Daemon, Pgkeep, quote},
    postgres::{APP, Cluster},
    process::{command, must},
    wait::{PATIENCE, eventually},
};

/// A server whose dumps misbehave, a repository, and the job `nightly` for [`APP`] alone.
pub(crate) struct Bench {
    pub(crate) home: Pgkeep,
    pub(crate) fake: FakeBin,
    pub(crate) cluster: Cluster,
}

impl Bench {
    pub(crate) fn new(kind: Fake) -> Self {
        Self::with(Pgkeep::new(), kind)
    }

    pub(crate) fn with(home: Pgkeep, kind: Fake) -> Self {
        let cluster = Cluster::start();
        let fake = fake_bin_dir(kind, cluster.bin_dir());
        let bin_dir = quote(fake.path().to_string_lossy());
        let home = home
            .server_with("main", &cluster, &format!("bin_dir = {bin_dir}\n"))
            .local("disk")
            .dump("nightly", "main", &[APP], &["disk"], "globals = false\n");
        Self { home, fake, cluster }
    }

    /// Restores what `list` has of the database and compares it with the original.
    #[track_caller]
    pub(crate) fn assert_restores(&self, repository: &str) {
        assert_restores(&self.home, &self.cluster, repository);
    }
}

/// Restores the newest backup of [`APP`] with standard tools and compares it with the original.
#[track_caller]
pub(crate) fn assert_restores(home: &Pgkeep, cluster: &Cluster, repository: &str) {
    let rows = home.run(&["list", "--repository", repository, "--json"]).expect_code(0).json();
    let newest = rows.as_array().unwrap().iter().rfind(|row| row["subject"] == APP).unwrap();
    let id = newest["id"].as_str().unwrap();
    let shown = home.run(&["show", id, "--json"]).expect_code(0).json();
    let shown = shown.as_array().unwrap().iter().find(|s| s["repository"] == repository).unwrap();
    let folder = home.repository_dir(repository).join(shown["folder"].as_str().unwrap());
    let archive = folder.join(shown["manifest"]["objects"][0]["name"].as_str().unwrap());
    let plain = home.home().join("restored.dump");
    must(command("zstd").args(["-qdfo"]).arg(&plain).arg(&archive));
    let name = format!("restored_{}", id.to_lowercase());
    cluster.create_like(&name, APP);
    must(cluster.tool("pg_restore").args(["--exit-on-error", "-d", &name]).arg(&plain));
    assert_same(cluster, APP, &name);
}

/// A server that is not there, for what needs no dump.
pub(crate) const NOWHERE: &str =
    "[server.main]\nhost = \"/nonexistent\"\nuser = \"nobody\"\nconnect_timeout = \"1s\"\n";

/// `[job.NAME]` of a dump that nothing starts, with more lines.
pub(crate) fn job(name: &str, lines: &str) -> String {
    format!(
        "\n[job.{name}]\nkind = \"dump\"\nserver = \"main\"\nrepositories = [\"disk\"]\n\
         schedule = \"0 0 29 2 *\"\n{lines}\n"
    )
}

/// The one entry of a job in `status --json`.
#[track_caller]
pub(crate) fn status_of(home: &Pgkeep, job: &str) -> Value {
    let status = home.run(&["status", "--json"]).expect_code(0).json();
    let jobs = status["jobs"].as_array().unwrap();
    jobs.iter().find(|line| line["job"] == job).cloned().unwrap_or(Value::Null)
}

/// The names of the jobs in `status --json`.
#[track_caller]
pub(crate) fn job_names(home: &Pgkeep) -> Vec<String> {
    let status = home.run(&["status", "--json"]).expect_code(0).json();
    let jobs = status["jobs"].as_array().unwrap();
    jobs.iter().map(|line| line["job"].as_str().unwrap().to_owned()).collect()
}

/// A value of a job's metric.
#[track_caller]
pub(crate) fn of_job(daemon: &Daemon, metric: &str, job: &str) -> Option<f64> {
    daemon.metrics().value(&format!("pgkeep_{metric}"), &[("job_name", job)])
}

/// The records of a job's runs on disk.
pub(crate) fn records(home: &Pgkeep, job: &str) -> Vec<Value> {
    let folder = home.state_dir().join("runs").join(job);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

/// How the runs of a job ended, in their order.
pub(crate) fn verdicts(home: &Pgkeep, job: &str) -> Vec<String> {
    let verdict = |record: &Value| {
        record["state"]["ended"]["verdict"].as_str().unwrap_or("running").to_owned()
    };
    records(home, job).iter().map(verdict).collect()
}

/// What is remembered of a job.
#[track_caller]
pub(crate) fn memory(home: &Pgkeep, job: &str) -> Value {
    let path = home.state_dir().join("jobs").join(format!("{job}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Whether a process runs; one that nobody has reaped yet does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat[stat.rfind(')').unwrap() + 1..].trim_start().chars().next();
    !matches!(state, Some('Z' | 'X'))
}

#[track_caller]
pub(crate) fn assert_gone(pids: &[i32]) {
    assert!(!pids.is_empty(), "nothing was started");
    for pid in pids {
        eventually(&format!("the end of process {pid}"), PATIENCE, || {
            (!is_alive(*pid)).then_some(())
        });
    }
}

/// The names of everything below a folder, folders left out.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// Nothing is listed, and nothing that was being written is left where it would be garbage.
#[track_caller]
pub(crate) fn assert_nothing_left(home: &Pgkeep, repository: &str) {
    home.run(&["list", "--incomplete", "--json"]).expect_code(5);
    let left: Vec<_> = files_below(&home.repository_dir(repository))
        .into_iter()
        .filter(|name| !name.ends_with("/pgkeep-repository.json"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "left in the repository");
    assert_eq!(files_below(&home.state_dir().join("scratch")), Vec::<String>::new(), "scratch");
    assert_eq!(files_below(&home.state_dir().join("children")), Vec::<String>::new(), "children");
}
