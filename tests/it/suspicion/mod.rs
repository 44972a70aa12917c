//! Backups that look as if something were missing in them, from end to end: the real binary, real
//! PostgreSQL, two repositories, of which one is encrypted.

mod away;
mod gap;
mod said;

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::harness::{
    pgkeep::{Daemon, Pgkeep},
    postgres::Cluster,
    wait::{PATIENCE, eventually},
};

const DISK: &str = "disk";
const SAFE: &str = "safe";
const DB: &str = "stock";
const NIGHTLY: &str = "attempts = 1\nworkers = 1\nglobals = false";

/// A key that nobody has the other half of.
pub(crate) const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

struct Bench {
    cluster: Cluster,
    home: Pgkeep,
}

impl Bench {
    /// A database with rows, tables and a large object, and a job that keeps the newest alone.
    fn new(lines: &str) -> Self {
        let cluster = Cluster::builder().empty().start();
        cluster.psql("postgres", &format!("CREATE DATABASE {DB}"));
        cluster.psql(
            DB,
            "CREATE TABLE items AS SELECT i, md5(i::text) AS hash FROM generate_series(1, 5000) i;
             CREATE TABLE one(x int); CREATE TABLE two(x int); CREATE TABLE three(x int);
             SELECT lo_from_bytea(0, 'hello');",
        );
        let home = Pgkeep::new()
            .server("main", &cluster)
            .local(DISK)
            .local_with(SAFE, &format!("min_free = \"1MiB\"\nencrypt_to = [\"{RECIPIENT}\"]"))
            .dump("nightly", "main", &[DB], &[DISK, SAFE], &format!("{NIGHTLY}\n{lines}"))
            .toml("[retention.one]\nkeep_last = 1")
            .toml(&format!(
                "[job.tidy]\nkind = \"prune\"\nrepositories = [\"{DISK}\", \"{SAFE}\"]\n\
                 retention = \"one\""
            ));
        Self { cluster, home }
    }

    /// Dumps once: the id and the findings.
    #[track_caller]
    fn dump(&self) -> (String, Vec<Value>) {
        let ran = self.home.run(&["run", "nightly", "--json"]).expect_code(0).json();
        let report = &ran["report"];
        let id = report["targets"][0]["figures"]["backup"].as_str().expect("an id").to_owned();
        (id, report["findings"].as_array().cloned().unwrap_or_default())
    }

    fn rows(&self, repository: &str) -> Vec<Value> {
        let rows = self.home.run(&["list", "--json"]).json();
        let all = rows.as_array().expect("rows").iter();
        all.filter(|row| row["repository"] == repository).cloned().collect()
    }

    fn ids(&self, repository: &str) -> Vec<String> {
        let id = |row: &Value| row["id"].as_str().expect("an id").to_owned();
        self.rows(repository).iter().map(id).collect()
    }

    fn folder(&self, repository: &str, id: &str) -> PathBuf {
        let shown = self.home.run(&["show", id, "--json"]).expect_code(0).json();
        let of = |shown: &&Value| shown["repository"] == repository;
        let shown = shown.as_array().unwrap().iter().find(of).unwrap().clone();
        self.home.repository_dir(repository).join(shown["folder"].as_str().unwrap())
    }

    /// Prunes, and gives what is left in each repository.
    fn prune(&self) -> [Vec<String>; 2] {
        self.home.run(&["run", "tidy"]).expect_code(0);
        [DISK, SAFE].map(|repository| self.ids(repository))
    }
}

fn in_doubt(daemon: &Daemon, repository: &str) -> Option<f64> {
    let labels = [("server", "main"), ("datname", DB), ("repository", repository)];
    daemon.metrics().value("pgkeep_backup_suspicious", &labels)
}

#[track_caller]
fn eventually_in_doubt(daemon: &Daemon, count: f64) {
    eventually("the metric", PATIENCE, || {
        let seen = [DISK, SAFE].map(|repository| in_doubt(daemon, repository));
        (seen == [Some(count); 2]).then_some(())
    });
}

