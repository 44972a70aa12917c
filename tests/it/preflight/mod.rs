//! Roles that lack something: what refuses a dump before it begins, what may be accepted, and what is
//! no trouble at all.

mod accepted;
mod granted;
mod refused;

use pgkeep::domain::{
    failure::{Class, Failure},
    manifest::Manifest,
    report::{Report, Verdict},
};
use serde::Deserialize;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
};

/// The database of these tests.
const DB: &str = "shop";
/// A role with no rights but those of everybody.
const ROLE: &str = "reader";

/// A cluster with an empty database, and the role.
fn cluster() -> Cluster {
    let cluster = Cluster::builder().empty().start();
    cluster.psql("postgres", &format!("CREATE DATABASE {DB}"));
    cluster.psql("postgres", &format!("CREATE ROLE {ROLE} LOGIN"));
    cluster
}

/// `[server.main]` for a role.
fn server_as(cluster: &Cluster, role: &str) -> String {
    format!(
        "[server.main]\nhost = {}\nport = {}\nuser = {}\nbin_dir = {}",
        quote(cluster.socket_dir().to_string_lossy()),
        cluster.port(),
        quote(role),
        quote(cluster.bin_dir().to_string_lossy()),
    )
}

/// A home whose job dumps the database as that role; with more lines in the job.
fn home_as(cluster: &Cluster, role: &str, lines: &str) -> Pgkeep {
    let lines = format!("attempts = 1\nglobals = false\nworkers = 1\n{lines}");
    let home = Pgkeep::new().toml(&server_as(cluster, role)).local("disk");
    home.dump("nightly", "main", &[DB], &["disk"], &lines)
}

#[derive(Debug, Deserialize)]
struct Ran {
    verdict: Verdict,
    report: Report,
}

/// Runs the job, which is to end with that exit code.
#[track_caller]
fn run(home: &Pgkeep, code: i32) -> Ran {
    serde_json::from_value(home.run(&["run", "nightly", "--json"]).expect_code(code).json())
        .unwrap()
}

/// The failure of the only target, or of the whole run.
#[track_caller]
fn refused(home: &Pgkeep) -> Failure {
    let ran = run(home, 1);
    assert_eq!(ran.verdict, Verdict::Failed);
    let failure = ran.report.failures().next().unwrap_or_else(|| panic!("{ran:#?}"));
    home.run(&["list"]).expect_code(5);
    failure.clone()
}

/// The failure of the only target, for want of a right.
#[track_caller]
fn lacks(home: &Pgkeep) -> Failure {
    let failure = refused(home);
    assert_eq!(failure.class, Class::Privilege, "{failure:#?}");
    failure
}

/// The manifest of the newest backup.
#[track_caller]
fn manifest(home: &Pgkeep) -> Manifest {
    let list = home.run(&["list", "--json"]).expect_code(0).json();
    let id = list.as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).max().unwrap();
    let shown = home.run(&["show", id, "--json"]).expect_code(0).json();
    serde_json::from_value(shown[0]["manifest"].clone()).unwrap()
}

/// The statements of a hint: what stands between a colon or an `Or` and the end.
fn statements(hint: &str) -> String {
    let (_, statements) = hint.split_once(&format!("in database {DB}: ")).expect("statements");
    statements.split(" Or, ").next().unwrap().to_owned()
}
