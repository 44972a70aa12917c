//! A server that sends without end, or falls silent: memory stays within its budget, what runs is ended within
//! its limits, and nothing looks like a backup.

mod bucket;
mod control;
mod hostile;
mod stopped;
mod sweep;
mod webhook;

use std::{
    fmt::Debug,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pgkeep::domain::{
    failure::{Class, Failure},
    report::{Report, Verdict},
};
use serde::Deserialize;

use crate::harness::process::Output;

/// Time between SIGTERM and SIGKILL for children.
const GRACE: Duration = Duration::from_secs(2);
/// What the end of a run may take beside that: a cancelled statement has 6 s, the connection 3 s (both a fifth of it,
/// in haste), and the machine is busy.
const SLACK: Duration = Duration::from_secs(15);
/// Most memory of a run, and of the daemon, in KiB.
const BUDGET_KIB: u64 = 96 << 10;
/// Cases at once: waiting is most of what they do.
const AT_ONCE: usize = 12;

/// What `run JOB --json` printed.
#[derive(Debug, Deserialize)]
struct Ran {
    verdict: Verdict,
    report: Report,
}

impl Ran {
    #[track_caller]
    fn of(output: &Output) -> Self {
        serde_json::from_value(output.json()).unwrap()
    }

    /// Why the run, or its first target that failed, failed.
    #[track_caller]
    fn failure(&self) -> &Failure {
        self.report.failures().next().unwrap_or_else(|| panic!("nothing failed: {self:#?}"))
    }

    #[track_caller]
    fn failed(&self, class: Class) -> &Failure {
        let failure = self.failure();
        assert_eq!(failure.class, class, "{self:#?}");
        failure
    }
}

/// The most memory that a process had, in KiB; none once it is gone.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn client_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z') || rest.is_empty())
}

/// 0 once it has ended.
fn peak_of(pid: u32) -> u64 {
    if client_ended(pid) { 0 } else { peak(pid).unwrap_or(0) }
}

#[expect(clippy::disallowed_methods, reason = "a test waits by the machine's own clock")]
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = act();
    (result, start.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "a test waits by the machine's own clock")]
fn wait(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(50));
    }
    condition()
}

/// Tries all of them, several at once; those that fail are told.
fn try_all<T: Debug + Sync>(cases: &[T], tried: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if catch_unwind(AssertUnwindSafe(|| tried(case))).is_err() {
                        failed.lock().unwrap().push(case);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}
