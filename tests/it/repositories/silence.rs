//! A bucket that is away, with the limits that everybody has: the others do not wait for it.

use std::time::Duration;

use super::{
    Bench, CLOUD, DISK, JOB, PARTIAL_LOG, Setup,
    network::{PROBE_LOG, timed},
};
use crate::harness::{
    chaos::Fault,
    client::Client,
    postgres::{APP, HOSTILE},
    wait::{PATIENCE, eventually},
};

/// How long one bucket is asked before the others go on.
const QUESTION: Duration = Duration::from_secs(30);
/// What everything else takes, on a busy machine.
const REST: Duration = Duration::from_secs(20);

/// With every default.
async fn bench() -> Bench {
    Setup { cloud: "", ..Setup::default() }.start().await
}

impl Bench {
    /// What `status` says of the run under way.
    fn stage(&self) -> Option<String> {
        let status = self.home.run(&["status", "--json"]).expect_code(0).json();
        Some(status["running"].get(0)?["stage"].as_str()?.to_owned())
    }

    #[track_caller]
    fn wait_stage(&self, text: &str) {
        eventually(&format!("{text:?} in the status"), PATIENCE, || {
            self.stage().filter(|stage| stage.contains(text))
        });
    }
}

/// The daemon looks at the bucket as well, and both jobs want it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_silent_is_waited_for_once_and_named() {
    let mut bench = bench().await;
    bench.home =
        bench.home.dump("second", "main", &[APP], &[DISK, CLOUD], "globals = false\nattempts = 1");
    bench.chaos.on("", "", Fault::BlackHole);
    let mut daemon = bench.home.ready_daemon();
    let second = Client::start(&bench.home, &["run", "second", "--json"]);
    let (report, took) = timed(|| {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| bench.run().expect_code(4).json());
            bench.wait_stage("waits for repository cloud");
            run.join().unwrap()
        })
    });
    assert!(took < QUESTION + REST, "{took:?}");
    let trouble = super::trouble(&report, CLOUD);
    trouble.expect("repository-unavailable", "no answer within 30s", "endpoint");
    second.end().expect_code(4);
    bench.chaos.calm().await;
    bench.assert_all_restore(DISK, 2);
    daemon.stop();
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &PROBE_LOG].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_is_out_soon_and_says_why() {
    let bench = bench().await;
    bench.chaos.refuse().await;
    let (report, took) = timed(|| bench.run().expect_code(4).json());
    assert!(took < QUESTION + REST, "{took:?}");
    let trouble = super::trouble(&report, CLOUD);
    trouble.expect("repository-unavailable", "refused", "endpoint");
    assert!(trouble.what.contains("given up after 30s"), "{trouble:?}");
    bench.chaos.calm().await;
    bench.assert_all_restore(DISK, 1);
}

/// It opens, and then says nothing: no database after the first one waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_is_out_for_all_databases_of_the_run() {
    let mut bench = bench().await;
    let lines = "attempts = 1";
    bench.home = bench.home.dump("all", "main", &[APP, HOSTILE], &[DISK, CLOUD], lines);
    bench.chaos.on("GET", "list-type=2", Fault::BlackHole);
    let (report, took) = timed(|| bench.home.run(&["run", "all", "--json"]).expect_code(4).json());
    assert!(took < QUESTION + REST, "three times as long where each waits: {took:?}");
    let targets = report["report"]["targets"].as_array().unwrap();
    let of = |repository: &str, state: &str| {
        let is = |target: &&serde_json::Value| {
            target["target"]["repository"] == repository && target["outcome"]["state"] == state
        };
        targets.iter().filter(is).count()
    };
    assert_eq!((of(DISK, "succeeded"), of(CLOUD, "failed"), targets.len()), (3, 3, 6), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_silent_bucket_can_be_cancelled_and_ended() {
    let bench = bench().await;
    bench.chaos.on("", "", Fault::BlackHole);
    let mut daemon = bench.home.ready_daemon();
    let run = Client::start(&bench.home, &["run", JOB]);
    bench.wait_stage("waits for repository cloud");
    let (_, took) = timed(|| {
        bench.home.run(&["cancel", JOB]).expect_code(0);
        run.end().expect_code(130)
    });
    assert!(took < REST / 2, "{took:?}");
    let run = Client::start(&bench.home, &["run", JOB]);
    bench.wait_stage("waits for repository cloud");
    let ((), took) = timed(|| {
        daemon.sigterm();
        run.end().expect_code(130);
        assert_eq!(daemon.wait_exit(), 0);
    });
    assert!(took < REST / 2, "{took:?}");
}
