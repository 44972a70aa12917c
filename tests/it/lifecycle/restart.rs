//! What outlives the process, and what does not stand in a new one's way.

use std::fs;

use jiff::{ToSpan, tz::TimeZone};
use pgkeep::sys::clock::{Clock as _, SystemClock};

use super::{Bench, NOWHERE, files_below, job, memory, of_job, status_of, verdicts};
use crate::harness::{
    client::Client,
    fakes::Fake,
    pgkeep::{Pgkeep, quote},
    wait::{PATIENCE, eventually},
};

#[test]
fn a_second_daemon_on_a_state_directory_is_refused() {
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", ""));
    let mut daemon = home.ready_daemon();
    let pid = daemon.pid();
    let elsewhere = home.home().join("elsewhere");
    let first = quote(home.runtime_dir().to_string_lossy());
    let other = home.config().replace(&first, &quote(elsewhere.to_string_lossy()));
    for text in [home.config().to_owned(), other] {
        home.rewrite(&text);
        let refused = home.run(&["daemon"]).expect_code(6);
        for part in ["[state]", &format!("process {pid}"), "hint: one pgkeep at a time"] {
            assert!(refused.stderr.contains(part), "{part:?} is not in:\n{}", refused.stderr);
        }
    }
    // The first has lost nothing.
    home.rewrite(home.config());
    home.run(&["status"]).expect_code(0);
    assert_eq!(daemon.get("/readyz").0, 200);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

/// The next daemon makes up for what was missed, or counts it, as if nobody had run the job by hand.
#[test]
fn a_run_without_a_daemon_leaves_the_schedule_alone() {
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", "attempts = 1"));
    home.ready_daemon().stop();
    let before = memory(&home, "a");
    let schedule = before["memory"]["schedule"].as_str().unwrap();
    assert!(schedule.starts_with("0 0 29 2 *"), "{before}");
    home.run(&["run", "a"]).expect_code(1);
    let after = memory(&home, "a");
    assert_eq!(after["memory"], before["memory"]);
    assert_eq!(after["last_verdict"], "failed");
}

#[test]
fn damaged_files_are_set_aside_and_nothing_else_is_lost() {
    let bench = Bench::new(Fake::Gated);
    bench.fake.release();
    let second = bench.home.config().to_owned();
    let second = second[second.find("\n[job.nightly]").unwrap()..].replace("nightly", "weekly");
    let bench = Bench { home: bench.home.toml(&second), ..bench };
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    for name in ["nightly", "weekly", "weekly"] {
        home.run(&["run", name]).expect_code(0);
    }
    let metric = "job_last_success_timestamp_seconds";
    let before = ["nightly", "weekly"].map(|name| of_job(&daemon, metric, name));
    let size = |daemon: &crate::harness::pgkeep::Daemon| {
        of_job(daemon, "backup_last_size_bytes", "weekly").unwrap()
    };
    let size_before = size(&daemon);
    daemon.stop();
    daemon.assert_log_clean(&[]);

    fs::write(home.state_dir().join("jobs/nightly.json"), "{\"version\":").unwrap();
    let runs = files_below(&home.state_dir().join("runs/weekly"));
    assert_eq!(runs.len(), 2);
    fs::write(&runs[0], [0_u8; 512]).unwrap();
    let mut daemon = home.ready_daemon();
    daemon.assert_log_clean(&["journal-damaged"]);
    assert_eq!(daemon.log().matches("journal-damaged").count(), 2, "{}", daemon.log());
    assert!(home.state_dir().join("jobs/nightly.json.corrupt").exists());
    assert!(fs::exists(format!("{}.corrupt", runs[0])).unwrap());
    // Nightly's is added up from its runs anew; weekly's is remembered.
    assert_eq!(["nightly", "weekly"].map(|name| of_job(&daemon, metric, name)), before);
    assert!((size(&daemon) - size_before).abs() < f64::EPSILON);
    assert_eq!(status_of(home, "nightly")["last"]["verdict"], "succeeded");
    assert_eq!(verdicts(home, "weekly"), ["succeeded"]);
    assert_eq!(home.run(&["list", "--json"]).json().as_array().unwrap().len(), 3);
    bench.assert_restores("disk");
    home.run(&["run", "weekly"]).expect_code(0);
    daemon.stop();
    daemon.assert_log_clean(&["journal-damaged"]);
}

#[test]
fn a_run_that_was_missed_while_it_was_down_is_caught_up_once() {
    let bench = Bench::new(Fake::Gated);
    bench.fake.release();
    // Due each day, two hours ago: it comes due in no test.
    let now = SystemClock::new().now().wall.to_zoned(TimeZone::UTC);
    let slot = now.checked_sub(2.hours()).unwrap();
    let schedule = format!("{} {} * * *", slot.minute(), slot.hour());
    let nightly = bench.home.config().replace("0 0 29 2 *", &schedule);
    bench.home.rewrite(&nightly.replace("[daemon]", "[daemon]\ntimezone = \"UTC\""));
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    eventually("what is remembered of the schedule", PATIENCE, || {
        memory(home, "nightly")["memory"]["handled"].as_str().map(str::to_owned)
    });
    daemon.stop();
    assert_eq!(verdicts(home, "nightly"), Vec::<String>::new(), "a new job catches up nothing");

    // As if it had been down for three days: three slots were missed.
    let path = home.state_dir().join("jobs/nightly.json");
    let mut known = memory(home, "nightly");
    let past = now.checked_sub(72.hours()).unwrap().timestamp();
    known["memory"]["handled"] = past.to_string().into();
    known["memory"]["first_seen"] = past.to_string().into();
    fs::write(&path, known.to_string()).unwrap();
    let mut daemon = home.ready_daemon();
    eventually("the run that was missed", PATIENCE, || {
        (verdicts(home, "nightly") == ["succeeded"]).then_some(())
    });
    assert_eq!(status_of(home, "nightly")["last"]["trigger"], "catch-up");
    daemon.stop();
    daemon.assert_log_clean(&[]);
    bench.assert_restores("disk");

    let mut daemon = home.ready_daemon();
    assert_eq!(status_of(home, "nightly")["state"], "idle", "once is enough");
    assert_eq!(verdicts(home, "nightly"), ["succeeded"]);
    daemon.stop();
}

#[test]
fn a_job_runs_once_at_a_time_and_another_follows_it() {
    let bench = Bench::new(Fake::Gated);
    let config = bench.home.config().to_owned();
    let follower = config[config.find("\n[job.nightly]").unwrap()..]
        .replace("nightly", "follower")
        .replace("schedule = \"0 0 29 2 *\"", "after = [\"nightly\"]");
    let bench = Bench { home: bench.home.toml(&follower), ..bench };
    let home = &bench.home;
    let mut daemon = home.ready_daemon();
    let client = Client::start(home, &["run", "nightly"]);
    bench.fake.wait_stopped();
    let refused = home.run(&["run", "nightly"]).expect_code(6);
    assert!(refused.stderr.contains("running"), "{}", refused.stderr);
    let runs = |name: &str| verdicts(home, name);
    assert_eq!((runs("nightly"), runs("follower")), (vec!["running".to_owned()], vec![]));
    bench.fake.release();
    client.end().expect_code(0);
    eventually("the job that runs after it", PATIENCE, || {
        (runs("follower") == ["succeeded"]).then_some(())
    });
    assert_eq!(status_of(home, "follower")["last"]["trigger"], "after");
    assert_eq!(runs("nightly"), ["succeeded"]);
    assert_eq!(home.run(&["list", "--json"]).json().as_array().unwrap().len(), 2);
    daemon.stop();
    daemon.assert_log_clean(&[]);
}
