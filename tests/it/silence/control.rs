//! The conversations over the control socket, frozen or slowed down at each boundary between two lines, in both
//! directions: the client ends by its own limits or at a signal, and the daemon minds nothing.

use std::{net::TcpListener, time::Duration};

use rustix::process::Signal;

use super::{BUDGET_KIB, peak, timed, try_all};
use crate::harness::{
    client::Client,
    freeze::{Framing, Freeze, Harm, Place},
    long_tests,
    pgkeep::Pgkeep,
    wait::{PATIENCE, eventually},
};

/// What a command takes that is answered, and the daemon's end (a second for its children, five for answers that
/// nobody takes), on a busy machine.
const MOMENT: Duration = Duration::from_secs(15);
/// What a client waits for a reply: two minutes for the next word of a run, ten seconds for everything else; a fifth
/// of it, and the machine is busy.
const PATIENT: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy)]
struct Case {
    words: &'static [&'static str],
    at: usize,
    harm: Harm,
    /// The client is told to go; else it gives up by itself.
    signal: bool,
}

const TALKS: [&[&str]; 4] = [&["status"], &["run", "stands"], &["cancel", "stands"], &["reload"]];

/// A daemon's home, with a job that waits for a server that never says a word.
fn home() -> (Pgkeep, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let home = Pgkeep::with_daemon("grace = \"1s\"")
        .hasty()
        .toml(&format!(
            "[server.main]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"x\"\nconnect_timeout = \"1h\""
        ))
        .local("disk");
    let job = |home: Pgkeep, name| home.dump(name, "main", &["app"], &["disk"], "attempts = 1");
    (job(job(home, "stands"), "other"), silent)
}

/// The same configuration for a client, whose words go through the proxy.
fn client_of(home: &Pgkeep, at: usize, harm: Harm) -> (Freeze, Pgkeep) {
    let socket = home.runtime_dir().join("control.sock");
    let proxy = Freeze::unix("control.sock", Place::Unix(socket), Framing::Lines, at, harm);
    let client = Pgkeep::new().hasty();
    let of = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    client.rewrite(&home.config().replace(&of(&home.runtime_dir()), &of(proxy.folder())));
    (proxy, client)
}

fn wait_running(home: &Pgkeep, job: &str) {
    eventually(&format!("a run of {job}"), PATIENCE, || {
        let status = home.run(&["status", "--json"]).expect_code(0).json();
        let mut running = status["running"].as_array().unwrap().iter();
        running.any(|run| run["job"] == job).then_some(())
    });
}

fn tried(case: Case) {
    let (home, _silent) = home();
    let mut daemon = home.ready_daemon();
    let (proxy, through) = client_of(&home, case.at, case.harm);
    let stands = (case.words[0] == "cancel").then(|| Client::start(&home, &["run", "stands"]));
    if stands.is_some() {
        wait_running(&home, "stands");
    }
    let client = Client::start(&through, case.words);
    proxy.wait_frozen();
    // Whoever else asks is answered, and what else is to run runs.
    let (other, took) = timed(|| {
        let other = Client::start(&home, &["run", "other"]);
        wait_running(&home, "other");
        home.run(&["cancel", "other"]);
        other.end()
    });
    assert_eq!(other.code, 130, "{case:?}: {other:?}");
    assert!(took < MOMENT, "{case:?}: another run took {took:?}");
    if case.signal {
        client.signal(Signal::INT);
    }
    let (said, took) = timed(|| client.end());
    assert!(took < if case.signal { MOMENT } else { PATIENT }, "{case:?}: {took:?}");
    // A short answer is whole within two minutes at a byte a second, too.
    if !case.signal && (case.harm != Harm::Trickle || said.code != 0) {
        assert_eq!(said.code, 1, "{case:?}: {said:?}");
        assert!(said.stderr.contains("has not answered for"), "{case:?}: {said:?}");
    }
    // The daemon ends in its time beside one that reads nothing, too.
    let late = Client::start(&through, &["status"]);
    let peak = peak(daemon.pid()).unwrap();
    assert!(peak <= BUDGET_KIB, "{case:?}: {peak} KiB");
    let ((), took) = timed(|| daemon.stop());
    assert!(took < MOMENT, "{case:?}: the end took {took:?}");
    drop((late, stands));
    assert!(!daemon.log().contains("panicked"), "{case:?}: {}", daemon.log());
}

/// The boundaries of each: what it says, and the answers. Of a run there is an answer that takes it, and one now and
/// then.
fn boundaries(words: &[&str]) -> usize {
    if words[0] == "run" { 5 } else { 2 }
}

#[test]
fn a_control_socket_that_falls_silent_holds_up_nobody_else() {
    let case = |words, at, harm, signal| Case { words, at, harm, signal };
    let cases = [
        case(TALKS[0], 1, Harm::All, false),
        case(TALKS[1], 0, Harm::Trickle, true),
        case(TALKS[1], 1, Harm::One, false),
        case(TALKS[1], 3, Harm::All, true),
        case(TALKS[2], 1, Harm::Trickle, false),
    ];
    try_all(&cases, |case| tried(*case));
}

#[test]
fn a_control_socket_that_falls_silent_anywhere_holds_up_nobody_else_long() {
    if !long_tests() {
        return;
    }
    let mut cases = Vec::new();
    for words in TALKS {
        for at in 0..boundaries(words) {
            for harm in [Harm::All, Harm::One, Harm::Trickle] {
                cases.extend([true, false].map(|signal| Case { words, at, harm, signal }));
            }
        }
    }
    try_all(&cases, |case| tried(*case));
}
