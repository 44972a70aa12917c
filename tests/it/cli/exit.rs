//! The exit codes of each command. What a run's outcome gives is tested with the runs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{COMMANDS, home};
use crate::harness::{
    pgkeep::{Pgkeep, quote},
    process::{Output, command, run},
};

#[test]
fn wrong_usage_is_2() {
    let home = home();
    let cases: [&[&str]; 9] = [
        &[],
        &["nonsense"],
        &["run"],
        &["run", "a", "b"],
        &["run", "a b"],
        &["show"],
        &["list", "--repository", "a/b"],
        &["schedule"],
        &["schedule", "next", "-n", "0"],
    ];
    for arguments in cases {
        let said = home.run(arguments).expect_code(2);
        assert!(said.stderr.contains("--help"), "{arguments:?}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_invalid_configuration_is_3() {
    let home = home();
    let broken = [
        format!("{}\n[job.b\n", home.config()),
        home.config().replace("\"dump\"", "\"dumb\""),
        home.config().replace("schedule =", "schedul ="),
    ];
    for text in &broken {
        home.rewrite(text);
        for arguments in COMMANDS {
            // Where the socket is can be read of all but the first: they look for the daemon.
            let asks = ["status", "reload"].contains(&arguments[0]) && text != &broken[0];
            let said = home.run(arguments).expect_code(if asks { 1 } else { 3 });
            let text = if asks { "no daemon is running" } else { "pgkeep.toml:" };
            assert!(said.stderr.contains(text), "{arguments:?}: {}", said.stderr);
        }
        let said = home.run(&["check-config", "--json"]).expect_code(3).json();
        assert_eq!(said["valid"], false);
        assert!(said["diagnostics"][0]["what"].is_string(), "{said}");
    }
    fs::remove_file(home.config_path()).unwrap();
    for arguments in COMMANDS {
        let said = home.run(arguments).expect_code(3);
        assert!(said.stderr.contains("cannot read"), "{arguments:?}: {}", said.stderr);
    }
}

#[test]
fn what_is_not_there_is_5() {
    let home = home();
    let cases: [(&[&str], &str); 6] = [
        (&["run", "nobody"], "there is no job nobody"),
        (&["schedule", "next", "nobody"], "there is no job nobody"),
        (&["show", "20261121T021500Z-k3f9q2x7"], "no repository has it"),
        (&["list"], ""),
        (&["list", "--repository", "nowhere"], ""),
        (&["list", "--server", "nobody", "--database", "x", "--incomplete"], ""),
    ];
    for (arguments, text) in cases {
        let said = home.run(arguments).expect_code(5);
        assert!(said.stderr.contains(text), "{arguments:?}: {}", said.stderr);
    }
    assert_eq!(home.run(&["list", "--json"]).expect_code(5).json(), serde_json::json!([]));
}

#[test]
fn without_a_daemon_there_is_nobody_to_ask() {
    let home = home();
    for name in ["status", "reload"] {
        let said = home.run(&[name]).expect_code(1);
        for text in ["[state]", "no daemon is running", "hint:"] {
            assert!(said.stderr.contains(text), "{name}: {}", said.stderr);
        }
    }
    // A socket that nobody answers at any more is no daemon either.
    let mut daemon = home.ready_daemon();
    daemon.kill9();
    assert!(home.runtime_dir().join("control.sock").exists());
    home.run(&["status"]).expect_code(1);
}

#[test]
fn a_state_directory_that_a_daemon_holds_is_6() {
    let home = home();
    let mut daemon = home.ready_daemon();
    let here = quote(home.runtime_dir().to_string_lossy());
    let elsewhere = quote(home.home().join("elsewhere").to_string_lossy());
    home.rewrite(&home.config().replace(&here, &elsewhere));
    let said = home.run(&["run", "a"]).expect_code(6);
    let holder = format!("process {}", daemon.pid());
    for text in ["[state]", holder.as_str(), "hint:"] {
        assert!(said.stderr.contains(text), "{text:?} is not in:\n{}", said.stderr);
    }
    assert!(!home.state_dir().join("runs/a").exists(), "nothing was run");
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// Runs a command as nobody; the home must be open to reading.
fn as_nobody(home: &Pgkeep, arguments: &[&str]) -> Output {
    let mut setpriv = command("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.arg(env!("CARGO_BIN_EXE_pgkeep")).args(arguments);
    setpriv.arg("--config").arg(home.config_path()).current_dir("/").env("HOME", "/");
    run(&mut setpriv, "")
}

#[test]
fn another_user_is_kept_out_with_6() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let home = home();
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(home.home(), 0o755);
    open(&home.config_path(), 0o644);
    let probe = as_nobody(&home, &["check-config"]);
    if probe.code == 126 || probe.code == 127 {
        eprintln!("SKIPPED: nobody cannot reach the program: {}", probe.stderr);
        return;
    }
    probe.expect_code(0);

    let said = as_nobody(&home, &["run", "a"]).expect_code(6);
    assert!(said.stderr.contains("belongs to another user"), "{}", said.stderr);
    as_nobody(&home, &["status"]).expect_code(1);

    let mut daemon = home.ready_daemon();
    for mode in [0o755, 0o700] {
        open(&home.runtime_dir(), mode);
        for arguments in [&["run", "a"][..], &["status"], &["reload"]] {
            let said = as_nobody(&home, arguments).expect_code(6);
            for text in ["does not let this user in", "hint:"] {
                assert!(said.stderr.contains(text), "{mode:o} {arguments:?}: {}", said.stderr);
            }
        }
    }
    // The socket's mode is not all that keeps others out.
    open(&home.runtime_dir(), 0o755);
    open(&home.runtime_dir().join("control.sock"), 0o666);
    for arguments in [&["run", "a"][..], &["status"], &["reload"]] {
        let said = as_nobody(&home, arguments).expect_code(6);
        assert!(said.stderr.contains("only the daemon's user and root"), "{}", said.stderr);
    }
    assert!(!home.state_dir().join("runs/a").exists(), "nothing was run");
    daemon.stop();
    daemon.assert_log_clean(&["refused a control connection of another user"]);
}
