use std::{fs, path::Path, process::Command, time::Duration};

use jiff::Timestamp;
use pgkeep::{
    daemon::journal::{Journal, JournalSettings, Opened, RunRecord, RunState},
    domain::{
        failure::Class,
        metric::MetricKind,
        report::{Report, Sample, Verdict},
        run::EndedRun,
    },
};

use super::{job, run};

fn kind_of(metric: &str) -> Option<MetricKind> {
    (metric == "size").then_some(MetricKind::Last)
}

const SETTINGS: JournalSettings = JournalSettings { keep_runs: 5, kind_of };

fn at(text: &str) -> Timestamp {
    format!("2026-11-21T{text}Z").parse().unwrap()
}

fn open(folder: &Path) -> (Journal, Opened) {
    Journal::open(folder, SETTINGS, at("12:00:00")).unwrap()
}

/// The runs of a job that are on disk, the newest first.
fn read_runs(state_dir: &Path, job: &str) -> Vec<RunRecord> {
    let files = fs::read_dir(state_dir.join("runs").join(job)).unwrap();
    let texts = files.map(|file| fs::read(file.unwrap().path()).unwrap());
    let mut runs: Vec<RunRecord> =
        texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.seq));
    runs
}

fn start(run: &str) -> RunRecord {
    RunRecord::started(&job("nightly"), "dump", run.to_owned(), "schedule", at("02:15:00"))
}

fn end(name: &str, verdict: Verdict) -> EndedRun {
    let sample = Sample { metric: "size".to_owned(), labels: vec![], value: 5.0 };
    let report = Report { samples: vec![sample], ..Report::default() };
    EndedRun {
        run: name.to_owned(),
        ..run(verdict, at("02:16:00"), Duration::from_mins(1), report)
    }
}

#[test]
fn what_ended_is_remembered_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, opened) = open(folder.path());
    assert!(opened.findings.is_empty() && opened.interrupted.is_empty());
    assert_eq!(
        journal.configured(&job("nightly"), "dump", at("01:00:00")).unwrap(),
        at("01:00:00")
    );
    journal.start(start("r1")).unwrap();
    assert_eq!(journal.runs(&job("nightly"), 9)[0].state, RunState::Running);
    journal.end(&job("nightly"), &end("r1", Verdict::Succeeded)).unwrap();
    let state = journal.job(&job("nightly"));
    assert_eq!(state.last_success, Some(at("02:16:00")));
    journal.start(start("../r2")).unwrap();
    journal.end(&job("nightly"), &end("../r2", Verdict::Partial)).unwrap();
    journal.remember(&job("nightly"), serde_json::json!({"slot": 1})).unwrap();
    let before = journal.job(&job("nightly"));
    drop(journal);
    let (journal, opened) = open(folder.path());
    assert!(opened.findings.is_empty() && opened.interrupted.is_empty());
    assert_eq!(journal.job(&job("nightly")), before);
    assert_eq!(before.samples.len(), 1);
    assert_eq!(before.last_verdict, Some(Verdict::Partial));
    assert_eq!(
        journal.configured(&job("nightly"), "dump", at("05:00:00")).unwrap(),
        at("01:00:00")
    );
    let other = journal.configured(&job("nightly"), "vacuum", at("06:00:00")).unwrap();
    assert_eq!(other, at("06:00:00"));
    let fresh = journal.job(&job("nightly"));
    assert_eq!((fresh.last_success, fresh.samples.len()), (None, 0), "a vacuum never was");
    assert_eq!(fresh.memory, before.memory);
    let runs: Vec<_> = journal.runs(&job("nightly"), 9).into_iter().map(|r| r.run).collect();
    assert_eq!(runs, ["../r2", "r1"]);
    assert!(!folder.path().join("runs/r2.json").exists());
}

