//! Copies on good days.

use super::{Bench, CLOUD, DISK, PATIENT, SECOND, count, metric, target};
use crate::harness::wait::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn copy_brings_what_is_missing_to_a_bucket_and_from_there_to_a_folder() {
    let back = format!("[job.back]\nkind = \"copy\"\nfrom = \"{CLOUD}\"\nto = [\"{SECOND}\"]");
    let bench = Bench::new(PATIENT, "").await.job(&back);
    let [first, second] = [bench.dump(), bench.dump()];
    let dry = bench.home.run(&["run", "upload", "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(bench.chaos.seen("PUT", "").len(), 0, "a dry run sends nothing");
    let report = bench.run("upload", 0);
    assert_eq!(dry["report"]["plan"], report["plan"]);
    assert_eq!((count(&report, CLOUD, "copied"), report["plan"].as_array().unwrap().len()), (2, 2));
    assert_eq!(report["plan"][0]["target"]["object"], *second, "the newest comes first");
    assert_eq!(target(&report, CLOUD)["figures"]["backup"], *second);
    bench.assert_has(CLOUD, &[&first, &second]);
    assert_eq!(count(&bench.run("back", 0), SECOND, "copied"), 2);
    bench.assert_has(SECOND, &[&first, &second]);

    let before = bench.chaos.seen("PUT", "").len();
    let report = bench.run("upload", 0);
    assert_eq!((count(&report, CLOUD, "copied"), count(&report, CLOUD, "present")), (0, 2));
    assert_eq!(bench.chaos.seen("PUT", "").len(), before, "nothing was sent again");
    let third = bench.dump();
    assert_eq!(count(&bench.run("upload", 0), CLOUD, "copied"), 1);
    assert_eq!(bench.ids(CLOUD), [first, second, third]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_runs_after_the_dump_and_tells_what_waits() {
    let bench = Bench::new(PATIENT, "after = [\"nightly\"]").await;
    let mut daemon = bench.home.ready_daemon();
    assert_eq!(metric(&daemon, "copy_pending"), None, "nobody has looked yet");
    let id = bench.dump();
    eventually("the copy", PATIENCE, || {
        (metric(&daemon, "copied_backups_total") == Some(1.0)).then_some(())
    });
    bench.assert_has(CLOUD, &[&id]);
    assert_eq!(metric(&daemon, "copy_pending"), Some(0.0));
    assert_eq!(metric(&daemon, "copy_oldest_pending_timestamp_seconds"), Some(0.0));
    let bytes = bench.row(CLOUD, &id)["bytes"].as_f64();
    assert!(metric(&daemon, "copied_bytes_total") > Some(0.0));
    assert!(bytes.is_none() || metric(&daemon, "copied_bytes_total") <= bytes);
    // The bucket is away: what waits is not known, and the last number does not stand for it.
    bench.chaos.refuse().await;
    let stop = bench.home.config().replace("give_up_after = \"50s\"", "give_up_after = \"1s\"");
    bench.home.rewrite(&stop.replace("after = [\"nightly\"]", "attempts = 1"));
    bench.home.run(&["reload"]).expect_code(0);
    bench.run("upload", 1);
    assert_eq!(metric(&daemon, "copy_pending"), None);
    assert_eq!(metric(&daemon, "copy_oldest_pending_timestamp_seconds"), None);
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", " ended ", "cannot list", "cannot sweep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_leaves_what_was_removed_there_and_makes_good_what_was_lost() {
    let section = format!("[job.upload]\nkind = \"copy\"\nfrom = \"{DISK}\"\nto = [\"{SECOND}\"]");
    let bench = Bench::bare(PATIENT).await.job(&section);
    let [old, new] = [bench.dump(), bench.dump()];
    assert_eq!(count(&bench.run("upload", 0), SECOND, "copied"), 2);
    bench.delete_elsewhere(SECOND, &old).await;
    let report = bench.run("upload", 0);
    assert_eq!((count(&report, SECOND, "copied"), count(&report, SECOND, "removed")), (0, 1));
    bench.delete_elsewhere(SECOND, &new).await;
    let report = bench.run("upload", 0);
    assert_eq!(count(&report, SECOND, "copied"), 2, "nothing was left there: {report:#}");
    bench.assert_has(SECOND, &[&old, &new]);
}
