//! What is remembered of a job over all of its runs, also of those whose records were removed since.
//!
//! A field that cannot be read is as good as none: a step back to an older version loses details, never
//! the times that alerts depend on.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    finding::Finding,
    metric::{MetricKind, carry_over},
    name::NotifyName,
    notice::Memory,
    report::{Sample, Verdict},
    run::EndedRun,
};

/// The version of the file.
const VERSION: u32 = 1;
/// Samples that a job is remembered by.
const SAMPLES_MAX: usize = 10_000;

/// What cannot be read is left out.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    from: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// What is remembered of a job: its file in the journal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobMemory {
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
    pub last_run: Option<String>,
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

impl JobMemory {
    /// How long the last completed run took.
    pub fn last_duration(&self) -> Option<Duration> {
        self.last_duration_ms.map(Duration::from_millis)
    }

    /// The job has been configured as one of that kind since then. What runs of another kind did is
    /// forgotten; records of runs, the schedule and what receivers were told stay.
    pub fn configure_as(&mut self, kind: &str, since: Timestamp) {
        if !self.kind.is_empty() && self.kind != kind {
            let Self { version, folded, memory, told, .. } = std::mem::take(self);
            *self = Self { version, folded, memory, told, ..Self::default() };
        }
        kind.clone_into(&mut self.kind);
        self.configured_at = Some(since);
    }

    /// Whether a run says something of the job as it is now: not one that began as one of another
    /// kind, before the configuration changed.
    fn heeds(&self, kind: &str, run: &EndedRun) -> bool {
        kind.is_empty()
            || self.kind.is_empty()
            || self.kind == kind
            || self.configured_at.is_none_or(|since| since <= run.started)
    }

    /// Sets times that lie in the future to `now`: the clock was wrong then, and an alert that
    /// compares ages would be silent until that future. Returns whether there were any.
    pub fn clamp(&mut self, now: Timestamp) -> bool {
        let mut clamped = false;
        let times = [&mut self.configured_at, &mut self.last_success, &mut self.last_completion];
        for time in times.into_iter().flatten().filter(|time| **time > now) {
            *time = now;
            clamped = true;
        }
        clamped
    }

    /// Adds the end of a run of that kind to what is remembered; `seq` counts the runs of the job.
    pub fn add(
        &mut self,
        seq: u64,
        kind: &str,
        run: &EndedRun,
        kind_of: fn(&str) -> Option<MetricKind>,
    ) {
        self.version = VERSION;
        self.folded = self.folded.max(seq + 1);
        self.last_run = Some(run.run.clone());
        self.last_verdict = Some(run.verdict);
        if !run.verdict.completes() || !self.heeds(kind, run) {
            return;
        }
        if !kind.is_empty() && self.kind != kind {
            // Without a daemon a job runs as it is configured, and nobody says since when.
            let since = self.configured_at.filter(|_| self.kind.is_empty());
            self.configure_as(kind, since.unwrap_or(run.started));
        }
        self.last_completion = Some(run.ended);
        self.last_duration_ms = u64::try_from(run.took.as_millis()).ok();
        if run.verdict == Verdict::Succeeded {
            self.last_success = Some(run.ended);
        }
        self.targets = run.report.target_counts();
        let looked = run.verdict.did_something();
        carry_over(&mut self.samples, &run.report.samples, looked, kind_of);
        self.samples.truncate(SAMPLES_MAX);
        if looked {
            self.findings = run.report.worst_findings();
        }
    }
}
