//! Whose backups they are: a clone of a host does not add to the series of its original.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use pgkeep::sys::clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster},
    process::Output,
    wait::{PATIENCE, eventually},
};

const DISK: &str = "disk";
const JOB: &str = "nightly";

/// The id of the backup that a run made.
fn made(output: &Output) -> String {
    let report = output.json();
    report["report"]["targets"][0]["figures"]["backup"].as_str().unwrap().to_owned()
}

#[test]
fn a_dump_into_a_series_of_another_host_is_refused_until_it_is_adopted() {
    let cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local(DISK).dump(
        JOB,
        "main",
        &[APP],
        &[DISK],
        "globals = false\nattempts = 1",
    );
    let id = made(&home.run(&["run", JOB, "--json"]).expect_code(0));
    let listed = home.run(&["list", "--json"]).expect_code(0).json();
    let system_id = listed[0]["system_id"].as_str().unwrap();
    let series = home.repository_dir(DISK).join(format!("main/{system_id}/{APP}/all"));
    let manifest = series.join(&id).join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let own = pgkeep::sys::host::owner(&home.state_dir()).unwrap();
    assert!(text.contains(&own.machine_id));
    let other = "5".repeat(32);
    fs::write(&manifest, text.replace(&own.machine_id, &other)).unwrap();

    let report = home.run(&["run", JOB, "--json"]).expect_code(1).json();
    let failure = &report["report"]["targets"][0]["outcome"]["detail"];
    assert_eq!(failure["class"], "configuration", "{failure}");
    let what = failure["what"].as_str().unwrap();
    assert!(what.contains(&other) && what.contains(&own.host), "{what}");
    let hint = failure["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("adopt = [\"{other}\"] in [daemon]")), "{hint}");
    assert_eq!(fs::read_dir(&series).unwrap().count(), 1);

    let adopting =
        home.config().replacen("[daemon]\n", &format!("[daemon]\nadopt = [\"{other}\"]\n"), 1);
    home.rewrite(&adopting);
    home.run(&["run", JOB, "--json"]).expect_code(0);
    // The series is ours now.
    home.rewrite(home.config());
    let third = made(&home.run(&["run", JOB, "--json"]).expect_code(0));
    assert!(series.join(third).join("manifest.json").exists());
}

/// A home whose jobs dump `app` and prune to one backup, in the folder `root`.
fn home(cluster: &Cluster, root: &Path) -> Pgkeep {
    let root = quote(root.to_string_lossy());
    Pgkeep::new()
        .server("main", cluster)
        .toml(&format!("[repository.{DISK}]\nkind = \"local\"\npath = {root}\nmin_free = \"1MiB\""))
        .dump(JOB, "main", &[APP], &[DISK], "globals = false\nattempts = 1")
        .toml("[retention.one]\nkeep_last = 1")
        .toml(&format!(
            "[job.tidy]\nkind = \"prune\"\nrepositories = [\"{DISK}\"]\nretention = \"one\"\n\
             schedule = \"0 0 29 2 *\""
        ))
}

fn dump(home: &Pgkeep, code: i32) -> Value {
    home.run(&["run", JOB, "--json"]).expect_code(code).json()["report"].clone()
}

/// Every manifest of `app`, the oldest first.
fn manifests(root: &Path) -> Vec<PathBuf> {
    let server = fs::read_dir(root.join("main")).unwrap().next().unwrap().unwrap().path();
    let folders = fs::read_dir(server.join(APP).join("all")).unwrap();
    let mut found: Vec<_> = folders.map(|it| it.unwrap().path().join("manifest.json")).collect();
    found.sort();
    found
}

/// Has every backup so far written by a host of another name.
fn rename_host(root: &Path, name: &str) {
    for path in manifests(root) {
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        manifest["owner"]["host"] = name.into();
        fs::write(path, manifest.to_string()).unwrap();
    }
}

/// The only finding of that check, with its severity.
fn found<'a>(report: &'a Value, check: &str) -> Option<(&'a str, &'a Value)> {
    let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let mut of_check = findings.iter().filter(|it| it["check"] == check);
    let first = of_check.next()?;
    assert!(of_check.next().is_none(), "{findings:?}");
    Some((first["severity"].as_str().unwrap(), first))
}

/// Refuses to write and to prune, and says with which line of `[daemon]` it would.
fn refuses(clone: &Pgkeep, root: &Path) -> String {
    let before = manifests(root);
    let report = dump(clone, 1);
    let failure = &report["targets"][0]["outcome"]["detail"];
    assert_eq!(failure["class"], "configuration", "{failure}");
    let (severity, finding) = found(&report, "backup-owner").unwrap();
    assert_eq!(severity, "critical", "{finding}");
    let hint = finding["hint"].as_str().unwrap();
    assert!(hint.contains("in [daemon]") && hint.contains("pgkeep reload"), "{hint}");
    assert_eq!(failure["hint"].as_str().unwrap()[..60], hint[..60]);

    let pruned = clone.run(&["run", "tidy", "--json"]).expect_code(1).json();
    let (severity, finding) = found(&pruned["report"], "backup-owner").unwrap();
    assert_eq!(severity, "critical", "{finding}");
    assert_eq!(manifests(root), before, "nothing was added or removed");
    let (_, line) = hint.split_once("write ").unwrap();
    line.split_once(" in [daemon]").unwrap().0.to_owned()
}

fn adopt(home: &Pgkeep, line: &str) {
    home.rewrite(&home.config().replacen("[daemon]\n", &format!("[daemon]\n{line}\n"), 1));
}

