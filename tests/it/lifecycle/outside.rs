//! What the daemon says of itself, and a state directory that takes nothing any more.

use std::{fs, io::Write as _, path::PathBuf};

use super::{Bench, NOWHERE, job, of_job, verdicts};
use crate::harness::{
    fakes::Fake,
    pgkeep::Pgkeep,
    process::{command, must, run},
    wait::{PATIENCE, eventually},
};

#[test]
fn every_series_is_there_from_the_start() {
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", ""));
    let mut daemon = home.ready_daemon();
    let metrics = daemon.metrics();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(metrics.value("pgkeep_build_info", &version), Some(1.0));
    for name in [
        "planner_last_tick_timestamp_seconds",
        "config_last_reload_successful",
        "config_last_reload_success_timestamp_seconds",
    ] {
        assert!(metrics.value(&format!("pgkeep_{name}"), &[]) > Some(0.0), "{name}");
    }
    let mine = [("job_name", "a"), ("kind", "dump")];
    let value = |name: &str| metrics.value(&format!("pgkeep_{name}"), &mine);
    for name in ["job_configured_timestamp_seconds", "job_max_age_seconds"] {
        assert!(value(name) > Some(0.0), "{name}");
    }
    assert!(value("job_next_run_timestamp_seconds") > Some(0.0));
    for name in [
        "job_last_success_timestamp_seconds",
        "job_last_completion_timestamp_seconds",
        "job_running_since_timestamp_seconds",
        "job_retries_total",
    ] {
        assert_eq!(value(name), Some(0.0), "{name}");
    }
    for (name, label, values) in [
        (
            "pgkeep_job_runs_total",
            "outcome",
            &["succeeded", "partial", "failed", "cancelled", "interrupted"][..],
        ),
        ("pgkeep_job_skips_total", "reason", &["overlap", "missed", "shutting-down"]),
    ] {
        for value in values {
            let labels = [("job_name", "a"), (label, value)];
            assert_eq!(metrics.value(name, &labels), Some(0.0), "{name} {value}");
        }
    }
    let disk = [("repository", "disk")];
    assert!(metrics.value("pgkeep_repository_last_probe_timestamp_seconds", &disk).is_some());
    assert!(metrics.value("process_start_time_seconds", &[]) > Some(0.0));
    // What was not measured has no sample.
    assert!(metrics.find("pgkeep_backup_newest_timestamp_seconds", &[]).is_empty());
    assert!(metrics.find("pgkeep_backup_last_success_timestamp_seconds", &[]).is_empty());
    for page in ["/healthz", "/readyz"] {
        assert_eq!(daemon.get(page).0, 200, "{page}");
    }
    assert_eq!(daemon.get("/nothing").0, 404);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[test]
fn a_good_day_is_told_line_by_line_in_json_and_in_numbers() {
    let bench = Bench::with(Pgkeep::with_daemon("log_format = \"json\""), Fake::Gated);
    bench.fake.release();
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let metrics = eventually("the probe after the run", PATIENCE, || {
        let metrics = daemon.metrics();
        let seen = metrics.value("pgkeep_backup_newest_timestamp_seconds", &[]).is_some();
        seen.then_some(metrics)
    });
    let of = [("server", "main"), ("datname", "app"), ("repository", "disk")];
    let value = |name: &str| metrics.value(&format!("pgkeep_{name}"), &of).unwrap();
    assert!((value("backup_stored") - 1.0).abs() < f64::EPSILON);
    let list = home.run(&["list", "--json"]).expect_code(0).json();
    let stored = list[0]["bytes"].as_f64().unwrap();
    assert!((value("backup_stored_bytes") - stored).abs() < f64::EPSILON);
    // The age of a backup counts from its snapshot, which lies before the end of the run.
    let snapshot = value("backup_last_success_timestamp_seconds");
    let ended = of_job(&daemon, "job_last_success_timestamp_seconds", "nightly").unwrap();
    assert!(snapshot > 0.0 && snapshot <= ended, "{snapshot} {ended}");
    assert_eq!(of_job(&daemon, "job_last_completion_timestamp_seconds", "nightly"), Some(ended));
    assert!(of_job(&daemon, "job_last_duration_seconds", "nightly") > Some(0.0));
    for (name, labels, expected) in [
        ("pgkeep_job_runs_total", ("outcome", "succeeded"), 1.0),
        ("pgkeep_job_last_targets", ("state", "succeeded"), 1.0),
        ("pgkeep_job_last_targets", ("state", "failed"), 0.0),
    ] {
        assert_eq!(
            metrics.value(name, &[("job_name", "nightly"), labels]),
            Some(expected),
            "{name}"
        );
    }
    assert_eq!(of_job(&daemon, "job_running_since_timestamp_seconds", "nightly"), Some(0.0));
    home.run(&["reload"]).expect_code(0);
    daemon.stop();
    let log = daemon.log();
    assert!(log.lines().count() >= 5, "{log}");
    for line in log.lines() {
        let read: serde_json::Value = serde_json::from_str(line).expect(line);
        for key in ["timestamp", "level"] {
            assert!(read[key].is_string(), "{key} is not in {line}");
        }
    }
    daemon.assert_log_clean(&[]);
    bench.assert_restores("disk");
}

/// A small filesystem, as long as it lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        let mut mount = command("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]).arg(&at);
        let done = rustix::process::geteuid().is_root() && run(&mut mount, "").code == 0;
        if !done {
            eprintln!("SKIPPED: only root may mount the small filesystem that this needs");
        }
        done.then_some(Self(at))
    }

    /// Fills it up to the last byte; the file that does so.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        must(command("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn a_full_state_directory_stops_no_dump_and_no_daemon() {
    let plain = Pgkeep::new();
    let Some(small) = Tmpfs::mount(plain.state_dir()) else { return };
    let bench = Bench::with(plain, Fake::Gated);
    bench.fake.release();
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    let ballast = small.fill();
    let said = home.run(&["run", "nightly"]);
    assert!([0, 1].contains(&said.code), "{said:?}");
    let listed = home.run(&["list", "--json"]).expect_code(0).json();
    let listed = listed.as_array().unwrap().len();
    if said.code == 0 {
        assert_eq!(listed, 2);
    } else {
        let text = said.text() + &said.stderr;
        assert!(text.contains("[state]") && text.contains("space"), "{text}");
        assert_eq!(listed, 1);
    }
    assert!(daemon.log().contains("No space left on device"), "{}", daemon.log());
    assert_eq!(daemon.get("/healthz").0, 200);
    home.run(&["status"]).expect_code(0);
    home.run(&["reload"]).expect_code(0);
    bench.assert_restores("disk");

    fs::remove_file(ballast).unwrap();
    home.run(&["run", "nightly"]).expect_code(0);
    bench.assert_restores("disk");
    daemon.stop();
    assert_eq!(verdicts(home, "nightly").last().unwrap(), "succeeded");
    let known = super::memory(home, "nightly");
    assert_eq!(known["last_success"], known["last_completion"], "{known}");
    daemon.assert_log_clean(&["No space left on device", "verdict=failed", "scratch"]);
}
