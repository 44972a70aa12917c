//! Archives that something else than archive_command feeds: pg_receivewal, as it is installed here, and
//! on a standby whatever the primary's is.

use std::{fs, path::Path, process::Child};

use pgkeep::domain::finding::Severity;

use super::{Ran, archive_of, archiving, check, fill, job, job_with, set_command, switch};
use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::Cluster,
    process::{command, must, run, spawn},
    template::server_command,
    wait::{PATIENCE, eventually},
};

/// A pg_receivewal that runs until it is dropped.
struct Receiver(Child);

impl Receiver {
    fn start(cluster: &Cluster, archive: &Path, args: &[&str]) -> Self {
        let mut tool = server_command(&cluster.bin_dir().join("pg_receivewal"));
        tool.env("PGHOST", cluster.socket_dir())
            .env("PGPORT", cluster.port().to_string())
            .args(["--username", "postgres", "--status-interval=1", "--no-sync", "--directory"])
            .arg(archive)
            .args(args);
        Self(spawn(&mut tool))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn files(archive: &Path) -> Vec<String> {
    let entries = fs::read_dir(archive).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until the whole of a segment is there, in whatever form.
fn wait_received(archive: &Path, name: &str) {
    let whole = |file: &String| file.starts_with(name) && !file.ends_with(".partial");
    eventually("a segment that is received", PATIENCE, || {
        files(archive).iter().any(whole).then_some(())
    });
}

/// Waits until the receiver has begun.
fn wait_begun(archive: &Path) {
    eventually("a receiver that runs", PATIENCE, || (!files(archive).is_empty()).then_some(()));
}

/// Ends segments without anybody who archives them.
fn write(cluster: &Cluster, count: usize) -> Vec<String> {
    (0..count).map(|_| switch(cluster)).collect()
}

fn streamed(cluster: &Cluster, archive: &Path, lines: &str) -> Pgkeep {
    let home = Pgkeep::new().server("main", cluster);
    job_with(home, archive, &format!("expect_archiving = false\n{lines}"))
}

#[test]
fn a_receiver_that_died_is_found_by_what_the_server_wrote() {
    let cluster = Cluster::builder().empty().start();
    let archive = archive_of(&cluster);
    let home = streamed(&cluster, &archive, "");
    let receiver = Receiver::start(&cluster, &archive, &[]);
    wait_begun(&archive);
    check(&home).assert_quiet();
    let there = write(&cluster, 3);
    wait_received(&archive, &there[2]);
    let ran = check(&home);
    ran.assert_quiet();
    assert_eq!(ran.missing("recent"), Some(0.0));

    drop(receiver);
    let lost = write(&cluster, 6);
    let ran = check(&home);
    let found = ran.one("wal-archive-behind", Severity::Critical);
    assert!(found.what.contains("6 segments"), "{found:#?}");
    assert!(found.what.contains(&format!("{}..{}", lost[0], lost[5])), "{found:#?}");
    assert!(!found.what.contains(&there[2]), "{found:#?}");
    assert_eq!(ran.missing("recent"), Some(6.0));
    assert!(ran.found("wal-archive-lost").is_empty(), "the server takes nothing for archived");
    assert!(ran.found("wal-archive-gap").is_empty(), "one trouble is said once");

    let _receiver = Receiver::start(&cluster, &archive, &[]);
    wait_received(&archive, &lost[5]);
    check(&home).assert_quiet();
}

/// Moves all that is remembered of what the server wrote into the past.
fn age(home: &Pgkeep, hours: i64) {
    let path = home.state_dir().join("wal-archives/wal.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let written = state["written"].as_array_mut().unwrap();
    assert!(!written.is_empty());
    for moment in written {
        let at: pgkeep::domain::Timestamp = moment[0].as_str().unwrap().parse().unwrap();
        let earlier = at - std::time::Duration::from_hours(hours.unsigned_abs());
        moment[0] = earlier.to_string().into();
    }
    fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
}

#[test]
fn what_was_written_is_due_after_the_deadline_and_remembered_until_then() {
    let cluster = Cluster::builder().empty().start();
    // The control file tells of the last checkpoint: let that be a young one, too.
    cluster.psql("postgres", "CHECKPOINT");
    let archive = archive_of(&cluster);
    let lines = format!(
        "archive = {}\narchive_interval = \"0s\"\narchive_deadline = \"1h\"\nexpect_archiving = false",
        quote(archive.to_string_lossy())
    );
    let home = job(Pgkeep::new().server("main", &cluster), &lines);
    let receiver = Receiver::start(&cluster, &archive, &[]);
    wait_begun(&archive);
    let there = write(&cluster, 1);
    wait_received(&archive, &there[0]);
    drop(receiver);
    let lost = write(&cluster, 2);
    check(&home).assert_quiet();
    age(&home, 2);
    // What came since is not due yet.
    let later = write(&cluster, 2);
    let ran = check(&home);
    let found = ran.one("wal-archive-behind", Severity::Critical);
    assert!(found.what.contains(&lost[1]) && !found.what.contains(&later[0]), "{found:#?}");
    assert_eq!(ran.missing("recent"), Some(2.0));
}

#[test]
fn a_first_look_knows_what_was_written_at_the_last_checkpoint() {
    let cluster = Cluster::builder().empty().start();
    let archive = archive_of(&cluster);
    let receiver = Receiver::start(&cluster, &archive, &[]);
    wait_begun(&archive);
    let there = write(&cluster, 1);
    wait_received(&archive, &there[0]);
    drop(receiver);
    let lost = write(&cluster, 3);
    cluster.psql("postgres", "CHECKPOINT");
    let seconds = "SELECT extract(epoch FROM clock_timestamp() - checkpoint_time)::int FROM \
                   pg_control_checkpoint()";
    eventually("an old checkpoint", PATIENCE, || {
        (cluster.psql("postgres", seconds).parse::<u32>().unwrap() >= 3).then_some(())
    });
    let later = write(&cluster, 1);
    let lines = format!(
        "archive = {}\narchive_interval = \"0s\"\narchive_deadline = \"2s\"\nexpect_archiving = false",
        quote(archive.to_string_lossy())
    );
    let home = job(Pgkeep::new().server("main", &cluster), &lines);
    let ran = check(&home);
    let found = ran.one("wal-archive-behind", Severity::Critical);
    assert!(found.what.contains(&lost[2]) && !found.what.contains(&later[0]), "{found:#?}");
}

#[test]
fn a_standby_sees_that_the_archive_of_its_primary_stopped() {
    let (primary, archive) = archiving();
    let standby = primary.standby(&[("archive_mode", "on")]);
    fill(&primary, 2);
    let caught_up = |primary: &Cluster| {
        let at = primary.psql("postgres", "SELECT pg_current_wal_lsn()");
        let sql = format!("SELECT pg_last_wal_receive_lsn() >= '{at}'");
        eventually("a standby that has it all", PATIENCE, || {
            (standby.psql("postgres", &sql) == "t").then_some(())
        });
    };
    caught_up(&primary);
    let home = job_with(Pgkeep::new().server("main", &standby), &archive, "");
    check(&home).assert_quiet();
    set_command(&primary, "false");
    let waiting = write(&primary, 3);
    caught_up(&primary);
    let ran = check(&home);
    let found = ran.one("wal-archive-behind", Severity::Critical);
    assert!(found.what.contains(&format!("{}..{}", waiting[0], waiting[2])), "{found:#?}");
}

/// A standby, an archive that is received from it, and its promotion: the segments before it.
fn promoted(args: &[&str]) -> (Cluster, Cluster, std::path::PathBuf, Vec<String>) {
    let primary = Cluster::builder().empty().start();
    let standby = primary.standby(&[]);
    let archive = archive_of(&standby);
    let receiver = Receiver::start(&standby, &archive, args);
    wait_begun(&archive);
    let before = write(&primary, 4);
    wait_received(&archive, before.last().unwrap());
    standby.psql("postgres", "SELECT pg_promote()");
    let after = write(&standby, 2);
    wait_received(&archive, after.last().unwrap());
    drop(receiver);
    (primary, standby, archive, before)
}

fn only(archive: &Path, start: &str) -> std::path::PathBuf {
    let named = files(archive).into_iter().find(|name| name.starts_with(start));
    archive.join(named.unwrap_or_else(|| panic!("no {start}: {:?}", files(archive))))
}

fn moved(from: &Path, to: &Path) {
    must(command("mv").arg(from).arg(to));
}

#[test]
fn the_last_segment_before_a_promotion_is_missed_however_the_history_is_compressed() {
    for (method, ending) in [("none", ""), ("gzip", ".gz"), ("lz4", ".lz4")] {
        let (_primary, standby, archive, before) = promoted(&[&format!("--compress={method}")]);
        let history = archive.join(format!("00000002.history{ending}"));
        assert!(history.exists(), "{:?}", files(&archive));
        let home = streamed(&standby, &archive, "");
        let ran = check(&home);
        ran.assert_quiet();
        assert_eq!(
            ran.target("archive").figures.counts["foreign_files"],
            0,
            "{:?}",
            files(&archive)
        );
        fs::remove_file(only(&archive, &before[3])).unwrap();
        let ran = check(&home);
        let gap = ran.one("wal-archive-gap", Severity::Critical);
        assert!(gap.what.contains(&before[3]), "{gap:#?}");
        assert!(ran.found("wal-archive-history-unread").is_empty());

        // Barman compresses without an ending; what pgkeep cannot read, the server tells it, if it may.
        let plain = archive.join("00000002.history");
        if !ending.is_empty() {
            moved(&history, &plain);
            check(&home).one("wal-archive-gap", Severity::Critical);
        }
        drop(home);
    }
}

/// As an archive command with `gpg` or `age` does it, with an ending that nobody knows.
fn encrypt(archive: &Path) {
    for name in files(archive) {
        let (from, to) = (archive.join(&name), archive.join(format!("{name}.secret")));
        let mut tool = command("openssl");
        tool.args(["enc", "-aes-256-cbc", "-pbkdf2", "-pass", "pass:x", "-in"]).arg(&from);
        must(tool.arg("-out").arg(&to));
        fs::remove_file(from).unwrap();
    }
}

#[test]
fn an_encrypted_history_is_asked_of_the_server_or_missed_aloud() {
    let (_primary, standby, archive, before) = promoted(&["--compress=gzip"]);
    encrypt(&archive);
    let home = streamed(&standby, &archive, "");
    let ran = check(&home);
    let unread = ran.one("wal-archive-history-unread", Severity::Warning);
    assert!(unread.hint.as_ref().unwrap().contains("pg_read_binary_file"), "{unread:#?}");
    assert!(ran.found("wal-archive-gap").is_empty() && ran.found("wal-archive-empty").is_empty());
    // Inside a timeline it is found all the same, and right before a promotion.
    moved(&only(&archive, &before[3]), &archive.join("away"));
    let gap = check(&home).one("wal-archive-gap", Severity::Critical).what.clone();
    assert!(gap.contains(&before[3]), "{gap}");
    moved(&archive.join("away"), &archive.join(format!("{}.gz.secret", before[3])));

    standby.psql(
        "postgres",
        "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO pgkeep",
    );
    check(&home).assert_quiet();
    fs::remove_file(only(&archive, &before[2])).unwrap();
    let gap = check(&home).one("wal-archive-gap", Severity::Critical).what.clone();
    assert!(gap.contains(&before[2]), "{gap}");
}

#[test]
fn an_archive_with_endings_of_its_own_is_whole() {
    let (cluster, archive) = archiving();
    let names = fill(&cluster, 3);
    encrypt(&archive);
    let home = job_with(Pgkeep::new().server("main", &cluster), &archive, "");
    let ran = check(&home);
    ran.assert_quiet();
    assert_eq!(ran.missing("recent"), Some(0.0));
    fs::remove_file(only(&archive, &names[1])).unwrap();
    check(&home).one("wal-archive-gap", Severity::Critical);
}

/// Barman with compression: as many bytes as it takes, and no ending. They are there at once.
#[test]
fn short_segments_are_there_where_lengths_tell_nothing() {
    let (cluster, archive) = archiving();
    let names = fill(&cluster, 3);
    for name in &names {
        let path = archive.join(name);
        let packed = run(command("gzip").arg("-c").arg(&path), "").expect_code(0).stdout;
        fs::write(&path, packed).unwrap();
    }
    let home = Pgkeep::new().server("main", &cluster);
    let ran: Ran = check(&job_with(home, &archive, "archive_sizes = \"any\""));
    ran.assert_quiet();
    assert_eq!(ran.missing("recent"), Some(0.0));
}
