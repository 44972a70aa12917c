//! What others do to a repository: manifests that are cut, foreign or of a newer format, objects that
//! are gone or shorter, files that are not ours.

use std::fs;

use serde_json::{Value, json};

use super::{Bench, CLOUD, DISK, Setup, files};
use crate::harness::{
    http::Metrics,
    pgkeep::Daemon,
    postgres::APP,
    wait::{PATIENCE, eventually},
};

/// Makes backups and returns their ids, the oldest first: each in a second of its own, which is as
/// far as the order of ids goes.
#[expect(clippy::disallowed_methods, reason = "the ids are of the machine's clock")]
fn backups(bench: &Bench, count: usize) -> Vec<String> {
    let now = || jiff::Timestamp::now().as_second();
    let mut last = 0;
    let made = (0..count).map(|_| {
        eventually("the next second", PATIENCE, || (now() > last).then_some(()));
        let report = bench.run().expect_code(0).json();
        last = now();
        let id = super::target(&report, DISK)["figures"]["backup"].as_str().unwrap().to_owned();
        let of = |metrics: &Value| metrics["id"] == id.as_str();
        assert!([DISK, CLOUD].iter().all(|name| bench.listed(name).iter().any(of)));
        id
    });
    made.collect()
}

fn row(bench: &Bench, repository: &str, id: &str) -> Value {
    bench.listed(repository).into_iter().find(|row| row["id"] == id).expect("a row")
}

