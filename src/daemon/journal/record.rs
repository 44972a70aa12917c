//! What stands in the files of the journal.
//!
//! Readers skip fields that they do not know, and fields of a job's memory that they cannot read: a
//! step back to an older version loses details, never the times that alerts depend on.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::domain::{
    finding::Finding,
    metric::{MetricKind, carry_over},
    name::{JobName, NotifyName},
    notice::Memory,
    report::{Outcome, Report, Sample, TargetReport, Verdict},
};

/// Identifies a run.
pub type RunKey = String;

/// The version of both kinds of file.
const VERSION: u32 = 1;
/// Longest file of the journal, in bytes; a longer report is abridged, a longer file is damaged.
pub(super) const FILE_MAX: usize = 4 << 20;
/// Failed targets that an abridged report keeps.
const ABRIDGED_TARGETS: usize = 500;
/// Findings that an abridged report keeps.
const ABRIDGED_FINDINGS: usize = 100;
/// Characters of each text that an abridged report keeps.
const ABRIDGED_TEXT: usize = 1000;
/// Samples that a job is remembered by.
const SAMPLES_MAX: usize = 10_000;

/// The process that started a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its id.
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

/// A run that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStart {
    /// Its id.
    pub run: RunKey,
    /// The job.
    pub job: JobName,
    /// The job's kind.
    pub kind: String,
    /// What started it: `schedule`, `manual`, …
    pub trigger: String,
    /// When.
    pub at: Timestamp,
}

impl RunStart {
    /// For a run of which only the end is known.
    pub(super) fn unknown(job: &JobName, run: &str, at: Timestamp) -> Self {
        let (kind, trigger) = (String::new(), String::new());
        Self { run: run.to_owned(), job: job.clone(), kind, trigger, at }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When.
    pub ended: Timestamp,
    /// How long it took by the monotonic clock, with its retries, in milliseconds.
    pub duration_ms: u64,
    /// How it ended. A run that failed before any target has an empty report.
    pub verdict: Verdict,
    /// Attempts that were made.
    pub attempts: u32,
    /// What they brought together.
    #[serde(default)]
    pub report: Report,
    /// The report was too long, and parts of it were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abridged: bool,
}

impl RunEnd {
    /// The end of a run that the process did not live to see, found at `now`.
    pub(super) fn interrupted(now: Timestamp) -> Self {
        let verdict = Verdict::Interrupted;
        let report = Report::default();
        let (duration_ms, attempts) = (0, 0);
        Self { ended: now, duration_ms, verdict, attempts, report, abridged: false }
    }
}

/// Whether a run has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It is under way, or the process ended in the middle of it.
    Running,
    /// It has ended.
    Ended(Box<RunEnd>),
}

/// The file of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of the format.
    pub version: u32,
    /// The run's id.
    pub run: RunKey,
    /// Counts the runs of the job; the order of the records, whatever the clock did.
    pub seq: u64,
    /// The job.
    pub job: JobName,
    /// The job's kind.
    #[serde(default)]
    pub kind: String,
    /// What started it.
    #[serde(default)]
    pub trigger: String,
    /// When it was started.
    pub started: Timestamp,
    /// By which process.
    #[serde(default)]
    pub process: ProcessMark,
    /// Whether it has ended, and how.
    pub state: RunState,
}

impl RunRecord {
    pub(super) fn started(start: RunStart, seq: u64) -> Self {
        let RunStart { run, job, kind, trigger, at } = start;
        let (process, state) = (ProcessMark::own(), RunState::Running);
        Self { version: VERSION, run, seq, job, kind, trigger, started: at, process, state }
    }

    /// How it ended; `None` while it runs.
    pub fn end(&self) -> Option<&RunEnd> {
        match &self.state {
            RunState::Running => None,
            RunState::Ended(end) => Some(end),
        }
    }
}

/// A field that cannot be read is as good as none.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    from: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The file of one job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobState {
    /// The version of the format.
    pub version: u32,
    /// Since when the job has been configured.
    #[serde(deserialize_with = "lenient")]
    pub configured_at: Option<Timestamp>,
    /// The job's kind. What another kind did under the same name says nothing of this one.
    pub kind: String,
    /// When a run last succeeded.
    pub last_success: Option<Timestamp>,
    /// When a run last ended, neither interrupted nor cancelled.
    pub last_completion: Option<Timestamp>,
    /// How long that run took, in milliseconds.
    pub last_duration_ms: Option<u64>,
    /// The run that ended last, in whatever way.
    pub last_run: Option<RunKey>,
    /// How it ended.
    #[serde(deserialize_with = "lenient")]
    pub last_verdict: Option<Verdict>,
    /// One more than the `seq` of the last record that was added up here; 0: none was.
    pub folded: u64,
    /// The scheduler's memory: the slot that was handled last, and what belongs to it.
    pub memory: Option<Value>,
    /// How many targets of the last run that completed ended in each state.
    #[serde(deserialize_with = "lenient")]
    pub targets: BTreeMap<String, u64>,
    /// The samples that the job is remembered by.
    #[serde(deserialize_with = "lenient")]
    pub samples: Vec<Sample>,
    /// What the last run that did something found; the worst hundred.
    #[serde(deserialize_with = "lenient")]
    pub findings: Vec<Finding>,
    /// What each receiver of notifications was told of the job.
    #[serde(deserialize_with = "lenient")]
    pub told: BTreeMap<NotifyName, Memory>,
}

