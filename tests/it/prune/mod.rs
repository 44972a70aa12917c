//! Retention with the real binary over a folder and a bucket, on good days and bad ones. The backups
//! are planted: what prune looks at is names, sizes and manifests, and a year of dumps takes a year.

mod broken;
mod rules;
mod together;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use pgkeep::{
    domain::{
        Timestamp,
        backup::{BackupId, Series},
        manifest::{FORMAT_VERSION, Manifest, Owner, Plain, Snapshot, StoredObject, Tool, Totals},
        recipients::Recipients,
    },
    sys::{
        clock::{Clock as _, SystemClock},
        host,
    },
};
use serde_json::Value;

use crate::harness::{
    chaos::Chaos,
    pgkeep::Pgkeep,
    s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY},
};

const DISK: &str = "disk";
const CLOUD: &str = "cloud";
/// The prefix of the S3 repository.
const PREFIX: &str = "host/a";
const JOB: &str = "tidy";
/// A request has one second, and is repeated for two.
const HASTY: &str = "request_timeout = \"1s\"\nmin_rate = \"1GiB\"\ngive_up_after = \"2s\"";
/// What a dump and its index are in these tests.
const DATA: &[u8] = b"not a dump";

/// A home with both repositories, and the proxy before the bucket.
struct Bench {
    home: Pgkeep,
    server: S3Server,
    chaos: Chaos,
}

impl Bench {
    /// With these lines of `[daemon]`, of the policy and of the job.
    async fn start(daemon: &str, policy: &str, job: &str) -> Self {
        let server = S3Server::start().await;
        let chaos = Chaos::start(server.address(), 7).await;
        let home = Pgkeep::with_daemon(daemon)
            .toml("[server.main]\nhost = \"/nonexistent\"")
            .local(DISK)
            .s3_with(
                CLOUD,
                &chaos.url(),
                BUCKET,
                (ACCESS_KEY, SECRET_KEY),
                &format!("prefix = \"/{PREFIX}/\"\n{HASTY}"),
            )
            .toml(&format!("[retention.standard]\n{policy}"))
            .toml(&format!(
                "[job.{JOB}]\nkind = \"prune\"\nrepositories = [\"{DISK}\", \"{CLOUD}\"]\n\
                 retention = \"standard\"\n{job}"
            ));
        let bench = Self { home, server, chaos };
        for (root, id) in [(bench.root(DISK), "a"), (bench.root(CLOUD), "b")] {
            plant_marker(&root, id);
        }
        bench
    }

    /// The folder that is the root of a repository.
    fn root(&self, repository: &str) -> PathBuf {
        match repository {
            DISK => self.home.repository_dir(DISK),
            _ => self.server.object_path(PREFIX),
        }
    }

    /// Plants the same backup in both repositories.
    fn plant(&self, series: &str, at: &str) -> BackupId {
        let owner = host::owner(&self.home.state_dir()).unwrap();
        let id = plant(&self.root(DISK), series, at, &owner);
        copy_folder(&self.root(DISK), &self.root(CLOUD), series, &id);
        id
    }

    /// One backup of each of the last days, the oldest first.
    fn plant_days(&self, series: &str, days: i64) -> Vec<BackupId> {
        let at = |day: i64| now() - jiff::SignedDuration::from_hours(24 * day + 1);
        (0..days).rev().map(|day| self.plant(series, &at(day).to_string())).collect()
    }

    /// The report of what the job would do.
    fn dry_run(&self) -> Value {
        self.home.run(&["run", JOB, "--dry-run", "--json"]).expect_code(0).json()
    }

    /// The report of a run, which ends with this exit code.
    #[track_caller]
    fn run(&self, code: i32) -> Value {
        self.home.run(&["run", JOB, "--json"]).expect_code(code).json()
    }
}

fn now() -> Timestamp {
    SystemClock::new().now().wall
}

fn plant_marker(root: &Path, id: &str) {
    fs::create_dir_all(root).unwrap();
    let text = format!("{{\"format_version\": 1, \"repository_id\": \"{}\"}}\n", id.repeat(32));
    fs::write(root.join("pgkeep-repository.json"), text).unwrap();
}

