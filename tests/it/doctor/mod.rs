//! `pgkeep doctor` as a stranger meets it: what it says of trouble, in which words, with which exit
//! code, and that it leaves nothing behind.

mod repositories;
mod servers;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    cli::shape::assert_documented,
    harness::{
        client::Client,
        pgkeep::{Pgkeep, quote},
        postgres::{APP, Cluster, HOSTILE},
        process::Output,
    },
};

/// What it says, as JSON.
#[track_caller]
fn json(home: &Pgkeep, arguments: &[&str], code: i32) -> Value {
    home.run(&[&["doctor", "--json"], arguments].concat()).expect_code(code).json()
}

/// What it says, as text.
#[track_caller]
fn said(home: &Pgkeep, arguments: &[&str], code: i32) -> String {
    let output: Output = home.run(&[&["doctor"], arguments].concat()).expect_code(code);
    assert_eq!(output.stderr, "");
    output.text()
}

/// The item of that group whose label begins so.
#[track_caller]
fn item<'a>(said: &'a Value, group: &str, label: &str) -> &'a Value {
    let items = said["items"].as_array().unwrap();
    let is = |item: &&Value| {
        item["group"] == group && item["label"].as_str().is_some_and(|it| it.starts_with(label))
    };
    items.iter().find(is).unwrap_or_else(|| panic!("no {label} of {group}: {said:#}"))
}

/// The findings of everything, as `group: severity check`.
fn found(said: &Value) -> Vec<String> {
    let items = said["items"].as_array().unwrap();
    let each = items.iter().flat_map(|item| {
        let findings = item["findings"].as_array().unwrap();
        findings.iter().map(move |it| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            format!("{}: {} {}", text(&item["group"]), text(&it["severity"]), text(&it["check"]))
        })
    });
    each.collect()
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The S3 server of the tests leaves empty folders behind.
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn a_good_configuration_is_looked_at_line_by_line_beside_a_daemon() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &["*"],
        &["disk"],
        "",
    );
    let before = said(&home, &["--fail-on", "warning"], 0);
    assert!(before.contains("disk: empty; the first backup makes it a repository"), "{before}");
    assert!(
        before.contains("info [daemon-socket]: no daemon of this configuration is up"),
        "{before}"
    );
    assert_eq!(
        files(&home.repository_dir("disk")),
        Vec::<PathBuf>::new(),
        "it leaves nothing behind"
    );
    assert_eq!(files(&home.state_dir()), Vec::<PathBuf>::new(), "nor here");

    let mut daemon = home.ready_daemon();
    let running = Client::start(&home, &["run", "nightly"]);
    let beside = said(&home, &[], 0);
    running.end().expect_code(0);
    let name = cluster.psql("postgres", "SHOW server_version");
    for line in [
        "server main\n".to_owned(),
        format!("  ok        connection: PostgreSQL {name} at "),
        "a primary, as role pgkeep\n".to_owned(),
        "  ok        maintenance: role postgres is let in\n".to_owned(),
        "  ok        programs: pg_dump 15 in /".to_owned(),
        "  ok        clock: as here\n".to_owned(),
        "  ok        protection: every database has a job, or is excluded by one\n".to_owned(),
        "  ok        globals, job nightly: roles with their passwords\n".to_owned(),
        format!("  ok        database {APP}, job nightly: role pgkeep sees all of it\n"),
        format!("  ok        database {HOSTILE}, job nightly: role pgkeep sees all of it\n"),
        "\n\nrepository disk\n  ok        reach: /".to_owned(),
        "  ok        writing: an object was written, read back, in part as well, and listed\n"
            .to_owned(),
        "  ok        overwriting: what is there is not replaced\n".to_owned(),
        "  ok        removing: the object was removed again\n".to_owned(),
        "the databases dumped to it have ".to_owned(),
        "  ok        daemon: it answers at its socket\n".to_owned(),
        "  ok        metrics: 127.0.0.1:".to_owned(),
        "  ok        schedules: 1 of 1 jobs start by themselves\n".to_owned(),
        "things looked at: 0 critical, 0 warning, 0 info\n".to_owned(),
    ] {
        assert!(beside.contains(&line), "{line:?} is not in\n{beside}");
    }
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn the_json_is_as_documented_and_the_exit_code_goes_by_what_is_asked() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE nobody_much LOGIN");
    let home = Pgkeep::new()
        .toml(&format!(
            "[server.main]\nhost = {}\nport = {}\nuser = \"nobody_much\"",
            quote(cluster.socket_dir().to_string_lossy()),
            cluster.port(),
        ))
        .local("disk")
        .dump("nightly", "main", &[APP], &["disk"], "");
    let whole = json(&home, &[], 7);
    assert_documented("doctor", &whole);
    assert_eq!(whole["worst"], "critical");
    assert_eq!(item(&whole, "server main", "database app")["state"], "critical");
    assert_eq!(item(&whole, "server main", "clock")["state"], "ok");
    assert_eq!(json(&home, &["--fail-on", "critical"], 7)["worst"], "critical");

    let fine = Pgkeep::new().local("disk");
    let only_info = json(&fine, &[], 0);
    assert_eq!(only_info["worst"], "info");
    json(&fine, &["--fail-on", "info"], 7);
    assert_eq!(json(&fine, &["--fail-on", "critical"], 0)["items"][0]["group"], "repository disk");
}

#[test]
fn only_what_is_asked_for_is_looked_at() {
    let cluster = Cluster::start();
    let home = Pgkeep::new()
        .server("one", &cluster)
        .server("two", &cluster)
        .local("disk")
        .local("other")
        .dump("first", "one", &[APP], &["disk"], "enabled = false")
        .dump("second", "two", &["*"], &["other"], "");
    let groups = |arguments: &[&str]| {
        let said = json(&home, arguments, 0);
        let mut groups: Vec<String> = said["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["group"].as_str().unwrap().to_owned())
            .collect();
        groups.dedup();
        groups
    };
    let all = ["server one", "server two", "repository disk", "repository other", "this host"];
    assert_eq!(groups(&[]), all);
    assert_eq!(groups(&["--server", "two"]), ["server two", "repository other"]);
    // Also a job that is not enabled: before it is.
    assert_eq!(groups(&["--job", "first"]), ["server one", "repository disk"]);
    for arguments in [["--server", "three"], ["--job", "third"]] {
        let output = home.run(&[&["doctor"], &arguments[..]].concat()).expect_code(5);
        assert!(
            output.stderr.contains(&format!(
                "there is no {}",
                if arguments[0] == "--job" { "job third" } else { "[server.three]" }
            )),
            "{}",
            output.stderr
        );
    }
}