#[test]
fn a_run_that_was_killed_is_interrupted_and_sets_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    journal.start(start("r1")).unwrap();
    journal.end(&job("nightly"), &end("r1", Verdict::Succeeded)).unwrap();
    journal.start(start("r2")).unwrap();
    drop(journal);
    // A write that the crash cut off, as well.
    fs::write(folder.path().join("runs/nightly/r2.tmp"), "{").unwrap();
    for reopened in 0..2 {
        let (journal, opened) = open(folder.path());
        assert_eq!(opened.interrupted.len(), 1 - reopened, "once");
        assert!(opened.findings.is_empty());
        let newest = &journal.runs(&job("nightly"), 1)[0];
        assert_eq!(newest.run, "r2");
        assert_eq!(newest.ended().unwrap().verdict, Verdict::Interrupted);
        let state = journal.job(&job("nightly"));
        assert_eq!(state.last_completion, Some(at("02:16:00")));
        assert_eq!(state.last_verdict, Some(Verdict::Interrupted));
    }
    assert!(!folder.path().join("runs/nightly/r2.tmp").exists());
}

#[test]
fn a_crash_between_the_two_files_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let memory = folder.path().join("jobs/nightly.json");
    journal.remember(&job("nightly"), serde_json::json!(7)).unwrap();
    let before = fs::read(&memory).unwrap();
    journal.start(start("r1")).unwrap();
    journal.end(&job("nightly"), &end("r1", Verdict::Succeeded)).unwrap();
    let state = journal.job(&job("nightly"));
    drop(journal);
    fs::write(&memory, before).unwrap();
    let (journal, _) = open(folder.path());
    assert_eq!(journal.job(&job("nightly")), state);
}

#[test]
fn damaged_files_are_set_aside_and_what_they_said_is_read_from_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    for run in ["r1", "r2"] {
        journal.start(start(run)).unwrap();
        journal.end(&job("nightly"), &end(run, Verdict::Succeeded)).unwrap();
    }
    drop(journal);
    let runs = folder.path().join("runs/nightly");
    fs::write(folder.path().join("jobs/nightly.json"), "{\"version\":").unwrap();
    fs::write(runs.join("r2.json"), [0; 512]).unwrap();
    fs::write(runs.join("huge.json"), vec![b' '; 5 << 20]).unwrap();
    fs::copy(runs.join("r1.json"), runs.join("r9.json")).unwrap();
    let (journal, opened) = open(folder.path());
    assert_eq!(opened.findings.len(), 4, "{:?}", opened.findings);
    assert!(opened.findings.iter().all(|finding| finding.check == "journal-damaged"));
    for aside in ["r2.json.corrupt", "huge.json.corrupt", "r9.json.corrupt"] {
        assert!(runs.join(aside).exists(), "{aside}");
    }
    assert_eq!(
        fs::read(folder.path().join("jobs/nightly.json.corrupt")).unwrap(),
        b"{\"version\":"
    );
    assert_eq!(journal.job(&job("nightly")).last_success, Some(at("02:16:00")));
    journal.start(start("r3")).unwrap();
    journal.end(&job("nightly"), &end("r3", Verdict::Failed)).unwrap();
    assert_eq!(journal.runs(&job("nightly"), 9).len(), 2);
}

#[test]
fn the_history_is_bounded_and_the_times_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    journal.start(start("good")).unwrap();
    journal.end(&job("nightly"), &end("good", Verdict::Succeeded)).unwrap();
    journal.start(start("long")).unwrap();
    for number in 0..20 {
        let run = format!("r{number}");
        journal.start(start(&run)).unwrap();
        journal.end(&job("nightly"), &end(&run, Verdict::Failed)).unwrap();
    }
    let files = fs::read_dir(folder.path().join("runs/nightly")).unwrap().count();
    assert_eq!(files, SETTINGS.keep_runs);
    let runs: Vec<_> = journal.runs(&job("nightly"), 9).into_iter().map(|r| r.run).collect();
    assert_eq!(runs, ["r19", "r18", "r17", "r16", "long"], "what is under way is kept");
    drop(journal);
    assert_eq!(read_runs(folder.path(), "nightly").len(), SETTINGS.keep_runs);
    let (journal, _) = open(folder.path());
    assert_eq!(journal.job(&job("nightly")).last_success, Some(at("02:16:00")));
}