#[test]
fn a_suspicious_backup_holds_the_last_good_one_until_it_is_acknowledged() {
    let bench = Bench::new("");
    let mut daemon = bench.home.ready_daemon();
    let (good, findings) = bench.dump();
    assert!(findings.is_empty(), "{findings:#?}");
    eventually_in_doubt(&daemon, 0.0);

    bench.cluster.psql(
        DB,
        "DELETE FROM items WHERE i > 100; SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
    );
    let (bad, findings) = bench.dump();
    let [finding] = &*findings else { panic!("{findings:#?}") };
    assert_eq!(
        (&finding["check"], &finding["severity"]),
        (&"suspicious-backup".into(), &"warning".into())
    );
    let what = finding["what"].as_str().unwrap();
    for part in [
        &*bad,
        &good,
        "main/stock is SUSPICIOUS",
        "100 rows, before 5000",
        "0 large objects, before 1",
    ] {
        assert!(what.contains(part), "{part}: {what}");
    }
    eventually_in_doubt(&daemon, 1.0);
    for repository in [DISK, SAFE] {
        let [_, row] = &*bench.rows(repository) else { panic!("two backups") };
        assert_eq!((&row["suspicious"], &row["acknowledged"]), (&true.into(), &false.into()));
        let folder = bench.folder(repository, &bad);
        let manifest: Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let kinds: Vec<&str> = manifest["suspicions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["fewer-rows", "no-large-objects", "fewer-bytes"]);
        // Nobody needs a key to see it.
        let mark: Value =
            serde_json::from_slice(&fs::read(folder.join("suspicious.json")).unwrap()).unwrap();
        assert_eq!(mark, manifest["suspicions"]);
    }
    let status = bench.home.run(&["status"]).expect_code(0).text();
    assert!(status.contains("SUSPICIOUS, in disk: main/stock"), "{status}");
    let list = bench.home.run(&["list"]).expect_code(0).text();
    assert_eq!(list.matches("SUSPICIOUS").count(), 2, "{list}");
    let show = bench.home.run(&["show", &bad]).expect_code(0).text();
    assert!(
        show.contains("state         SUSPICIOUS") && show.contains("100 rows, before 5000"),
        "{show}"
    );

    // The next one is as bad, and the first is what it is compared with.
    let (worse, findings) = bench.dump();
    assert!(findings[0]["what"].as_str().unwrap().contains(&good), "{findings:#?}");
    eventually_in_doubt(&daemon, 2.0);
    let plan = bench.home.run(&["run", "tidy", "--dry-run"]).expect_code(0).text();
    assert!(plan.contains("the last one before suspicious backups"), "{plan}");
    assert_eq!(bench.prune(), [[&*good, &*worse], [&*good, &*worse]]);

    let said = bench.home.run(&["acknowledge", "main/stock"]).expect_code(0).text();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains(&format!("acknowledged {worse} of main/stock in disk\n")), "{said}");
    eventually_in_doubt(&daemon, 0.0);
    let status = bench.home.run(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["suspicious"], serde_json::json!({}));
    let show = bench.home.run(&["show", &worse]).expect_code(0).text();
    assert!(show.contains("state         complete") && show.contains("\nacknowledged  "), "{show}");
    assert_eq!(bench.prune(), [[&*worse], [&*worse]]);
    let (_, findings) = bench.dump();
    assert!(findings.is_empty(), "it is the yardstick now: {findings:#?}");
    daemon.stop();
    daemon.assert_log_clean(&["SUSPICIOUS"]);
}

