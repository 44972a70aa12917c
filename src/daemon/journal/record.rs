//! What stands in the files of the journal.
//!
//! Readers skip fields that they do not know. The file of a job is [`crate::domain::job_memory`].

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    name::JobName,
    report::{Report, Verdict},
    run::EndedRun,
};

/// Identifies a run.
pub type RunKey = String;

/// The version of the file.
const VERSION: u32 = 1;
/// Longest file of the journal, in bytes; a longer report is abridged, a longer file is damaged.
pub(super) const FILE_MAX: usize = 4 << 20;

/// The process that started a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    pub pid: u32,
    /// `/proc/sys/kernel/random/boot_id`; empty where that cannot be read.
    #[serde(default)]
    pub boot_id: String,
}

impl ProcessMark {
    /// This process.
    pub fn own() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot_id = boot_id.unwrap_or_default().trim().to_owned();
        Self { pid: std::process::id(), boot_id }
    }
}

/// Whether a run has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It is under way, or the process ended in the middle of it.
    Running,
    /// It has ended: what [`EndedRun`] has beside its start.
    Ended {
        ended: Timestamp,
        duration_ms: u64,
        verdict: Verdict,
        attempts: u32,
        #[serde(default)]
        report: Box<Report>,
        /// The report was too long, and parts of it were left out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        abridged: bool,
    },
}

/// The file of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub version: u32,
    pub run: RunKey,
    /// Counts the runs of the job; the order of the records, whatever the clock did.
    pub seq: u64,
    pub job: JobName,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub trigger: String,
    pub started: Timestamp,
    #[serde(default)]
    pub process: ProcessMark,
    pub state: RunState,
}

impl RunRecord {
    /// A run that starts. The journal counts it.
    pub fn started(
        job: &JobName,
        kind: &str,
        run: String,
        trigger: &str,
        started: Timestamp,
    ) -> Self {
        let (kind, trigger) = (kind.to_owned(), trigger.to_owned());
        let (process, state) = (ProcessMark::own(), RunState::Running);
        let job = job.clone();
        Self { version: VERSION, run, seq: 0, job, kind, trigger, started, process, state }
    }

    /// The run with its end; none while it is under way.
    pub fn ended(&self) -> Option<EndedRun> {
        let RunState::Ended { ended, duration_ms, verdict, attempts, ref report, .. } = self.state
        else {
            return None;
        };
        Some(EndedRun {
            run: self.run.clone(),
            trigger: self.trigger.clone(),
            started: self.started,
            ended,
            took: Duration::from_millis(duration_ms),
            verdict,
            attempts,
            report: Report::clone(report),
        })
    }

    pub(super) fn end(&mut self, run: &EndedRun) {
        self.state = RunState::Ended {
            ended: run.ended,
            duration_ms: u64::try_from(run.took.as_millis()).unwrap_or(u64::MAX),
            verdict: run.verdict,
            attempts: run.attempts,
            report: Box::new(run.report.clone()),
            abridged: false,
        };
    }

    /// Ends a run that the process did not live to see the end of; found at `now`.
    pub(super) fn interrupt(&mut self, now: Timestamp) {
        self.state = RunState::Ended {
            ended: now,
            duration_ms: 0,
            verdict: Verdict::Interrupted,
            attempts: 0,
            report: Box::default(),
            abridged: false,
        };
    }
}