#[test]
fn times_of_a_clock_that_was_wrong_are_set_to_now() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    journal.start(start("r1")).unwrap();
    let ended = "2037-01-01T00:00:00Z".parse().unwrap();
    let end = EndedRun { ended, ..end("r1", Verdict::Succeeded) };
    journal.end(&job("nightly"), &end).unwrap();
    drop(journal);
    let (journal, opened) = open(folder.path());
    assert_eq!(opened.findings[0].check, "journal-clock");
    assert_eq!(journal.job(&job("nightly")).last_success, Some(at("12:00:00")));
    drop(journal);
    assert!(open(folder.path()).1.findings.is_empty(), "said once");
}

/// A small filesystem of its own.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    #[expect(clippy::disallowed_methods, reason = "mount ends by itself")]
    fn new(at: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k", "pgkeep-test"]).arg(at);
        mount.status().is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Mount<'_> {
    #[expect(clippy::disallowed_methods, reason = "umount ends by itself")]
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_end_of_a_run_is_kept_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new(folder.path()) else {
        eprintln!("SKIPPED: a_full_disk…: this user cannot mount a tmpfs: run it as root");
        return;
    };
    let (journal, _) = open(mount.0);
    journal.start(start("r1")).unwrap();
    let filler = mount.0.join("filler");
    assert!(fs::write(&filler, vec![1; 1 << 20]).is_err(), "the disk is full");
    let failure = journal.end(&job("nightly"), &end("r1", Verdict::Succeeded)).unwrap_err();
    assert_eq!(failure.class, Class::State);
    assert!(failure.hint.is_some() && failure.what.contains("space"), "{failure}");
    assert!(journal.start(start("r2")).is_err());
    journal.end(&job("nightly"), &end("r2", Verdict::Failed)).unwrap_err();
    assert!(journal.flush().is_err());
    let state = journal.job(&job("nightly"));
    assert_eq!(state.last_success, Some(at("02:16:00")), "memory knows");
    assert_eq!(journal.runs(&job("nightly"), 9)[1].ended().unwrap().verdict, Verdict::Succeeded);
    assert_eq!(read_runs(mount.0, "nightly")[0].state, RunState::Running);
    // A start with a full disk works, and says so.
    let (other, opened) = open(mount.0);
    assert_eq!(opened.interrupted.len(), 1);
    assert_eq!(opened.findings[0].check, "journal-unwritable");
    drop(other);
    fs::remove_file(&filler).unwrap();
    journal.flush().unwrap();
    drop(journal);
    let (journal, opened) = open(mount.0);
    assert!(opened.interrupted.is_empty());
    assert_eq!(journal.job(&job("nightly")), state);
}

#[test]
fn one_jobs_trouble_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    fs::write(folder.path().join("runs/broken"), "in the way of its folder").unwrap();
    let broken = RunRecord { job: job("broken"), ..start("b1") };
    assert_eq!(journal.start(broken).unwrap_err().class, Class::State);
    journal.end(&job("broken"), &end("b1", Verdict::Failed)).unwrap_err();
    journal.start(start("r1")).unwrap();
    journal.end(&job("nightly"), &end("r1", Verdict::Succeeded)).unwrap();
    assert!(journal.flush().is_err());
    fs::remove_file(folder.path().join("runs/broken")).unwrap();
    journal.flush().unwrap();
    let kept = &read_runs(folder.path(), "broken")[0];
    assert_eq!(kept.ended().unwrap().verdict, Verdict::Failed);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let failure = Journal::open(&file, SETTINGS, at("12:00:00")).unwrap_err();
    assert_eq!(failure.class, Class::State);
}
