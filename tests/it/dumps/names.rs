//! Names that would drive a terminal or a shell, where a person reads and pastes what pgkeep says.

use super::{DISK, disk, listed, shell};
use crate::harness::{
    compare::assert_same,
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
    process::{Output, run},
};

/// A tab and an end of a line, a terminal's escape in both of its forms, marks that turn text round, and what makes
/// a connection string of a name.
const NAME: &str = "tab\tline\n# \u{1b}[31m \u{9b}2J \u{202e}g=p\u{2066}";

/// As Unicode's `Bidi_Control` has them, and all control characters.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}"
            .contains(c)
}

fn assert_safe(text: &str) {
    assert!(!text.contains(|c| is_unsafe(c) && c != '\n'), "{text:?}");
}

#[track_caller]
fn assert_output_safe(output: Output) -> String {
    let output = output.expect_code(0);
    assert_safe(&output.stderr);
    let text = output.text();
    assert_safe(&text);
    text
}

fn cluster() -> Cluster {
    let cluster = Cluster::start();
    let ident = NAME.replace('"', "\"\"");
    cluster.psql("postgres", &format!("CREATE DATABASE \"{ident}\"; CREATE ROLE \"{ident}\""));
    // A version is any text.
    cluster.psql(
        NAME,
        "CREATE TABLE t AS SELECT 1 AS a; CREATE EXTENSION citext; \
         UPDATE pg_extension SET extversion = E'1\\n: > made\\n\\u202e' WHERE extname = 'citext'",
    );
    cluster
}

#[test]
fn what_is_pasted_from_a_manifest_is_nothing_but_the_name() {
    let cluster = cluster();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    let home = home.dump("nightly", "main", &["tab*"], &[DISK], "attempts = 1");
    home.run(&["run", "nightly"]).expect_code(0);
    let copies = listed(&home, &disk(&home));
    let copy = copies.iter().find(|copy| copy.subject() == NAME).unwrap();
    for line in copies.iter().flat_map(|copy| &copy.manifest.restore) {
        assert!(!line.contains(is_unsafe), "{line:?}");
    }
    let lines = &copy.manifest.restore;
    run(shell(&cluster, &lines.join("\n")).current_dir(&copy.folder), "").expect_code(0);
    assert!(!copy.folder.join("made").exists());
    assert_same(&cluster, NAME, "restored");
    // On a new server, into the one of its own name: as the manifest has it, and as `show` prints it.
    let globals = copies.iter().find(|copy| copy.subject() == "@globals").unwrap();
    let id = copy.manifest.id.to_string();
    let shown = assert_output_safe(home.run(&["show", &id]));
    let marked = lines.iter().find(|line| line.contains("--dbname=") && line.starts_with("#    "));
    let line = marked.unwrap().strip_prefix("#    ").unwrap();
    assert!(shown.contains(line), "{shown}");
    let other = Cluster::builder().empty().start();
    let script = globals.manifest.restore.join("\n");
    run(shell(&other, &script).current_dir(&globals.folder), "").expect_code(0);
    // pg_restore writes no SQL for a database with an end of a line in its name, and says so.
    other.psql("postgres", &format!("CREATE DATABASE \"{NAME}\""));
    run(shell(&other, line).current_dir(&copy.folder), "").expect_code(0);
    let sql = "SELECT a FROM t";
    assert_eq!(other.psql(NAME, sql), "1");
}

#[test]
fn a_terminal_is_told_names_and_does_nothing_for_them() {
    let cluster = cluster();
    let home = Pgkeep::new().server("main", &cluster).local(DISK);
    // The second job names a database that is not there: its failure stands in `status` and in the log.
    let missing = quote(NAME.replace("tab", "gone"));
    let home = home.dump("nightly", "main", &["tab*"], &[DISK], "attempts = 1").toml(&format!(
        "[job.other]\nkind = \"dump\"\nserver = \"main\"\ndatabases = [{missing}]\n\
         repositories = [\"{DISK}\"]\nattempts = 1\nglobals = false\n"
    ));
    let mut daemon = home.ready_daemon();
    let ran = assert_output_safe(home.run(&["run", "nightly"]));
    assert!(ran.contains("tab\\tline\\n# \\u{1b}[31m \\u{9b}2J \\u{202e}g=p\\u{2066}"), "{ran}");
    let other = home.run(&["run", "other"]).expect_code(1);
    assert_safe(&other.stderr);
    assert_safe(&other.text());
    assert!((other.stderr.clone() + &other.text()).contains("gone\\tline"), "{other:?}");
    let listed = assert_output_safe(home.run(&["list"]));
    assert!(listed.contains("tab\\tline"), "{listed}");
    let status = assert_output_safe(home.run(&["status"]));
    assert!(status.contains("gone\\tline"), "{status}");
    let doctor = home.run(&["doctor"]);
    assert_safe(&doctor.stderr);
    assert_safe(&doctor.text());
    // What a person gives is printed as well.
    for arguments in [&["run", NAME][..], &["show", NAME], &[NAME], &["list", "--repository", NAME]]
    {
        let output = home.run(arguments);
        assert_safe(&output.stderr);
        assert!(output.code != 0 && !output.stderr.is_empty(), "{output:?}");
    }
    let log = daemon.log();
    assert_safe(&log);
    daemon.stop();
    // JSON has the very name, and is as safe.
    let output = home.run(&["list", "--json"]).expect_code(0);
    assert_safe(&output.text());
    let names: Vec<String> = output
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["subject"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().any(|name| name == NAME), "{names:?}");
}
