//! What breaks off in the middle.

use std::time::Duration;

use super::{Bench, CLOUD, DISK, JOB, files, names, stored, targets};
use crate::harness::{
    chaos::Fault,
    wait::{PATIENCE, eventually},
};

const APP: &str = "main/7300000000000000001/app/all";
const CRM: &str = "main/7300000000000000001/crm/all";

/// A job that tests start, on a daemon.
const JOB_LINES: &str = "schedule = \"0 0 29 2 *\"\nattempts = 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_in_the_middle_keeps_whole_backups_and_nobody_waiting() {
    let bench = Bench::start("", "keep_last = 1", JOB_LINES).await;
    let (app, crm) = (bench.plant_days(APP, 4), bench.plant_days(CRM, 4));
    // Data of the second series does not go, and then nothing does.
    bench.chaos.on("DELETE", "/crm/", Fault::slow_down());
    let mut daemon = bench.home.ready_daemon();
    let report = bench.run(4);
    let state = |repository, database: &str| {
        targets(&report, repository)[database]["outcome"]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!([state(DISK, "app"), state(DISK, "crm")], ["succeeded", "succeeded"]);
    assert_eq!([state(CLOUD, "app"), state(CLOUD, "crm")], ["succeeded", "failed"]);
    let failure = &targets(&report, CLOUD)["crm"]["outcome"]["detail"];
    assert_eq!(failure["class"], "repository-unavailable", "{failure}");
    let what = failure["what"].as_str().unwrap();
    assert!(what.contains("0 of 3 were removed before"), "{what}");
    assert_eq!(stored(&bench.root(CLOUD), CRM)[0], names(&crm), "manifests go first");

    bench.chaos.calm().await;
    bench.run(0);
    for name in [DISK, CLOUD] {
        assert_eq!(stored(&bench.root(name), APP), [names(&app[3..]), names([])]);
        assert_eq!(stored(&bench.root(name), CRM), [names(&crm[3..]), names([])]);
    }
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", "ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_what_failed_and_nothing_else() {
    let lines = "schedule = \"0 0 29 2 *\"\nattempts = 2\nretry_backoff = \"1s\"";
    let bench = Bench::start("", "keep_last = 1", lines).await;
    let app = bench.plant_days(APP, 3);
    bench.chaos.on("GET", "list-type=2", Fault::slow_down());
    let mut daemon = bench.home.ready_daemon();
    let runtime = tokio::runtime::Handle::current();
    let report = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run(0));
        daemon.wait_log("failed: list cloud");
        tokio::task::block_in_place(|| runtime.block_on(bench.chaos.calm()));
        run.join().unwrap()
    });
    let targets = report["report"]["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 3, "two series and the bucket as a whole: {targets:?}");
    assert!(targets.iter().all(|target| target["outcome"]["state"] == "succeeded"), "{targets:?}");
    for name in [DISK, CLOUD] {
        assert_eq!(stored(&bench.root(name), APP)[0], names(&app[2..]));
    }
    let plan = super::lines(&report["report"]["plan"]);
    assert_eq!(plan.iter().filter(|line| line.1 == "remove").count(), 4, "{plan:?}");
    let metrics = daemon.metrics();
    let removed = |repository| {
        let labels = [("job_name", JOB), ("repository", repository)];
        metrics.value("pgkeep_prune_removed_backups_total", &labels)
    };
    assert_eq!([removed(DISK), removed(CLOUD)], [Some(2.0), Some(2.0)]);
    daemon.stop();
    daemon.assert_log_clean(&["failed: ", "cannot list the repository", "cannot sweep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_to_delete_is_a_failure_and_no_skip() {
    let bench = Bench::start("", "keep_last = 1", JOB_LINES).await;
    let app = bench.plant_days(APP, 3);
    let body = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    bench.chaos.on("DELETE", "/app/", Fault::Answer(403, "", body.to_owned()));
    let report = bench.run(4);
    let outcome = &targets(&report, CLOUD)["app"]["outcome"];
    assert_eq!(outcome["detail"]["class"], "repository-refused", "{outcome}");
    assert_eq!(stored(&bench.root(CLOUD), APP)[0], names(&app));
    assert_eq!(stored(&bench.root(DISK), APP)[0], names(&app[2..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_left_is_no_backup_and_the_next_one_goes_on() {
    let bench = Bench::start("", "keep_last = 1", JOB_LINES).await;
    let app = bench.plant_days(APP, 12);
    // Manifests go, their data does not.
    bench.chaos.on("DELETE", ".dump.zst", Fault::BlackHole);
    let mut daemon = bench.home.ready_daemon();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.home.run(&["run", JOB]));
        eventually("a removal that stands in the middle", PATIENCE, || {
            (!bench.chaos.seen("DELETE", ".dump.zst").is_empty()).then_some(())
        });
        daemon.kill9();
        run.join().unwrap().expect_code(1);
    });
    bench.chaos.calm().await;
    let [whole, halves] = stored(&bench.root(CLOUD), APP);
    assert!(whole.contains(app[11].as_str()) && !halves.is_empty(), "{whole:?} {halves:?}");

    // What is left has no manifest, and is older than the least age of garbage.
    let mut daemon = bench.home.ready_daemon();
    bench.run(0);
    assert_eq!(stored(&bench.root(CLOUD), APP)[0], names(&app[11..]));
    eventually("the sweep of the start", PATIENCE, || {
        stored(&bench.root(CLOUD), APP)[1].is_empty().then_some(())
    });
    daemon.stop();
    daemon.assert_log_clean(&["a run was interrupted", "cannot sweep", "removed data without a"]);
    let left = files(&bench.root(CLOUD));
    assert_eq!(left.len(), 4, "marker and one backup: {:?}", left.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_between_two_backups() {
    let bench = Bench::start("", "keep_last = 1", JOB_LINES).await;
    let app = bench.plant_days(APP, 40);
    bench.chaos.on("DELETE", "", Fault::Delay(Duration::from_millis(200)));
    let mut daemon = bench.home.ready_daemon();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.home.run(&["run", JOB]));
        eventually("a few removals", PATIENCE, || {
            (bench.chaos.seen("DELETE", "").len() > 8).then_some(())
        });
        daemon.stop();
        run.join().unwrap();
    });
    let [whole, halves] = stored(&bench.root(CLOUD), APP);
    assert!(whole.len() > 10 && whole.len() < 40 && halves.is_empty(), "{whole:?} {halves:?}");
    assert!(whole.contains(app[39].as_str()));
    bench.chaos.calm().await;
    let mut daemon = bench.home.ready_daemon();
    let status = bench.home.run(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["jobs"][0]["last"]["verdict"], "cancelled", "{status}");
    bench.run(0);
    assert_eq!(stored(&bench.root(CLOUD), APP), [names(&app[39..]), names([])]);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
