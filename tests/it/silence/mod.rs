//! A server that sends without end, or falls silent: memory stays within its budget, what runs is ended within
//! its limits, and nothing looks like a backup.

mod hostile;
mod stopped;
mod sweep;

use std::fs;

use pgkeep::domain::{
    failure::{Class, Failure},
    report::{Report, Verdict},
};
use serde::Deserialize;

use crate::harness::process::Output;

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