impl JobState {
    /// How long the last completed run took.
    pub fn last_duration(&self) -> Option<Duration> {
        self.last_duration_ms.map(Duration::from_millis)
    }

    /// The job has been configured as one of that kind since then. What runs of another kind did is
    /// forgotten; records of runs, the schedule and what receivers were told stay.
    pub(super) fn configure_as(&mut self, kind: &str, since: Timestamp) {
        if !self.kind.is_empty() && self.kind != kind {
            let Self { version, folded, memory, told, .. } = std::mem::take(self);
            *self = Self { version, folded, memory, told, ..Self::default() };
        }
        kind.clone_into(&mut self.kind);
        self.configured_at = Some(since);
    }

    /// Whether a run says something of the job as it is now: not one that began as one of another
    /// kind, before the configuration changed.
    fn heeds(&self, record: &RunRecord) -> bool {
        record.kind.is_empty()
            || self.kind.is_empty()
            || self.kind == record.kind
            || self.configured_at.is_none_or(|since| since <= record.started)
    }

    /// Sets times that lie in the future to `now`: the clock was wrong then, and an alert that
    /// compares ages would be silent until that future. Returns whether there were any.
    pub(super) fn clamp(&mut self, now: Timestamp) -> bool {
        let mut clamped = false;
        let times = [&mut self.configured_at, &mut self.last_success, &mut self.last_completion];
        for time in times.into_iter().flatten().filter(|time| **time > now) {
            *time = now;
            clamped = true;
        }
        clamped
    }
}

/// Adds the end of a run to what is remembered of its job.
pub(super) fn fold(
    state: &mut JobState,
    record: &RunRecord,
    end: &RunEnd,
    kind_of: fn(&str) -> Option<MetricKind>,
) {
    state.version = VERSION;
    state.folded = state.folded.max(record.seq + 1);
    state.last_run = Some(record.run.clone());
    state.last_verdict = Some(end.verdict);
    if !end.verdict.completes() || !state.heeds(record) {
        return;
    }
    if !record.kind.is_empty() && state.kind != record.kind {
        // Without a daemon a job runs as it is configured, and nobody says since when.
        let since = state.configured_at.filter(|_| state.kind.is_empty());
        state.configure_as(&record.kind, since.unwrap_or(record.started));
    }
    state.last_completion = Some(end.ended);
    state.last_duration_ms = Some(end.duration_ms);
    if end.verdict == Verdict::Succeeded {
        state.last_success = Some(end.ended);
    }
    state.targets = end.report.target_counts();
    carry_over(&mut state.samples, &end.report.samples, end.verdict.did_something(), kind_of);
    state.samples.truncate(SAMPLES_MAX);
    if end.verdict.did_something() {
        state.findings = some_findings(&end.report);
    }
}

