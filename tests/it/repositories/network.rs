//! S3 behind a bad network: busy, silent, slow, cut, forgetful, away for a while.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Bench, CLOUD, DISK, EMPTY, HASTY, JOB, PARTIAL_LOG, Setup};
use crate::harness::{
    chaos::Fault,
    fakes::Fake,
    wait::{PATIENCE, eventually},
};

const PART: &str = "partNumber=";
pub(super) const PROBE_LOG: [&str; 2] =
    ["cannot list the repository", "cannot sweep the repository"];

#[expect(clippy::disallowed_methods, reason = "the limits run by the machine's clock")]
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Runs the job where the network does harm that is got over.
fn assert_done(bench: &Bench) {
    bench.run().expect_code(0);
    bench.assert_all_restore(CLOUD, 1);
    bench.assert_all_restore(DISK, 1);
    assert_eq!((bench.server.parts(), bench.server.uploads().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_busy_for_a_while_is_asked_again() {
    let bench = Setup::default().start().await;
    bench.chaos.next(2, "GET", "", Fault::slow_down());
    bench.chaos.next(4, "PUT", PART, Fault::slow_down());
    bench.chaos.next(2, "POST", "", Fault::slow_down());
    assert_done(&bench);
    assert_eq!(bench.chaos.seen("PUT", PART).len(), 5, "four refusals and one success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_in_mid_part_is_made_again() {
    let bench = Setup::default().start().await;
    bench.chaos.next(2, "PUT", PART, Fault::CutRequest(10_000));
    assert_done(&bench);
    assert_eq!(bench.chaos.seen("PUT", PART).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_is_lost_is_settled() {
    let bench = Setup::default().start().await;
    bench.chaos.on("POST", "uploadId=", Fault::SwallowAnswer);
    assert_done(&bench);
    assert_eq!(bench.chaos.seen("POST", "uploadId=").len(), 1, "settled by looking, not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_never_answers_is_given_up_and_holds_nobody() {
    let bench = Setup { cloud: HASTY, ..Setup::default() }.start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("", "", Fault::BlackHole);
    let report = timed(|| bench.run().expect_code(4).json());
    // Two seconds of attempts and the last one's second, before the dump begins.
    assert!(report.1 < Duration::from_secs(15), "{:?}", report.1);
    let trouble = super::trouble(&report.0, CLOUD);
    trouble.expect("repository-unavailable", "given up after", "");
    bench.chaos.calm().await;
    bench.assert_all_restore(DISK, 1);
    assert!(bench.listed(CLOUD).is_empty());
    daemon.stop();
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &PROBE_LOG].concat());
}

/// The bucket hangs in the very last step: the other repository has its copy long before.
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_hangs_does_not_hold_up_the_other_repository() {
    let bench = Setup { cloud: HASTY, ..Setup::default() }.start().await;
    let daemon = bench.home.ready_daemon();
    bench.chaos.on("POST", "uploadId=", Fault::BlackHole);
    let trouble = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run_partial(&daemon, CLOUD));
        eventually("a completion that hangs", PATIENCE, || {
            (!bench.chaos.seen("POST", "uploadId=").is_empty()).then_some(())
        });
        eventually("the local copy", Duration::from_secs(3), || {
            (bench.listed_on_disk() == 1).then_some(())
        });
        assert!(!run.is_finished(), "the completion still hangs");
        run.join().unwrap()
    });
    trouble.expect("repository-unavailable", "given up after", "");
    assert_eq!(bench.files(CLOUD), EMPTY);
    bench.assert_all_restore(DISK, 1);
}

/// The dump has gone by, a part of it hangs: the server is not kept from cleaning up meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_hang_do_not_hold_the_snapshot() {
    let cloud = "request_timeout = \"10s\"\nmin_rate = \"1GiB\"\ngive_up_after = \"1s\"";
    let bench = Setup { cloud, ..Setup::default() }.start().await;
    let daemon = bench.home.ready_daemon();
    bench.chaos.on("PUT", PART, Fault::BlackHole);
    let trouble = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run_partial(&daemon, CLOUD));
        eventually("a part that hangs", PATIENCE, || {
            (!bench.chaos.seen("PUT", PART).is_empty()).then_some(())
        });
        let held = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND \
                    (backend_xmin IS NOT NULL OR state = 'idle in transaction')";
        eventually("nobody who holds a snapshot", Duration::from_secs(5), || {
            (bench.cluster.psql("postgres", held) == "0").then_some(())
        });
        assert!(!run.is_finished(), "the upload still hangs");
        run.join().unwrap()
    });
    trouble.expect("repository-slow", "given up after", "");
    assert_eq!(bench.files(CLOUD), EMPTY);
    bench.assert_all_restore(DISK, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_at_one_kilobyte_a_second_is_detached() {
    // More than queue and parts under way take: pg_dump has to wait for the slow one at first.
    let setup = Setup { cloud: HASTY, megabytes: 72, ..Setup::default() };
    let bench = setup.start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("PUT", PART, Fault::Throttle(1024));
    let trouble = bench.run_partial(&daemon, CLOUD);
    trouble.expect("repository-slow", "given up after", "min_rate");
    let row = bench.listed(DISK).remove(0);
    let manifest = std::fs::read(bench.folder(&row).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let at = |key: &str| manifest[key].as_str().unwrap().parse::<Timestamp>().unwrap();
    let took = at("finished_at").duration_since(at("started_at"));
    // 3 s are the limits' own; at 1 KB/s one part alone would take over two hours.
    assert!(took.as_secs() < 30, "the dump was held up: {took}");
    bench.assert_all_restore(DISK, 1);
    assert_eq!(bench.files(CLOUD), EMPTY);
    eventually("an upload that was aborted", PATIENCE, || {
        (bench.server.parts() == 0 && bench.server.uploads().is_empty()).then_some(())
    });
    daemon.stop();
    daemon.assert_log_clean(&PARTIAL_LOG);
}

/// The bucket confirms the dump and does not have it: no manifest may say otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_confirmed_and_missing_gets_no_manifest() {
    let bench = Setup::default().start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.chaos.on("HEAD", "app.dump.zst", Fault::Answer(404, "", String::new()));
    let trouble = bench.run_partial(&daemon, CLOUD);
    trouble.expect("repository-damaged", "is not there", "does not keep what it confirmed");
    assert!(!bench.chaos.seen("POST", "uploadId=").is_empty(), "it was completed");
    assert!(bench.chaos.seen("PUT", "manifest.json").is_empty());
    assert_eq!(bench.files(CLOUD), EMPTY, "what is there after all is removed");
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
    daemon.assert_log_clean(&PARTIAL_LOG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_comes_back_gets_a_copy_and_not_another_dump() {
    let setup = Setup {
        cloud: HASTY,
        job: "attempts = 9\nretry_backoff = \"1s\"",
        fake: Some(Fake::Gated),
        ..Setup::default()
    };
    let bench = setup.start().await;
    let mut daemon = bench.home.ready_daemon();
    let mut run = bench.home.command(&["run", JOB, "--json"]);
    let run = std::thread::spawn(move || crate::harness::process::run(&mut run, ""));
    bench.fake().wait_stopped();
    bench.chaos.refuse().await;
    bench.fake().release();
    daemon.wait_log("will be tried again");
    assert_eq!(bench.listed_on_disk(), 1, "the local copy is there meanwhile");
    bench.chaos.calm().await;
    let report = run.join().unwrap().expect_code(0).json();
    assert_eq!(bench.fake().starts(), 1, "it was dumped once");
    let ids = [DISK, CLOUD].map(|name| super::target(&report, name)["figures"]["backup"].clone());
    assert_eq!(ids[0], ids[1], "the same backup");
    let retries = daemon.metrics().value("pgkeep_job_retries_total", &[("job_name", JOB)]);
    assert!(retries >= Some(1.0));
    bench.assert_all_restore(CLOUD, 1);
    bench.assert_all_restore(DISK, 1);
    daemon.stop();
    daemon.assert_log_clean(&[&PARTIAL_LOG[..], &PROBE_LOG].concat());
}

impl Bench {
    /// Backups with a manifest in the local repository, while the bucket is away.
    pub(super) fn listed_on_disk(&self) -> usize {
        self.files(DISK).iter().filter(|path| path.ends_with("/manifest.json")).count()
    }
}