/// Plants a backup that was begun then, and ended in the same minute.
fn plant(root: &Path, series: &str, at: &str, owner: &Owner) -> BackupId {
    let series = Series::from_path(series).unwrap();
    let id = BackupId::new(at.parse().unwrap(), host::random_u64().unwrap());
    let folder = root.join(series.path()).join(id.as_str());
    fs::create_dir_all(&folder).unwrap();
    let object = |name: &str| StoredObject {
        name: name.to_owned(),
        bytes: DATA.len() as u64,
        sha256: "0".repeat(64),
    };
    let (at, text, lsn) = (id.time(), |text: &str| text.to_owned(), || "0/1".to_owned());
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        id: id.clone(),
        series,
        owner: owner.clone(),
        pgkeep_version: text("0.1.0"),
        server_version: text("15.18"),
        server_version_num: 150_018,
        tool: Tool { name: text("pg_dump"), version: text("15.18"), command: vec![] },
        selection: None,
        database: None,
        snapshot: Snapshot {
            at,
            lsn_before: lsn(),
            lsn_after: lsn(),
            timeline: None,
            standby: false,
        },
        started_at: at,
        finished_at: at,
        left_out: vec![],
        plain: Plain { format: text("custom 1.14"), bytes: 1, sha256: "0".repeat(64) },
        codec: vec![text("zstd")],
        recipients: Recipients::default(),
        objects: vec![object("app.dump.zst")],
        index: Some(object("index.json.zst")),
        files: vec![],
        totals: Totals::default(),
        suspicions: vec![],
        restore: vec![],
    };
    let written = SystemTime::from(at) + Duration::from_mins(1);
    let files = [
        ("app.dump.zst", DATA.to_vec()),
        ("index.json.zst", DATA.to_vec()),
        ("manifest.json", manifest.to_bytes().unwrap()),
    ];
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
        let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(written).unwrap();
    }
    id
}

fn copy_folder(from: &Path, to: &Path, series: &str, id: &BackupId) {
    let [from, to] = [from, to].map(|root| root.join(series).join(id.as_str()));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap().flatten() {
        let copy = to.join(entry.file_name());
        fs::copy(entry.path(), &copy).unwrap();
        let modified = entry.metadata().unwrap().modified().unwrap();
        fs::File::options().write(true).open(&copy).unwrap().set_modified(modified).unwrap();
    }
}

/// Every file below a folder with what it holds. What goes while it is looked at is not there.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
                match fs::read(entry.path()) {
                    Ok(bytes) => drop(found.insert(path, bytes)),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}"),
                }
            }
        }
    }
    found
}

/// The ids of what has a manifest in a series, and of what has none.
fn stored(root: &Path, series: &str) -> [BTreeSet<String>; 2] {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for (path, _) in files(&root.join(series)) {
        let id = path.split('/').next().unwrap().to_owned();
        let is_whole = root.join(series).join(&id).join("manifest.json").exists();
        found[usize::from(!is_whole)].insert(id);
    }
    found
}

fn names<'a>(ids: impl IntoIterator<Item = &'a BackupId>) -> BTreeSet<String> {
    ids.into_iter().map(ToString::to_string).collect()
}

/// Lines of a plan: id, action and reason.
fn lines(plan: &Value) -> Vec<(String, String, String)> {
    let steps = plan.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    steps
        .map(|step| (text(&step["target"]["object"]), text(&step["action"]), text(&step["reason"])))
        .collect()
}

/// The targets of one repository, by their database.
fn targets<'a>(report: &'a Value, repository: &str) -> BTreeMap<String, &'a Value> {
    let targets = report["report"]["targets"].as_array().unwrap().iter();
    targets
        .filter(|target| target["target"]["repository"] == repository)
        .map(|target| {
            let subject = target["target"]["subject"]["database"].as_str().unwrap_or("").to_owned();
            (subject, target)
        })
        .collect()
}
