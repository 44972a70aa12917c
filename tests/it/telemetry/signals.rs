use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout},
};

use pgkeep::daemon::signals::{EXIT_INT, EXIT_TERM, Signal, SignalStream};
use rustix::process::{Pid, Signal as Unix, kill_process};

use super::{CHILD, child};

/// Reads lines until one ends with `what`: the test harness writes before the first.
fn wait_for(lines: &mut BufReader<ChildStdout>, what: &str) {
    let mut line = String::new();
    while !line.trim_end().ends_with(what) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended before {what:?}");
    }
}

fn send(child: &Child, signal: Unix) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn start() -> (Child, BufReader<ChildStdout>) {
    let mut child = child("telemetry::signals::child_that_gets_signals", &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut lines, "waiting");
    (child, lines)
}

#[test]
fn each_signal_asks_for_its_own() {
    let (mut child, mut lines) = start();
    for (signal, said) in [
        (Unix::HUP, "Reload"),
        (Unix::USR1, "Dump"),
        (Unix::USR2, "ToggleDebug"),
        (Unix::HUP, "Reload"),
    ] {
        send(&child, signal);
        wait_for(&mut lines, said);
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_second_signal_ends_a_process_that_is_stuck() {
    for (first, said, second, status) in [
        (Unix::TERM, "Terminate", Unix::TERM, EXIT_TERM),
        (Unix::TERM, "Terminate", Unix::INT, EXIT_INT),
        (Unix::INT, "Interrupt", Unix::INT, EXIT_INT),
    ] {
        let (mut child, mut lines) = start();
        send(&child, first);
        wait_for(&mut lines, said);
        assert!(child.try_wait().unwrap().is_none(), "the first asks for an orderly end");
        send(&child, second);
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
}

#[tokio::test]
#[ignore = "started by the other tests"]
async fn child_that_gets_signals() {
    assert!(std::env::var_os(CHILD).is_some(), "not to be run by hand");
    let mut signals = SignalStream::new().unwrap();
    let say = |what: &str| {
        println!("{what}");
        std::io::stdout().flush().unwrap();
    };
    say("waiting");
    while let Some(signal) = signals.next().await {
        say(&format!("{signal:?}"));
        if matches!(signal, Signal::Terminate | Signal::Interrupt) {
            // Stuck: the only worker thread never gets back to the runtime.
            loop {
                std::thread::park();
            }
        }
    }
}
