//! A bucket whose listings leave out what is there.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use super::{CLOUD, DISK, Setup, files};
use crate::harness::chaos::Fault;

/// Two days, in the digits of an id.
const DAYS: i64 = 2;

/// Makes a backup one of some days ago: id, manifest and the times of its objects.
#[expect(clippy::disallowed_methods, reason = "it is the store that is made older")]
fn age(folder: &Path) {
    let id = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let (time, rest) = id.split_once('-').unwrap();
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time);
    let aged = time.unwrap().saturating_sub(jiff::Span::new().days(DAYS));
    let aged = format!("{}-{rest}", aged.strftime("%Y%m%dT%H%M%SZ"));
    let manifest = folder.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace(&id, &aged)).unwrap();
    let seconds = u64::try_from(DAYS).unwrap() * 86_400;
    let then = SystemTime::now() - Duration::from_secs(seconds);
    for object in fs::read_dir(folder).unwrap() {
        File::options()
            .write(true)
            .open(object.unwrap().path())
            .unwrap()
            .set_modified(then)
            .unwrap();
    }
    fs::rename(folder, folder.with_file_name(aged)).unwrap();
}

fn without_manifests(text: &str) -> String {
    let mut pieces = text.split_inclusive("</Contents>");
    let head = pieces.next().unwrap_or_default();
    let listed = std::iter::once(head).chain(pieces);
    listed
        .map(|piece| match piece.find("<Contents>") {
            Some(at) if piece.contains("/manifest.json</Key>") => &piece[..at],
            _ => piece,
        })
        .collect()
}

/// A stale listing, or a proxy: three backups that are older than a day are not data without a
/// manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_removes_no_backup_whose_manifest_is_not_listed() {
    let bench = Setup::default().start().await;
    let mut daemon = bench.home.ready_daemon();
    for _ in 0..3 {
        bench.run().expect_code(0);
    }
    daemon.stop();
    let rows = bench.listed(CLOUD);
    for row in &rows {
        age(&bench.folder(row));
    }
    bench.assert_all_restore(CLOUD, 3);
    let before = files(&bench.root(CLOUD));
    let deleted = bench.chaos.seen("DELETE", "").len();

    bench.chaos.on("GET", "list-type=2", Fault::Rewrite(without_manifests));
    let mut daemon = bench.home.ready_daemon();
    let line = daemon.wait_log("did not list the manifests of backups");
    assert!(line.contains("WARN") && line.contains("count=3"), "{line}");
    daemon.stop();
    assert_eq!(bench.chaos.seen("DELETE", "").len(), deleted, "deletes");
    assert_eq!(files(&bench.root(CLOUD)), before);
    bench.chaos.calm().await;
    bench.assert_all_restore(CLOUD, 3);
    bench.assert_all_restore(DISK, 3);
}

/// Nothing is removed for what a listing does not show, and it does not go unsaid.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_listed_once_it_is_stored_is_told_and_stays() {
    let bench = Setup::default().start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("GET", "list-type=2", Fault::Rewrite(without_manifests));
    let report = bench.run().expect_code(0).json();
    let findings = report["report"]["findings"].as_array().expect("findings").clone();
    let unlisted: Vec<_> =
        findings.iter().filter(|finding| finding["check"] == "backup-unlisted").collect();
    assert_eq!(unlisted.len(), 1, "{report:#}");
    let what = unlisted[0]["what"].as_str().unwrap();
    assert!(what.starts_with("cloud: ") && what.contains("its manifest is not shown"), "{what}");
    assert!(bench.chaos.seen("DELETE", "").is_empty());
    // A person who is told that it is no backup deletes it.
    let id = bench.listed(DISK)[0]["id"].as_str().unwrap().to_owned();
    let shown = bench.home.run(&["show", &id, "--json"]).expect_code(0).json();
    let copies = shown.as_array().unwrap();
    assert!(copies.len() == 2 && copies.iter().all(|it| it["complete"] == true), "{shown:#}");
    bench.chaos.calm().await;
    bench.assert_all_restore(CLOUD, 1);
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
}
