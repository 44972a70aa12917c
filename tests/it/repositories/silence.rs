//! A bucket that is away: the others do not wait for it.

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
const QUESTION: Duration = Duration::from_secs(15);
/// What everything else takes, on a busy machine. Less than the question: who asks twice is seen.
const REST: Duration = Duration::from_secs(14);
/// What a cancelled run, or the daemon's end, takes there.
const END: Duration = Duration::from_secs(10);

/// With every other limit as everybody has it.
async fn bench() -> Bench {
    let mut bench = Setup { cloud: "answer_timeout = \"15s\"", ..Setup::default() }.start().await;
    bench.home = bench.home.hasty();
    bench
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
    trouble.expect("repository-unavailable", "no answer within 15s", "endpoint");
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
    assert!(trouble.what.contains("given up after 15s"), "{trouble:?}");
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
    assert!(took < QUESTION * 3, "three times as long where each waits: {took:?}");
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
    assert!(took < END, "{took:?}");
    let run = Client::start(&bench.home, &["run", JOB]);
    bench.wait_stage("waits for repository cloud");
    let ((), took) = timed(|| {
        daemon.sigterm();
        run.end().expect_code(130);
        assert_eq!(daemon.wait_exit(), 0);
    });
    assert!(took < END, "{took:?}");
}

/// Each says within its time what the others hold, and which one is away.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_asks_is_answered_by_the_repositories_that_are_there() {
    let bench = bench().await;
    bench.run().expect_code(0);
    let row = bench.listed(DISK).remove(0);
    let id = row["id"].as_str().unwrap();
    bench.chaos.on("", "", Fault::BlackHole);
    let asked: [(&[&str], i32); 4] =
        [(&["list"], 4), (&["show", id], 4), (&["acknowledge", id], 1), (&["doctor"], 7)];
    let (answers, took) = timed(|| {
        let clients = asked.map(|(words, code)| (Client::start(&bench.home, words), code));
        clients.map(|(client, code)| client.end().expect_code(code))
    });
    assert!(took < QUESTION + REST, "{took:?}");
    for answer in &answers {
        let all = format!("{}{}", answer.text(), answer.stderr);
        assert!(answer.stderr.contains("waits for "), "nothing was said: {all}");
        assert!(all.contains("cloud") && all.contains("no answer within 15s"), "{all}");
    }
    for answer in &answers[..2] {
        assert!(answer.stderr.contains("waits for repository cloud\n"), "{}", answer.stderr);
        let text = answer.text();
        assert!(text.contains(id) && text.contains(DISK), "{text}");
    }
}

/// As a deploy script sees it: no terminal, and a bucket that is silent in each attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_what_it_waits_for_and_when_it_tries_again() {
    let setup = Setup {
        cloud: "request_timeout = \"2s\"\ngive_up_after = \"1s\"",
        job: "attempts = 2\nretry_backoff = \"2s\"",
        ..Setup::default()
    };
    let mut bench = setup.start().await;
    bench.home = bench.home.hasty();
    bench.chaos.on("", "", Fault::BlackHole);
    for with_daemon in [true, false] {
        let mut daemon = with_daemon.then(|| bench.home.ready_daemon());
        let said = bench.home.run(&["run", JOB]).expect_code(4).stderr;
        for words in ["(waits for repository cloud", "attempt 2 begins at ", "repository cloud: "] {
            assert!(
                said.contains(words),
                "{words:?} is missing, with a daemon: {with_daemon}\n{said}"
            );
        }
        assert!(said.lines().count() < 40, "{said}");
        if let Some(daemon) = &mut daemon {
            daemon.stop();
        }
    }
}

/// What a bucket does from one request on: it takes the request and says nothing, does not even take it, begins
/// an answer and stops, or goes on at a byte a second.
const SILENCES: [Fault; 4] =
    [Fault::BlackHole, Fault::NeverRead, Fault::StallAnswer(0), Fault::Throttle(1)];
/// What an attempt may take where each request has a second and is repeated for two.
const ATTEMPT: Duration = Duration::from_secs(40);
/// The budget of the daemon's memory, in MiB.
const MEMORY: u64 = 128;

/// Every request is the last one that is answered: runs end and leave the other repository its copy, can be
/// cancelled, and let the daemon end.
async fn sweep(cases: impl Iterator<Item = usize>) {
    let setup = Setup { cloud: super::HASTY, daemon: "grace = \"2s\"", ..Setup::default() };
    let bench = setup.start().await;
    let mut daemon = bench.home.ready_daemon();
    bench.run().expect_code(0);
    let requests = bench.chaos.requests();
    let mut copies = 1;
    for case in cases {
        let (after, silence) = (case / SILENCES.len() % requests, case % SILENCES.len());
        let silence = SILENCES[silence].clone();
        let what = format!("case {case}: {silence:?} after {after} requests");
        bench.chaos.calm().await;
        bench.chaos.after(after, silence);
        let (run, took) = timed(|| bench.run());
        assert!(took < ATTEMPT, "{what}: {took:?}");
        assert!([0, 4].contains(&run.code), "{what}: {run:?}");
        copies += 1;
        assert_eq!(bench.listed_on_disk(), copies, "{what}");
        let (_, took) = timed(|| {
            let run = Client::start(&bench.home, &["run", JOB]);
            let begun =
                || bench.stage().is_some_and(|stage| stage.contains("waits for repository"));
            eventually("a run that waits, or its end", PATIENCE, || {
                (begun() || bench.stage().is_none()).then_some(())
            });
            bench.home.run(&["cancel", JOB]);
            run.end()
        });
        assert!(took < ATTEMPT / 2, "{what}: cancelled after {took:?}");
        copies = bench.listed_on_disk();
        if case % 3 == 0 {
            let run = Client::start(&bench.home, &["run", JOB]);
            eventually("a run under way", PATIENCE, || bench.stage());
            let (code, took) = timed(|| {
                daemon.sigterm();
                daemon.wait_exit()
            });
            assert_eq!(code, 0, "{what}: {}", daemon.log());
            assert!(took < Duration::from_secs(20), "{what}: ended after {took:?}");
            run.end();
            copies = bench.listed_on_disk();
            daemon = bench.home.ready_daemon();
        }
        assert!(daemon.peak() <= MEMORY, "{what}: {} MiB", daemon.peak());
    }
    bench.chaos.calm().await;
    bench.run().expect_code(0);
    let rows = bench.listed(DISK);
    assert_eq!(rows.len(), copies + 1);
    rows.last().into_iter().for_each(|row| bench.assert_restores(row));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_early_harms_nobody_else() {
    sweep([0, 5].into_iter()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_late_harms_nobody_else() {
    sweep([14, 27].into_iter()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_falls_silent_anywhere_harms_nobody_else_long() {
    if crate::harness::long_tests() {
        sweep(0..80).await;
    }
}
