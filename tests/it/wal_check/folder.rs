//! Archives in a folder.

use std::{fs, process::Command};

use pgkeep::{
    domain::{
        finding::Severity,
        report::Outcome,
        wal::{Expectation, Inventory, SegmentName, SegmentSize, Since, Sizes, Timeline, examine},
    },
    sys::{clock::SystemClock, task::Task},
    wal::archive::Archive,
};

use super::{
    Ran, SEGMENT, archiving, base_backup, check, fill, job_with, set_command, switch, wait_archived,
};
use crate::harness::{
    long_tests,
    pgkeep::Pgkeep,
    process::{command, run},
    wait::{PATIENCE, eventually},
};

#[test]
fn an_archive_that_is_whole_and_then_has_holes() {
    let (cluster, archive) = archiving();
    let old = fill(&cluster, 4);
    base_backup(&cluster, &cluster.socket_dir().join("base1"), &[]);
    let middle = fill(&cluster, 4);
    base_backup(&cluster, &cluster.socket_dir().join("base2"), &[]);
    let recent = fill(&cluster, 4);
    fs::write(archive.join("README"), "not WAL").unwrap();
    fs::create_dir(archive.join("lost+found")).unwrap();

    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, "");
    let whole = check(&home);
    whole.assert_quiet();
    whole.one("wal-recovery-point", Severity::Info);
    assert_eq!((whole.missing("recent"), whole.missing("old")), (Some(0.0), Some(0.0)));
    // An idle archive: nothing waits, and that is no trouble, however long ago the last was archived.
    assert_eq!(whole.sample("wal_oldest_ready_timestamp_seconds", &[]), Some(0.0));
    assert_eq!(whole.sample("wal_ready_files", &["segment"]), Some(0.0));
    assert!(whole.sample("wal_directory_bytes", &[]).unwrap() > 0.0);
    assert!(whole.sample("wal_archive_last_listed_timestamp_seconds", &[]).unwrap() > 0.0);
    let figures = &whole.target("archive").figures.counts;
    assert!(figures["segments"] >= 12, "{figures:?}");
    assert_eq!(figures["foreign_files"], 1);

    for lost in [&middle[1], &recent[1]] {
        fs::remove_file(archive.join(lost)).unwrap();
    }
    let holes = check(&home);
    assert_eq!((holes.missing("recent"), holes.missing("old")), (Some(1.0), Some(1.0)));
    let found = holes.found("wal-archive-gap");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(found[0].severity, Severity::Critical);
    assert!(found[0].what.contains(&recent[1]), "{found:#?}");
    assert_eq!(found[1].severity, Severity::Warning);
    assert!(found[1].what.contains(&middle[1]), "{found:#?}");

    // What is known and accepted is said no more. What was before all base backups never mattered.
    fs::remove_file(archive.join(&old[1])).unwrap();
    let losses = format!("known_losses = [{:?}, \"{}..{1}\"]", middle[1], recent[1]);
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, &losses);
    check(&home).assert_quiet();
    let home = job_with(
        Pgkeep::new().server("main", &cluster),
        &archive,
        &format!("since = {:?}\n{losses}", old[0]),
    );
    let ran = check(&home);
    assert_eq!((ran.missing("recent"), ran.missing("old")), (Some(0.0), Some(1.0)));
}

#[test]
fn lengths_and_copies_that_cannot_be_are_found() {
    let (cluster, archive) = archiving();
    let names = fill(&cluster, 3);
    // Cut off long ago, and being written just now.
    let cut = archive.join(&names[1]);
    fs::File::options().write(true).open(&cut).unwrap().set_len(SEGMENT / 2).unwrap();
    must_touch(&cut);
    fs::copy(archive.join(&names[0]), archive.join(format!("{}.gz", names[0]))).unwrap();
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, "");
    let ran = check(&home);
    let size = ran.one("wal-archive-size", Severity::Critical);
    assert!(size.what.contains(&names[1]), "{size:#?}");
    let twice = ran.one("wal-archive-duplicates", Severity::Warning);
    assert!(twice.what.contains(&names[0]), "{twice:#?}");
    let home =
        job_with(Pgkeep::new().server("main", &cluster), &archive, "archive_sizes = \"any\"");
    assert!(check(&home).found("wal-archive-size").is_empty());
}