#[test]
fn acknowledge_writes_once_and_says_what_it_did_not_do() {
    let bench = Bench::new("");
    let (good, _) = bench.dump();
    bench.cluster.psql(DB, "DROP TABLE one, two, three, items");
    let (bad, findings) = bench.dump();
    assert!(findings[0]["what"].as_str().unwrap().contains("0 tables, before 4"), "{findings:#?}");
    let acknowledge = |words: &[&str], code: i32| {
        let arguments: Vec<&str> = ["acknowledge", "--json"].iter().chain(words).copied().collect();
        bench.home.run(&arguments).expect_code(code)
    };
    // Neither a good one, nor what is not there; wrong names are wrong.
    acknowledge(&[&good], 5);
    acknowledge(&["main/nothing"], 5);
    acknowledge(&["20000101"], 5);
    acknowledge(&[""], 5);
    acknowledge(&[], 2);
    acknowledge(&["main/stock", "--repository", "nowhere"], 5);
    let file = |repository| bench.folder(repository, &bad).join("acknowledged.json");
    assert!(!file(DISK).exists() && !file(SAFE).exists());
    let done = acknowledge(&[&bad, "--repository", DISK], 0).json();
    assert_eq!(done["acknowledged"][0]["before"], false);
    assert!(file(DISK).exists() && !file(SAFE).exists());
    let first = fs::read(file(DISK)).unwrap();
    let by: Value = serde_json::from_slice(&first).unwrap();
    assert!(by["user"].is_string() && by["host"].is_string() && by["at"].is_string(), "{by}");
    // In the other repository it is still in doubt.
    let done = acknowledge(&["main/stock", "elsewhere"], 4).json();
    crate::cli::shape::assert_documented("acknowledge", &{
        let mut done = done.clone();
        done["unmatched"] = serde_json::json!([]);
        done
    });
    assert_eq!(done["acknowledged"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(done["unmatched"][0][0], "elsewhere");
    let again = acknowledge(&[&bad[..20]], 0).json();
    let before: Vec<bool> =
        again["acknowledged"].as_array().unwrap().iter().map(|it| it["before"] == true).collect();
    assert_eq!(before, [true, true]);
    assert_eq!(fs::read(file(DISK)).unwrap(), first, "never written over");
    // A repository that is away does not keep the other from it.
    fs::remove_file(file(SAFE)).unwrap();
    fs::remove_file(file(DISK)).unwrap();
    let root = bench.home.repository_dir(DISK);
    let away = root.with_file_name("away");
    move_folder(&root, &away);
    let done = acknowledge(&[&bad], 4).json();
    assert_eq!(done["failures"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(done["acknowledged"][0]["repository"], SAFE);
    move_folder(&away, &root);
}

#[expect(clippy::disallowed_methods, reason = "nothing here has to survive a crash")]
fn move_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::rename(from, to).unwrap();
}

#[test]
fn the_limit_is_an_option_and_can_be_switched_off() {
    for (lines, suspicious) in
        [("", true), ("suspicious_shrink = \"90%\"", false), ("suspicious_shrink = \"off\"", false)]
    {
        let bench = Bench::new(lines);
        bench.dump();
        bench.cluster.psql(DB, "DELETE FROM items WHERE i > 2000");
        let (_, findings) = bench.dump();
        assert_eq!(!findings.is_empty(), suspicious, "{lines}: {findings:#?}");
    }
}

#[test]
fn where_the_last_manifest_cannot_be_read_the_backup_is_in_doubt_and_the_dump_succeeds() {
    let bench = Bench::new("");
    let (first, _) = bench.dump();
    for folder in [DISK, SAFE].map(|repository| bench.folder(repository, &first)) {
        fs::write(folder.join("manifest.json"), "{").unwrap();
    }
    bench.cluster.psql(DB, "DROP TABLE items");
    let (_, findings) = bench.dump();
    let told: Vec<_> = findings.iter().map(|it| (&it["check"], &it["severity"])).collect();
    assert_eq!(told, [(&"suspicious-backup".into(), &"warning".into())], "{findings:#?}");
    assert!(findings[0]["what"].as_str().unwrap().contains("could not be compared"));
}