fn shorten(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(ABRIDGED_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

/// A report cut to a bounded length: failed targets first, then others, texts shortened, no
/// samples, no plan, nothing of what tools said. Its verdict may differ from the whole report's: keep that beside it.
pub fn abridged(report: &Report) -> Report {
    let failed = |target: &&TargetReport| matches!(target.outcome, Outcome::Failed(_));
    let others = report.targets.iter().filter(|target| !failed(target));
    let mut targets: Vec<TargetReport> = report
        .targets
        .iter()
        .filter(failed)
        .chain(others)
        .take(ABRIDGED_TARGETS)
        .cloned()
        .collect();
    for target in &mut targets {
        target.output.clear();
        if let Outcome::Failed(failure) = &mut target.outcome {
            shorten(&mut failure.doing);
            shorten(&mut failure.what);
            failure.hint.iter_mut().for_each(shorten);
        }
    }
    let failure = report.failure.clone();
    Report { targets, failure, findings: some_findings(report), ..Report::default() }
}

/// Findings of a bounded number and length, the worst first.
fn some_findings(report: &Report) -> Vec<Finding> {
    let mut worst: Vec<&Finding> = report.findings.iter().collect();
    worst.sort_by_key(|finding| Reverse(finding.severity));
    let mut findings: Vec<_> = worst.into_iter().take(ABRIDGED_FINDINGS).cloned().collect();
    for finding in &mut findings {
        finding.target.object.iter_mut().for_each(shorten);
        shorten(&mut finding.what);
        finding.hint.iter_mut().for_each(shorten);
    }
    findings
}

/// The record as bytes, abridged where it would be too long.
pub(super) fn encode(record: &RunRecord) -> serde_json::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(record)?;
    match record.end() {
        Some(end) if bytes.len() > FILE_MAX => {
            let end = RunEnd { report: abridged(&end.report), abridged: true, ..end.clone() };
            let state = RunState::Ended(Box::new(end));
            serde_json::to_vec(&RunRecord { state, ..record.clone() })
        }
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        failure::{Class, Failure},
        finding::Severity,
        target::Target,
    };

    fn record() -> RunRecord {
        let job: JobName = "nightly".parse().unwrap();
        RunRecord::started(RunStart::unknown(&job, "r1", Timestamp::UNIX_EPOCH), 0)
    }

    #[test]
    fn unknown_fields_and_values_are_tolerated() {
        let text = r#"{"version":9,"last_success":"2026-11-21T00:00:00Z","last_verdict":"sublime",
            "samples":[{"new":1}],"memory":{"slot":1},"more":[]}"#;
        let state: JobState = serde_json::from_str(text).unwrap();
        assert_eq!(state.last_success, Some("2026-11-21T00:00:00Z".parse().unwrap()));
        assert_eq!((state.last_verdict, state.samples.len()), (None, 0));
        let mut value = serde_json::to_value(record()).unwrap();
        value["more"] = 1.into();
        assert_eq!(serde_json::from_value::<RunRecord>(value).unwrap(), record());
    }

    #[test]
    fn a_job_of_another_kind_begins_anew() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let ended = |state: &mut JobState, kind: &str, started: i64| {
            let started = at(started);
            let record = RunRecord { kind: kind.to_owned(), started, ..record() };
            let verdict = Verdict::Succeeded;
            let finding = Finding::new(kind, Severity::Critical, "x".repeat(5_000));
            let info = Finding { severity: Severity::Info, ..finding.clone() };
            let findings = [vec![info; 500], vec![finding]].concat();
            let report = Report { findings, ..Report::default() };
            fold(
                state,
                &record,
                &RunEnd { verdict, report, ..RunEnd::interrupted(started) },
                |_| None,
            );
        };
        // Without a daemon nobody has configured it.
        let mut state = JobState::default();
        ended(&mut state, "vacuum", 10);
        assert_eq!((state.kind.as_str(), state.configured_at), ("vacuum", Some(at(10))));
        assert_eq!(state.findings.len(), ABRIDGED_FINDINGS);
        assert_eq!(state.findings[0].severity, Severity::Critical);
        assert!(serde_json::to_vec(&state).unwrap().len() < FILE_MAX);
        state.configure_as("vacuum", at(5));
        assert_eq!(state.last_success, Some(at(10)), "it is the same kind");
        state.configure_as("dump", at(20));
        assert_eq!((state.last_success, state.findings.len()), (None, 0));
        ended(&mut state, "vacuum", 15);
        assert_eq!(state.last_success, None, "it began before the change");
        ended(&mut state, "dump", 25);
        assert_eq!(state.last_success, Some(at(25)));
        let failed = RunEnd { verdict: Verdict::Failed, ..RunEnd::interrupted(at(30)) };
        fold(&mut state, &RunRecord { kind: "dump".to_owned(), ..record() }, &failed, |_| None);
        assert_eq!(state.findings[0].check, "dump", "who failed has not looked");
    }

    #[test]
    fn only_a_success_sets_the_last_success() {
        let times = |verdict| {
            let mut state = JobState::default();
            let end = RunEnd { verdict, ..RunEnd::interrupted(Timestamp::UNIX_EPOCH) };
            fold(&mut state, &record(), &end, |_| None);
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
        let end = RunEnd { report, ..RunEnd::interrupted(Timestamp::UNIX_EPOCH) };
        let record = RunRecord { state: RunState::Ended(Box::new(end)), ..record() };
        let bytes = encode(&record).unwrap();
        assert!(bytes.len() < FILE_MAX, "{}", bytes.len());
        let read: RunRecord = serde_json::from_slice(&bytes).unwrap();
        let end = read.end().unwrap();
        assert!(end.abridged);
        assert_eq!(end.report.failed().count(), 1);
    }

    #[test]
    fn times_from_the_future_are_clamped() {
        let now = Timestamp::UNIX_EPOCH;
        let future = Some("2037-01-01T00:00:00Z".parse().unwrap());
        let mut state = JobState { last_success: future, ..JobState::default() };
        assert!(state.clamp(now));
        assert_eq!(state.last_success, Some(now));
        assert!(!state.clamp(now));
    }
}