fn must_touch(path: &std::path::Path) {
    let output = run(command("touch").args(["-d", "1 hour ago"]).arg(path), "");
    output.expect_code(0);
}

#[test]
fn a_command_that_copies_nothing_is_caught() {
    let (cluster, archive) = archiving();
    let before = fill(&cluster, 2);
    set_command(&cluster, "true");
    let lost = fill(&cluster, 2);
    let home = job_with(
        Pgkeep::new().server("main", &cluster),
        &archive,
        "end_to_end = true\nend_to_end_timeout = \"1s\"",
    );
    let ran = check(&home);
    let found = ran.one("wal-archive-lost", Severity::Critical);
    assert!(found.what.contains(&lost[0]) && !found.what.contains(&before[1]), "{found:#?}");
    let probe = ran.one("wal-end-to-end", Severity::Critical);
    assert!(probe.what.contains("takes it for archived"), "{probe:#?}");
    assert_eq!(ran.sample("wal_last_end_to_end_timestamp_seconds", &[]), Some(0.0));
    // It is not tried again before its time, and what it found stays.
    let segments =
        || cluster.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let now = segments();
    check(&home).one("wal-end-to-end", Severity::Critical);
    assert_eq!(segments(), now);
}

#[test]
fn the_probe_sees_a_segment_arrive() {
    let (cluster, archive) = archiving();
    fill(&cluster, 1);
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, "end_to_end = true");
    let ran = check(&home);
    ran.assert_quiet();
    assert!(ran.sample("wal_last_end_to_end_timestamp_seconds", &[]).unwrap() > 0.0);
    assert_eq!(ran.target("end-to-end").outcome, Outcome::Succeeded);
}

/// As pgkeep is meant to run: without the power over other users' files that root has.
fn plainly(home: &Pgkeep, args: &[&str]) -> Command {
    let plain = home.command(args);
    if !rustix::process::geteuid().is_root() {
        return plain;
    }
    let mut bounded = command("setpriv");
    bounded.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    bounded.arg(plain.get_program()).args(plain.get_args());
    bounded.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bounded
}

#[test]
fn an_archive_that_cannot_be_read_is_a_finding_and_brings_no_numbers() {
    let (cluster, archive) = archiving();
    fill(&cluster, 2);
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, "");
    check(&home).assert_quiet();
    let args = ["run", "wal", "--json"];
    let mode = |mode: &str| {
        run(command("chmod").arg(mode).arg(&archive), "").expect_code(0);
    };
    mode(if rustix::process::geteuid().is_root() { "0700" } else { "0000" });
    let ran = Ran::of(run(&mut plainly(&home, &args), ""), 0);
    mode("0755");
    let found = ran.one("wal-archive-unreadable", Severity::Critical);
    assert!(found.hint.as_ref().unwrap().contains("setfacl"), "{found:#?}");
    assert_eq!((ran.missing("recent"), ran.missing("old")), (None, None));
    assert!(ran.sample("wal_archive_last_listed_timestamp_seconds", &[]).unwrap() > 0.0);
    assert!(matches!(ran.target("archive").outcome, Outcome::Skipped(_)));
    // The server's part went on.
    assert_eq!(ran.target("archiving").outcome, Outcome::Succeeded);

    // Names can be listed, and what hangs them together cannot be read.
    let history = archive.join("00000002.history");
    fs::write(&history, "1\t0/3000000\tx\n").unwrap();
    run(command("chmod").arg("0000").arg(&history), "").expect_code(0);
    let ran = Ran::of(run(&mut plainly(&home, &args), ""), 0);
    let found = ran.one("wal-archive-unreadable", Severity::Critical);
    assert!(found.what.contains("00000002.history"), "{found:#?}");
    assert!(found.hint.as_ref().unwrap().contains("chmod g+r"), "{found:#?}");
    assert_eq!(ran.missing("recent"), None);

    let gone = job_with(Pgkeep::new().server("main", &cluster), &archive.join("none"), "");
    let found = check(&gone);
    let found = found.one("wal-archive-unreadable", Severity::Critical);
    assert!(found.hint.as_ref().unwrap().contains("mounted"), "{found:#?}");
}

