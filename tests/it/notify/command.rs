//! Programs that are told.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::hopeless;
use crate::{
    harness::{
        pgkeep::{Pgkeep, quote},
        wait::{PATIENCE, eventually},
    },
    lifecycle::{assert_gone, files_below},
};

/// A program of shell.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("page");
    fs::write(&path, format!("#!/bin/sh\ncd -- \"$(dirname -- \"$0\")\" || exit\n{script}\n"))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn section(program: &Path, lines: &str) -> String {
    let program = quote(program.to_string_lossy());
    format!(
        "[notify.ops]\nkind = \"command\"\ncommand = [{program}, \"a b\", \"$$HOME\"]\nretry_backoff = \"1s\"\n{lines}"
    )
}

#[test]
fn a_program_gets_json_and_variables_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let script = "cat >told.new; env >env; printf '%s\\n' \"$@\" >args; mv told.new told";
    let home =
        hopeless(&section(&program(folder.path(), script), "")).env("PGKEEP_SECRET", "hunter2");
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    let told = folder.path().join("told");
    let told: Value = eventually("what the program was told", PATIENCE, || {
        serde_json::from_slice(&fs::read(&told).ok()?).ok()
    });
    assert_eq!((&told["event"], &told["job"]), (&"failure".into(), &"nightly".into()));
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("args"), "a b\n$HOME\n", "there is no shell");
    let env = read("env");
    for line in [
        "PGKEEP_EVENT=failure",
        "PGKEEP_JOB=nightly",
        "PGKEEP_VERDICT=failed",
        "PGKEEP_TEXT=nightly on ",
    ] {
        assert!(env.lines().any(|known| known.starts_with(line)), "{line:?} is not in:\n{env}");
    }
    assert!(!env.contains("hunter2"), "{env}");
    daemon.stop();
    daemon.assert_log_clean(&["failed", "ended"]);
}

#[test]
fn a_program_that_fails_is_logged_with_what_it_said_but_for_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo x >>tries\necho \"cannot reach https://hooks.example.org/hunter2\" >&2\n\
        [ \"$(wc -l <tries)\" -gt 2 ]";
    let home = hopeless(&section(&program(folder.path(), script), "attempts = 2\n"));
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    let line = daemon.wait_log("notification not delivered");
    for part in ["exited with 1", "https://hooks.example.org/…", "attempts=2"] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    home.run(&["run", "nightly"]).expect_code(1);
    daemon.wait_log("notification sent");
    daemon.stop();
    assert!(!daemon.log().contains("hunter2"), "{}", daemon.log());
}

#[test]
fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM\necho $$ >>pids\nsleep 1000 & echo $! >>pids\nwait; wait";
    let path = program(folder.path(), script);
    let pids = || -> Vec<i32> {
        let text = fs::read_to_string(folder.path().join("pids")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let trial = Pgkeep::new().toml(&section(&path, "timeout = \"1s\"\n"));
    let said = trial.run(&["notify", "ops"]).expect_code(1);
    assert!(said.stderr.contains("no answer within 1 seconds"), "{}", said.stderr);
    assert_eq!(pids().len(), 2);
    assert_gone(&pids());

    // The end of the daemon does not wait for it either.
    let home = hopeless(&section(&path, "timeout = \"5m\"\n"));
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(1);
    eventually("the program", PATIENCE, || (pids().len() == 4).then_some(()));
    daemon.stop();
    assert_gone(&pids());
    assert_eq!(files_below(&home.state_dir().join("children")), Vec::<String>::new());
}

/// A program meets the limits of the daemon's unit only where the daemon starts it.
#[test]
fn a_test_is_sent_by_the_daemon_where_one_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let home = Pgkeep::new().toml(&section(&program(folder.path(), "echo $PPID >parent"), ""));
    let parent = || -> u32 {
        fs::read_to_string(folder.path().join("parent")).unwrap().trim().parse().unwrap()
    };
    let json = home.run(&["notify", "ops", "--json"]).expect_code(0).json();
    assert_eq!(json["by_daemon"], false);
    let mut daemon = home.ready_daemon();
    assert_ne!(parent(), daemon.pid());
    let said = home.run(&["notify", "ops"]).expect_code(0);
    assert_eq!(said.text(), "notify ops: delivered by the daemon\n");
    assert_eq!(parent(), daemon.pid());
    // What the daemon has not read yet it does not know.
    let home = home.toml("[notify.new]\nkind = \"command\"\ncommand = [\"/bin/true\"]\n");
    let said = home.run(&["notify", "new"]).expect_code(1);
    assert!(said.stderr.contains("hint: was it added since the last reload?"), "{}", said.stderr);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_program_that_others_may_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(folder.path(), "exit 0");
    let home = Pgkeep::new().toml(&section(&path, ""));
    home.run(&["notify", "ops"]).expect_code(0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
    let said = home.run(&["notify", "ops"]).expect_code(3);
    assert!(said.stderr.contains("may be written by others"), "{}", said.stderr);
}
