//! The conversation with a webhook, frozen or slowed down at each boundary between two lines of HTTP, in both
//! directions: the run, the other receiver and the daemon's end do not wait for it.

use std::time::Duration;

use super::{BUDGET_KIB, peak, timed, try_all};
use crate::{
    harness::{
        freeze::{Framing, Freeze, Harm, Place},
        long_tests,
        receiver::Receiver,
        wait::{PATIENCE, eventually},
    },
    notify::{hopeless, webhook},
};

/// What a run takes whose server is not there, and the daemon's end (a fifth of eight seconds for what is still to be
/// told), on a busy machine.
const MOMENT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
struct Case {
    at: usize,
    harm: Harm,
    /// The daemon is ended while it waits; else the notification is given up in its own time.
    ends: bool,
}

fn proxy(receiver: &Receiver, at: usize, harm: Harm) -> Freeze {
    let address = receiver.url("");
    let address = address.trim_start_matches("http://").to_owned();
    Freeze::tcp(Place::Tcp(address), Framing::Lines, at, harm)
}

/// How many boundaries the whole conversation has.
fn boundaries() -> usize {
    let receiver = Receiver::start();
    let proxy = proxy(&receiver, usize::MAX, Harm::All);
    let home = hopeless(&webhook("ops", &format!("http://{}/", proxy.address()), ""));
    home.run(&["run", "nightly"]).expect_code(1);
    receiver.wait(1);
    proxy.passed()
}

fn tried(case: Case) {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let proxy = proxy(&receiver, case.at, case.harm);
    let lines = "timeout = \"1s\"\nattempts = 1";
    let silent = webhook("ops", &format!("http://{}/", proxy.address()), lines);
    let home = hopeless(&format!("{silent}\n{}", webhook("other", &other.url("/"), lines))).hasty();
    let mut daemon = home.ready_daemon();
    let (_, took) = timed(|| home.run(&["run", "nightly"]).expect_code(1));
    assert!(took < MOMENT, "{case:?}: the run took {took:?}");
    other.wait(1);
    let count = |outcome: &str| {
        let labels = [("notify", "ops"), ("outcome", outcome)];
        daemon.metrics().value("pgkeep_notifications_total", &labels).unwrap_or(0.0)
    };
    let told = || (count("sent") + count("failed") > 0.5).then_some(());
    if case.ends {
        eventually("a conversation that came so far, or its end", PATIENCE, || {
            proxy.is_frozen().then_some(()).or_else(told)
        });
    } else {
        let ((), took) = timed(|| eventually("the end of the notification", PATIENCE, told));
        assert!(took < MOMENT, "{case:?}: it was given up after {took:?}");
        let heard = receiver.requests().len();
        assert!(count("sent") < 0.5 || heard == 1, "{case:?}: sent, and {heard} were heard");
    }
    let peak = peak(daemon.pid()).unwrap();
    assert!(peak <= BUDGET_KIB, "{case:?}: {peak} KiB");
    let ((), took) = timed(|| daemon.stop());
    assert!(took < MOMENT, "{case:?}: the end took {took:?}");
    daemon.assert_log_clean(&["failed", "ended", "notification not delivered"]);
    assert!(receiver.requests().len() <= 1, "{case:?}: it was told more than once");
}

#[test]
fn a_webhook_that_falls_silent_holds_up_neither_a_run_nor_the_end() {
    let count = boundaries();
    let harms = [Harm::All, Harm::Trickle];
    let cases = [0, count / 3, count * 2 / 3, count - 1].into_iter().enumerate();
    let cases =
        cases.map(|(number, at)| Case { at, harm: harms[number % 2], ends: number % 3 == 0 });
    try_all(&cases.collect::<Vec<_>>(), |case| tried(*case));
}

#[test]
fn a_webhook_that_falls_silent_anywhere_holds_up_neither_a_run_nor_the_end_long() {
    if !long_tests() {
        return;
    }
    let mut cases = Vec::new();
    for at in 0..boundaries() {
        for harm in [Harm::All, Harm::Trickle] {
            cases.extend([true, false].map(|ends| Case { at, harm, ends }));
        }
    }
    try_all(&cases, |case| tried(*case));
}