#[test]
fn a_clone_neither_adds_nor_prunes_until_it_is_told_that_it_takes_over() {
    let original = Cluster::start();
    let root = tempfile::tempdir().unwrap();
    let first = home(&original, root.path());
    dump(&first, 0);
    dump(&first, 0);
    // The clone has the machine id of its original, and a name and a state directory of its own. Its server was
    // where the newest backup was taken: nothing but the name tells.
    rename_host(root.path(), "db1");
    let copy = original.standby(&[]);
    copy.psql("postgres", "SELECT pg_promote()");
    let second = home(&copy, root.path());
    let line = refuses(&second, root.path());

    adopt(&second, &line);
    dump(&second, 0);
    second.run(&["run", "tidy", "--json"]).expect_code(0);
    assert_eq!(manifests(root.path()).len(), 1);
    // From then on the series is its own.
    second.rewrite(second.config());
    let report = dump(&second, 0);
    assert!(found(&report, "host-renamed").is_none(), "{report}");
}

#[test]
fn a_server_that_never_was_where_the_newest_backup_was_taken_is_another() {
    let original = Cluster::start();
    let copy = original.standby(&[]);
    copy.psql("postgres", "SELECT pg_promote()");
    original.psql(APP, "CREATE TABLE after_the_promotion AS SELECT generate_series(1, 9) AS n");
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (home(&original, root.path()), home(&copy, root.path()));
    dump(&first, 0);
    dump(&first, 0);
    // Both hosts have one machine id and one name; a prune comes first.
    second.run(&["run", "tidy", "--json"]).expect_code(1);
    assert_eq!(manifests(root.path()).len(), 2);
    let line = refuses(&second, root.path());

    adopt(&second, &line);
    dump(&second, 0);
    // The original lives: its turn to be refused, by the timeline that it does not know.
    refuses(&first, root.path());
    // What it writes with leave is not covered by the leave that the clone has, which ends with a second.
    adopt(&first, &refuses(&first, root.path()));
    let (_, until) = line.split_once(" until ").unwrap();
    let until: Timestamp = until.trim_matches(['"', ']']).parse().unwrap();
    eventually("the end of the clone's leave", PATIENCE, || {
        // It covers the whole of that second.
        (SystemClock::new().now().wall.as_second() > until.as_second()).then_some(())
    });
    // The role may not read from where the clone's timeline comes: the position alone tells.
    original.psql(APP, "INSERT INTO after_the_promotion SELECT generate_series(1, 100000)");
    dump(&first, 0);
    refuses(&second, root.path());
}

#[test]
fn a_server_that_was_promoted_or_recovered_past_its_newest_backup_goes_on() {
    let original = Cluster::start();
    let standby = original.standby(&[]);
    let root = tempfile::tempdir().unwrap();
    let first = home(&original, root.path());
    dump(&first, 0);
    original.psql(APP, "CREATE TABLE before_the_promotion ()");
    crate::harness::wait::eventually("replay", crate::harness::wait::PATIENCE, || {
        let found = standby.psql(APP, "SELECT to_regclass('before_the_promotion') IS NOT NULL");
        (found.trim() == "t").then_some(())
    });
    standby.psql("postgres", "SELECT pg_promote()");
    let moved = home(&standby, root.path());
    let report = dump(&moved, 0);
    assert!(found(&report, "backup-owner").is_none(), "{report}");
    let newest = manifests(root.path()).pop().unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(newest).unwrap()).unwrap();
    assert_eq!(manifest["snapshot"]["timeline"], 2);
}

#[test]
fn a_renamed_host_is_told_once_and_goes_on() {
    let cluster = Cluster::start();
    let root = tempfile::tempdir().unwrap();
    let home = home(&cluster, root.path());
    dump(&home, 0);
    dump(&home, 0);
    rename_host(root.path(), "the-old-name");
    // Whichever job comes first.
    home.run(&["run", "tidy", "--json"]).expect_code(0);
    assert_eq!(manifests(root.path()).len(), 1);
    let told = home.run(&["run", JOB, "--json"]).json()["report"].clone();
    let (severity, finding) = found(&told, "host-renamed").unwrap();
    assert_eq!(severity, "warning");
    assert!(finding["what"].as_str().unwrap().contains("the-old-name"), "{finding}");
    assert_eq!(manifests(root.path()).len(), 2);
    let again = dump(&home, 0);
    assert!(found(&again, "host-renamed").is_none(), "{again}");
}

/// As the hint says it: the line goes into `[daemon]`, `pgkeep reload` makes it true, and once the series is the
/// clone's the line can go.
#[test]
fn a_daemon_adopts_with_a_reload() {
    let original = Cluster::start();
    let root = tempfile::tempdir().unwrap();
    dump(&home(&original, root.path()), 0);
    rename_host(root.path(), "db1");
    let copy = original.standby(&[]);
    copy.psql("postgres", "SELECT pg_promote()");
    let clone = home(&copy, root.path());
    let mut daemon = clone.ready_daemon();
    let line = refuses(&clone, root.path());

    adopt(&clone, &line);
    clone.run(&["reload"]).expect_code(0);
    dump(&clone, 0);
    clone.run(&["run", "tidy", "--json"]).expect_code(0);
    assert_eq!(manifests(root.path()).len(), 1);
    clone.rewrite(clone.config());
    clone.run(&["reload"]).expect_code(0);
    dump(&clone, 0);
    assert_eq!(manifests(root.path()).len(), 2);
    daemon.stop();
}