/// What `show` finds wrong in one repository.
fn problems(bench: &Bench, repository: &str, id: &str, code: i32) -> Vec<String> {
    let shown = bench.home.run(&["show", id, "--json"]).expect_code(code).json();
    let copies = shown.as_array().unwrap();
    assert_eq!(copies.len(), 2, "both copies are shown: {shown}");
    let copy = copies.iter().find(|copy| copy["repository"] == repository).unwrap();
    let problems = copy["problems"].as_array().unwrap().iter();
    problems.map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

fn newest(metrics: &Metrics, repository: &str) -> Option<f64> {
    let labels = [("repository", repository), ("datname", APP)];
    metrics.value("pgkeep_backup_newest_timestamp_seconds", &labels)
}

/// The scrape after the first probe of both repositories.
fn probed(daemon: &Daemon) -> Metrics {
    eventually("a probe of both repositories", PATIENCE, || {
        let metrics = daemon.metrics();
        let name = "pgkeep_repository_last_probe_success_timestamp_seconds";
        let times = [DISK, CLOUD].map(|name_of| metrics.value(name, &[("repository", name_of)]));
        times.iter().all(|time| *time > Some(0.0)).then_some(metrics)
    })
}

fn seconds(row: &Value) -> f64 {
    let time: jiff::Timestamp = row["time"].as_str().unwrap().parse().unwrap();
    time.as_second() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_manifests_are_told_and_do_not_hide_the_others() {
    let bench = Setup::default().start().await;
    let ids = backups(&bench, 4);
    let manifest = |id: &str| bench.folder(&row(&bench, CLOUD, id)).join("manifest.json");
    let whole = fs::read_to_string(manifest(&ids[3])).unwrap();
    let newer = whole.replacen("\"format_version\": 1", "\"format_version\": 99", 1);
    assert_ne!(newer, whole);
    let cases = [
        (&ids[1], whole[..whole.len() / 2].to_owned(), "damaged"),
        (&ids[2], "{\"hello\": \"world\"}".to_owned(), "damaged"),
        (&ids[3], newer, "format version 99"),
    ];
    for (id, text, told) in &cases {
        fs::write(manifest(id), text).unwrap();
        let found = problems(&bench, CLOUD, id, 1);
        assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
        assert!(problems(&bench, DISK, id, 1).is_empty(), "the other copy is whole");
        let shown = bench.home.run(&["show", id]).expect_code(1);
        assert!(shown.text().contains("PROBLEM") && shown.text().contains(told));
    }
    assert!(problems(&bench, CLOUD, &ids[0], 0).is_empty());
    for name in [DISK, CLOUD] {
        let listed: Vec<Value> = bench.listed(name).iter().map(|row| row["id"].clone()).collect();
        assert_eq!(json!(listed), json!(ids), "nothing else is hidden");
    }
    bench.assert_restores(&row(&bench, CLOUD, &ids[0]));

    // What an alert reads must not count on them: the newest that can be read is the first.
    let mut daemon = bench.home.ready_daemon();
    let metrics = probed(&daemon);
    assert_eq!(newest(&metrics, CLOUD), Some(seconds(&row(&bench, CLOUD, &ids[0]))));
    assert_eq!(newest(&metrics, DISK), Some(seconds(&row(&bench, DISK, &ids[3]))));
    for id in &ids[1..] {
        daemon.wait_log(id);
    }
    daemon.stop();
    daemon.assert_log_clean(&["a backup does not count"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_somebody_removed_or_cut_are_named() {
    let bench = Setup::default().start().await;
    let ids = backups(&bench, 2);
    let object =
        |repository, id: &str, name: &str| bench.folder(&row(&bench, repository, id)).join(name);
    fs::remove_file(object(CLOUD, &ids[0], "index.json.zst")).unwrap();
    assert_eq!(problems(&bench, CLOUD, &ids[0], 1), ["index.json.zst is missing"]);
    let dump = object(DISK, &ids[1], "app.dump.zst");
    let length = fs::metadata(&dump).unwrap().len();
    fs::File::options().write(true).open(&dump).unwrap().set_len(length - 1).unwrap();
    let told = format!("app.dump.zst has {} bytes, the manifest says {length}", length - 1);
    assert_eq!(problems(&bench, DISK, &ids[1], 1), [told.as_str()]);
    assert!(bench.home.run(&["show", &ids[1]]).expect_code(1).text().contains(&told));
    assert!(problems(&bench, CLOUD, &ids[1], 1).is_empty());
    bench.assert_restores(&row(&bench, CLOUD, &ids[1]));

    let mut daemon = bench.home.ready_daemon();
    let metrics = probed(&daemon);
    assert_eq!(newest(&metrics, CLOUD), Some(seconds(&row(&bench, CLOUD, &ids[1]))));
    assert_eq!(newest(&metrics, DISK), Some(seconds(&row(&bench, DISK, &ids[0]))));
    assert!(daemon.wait_log(&told).contains("is damaged"));
    daemon.stop();
    daemon.assert_log_clean(&["a backup does not count"]);
}

/// A repository that is away does not hide what another has.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_shown_while_another_repository_is_away() {
    let bench = Setup { cloud: super::HASTY, ..Setup::default() }.start().await;
    let ids = backups(&bench, 1);
    bench.chaos.refuse().await;
    let shown = bench.home.run(&["show", &ids[0], "--json"]).expect_code(4);
    assert!(shown.stderr.contains("[repository-unavailable]"), "{}", shown.stderr);
    let copies = shown.json();
    assert_eq!(copies.as_array().unwrap().len(), 1);
    assert_eq!(copies[0]["repository"], DISK);
    let listed = bench.home.run(&["list", "--json"]).expect_code(4);
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_neither_listed_nor_touched() {
    let bench = Setup::default().start().await;
    let foreign = [
        "README.txt",
        "lost+found/#1234",
        "main/notes.txt",
        "main/7/app/all/yesterday/app.dump.zst",
        "main/7/app/all/20201121T021500Z-k3f9q2x7/sub/app.dump.zst",
        "backup.sh",
    ];
    let put = |path: std::path::PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "not yours").unwrap();
    };
    for name in foreign {
        put(bench.root(DISK).join(name));
        put(bench.root(CLOUD).join(name));
        // Beside the prefix.
        put(bench.server.object_path(name));
        put(bench.server.object_path("host/ab").join(name));
    }
    let bucket = bench.server.object_path("");
    let before = [files(&bench.root(DISK)), files(&bucket)];
    let mut daemon = bench.home.ready_daemon();
    probed(&daemon);
    bench.run().expect_code(0);
    for name in [DISK, CLOUD] {
        bench.assert_all_restore(name, 1);
    }
    let rows = bench.home.run(&["list", "--incomplete", "--json"]).expect_code(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    daemon.stop();
    // The sweep at a start, once more.
    let mut daemon = bench.home.ready_daemon();
    probed(&daemon);
    daemon.stop();
    daemon.assert_log_clean(&[]);
    let after = [files(&bench.root(DISK)), files(&bucket)];
    for (before, after) in before.iter().zip(&after) {
        for (path, facts) in before {
            assert_eq!(after.get(path), Some(facts), "{path} was touched");
        }
    }
    let new = after[1].keys().filter(|path| !before[1].contains_key(*path));
    let outside: Vec<_> = new.filter(|path| !path.starts_with("host/a/")).collect();
    assert!(outside.is_empty(), "written beside the prefix: {outside:?}");
}
