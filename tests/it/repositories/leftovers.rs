//! kill -9 in the middle of an upload to both repositories.

use super::{CLOUD, DISK, EMPTY, JOB, Setup, files};
use crate::harness::{
    fakes::Fake,
    wait::{PATIENCE, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_nothing_once_it_is_back() {
    let setup = Setup { megabytes: 40, fake: Some(Fake::Gated), ..Setup::default() };
    let bench = setup.start().await;
    let mut daemon = bench.home.ready_daemon();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run());
        bench.fake().wait_stopped();
        eventually("parts in both repositories", PATIENCE, || {
            let hidden = bench.files(DISK).iter().any(|path| path.contains("/.tmp-"));
            (hidden && bench.server.parts() > 0).then_some(())
        });
        daemon.kill9();
        run.join().unwrap().expect_code(1);
    });
    let uploads = bench.home.state_dir().join("uploads");
    assert_eq!(files(&uploads).len(), 1, "the upload is remembered");
    assert_eq!(bench.server.uploads().len(), 1);
    bench.home.run(&["list"]).expect_code(5);
    bench.home.run(&["list", "--incomplete"]).expect_code(5);

    let mut daemon = bench.home.ready_daemon();
    eventually("the sweep of the start", PATIENCE, || {
        let swept = bench.files(DISK) == EMPTY
            && bench.server.parts() == 0
            && bench.server.uploads().is_empty()
            && files(&uploads).is_empty();
        swept.then_some(())
    });
    assert_eq!(bench.files(CLOUD), EMPTY);
    let status = bench.home.run(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["jobs"][0]["last"]["verdict"], "interrupted", "{status}");
    let metrics = daemon.metrics();
    let job = [("job_name", JOB)];
    for name in ["completion", "success"] {
        let name = format!("pgkeep_job_last_{name}_timestamp_seconds");
        assert_eq!(metrics.value(&name, &job), Some(0.0), "{name}");
    }
    assert_eq!(metrics.value("pgkeep_job_running_since_timestamp_seconds", &job), Some(0.0));
    bench.fake().release();
    bench.run().expect_code(0);
    bench.assert_all_restore(DISK, 1);
    bench.assert_all_restore(CLOUD, 1);
    daemon.stop();
    daemon.assert_log_clean(&["a run was interrupted", "a killed pgkeep left behind"]);
}
