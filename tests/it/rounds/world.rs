//! What all rounds have in common: one server, one S3 server, one home with every repository and a
//! job for every set of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use pgkeep::{
    repository::{
        local::{LocalOptions, LocalStore},
        repo::Repository,
        store::Store,
    },
    sys::clock::{Clock as _, SystemClock},
};
use serde_json::Value;

use super::dice::Dice;
use crate::harness::{
    chaos::Chaos,
    liar::{Fault, Liar},
    pgkeep::{Pgkeep, quote},
    postgres::{Cluster, SUPERUSER},
    process::{code_of, command, must, run, spawn, wait_for},
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
    wait::PATIENCE,
};

/// Repositories: two folders, two prefixes of a bucket, one of each encrypted; and a folder on a
/// filesystem that is too small.
pub(super) const PLAIN: &str = "plain";
pub(super) const SEALED: &str = "sealed";
pub(super) const CLOUD: &str = "cloud";
pub(super) const VAULT: &str = "vault";
pub(super) const SMALL: &str = "small";
const SETS_OF: [&str; 4] = [PLAIN, SEALED, CLOUD, VAULT];
/// A request has a second, whatever it carries, and is repeated for one.
const HASTY: &str = "request_timeout = \"1s\"\ngive_up_after = \"1s\"";
/// MiB of the filesystem that is too small for some databases.
const SMALL_MIB: u32 = 1;

/// A job, and where it delivers to.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) repositories: Vec<&'static str>,
}

/// See the module's head.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) liar: Liar,
    pub(super) home: Pgkeep,
    pub(super) server: S3Server,
    pub(super) chaos: Chaos,
    pub(super) runtime: tokio::runtime::Runtime,
    /// Whether the small filesystem is there.
    pub(super) is_small_mounted: bool,
    key_file: PathBuf,
}

impl World {
    pub(super) fn new() -> Self {
        let cluster = Cluster::builder().empty().start();
        let liar = Liar::new(cluster.bin_dir());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(S3Server::start());
        let chaos = runtime.block_on(Chaos::start(server.address(), 11));
        let home = Pgkeep::new();
        let key_file = home.home().join("key");
        must(command("age-keygen").arg("-o").arg(&key_file));
        let recipient = must(command("age-keygen").arg("-y").arg(&key_file));
        let sealed = format!("encrypt_to = [{}]", quote(recipient.trim()));
        let keys = (ACCESS_KEY, SECRET_KEY);
        let s3 = |home: Pgkeep, name: &str, lines: &str| {
            let lines = format!("prefix = \"{name}\"\n{HASTY}\n{lines}");
            home.s3_with(name, &chaos.url(), BUCKET, keys, &lines)
        };
        let bin_dir = format!("bin_dir = {}", quote(liar.path().to_string_lossy()));
        let home = home
            .server_with("main", &cluster, &bin_dir)
            .local(PLAIN)
            .local_with(SEALED, &format!("min_free = \"1MiB\"\n{sealed}"))
            .local_with(SMALL, "min_free = \"0B\"");
        let mut home = s3(s3(home, CLOUD, ""), VAULT, &sealed);
        let lines =
            "exclude = [\"postgres\", \"restored\"]\nattempts = 1\nglobals = false\nworkers = 1";
        for Job { name, repositories } in all_jobs() {
            home = home.dump(&name, "main", &["*"], &repositories, lines);
            let hasty = format!("{lines}\nstall_timeout = \"1s\"");
            home = home.dump(&format!("{name}-stall"), "main", &["*"], &repositories, &hasty);
        }
        let is_small_mounted = mount(&home.repository_dir(SMALL));
        Self { cluster, liar, home, server, chaos, runtime, is_small_mounted, key_file }
    }

    /// The folder that holds a repository.
    pub(super) fn root(&self, repository: &str) -> PathBuf {
        match repository {
            CLOUD | VAULT => self.server.object_path(repository),
            name => self.home.repository_dir(name),
        }
    }