/// The record as bytes, abridged where it would be too long.
pub(super) fn encode(record: &RunRecord) -> serde_json::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(record)?;
    if bytes.len() <= FILE_MAX {
        return Ok(bytes);
    }
    let mut record = record.clone();
    if let RunState::Ended { report, abridged, .. } = &mut record.state {
        (**report, *abridged) = (report.abridged(), true);
    }
    serde_json::to_vec(&record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        failure::{Class, Failure},
        finding::{Finding, Severity},
        job_memory::JobMemory,
        report::{Outcome, TargetReport},
        target::Target,
    };

    fn record() -> RunRecord {
        let job: JobName = "nightly".parse().unwrap();
        RunRecord::started(&job, "", "r1".to_owned(), "", Timestamp::UNIX_EPOCH)
    }

    fn ended(at: Timestamp) -> EndedRun {
        let mut record = RunRecord { started: at, ..record() };
        record.interrupt(at);
        record.ended().unwrap()
    }

    #[test]
    fn unknown_fields_and_values_are_tolerated() {
        let text = r#"{"version":9,"last_success":"2026-11-21T00:00:00Z","last_verdict":"sublime",
            "samples":[{"new":1}],"memory":{"slot":1},"more":[]}"#;
        let state: JobMemory = serde_json::from_str(text).unwrap();
        assert_eq!(state.last_success, Some("2026-11-21T00:00:00Z".parse().unwrap()));
        assert_eq!((state.last_verdict, state.samples.len()), (None, 0));
        let mut value = serde_json::to_value(record()).unwrap();
        value["more"] = 1.into();
        assert_eq!(serde_json::from_value::<RunRecord>(value).unwrap(), record());
    }

    #[test]
    fn a_job_of_another_kind_begins_anew() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let end = |state: &mut JobMemory, kind: &str, started: i64| {
            let verdict = Verdict::Succeeded;
            let finding = Finding::new(kind, Severity::Critical, "x".repeat(5_000));
            let info = Finding { severity: Severity::Info, ..finding.clone() };
            let findings = [vec![info; 500], vec![finding]].concat();
            let report = Report { findings, ..Report::default() };
            state.add(0, kind, &EndedRun { verdict, report, ..ended(at(started)) }, |_| None);
        };
        // Without a daemon nobody has configured it.
        let mut state = JobMemory::default();
        end(&mut state, "vacuum", 10);
        assert_eq!((state.kind.as_str(), state.configured_at), ("vacuum", Some(at(10))));
        assert_eq!(state.findings.len(), 100);
        assert_eq!(state.findings[0].severity, Severity::Critical);
        assert!(serde_json::to_vec(&state).unwrap().len() < FILE_MAX);
        state.configure_as("vacuum", at(5));
        assert_eq!(state.last_success, Some(at(10)), "it is the same kind");
        state.configure_as("dump", at(20));
        assert_eq!((state.last_success, state.findings.len()), (None, 0));
        end(&mut state, "vacuum", 15);
        assert_eq!(state.last_success, None, "it began before the change");
        end(&mut state, "dump", 25);
        assert_eq!(state.last_success, Some(at(25)));
        let failed = EndedRun { verdict: Verdict::Failed, ..ended(at(30)) };
        state.add(0, "dump", &failed, |_| None);
        assert_eq!(state.findings[0].check, "dump", "who failed has not looked");
    }

    #[test]
    fn only_a_success_sets_the_last_success() {
        let times = |verdict| {
            let mut state = JobMemory::default();
            let run = EndedRun { verdict, ..ended(Timestamp::UNIX_EPOCH) };
            state.add(0, "", &run, |_| None);
            assert_eq!(state.targets.contains_key("failed"), state.last_completion.is_some());
            (state.last_success.is_some(), state.last_completion.is_some())
        };
        assert_eq!(times(Verdict::Succeeded), (true, true));
        assert_eq!(times(Verdict::Partial), (false, true));
        assert_eq!(times(Verdict::Failed), (false, true));
        assert_eq!(times(Verdict::Cancelled), (false, false));
        assert_eq!(times(Verdict::Interrupted), (false, false));
        assert_eq!(times(Verdict::Skipped), (false, false));
    }

    #[test]
    fn a_report_that_is_too_long_is_abridged_and_keeps_what_failed() {
        let target = |at: usize, outcome| {
            let target = Target { object: Some(at.to_string()), ..Target::default() };
            TargetReport::new(target, outcome)
        };
        let mut report = Report::default();
        report.targets.extend((0..50_000).map(|at| target(at, Outcome::Succeeded)));
        let failure = Failure::new(Class::Sql, "dump", "é".repeat(1 << 20));
        report.targets.push(target(50_000, Outcome::Failed(failure)));
        let mut record = record();
        record.end(&EndedRun { report, ..ended(Timestamp::UNIX_EPOCH) });
        let bytes = encode(&record).unwrap();
        assert!(bytes.len() < FILE_MAX, "{}", bytes.len());
        let read: RunRecord = serde_json::from_slice(&bytes).unwrap();
        assert!(matches!(read.state, RunState::Ended { abridged: true, .. }));
        assert_eq!(read.ended().unwrap().report.failed().count(), 1);
    }

    #[test]
    fn times_from_the_future_are_clamped() {
        let now = Timestamp::UNIX_EPOCH;
        let future = Some("2037-01-01T00:00:00Z".parse().unwrap());
        let mut state = JobMemory { last_success: future, ..JobMemory::default() };
        assert!(state.clamp(now));
        assert_eq!(state.last_success, Some(now));
        assert!(!state.clamp(now));
    }
}
