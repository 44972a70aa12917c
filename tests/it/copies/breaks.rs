//! Copies that are stopped in the middle, or whose backup goes away under them.

use super::{Bench, CLOUD, DISK, PART, PATIENT, count, target, walk};
use crate::harness::{
    chaos::Fault,
    client::Client,
    wait::{PATIENCE, eventually},
};

/// Copies under way, so many at once, which hang in their first parts until the proxy is calm.
fn under_way(bench: &Bench, copies: usize) -> Client {
    bench.chaos.on("PUT", PART, Fault::BlackHole);
    let client = Client::start(&bench.home, &["run", "upload", "--json"]);
    bench.wait_parts(copies);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_that_is_killed_leaves_nothing_listed_and_the_next_run_goes_on() {
    let bench = Bench::new(PATIENT, "parallel = 2").await;
    let ids = [bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    let client = under_way(&bench, 2);
    daemon.kill9();
    client.end().expect_code(1);
    bench.chaos.calm().await;
    assert_eq!(bench.ids(CLOUD), [""; 0]);
    assert!(!bench.server.uploads().is_empty(), "the test needs a leftover");
    let mut daemon = bench.home.ready_daemon();
    bench.run("upload", 0);
    eventually("the sweep of the start", PATIENCE, || {
        bench.server.uploads().is_empty().then_some(())
    });
    bench.assert_has(CLOUD, &[&ids[0], &ids[1]]);
    daemon.stop();
    daemon.assert_log_clean(&["a run was interrupted"]);
}

/// Its host knows that nobody writes there any more: no hour is waited.
#[tokio::test(flavor = "multi_thread")]
async fn copy_that_is_killed_before_its_manifest_is_made_anew_at_once() {
    let bench = Bench::new(PATIENT, "parallel = 1\nattempts = 1").await;
    let id = bench.dump();
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("PUT", "/manifest.json", Fault::BlackHole);
    let client = Client::start(&bench.home, &["run", "upload", "--json"]);
    eventually("a manifest on its way", PATIENCE, || {
        (!bench.chaos.seen("PUT", "/manifest.json").is_empty()).then_some(())
    });
    daemon.kill9();
    client.end().expect_code(1);
    bench.chaos.calm().await;
    let mut files = Vec::new();
    walk(&bench.root(CLOUD), &mut files);
    let is = |end: &str| files.iter().any(|path| path.to_string_lossy().ends_with(end));
    assert!(is(".dump.zst") && !is("/manifest.json"), "the test needs a leftover: {files:?}");
    let mut daemon = bench.home.ready_daemon();
    let report = bench.run("upload", 0);
    assert_eq!(count(&report, CLOUD, "copied"), 1);
    bench.assert_has(CLOUD, &[&id]);
    daemon.stop();
    daemon.assert_log_clean(&["a run was interrupted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_that_is_stopped_ends_in_order_and_the_next_run_goes_on() {
    let bench = Bench::new(PATIENT, "parallel = 1").await;
    let ids = [bench.dump(), bench.dump()];
    let mut daemon = bench.home.ready_daemon();
    let client = under_way(&bench, 1);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.log());
    let report = client.end().expect_code(130).json();
    assert_eq!(report["verdict"], "cancelled");
    assert_eq!(target(&report["report"], CLOUD)["outcome"]["state"], "cancelled");
    bench.assert_has(CLOUD, &[]);
    bench.chaos.calm().await;
    let report = bench.run("upload", 0);
    assert_eq!(count(&report, CLOUD, "copied"), 2);
    bench.assert_has(CLOUD, &[&ids[0], &ids[1]]);
    daemon.assert_log_clean(&["verdict=cancelled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_backup_that_another_host_removes_meanwhile_is_left_out() {
    let bench = Bench::new(PATIENT, "parallel = 1\nattempts = 1").await;
    let [old, new] = [bench.dump(), bench.dump()];
    bench.chaos.next(1, "PUT", PART, Fault::Delay(std::time::Duration::from_secs(2)));
    let client = Client::start(&bench.home, &["run", "upload", "--json"]);
    bench.wait_parts(1);
    // The first is under way, the second in the queue.
    bench.delete_elsewhere(DISK, &new).await;
    bench.delete_elsewhere(DISK, &old).await;
    let report = client.end().expect_code(0).json();
    let report = &report["report"];
    assert_eq!(count(report, CLOUD, "vanished"), 2, "{report:#}");
    let said = target(report, CLOUD)["output"].to_string();
    assert!(said.contains("removed from disk meanwhile"), "{said}");
    bench.assert_has(CLOUD, &[]);
}