    /// Every file in the repositories.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for repository in SETS_OF.into_iter().chain([SMALL]) {
            walk(&self.root(repository), &mut files);
        }
        files.retain(|file| !file.ends_with("pgkeep-repository.json"));
        files
    }

    /// Forgets all backups, and whatever a failed round left.
    pub(super) fn clear(&mut self) {
        self.liar.set(&Fault::None);
        self.runtime.block_on(self.chaos.calm());
        if self.cluster.is_stopped() {
            self.cluster.start_again();
        }
        for repository in SETS_OF.into_iter().chain([SMALL]) {
            drop(fs::remove_dir_all(self.root(repository).join("main")));
        }
        let databases = self.cluster.psql(
            "postgres",
            "SELECT datname FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate",
        );
        for name in databases.lines() {
            let name = super::contents::quote(name);
            self.cluster.psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }

    /// What `list --incomplete` shows.
    pub(super) fn rows(&self) -> Vec<Value> {
        let listed = self.home.run(&["list", "--incomplete", "--json"]);
        assert!([0, 5].contains(&listed.code), "list: {}\n{}", listed.code, listed.stderr);
        listed.json().as_array().unwrap().clone()
    }

    /// Restores a backup with the tools of the distribution into a new database `restored`.
    pub(super) fn restore(&self, folder: &Path, repository: &str, like: &str) {
        let manifest = fs::read(folder.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let objects = manifest["objects"].as_array().unwrap();
        let names = objects.iter().map(|object| object["name"].as_str().unwrap());
        self.cluster.create_like("restored", like);
        let unpack = match repository {
            SEALED | VAULT => "age -d -i \"$KEY\" | zstd -dc",
            _ => "zstd -dc",
        };
        let script = format!("cat -- \"$@\" | {unpack} | \"$BIN/pg_restore\" -e -d restored");
        let mut shell = command("bash");
        shell
            .env("PGHOST", self.cluster.socket_dir())
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", SUPERUSER)
            .env("KEY", &self.key_file)
            .env("BIN", self.cluster.bin_dir());
        shell.args(["-euo", "pipefail", "-c", &script, "bash"]).args(names).current_dir(folder);
        run(&mut shell, "").expect_code(0);
    }

    /// Removes what a sweep takes for garbage if nothing were too young for it.
    pub(super) fn sweep(&self) {
        let later = SystemClock::new().now().wall + Duration::from_mins(1);
        for repository in SETS_OF.into_iter().chain([SMALL]) {
            let root = self.root(repository);
            if !root.join("pgkeep-repository.json").exists() {
                continue;
            }
            self.runtime.block_on(async {
                let store: Arc<dyn Store> = Arc::new(LocalStore::new(LocalOptions {
                    path: root,
                    min_free: 0,
                    others_may_write: false,
                }));
                let name = repository.parse().unwrap();
                let repository = Repository::open(name, store, false).await.unwrap();
                let plan = repository.garbage(Duration::ZERO, later).await.unwrap();
                let report = repository.sweep(plan).await.unwrap();
                assert!(report.failed.is_empty(), "{:?}", report.failed);
            });
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.is_small_mounted {
            run(command("umount").arg("--lazy").arg(self.home.repository_dir(SMALL)), "");
        }
    }
}

/// Every job: one for each set of repositories, and those with the small one.
fn all_jobs() -> Vec<Job> {
    (1..1 << SETS_OF.len()).map(job).chain(small_jobs()).collect()
}

pub(super) fn draw_job(dice: &mut Dice) -> Job {
    job(dice.below((1 << SETS_OF.len()) - 1) + 1)
}

fn job(mask: u64) -> Job {
    let named = SETS_OF.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0);
    Job { name: format!("set{mask}"), repositories: named.map(|(_, name)| *name).collect() }
}

pub(super) fn small_jobs() -> [Job; 3] {
    let job = |name: &str, repositories: &[&'static str]| Job {
        name: name.to_owned(),
        repositories: repositories.to_vec(),
    };
    [
        job("small", &[SMALL]),
        job("small-plain", &[SMALL, PLAIN]),
        job("small-vault", &[SMALL, VAULT]),
    ]
}

fn mount(path: &Path) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIPPED: only root may mount the small filesystem of the rounds with a full disk"
        );
        return false;
    }
    let size = format!("size={SMALL_MIB}m,mode=0700");
    let mut mount = command("mount");
    let output = run(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path), "");
    if output.code != 0 {
        eprintln!("SKIPPED: no filesystem can be mounted here: {}", output.stderr);
    }
    output.code == 0
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// A `pgkeep run` under way; killed when dropped.
pub(crate) struct Running {
    pub(super) child: Child,
    folder: tempfile::TempDir,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    /// None where it was killed.
    pub(crate) report: Option<Value>,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn start(home: &Pgkeep, job: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut command = home.command(&["run", job, "--json"]);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: spawn(&mut command), folder }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn end(mut self) -> Ran {
        let status = wait_for(&mut self.child, "the end of a run", PATIENCE);
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let report = serde_json::from_slice::<Value>(&read("out")).ok();
        let stderr = String::from_utf8_lossy(&read("err")).into_owned();
        Ran { code: code_of(status), report: report.map(|it| it["report"].clone()), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The folders of rows, and what they say.
pub(super) fn folder(world: &World, row: &Value) -> PathBuf {
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    let subject = pgkeep::domain::name::escape(&text("subject"));
    let parts = [text("server"), text("system_id"), subject, text("contents"), text("id")];
    parts.iter().fold(world.root(&text("repository")), |path, part| path.join(part))
}

/// The repositories in which a report says that a backup was made.
pub(super) fn delivered(report: &Value) -> BTreeSet<String> {
    let targets = report["targets"].as_array().cloned().unwrap_or_default();
    let done = targets.iter().filter(|target| target["outcome"]["state"] == "succeeded");
    done.map(|target| target["target"]["repository"].as_str().unwrap().to_owned()).collect()
}
