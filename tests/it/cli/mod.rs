//! The command line as scripts see it: exit codes, JSON, help, and pipes that are closed.

mod exit;
pub(crate) mod shape;

use std::{fmt::Write as _, process::Stdio};

use crate::{
    harness::{
        pgkeep::Pgkeep,
        process::{code_of, command, run, spawn, wait_for},
        wait::PATIENCE,
    },
    lifecycle::{NOWHERE, job},
};

/// Every command with arguments that would do.
const COMMANDS: &[&[&str]] = &[
    &["daemon"],
    &["check-config"],
    &["doctor"],
    &["run", "a"],
    &["status"],
    &["list"],
    &["show", "20261121T021500Z-k3f9q2x7"],
    &["acknowledge", "main/app"],
    &["reload"],
    &["schedule", "next"],
];

/// A home whose server is not there.
fn home() -> Pgkeep {
    Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", ""))
}

#[test]
fn every_command_explains_itself() {
    let mut pages = String::new();
    let nothing: &[&str] = &[];
    let schedule: &[&str] = &["schedule"];
    for arguments in [nothing, schedule].iter().chain(COMMANDS) {
        // The name alone, without what follows it.
        let named =
            arguments.iter().take(if arguments.first() == Some(&"schedule") { 2 } else { 1 });
        let mut pgkeep = command(env!("CARGO_BIN_EXE_pgkeep"));
        pgkeep.args(named).arg("--help").env("COLUMNS", "100");
        let said = run(&mut pgkeep, "").expect_code(0);
        assert_eq!(said.stderr, "");
        writeln!(pages, "{}\n----------", said.text().trim_end()).unwrap();
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("cli-help", pages);
    });
    let mut version = command(env!("CARGO_BIN_EXE_pgkeep"));
    let said = run(version.arg("--version"), "").expect_code(0);
    assert_eq!(said.text(), format!("pgkeep {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_changes_no_outcome() {
    let home = home();
    let mut daemon = home.ready_daemon();
    let cases: [(&[&str], i32); 8] = [
        (&["--help"], 0),
        (&["check-config"], 0),
        (&["check-config", "--json"], 0),
        (&["status"], 0),
        (&["schedule", "next", "-n", "1000"], 0),
        (&["list"], 5),
        (&["run", "nobody"], 5),
        (&["nonsense"], 2),
    ];
    for (arguments, code) in cases {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut pgkeep = home.command(arguments);
        // Both: `pgkeep … 2>&1 | head -1`.
        pgkeep.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let status = wait_for(&mut spawn(&mut pgkeep), "the end of a command", PATIENCE);
        assert_eq!(code_of(status), code, "{arguments:?}");
    }
    daemon.stop();
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let home = home();
    let mut pgkeep = home.command(&["check-config"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    pgkeep.stdin(Stdio::null()).stdout(full).stderr(Stdio::null());
    let status = wait_for(&mut spawn(&mut pgkeep), "the end of a command", PATIENCE);
    assert_eq!(code_of(status), 1);
}