#[test]
fn between_two_listings_what_was_found_is_said_again() {
    let (cluster, archive) = archiving();
    let names = fill(&cluster, 4);
    fs::remove_file(archive.join(&names[1])).unwrap();
    let home = Pgkeep::new().server("main", &cluster);
    let archive_key = format!("archive = {:?}", archive.display().to_string());
    let home = super::job(home, &archive_key);
    let first = check(&home);
    first.one("wal-archive-gap", Severity::Critical);
    fs::remove_file(archive.join(&names[2])).unwrap();
    let second = check(&home);
    second.one("wal-archive-gap", Severity::Critical);
    assert_eq!(second.missing("recent"), Some(1.0), "it is not listed again before its time");
    let at = |ran: &Ran| ran.sample("wal_archive_last_listed_timestamp_seconds", &[]);
    assert_eq!(at(&first), at(&second));
    assert!(!second.report.targets.iter().any(|t| t.target.object.as_deref() == Some("archive")));
    // Other rules: what was found by the old ones is of no use.
    home.rewrite(&format!("{}\nsince = \"newest-backup\"\n", home.config()));
    assert_eq!(check(&home).missing("recent"), Some(2.0));
}

#[test]
fn a_termination_while_the_probe_waits_ends_the_run() {
    let (cluster, archive) = archiving();
    set_command(&cluster, "true");
    let lines = "end_to_end = true\nend_to_end_timeout = \"1h\"";
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, lines);
    let mut daemon = home.ready_daemon();
    let client = crate::harness::client::Client::start(&home, &["run", "wal"]);
    eventually("the probe's segment", PATIENCE, || {
        let sql = "SELECT archived_count FROM pg_stat_archiver";
        (cluster.psql("postgres", sql) != "0").then_some(())
    });
    daemon.stop();
    client.end();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'";
    eventually("the end of the session", PATIENCE, || {
        (cluster.psql("postgres", sessions) == "0").then_some(())
    });
    set_command(&cluster, &super::copying(&archive));
    wait_archived(&cluster, &switch(&cluster));
}

/// Writes `count` files as gzip leaves them, but for one.
fn many(count: u64, without: u64) -> tempfile::TempDir {
    // In memory where there is room: files by the hundred thousand take a busy disk minutes.
    let memory = tempfile::tempdir_in("/dev/shm");
    let folder = memory.unwrap_or_else(|_| tempfile::tempdir().unwrap());
    for number in (1..=count).filter(|number| *number != without) {
        let name = SegmentName::new(Timeline::new(0x1F).unwrap(), number, SegmentSize::DEFAULT);
        let below = folder.path().join(name.folder());
        if number % 256 <= 1 {
            fs::create_dir_all(&below).unwrap();
        }
        fs::write(below.join(format!("{name}.gz")), "x").unwrap();
    }
    folder
}

fn find_the_one(count: u64) {
    let folder = many(count, count / 2);
    let archive = Archive::Folder(folder.path().to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seen = Inventory::new(SegmentSize::DEFAULT, Sizes::Exact);
    let task = Task::new(SystemClock::new());
    let listed = runtime.block_on(archive.list(seen, None, Timeline::FIRST, &task)).unwrap();
    let head = Timeline::new(0x1F).unwrap();
    let since = Since::OldestBackup;
    let (may_lag, claimed, written, told) = (false, None, None, None);
    let expected = Expectation { since, head, may_lag, claimed, written, told, known_losses: &[] };
    let found = examine(&listed.seen, &expected);
    assert_eq!(found.missing_recent.len(), 1);
    assert_eq!((found.missing_recent[0].first, found.missing_recent[0].count()), (count / 2, 1));
    assert_eq!(listed.seen.segments.len(), count - 1);
}

#[test]
fn a_hundred_thousand_files_are_looked_through() {
    find_the_one(100_000);
}

#[test]
fn a_million_files_are_looked_through() {
    if long_tests() {
        find_the_one(1_000_000);
    }
}
