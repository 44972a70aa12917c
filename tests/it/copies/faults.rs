//! Repositories that fail while they are copied from or to.

use std::fs;

use super::{Bench, CLOUD, DISK, HASTY, PART, PATIENT, SECOND, count, expect_failed, metric};
use crate::harness::{chaos::Fault, client::Client};

#[tokio::test(flavor = "multi_thread")]
async fn copy_to_a_bucket_that_is_cut_off_leaves_nothing_and_goes_on_later() {
    let bench = Bench::new(HASTY, "attempts = 1").await;
    let ids = [bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("PUT", PART, Fault::CutRequest(10_000));
    let report = bench.run("upload", 1);
    expect_failed(&report, CLOUD, "repository-unavailable", "given up after", "");
    assert_eq!(metric(&daemon, "copy_pending"), Some(2.0));
    let oldest: jiff::Timestamp =
        bench.row(DISK, &ids[0])["time"].as_str().unwrap().parse().unwrap();
    let pending = metric(&daemon, "copy_oldest_pending_timestamp_seconds");
    assert_eq!(pending, Some(oldest.as_second() as f64));
    bench.chaos.calm().await;
    bench.assert_has(CLOUD, &[]);
    bench.run("upload", 0);
    bench.assert_has(CLOUD, &[&ids[0], &ids[1]]);
    assert_eq!(metric(&daemon, "copy_pending"), Some(0.0));
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", " ended "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_retried_for_the_target_that_failed() {
    let section = format!(
        "[job.upload]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"{SECOND}\", \"{CLOUD}\"]\n\
         attempts = 3\nretry_backoff = \"1s\""
    );
    let bench = Bench::bare(HASTY).await.job(&section);
    let ids = [bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("PUT", PART, Fault::slow_down());
    let client = Client::start(&bench.home, &["run", "upload", "--json"]);
    daemon.wait_log("will be tried again");
    bench.chaos.calm().await;
    let report = client.end().expect_code(0).json()["report"].clone();
    for repository in [SECOND, CLOUD] {
        assert_eq!(count(&report, repository, "copied"), 2, "{report:#}");
        let labels = [("job_name", "upload"), ("repository", repository)];
        let copied = daemon.metrics().value("pgkeep_copied_backups_total", &labels);
        assert_eq!(copied, Some(2.0), "all attempts together");
    }
    daemon.stop();
    daemon.assert_log_clean(&["failed: "]);
    for repository in [SECOND, CLOUD] {
        bench.assert_has(repository, &[&ids[0], &ids[1]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_damaged_backup_fails_and_the_others_go_on() {
    let bench = Bench::new(PATIENT, "attempts = 1").await;
    let [whole, damaged] = [bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    let dump = bench.folder(&bench.row(DISK, &damaged)).join("app.dump.zst");
    let mut bytes = fs::read(&dump).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&dump, bytes).unwrap();
    let report = bench.run("upload", 1);
    expect_failed(&report, CLOUD, "repository-damaged", "is not what was stored", "");
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["check"], &finding["severity"]),
        (&"copy-source-damaged".into(), &"critical".into())
    );
    assert!(finding["what"].as_str().unwrap().contains(&damaged), "{finding}");
    bench.assert_has(CLOUD, &[&whole]);
    let labels = [("check", "copy-source-damaged"), ("severity", "critical")];
    assert_eq!(daemon.metrics().value("pgkeep_findings", &labels), Some(1.0));
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", " ended ", "is damaged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_to_a_full_disk_fails_there_alone() {
    let section = format!(
        "[job.upload]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"full\", \"{SECOND}\"]\nattempts = 1"
    );
    let bench = Bench::bare(PATIENT).await;
    let home = bench.home.local("full");
    let bench = Bench { home, ..bench }.job(&section);
    let id = bench.dump();
    // It was made before it was full.
    bench.run("upload", 0);
    let second = bench.dump();
    let path = format!("{}\"\nmin_free = \"1MiB\"", bench.root("full").display());
    let full = path.replace("1MiB", "900TiB");
    let config = bench.home.config().replace(&path, &full);
    assert_ne!(config, bench.home.config());
    bench.home.rewrite(&config);
    let report = bench.run("upload", 4);
    expect_failed(&report, "full", "space", "", "");
    bench.assert_has("full", &[&id]);
    bench.assert_has(SECOND, &[&id, &second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_to_the_same_folder_under_another_name_is_refused() {
    let section = "[job.upload]\nkind = \"copy\"\nfrom = \"disk\"\nto = [\"mirror\"]\nattempts = 1";
    let bench = Bench::bare(PATIENT).await.job(section);
    let path = bench.root(DISK).display().to_string();
    let bench = bench.job(&format!("[repository.mirror]\nkind = \"local\"\npath = \"{path}\""));
    let id = bench.dump();
    let report = bench.run("upload", 1);
    expect_failed(&report, "mirror", "configuration", "one repository", "look at the paths");
    assert_eq!(bench.ids(DISK), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_and_prune_of_the_same_series_do_not_disturb_each_other() {
    let tidy = format!(
        "[retention.short]\nkeep_last = 1\n[job.tidy]\nkind = \"prune\"\nattempts = 1\n\
         repositories = [\"{DISK}\", \"{CLOUD}\"]\nretention = \"short\""
    );
    let bench = Bench::new(PATIENT, "attempts = 1\nparallel = 1").await.job(&tidy);
    let ids = [bench.dump(), bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.next(1, "PUT", PART, Fault::Delay(std::time::Duration::from_secs(5)));
    let client = Client::start(&bench.home, &["run", "upload", "--json"]);
    bench.wait_parts(1);
    // The newest is being read here and written there: it stays, and nothing there is a backup yet.
    bench.run("tidy", 0);
    assert_eq!(bench.ids(DISK), [ids[2].clone()]);
    assert_eq!(bench.ids(CLOUD), [""; 0], "the copy is still under way");
    let report = client.end().expect_code(0).json()["report"].clone();
    assert_eq!(count(&report, CLOUD, "copied"), 1, "{report:#}");
    assert_eq!(count(&report, CLOUD, "vanished"), 2, "{report:#}");
    bench.assert_has(CLOUD, &[&ids[2]]);
    bench.assert_has(DISK, &[&ids[2]]);
    bench.run("tidy", 0);
    bench.assert_has(CLOUD, &[&ids[2]]);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
