//! Retries, endpoints that hang, reloads and the end of the daemon.

use std::time::Duration;

use super::{events, hopeless, webhook};
use crate::harness::{
    pgkeep::Daemon,
    receiver::{Answer, Receiver},
    wait::{PATIENCE, eventually},
};

fn count(daemon: &Daemon, outcome: &str) -> f64 {
    let labels = [("notify", "ops"), ("outcome", outcome)];
    daemon.metrics().value("pgkeep_notifications_total", &labels).unwrap()
}

#[track_caller]
fn wait_count(daemon: &Daemon, outcome: &str, expected: f64) {
    eventually(&format!("{expected} {outcome}"), PATIENCE, || {
        ((count(daemon, outcome) - expected).abs() < f64::EPSILON).then_some(())
    });
}

#[test]
fn what_fails_for_now_is_tried_again_and_what_is_refused_is_not() {
    let receiver = Receiver::start();
    let home = hopeless(&webhook("ops", &receiver.url("/hunter2"), ""));
    let mut daemon = home.ready_daemon();
    for outcome in ["sent", "failed", "dropped"] {
        assert!(
            count(&daemon, outcome).abs() < f64::EPSILON,
            "{outcome} has a series from the start"
        );
    }
    receiver.answers(&[Answer::Say("404 Not Found", "hunter2")]);
    home.run(&["run", "nightly"]).expect_code(1);
    wait_count(&daemon, "failed", 1.0);
    assert_eq!(receiver.requests().len(), 1, "a 404 stays one");
    let last = |what: &str| {
        let name = format!("pgkeep_notify_last_{what}_timestamp_seconds");
        daemon.metrics().value(&name, &[("notify", "ops")]).unwrap()
    };
    assert!(last("failure") > 1.0e9 && last("success").abs() < f64::EPSILON);
    // It has not been told: the next run that fails tells it.
    receiver.answers(&[Answer::Say("500 Oh", ""), Answer::Say("429 Slowly\r\nRetry-After: 1", "")]);
    home.run(&["run", "nightly"]).expect_code(1);
    wait_count(&daemon, "sent", 1.0);
    assert_eq!(events(&receiver.wait(4)), ["failure"; 4]);
    let runs: Vec<_> = receiver.requests().iter().map(|told| told.json()["run"].clone()).collect();
    assert!(runs[0] != runs[1] && runs[1] == runs[2] && runs[2] == runs[3], "{runs:?}");
    home.run(&["run", "nightly"]).expect_code(1);
    daemon.stop();
    assert_eq!(receiver.requests().len(), 4, "it is known now");
    let log = daemon.log();
    assert!(log.contains("answered 404") && log.contains("will be tried again"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    daemon.assert_log_clean(&["failed", "ended", "notification not delivered"]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is about time")]
fn an_endpoint_that_hangs_holds_up_nothing() {
    let receiver = Receiver::start();
    receiver.hang(true);
    let other = Receiver::start();
    let lines = "timeout = \"5m\"\non = [\"start\", \"failure\"]\nrepeat = \"0s\"\n";
    let both = [("ops", &receiver), ("other", &other)]
        .map(|(name, to)| webhook(name, &to.url("/hunter2"), lines));
    let home = hopeless(&both.join("\n"));
    let mut daemon = home.ready_daemon();
    let runs = 4;
    for _ in 0..runs {
        home.run(&["run", "nightly"]).expect_code(1);
    }
    // The other one hears all that it is to hear, each start and the failure once.
    other.wait(runs + 1);
    home.run(&["reload"]).expect_code(0);
    home.run(&["run", "nightly"]).expect_code(1);
    home.run(&["status"]).expect_code(0);
    let start = std::time::Instant::now();
    daemon.stop();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let log = daemon.log();
    assert!(log.contains("notification not delivered: pgkeep was stopped"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");

    // What did not arrive is told after the next run; `repeat` is 0, so that nothing else tells it.
    let before = receiver.requests().len();
    receiver.hang(false);
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    let told = receiver.wait(before + 2);
    assert_eq!(events(&told[before..]), ["start", "failure"]);
    daemon.stop();
}

/// The status says that it was taken; the body is of no use to anybody.
#[test]
fn a_receiver_that_takes_it_and_dawdles_hears_it_once() {
    let receiver = Receiver::start();
    receiver.answers(&[Answer::Trickle]);
    let home = hopeless(&webhook("ops", &receiver.url("/"), "timeout = \"3s\"\n"));
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    wait_count(&daemon, "sent", 1.0);
    assert_eq!(receiver.requests().len(), 1, "it was sent again");
    daemon.stop();
    assert!(!daemon.log().contains("not delivered"), "{}", daemon.log());
}

#[test]
fn a_reload_swaps_the_receivers_and_what_waits_goes_the_old_way() {
    let old = Receiver::start();
    let new = Receiver::start();
    old.answers(&[Answer::Say("500 Oh", "")]);
    let home = hopeless(&webhook("ops", &old.url("/"), ""));
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    old.wait(1);
    let swapped = home.config().replace(&old.url("/"), &new.url("/"));
    home.rewrite(&swapped.replace("notify.ops", "notify.people"));
    home.run(&["reload"]).expect_code(0);
    home.run(&["run", "nightly"]).expect_code(1);
    new.wait(1);
    old.wait(2);
    let names = |daemon: &Daemon| {
        let found = daemon.metrics();
        let found = found.find("pgkeep_notifications_total", &[("outcome", "sent")]);
        found.iter().map(|sample| sample.labels[0].1.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&daemon), ["people"], "what is no longer configured has no series");
    daemon.stop();
    assert_eq!((old.requests().len(), new.requests().len()), (2, 1));
}

#[test]
fn a_run_without_a_daemon_tells_as_well() {
    let receiver = Receiver::start();
    let home = hopeless(&webhook("ops", &receiver.url("/hunter2"), ""));
    let said = home.run(&["run", "nightly"]).expect_code(1);
    assert_eq!(events(&receiver.wait(1)), ["failure"]);
    home.run(&["run", "nightly"]).expect_code(1);
    assert_eq!(receiver.requests().len(), 1, "it was told, and that is remembered");
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
}
