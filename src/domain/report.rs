//! What a run brought: an outcome for each target, findings, and samples for metrics.
//!
//! The verdict on a run is always derived from its targets, never stored beside them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{backup::BackupId, failure::Failure, finding::Finding, named::named, target::Target};

/// Failed targets that an abridged report keeps.
const ABRIDGED_TARGETS: usize = 500;
/// Findings that an abridged report keeps, and a job is remembered by.
const ABRIDGED_FINDINGS: usize = 100;
/// Characters of each text that these keep.
const ABRIDGED_TEXT: usize = 1000;

/// How one target ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "detail")]
pub enum Outcome {
    Succeeded,
    Failed(Failure),
    Skipped(String),
    Cancelled,
}

impl Outcome {
    /// Every name that [`Outcome::state`] gives.
    pub const STATES: [&str; 4] = ["succeeded", "failed", "skipped", "cancelled"];

    /// The state's name in logs and metrics.
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What was counted for a target. Keys of `counts` are snake case with their unit:
/// `plain_bytes`, `stored_bytes`, `rows`, `tables`, `milliseconds`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
}

impl<'a> FromIterator<(&'a str, u64)> for Figures {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(counts: T) -> Self {
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count));
        Self { backup: None, counts: counts.collect() }
    }
}

/// One target with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    pub target: Target,
    pub outcome: Outcome,
    #[serde(default)]
    pub figures: Figures,
    /// What the server or the tool said, line by line; bounded by whoever writes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

impl TargetReport {
    /// A target that ended so, with nothing counted.
    pub fn new(target: Target, outcome: Outcome) -> Self {
        Self { target, outcome, figures: Figures::default(), output: Vec::new() }
    }
}

/// One line of a plan: what is to be done (or was) with one thing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub target: Target,
    /// What is done: `keep`, `remove`, `copy`, `vacuum`, …
    pub action: String,
    pub reason: String,
}

/// A value for a metric that the job's kind declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The metric's name without the `pgkeep_` prefix.
    pub metric: String,
    /// Values of its labels, in the order in which the kind declares them.
    pub labels: Vec<String>,
    pub value: f64,
}

impl Sample {
    /// Whether it is a value of the same metric with the same labels.
    pub fn is_of_series(&self, other: &Self) -> bool {
        self.metric == other.metric && self.labels == other.labels
    }
}

/// All that a run brought.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub targets: Vec<TargetReport>,
    /// What ended the run before, between or beside its targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Why the whole run was left out on purpose; it then has no targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What was decided before anything was done. A dry run brings this alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<Step>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

named! {
    /// How a whole run ended.
    pub enum Verdict {
        /// Every target was done (or left out on purpose), and at least one was done or there was
        /// nothing to do.
        Succeeded = "succeeded",
        /// Some were done, others failed.
        Partial = "partial",
        /// None was done and at least one failed, or the run failed before any target.
        Failed = "failed",
        /// Stopped by a person or by the daemon's end.
        Cancelled = "cancelled",
        /// The process ended in the middle; found at the next start.
        Interrupted = "interrupted",
        /// Left out on purpose as a whole, with nothing done: neither a success nor a failure.
        Skipped = "skipped",
    }
}

impl Verdict {
    /// Whether the run came to an end that counts: it sets the time of the last completion. What is skipped
    /// for ever so becomes stale, and pages.
    pub const fn completes(self) -> bool {
        !matches!(self, Self::Cancelled | Self::Interrupted | Self::Skipped)
    }

    /// Whether something was done: jobs that run `after` this one have work.
    pub const fn did_something(self) -> bool {
        matches!(self, Self::Succeeded | Self::Partial)
    }
}

impl Report {
    /// How the run ended, from its targets alone. A cancelled target makes the run cancelled: it
    /// sets no time of completion. All targets skipped is a failure: nothing was done.
    pub fn verdict(&self) -> Verdict {
        let mut done = false;
        let mut failed = self.failure.is_some();
        let mut skipped = false;
        for report in &self.targets {
            match report.outcome {
                Outcome::Succeeded => done = true,
                Outcome::Failed(_) => failed = true,
                Outcome::Skipped(_) => skipped = true,
                Outcome::Cancelled => return Verdict::Cancelled,
            }
        }
        if self.skipped.is_some() && self.targets.is_empty() && !failed {
            return Verdict::Skipped;
        }
        match (done, failed, skipped) {
            (true, true, _) => Verdict::Partial,
            (false, true, _) | (false, false, true) => Verdict::Failed,
            (true, false, _) | (false, false, false) => Verdict::Succeeded,
        }
    }

    /// A run that was left out, and why.
    pub fn left_out(reason: impl Into<String>) -> Self {
        Self { skipped: Some(reason.into()), ..Self::default() }
    }

    /// A run that ended before any target was tried.
    pub fn from_failure(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// The targets that failed.
    pub fn failed(&self) -> impl Iterator<Item = (&Target, &Failure)> {
        self.targets.iter().filter_map(|report| match &report.outcome {
            Outcome::Failed(failure) => Some((&report.target, failure)),
            _ => None,
        })
    }

    /// Every failure: the run's own first, then those of the targets.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failure.iter().chain(self.failed().map(|(_, failure)| failure))
    }

    /// How many targets ended in `state`.
    pub fn count(&self, state: &str) -> usize {
        self.targets.iter().filter(|report| report.outcome.state() == state).count()
    }

    /// How many targets ended in each of [`Outcome::STATES`].
    pub fn target_counts(&self) -> BTreeMap<String, u64> {
        Outcome::STATES.map(|state| (state.to_owned(), self.count(state) as u64)).into()
    }

    /// A report cut to a bounded length: failed targets first, then others, texts shortened, no
    /// samples, no plan, nothing of what tools said. Its verdict may differ from the whole report's:
    /// keep that beside it.
    #[must_use]
    pub fn abridged(&self) -> Self {
        let failed = |target: &&TargetReport| matches!(target.outcome, Outcome::Failed(_));
        let others = self.targets.iter().filter(|target| !failed(target));
        let bounded = self.targets.iter().filter(failed).chain(others).take(ABRIDGED_TARGETS);
        let targets = bounded.map(|target| TargetReport {
            outcome: match &target.outcome {
                Outcome::Failed(failure) => Outcome::Failed(failure.shortened(ABRIDGED_TEXT)),
                other => other.clone(),
            },
            output: Vec::new(),
            ..target.clone()
        });
        let (targets, failure) = (targets.collect(), self.failure.clone());
        Self { targets, failure, findings: self.worst_findings(), ..Self::default() }
    }

    /// Findings of a bounded number and length, the worst first.
    pub fn worst_findings(&self) -> Vec<Finding> {
        let mut worst: Vec<&Finding> = self.findings.iter().collect();
        worst.sort_by_key(|finding| Reverse(finding.severity));
        let bounded = worst.into_iter().take(ABRIDGED_FINDINGS);
        bounded.map(|finding| finding.shortened(ABRIDGED_TEXT)).collect()
    }

    /// Adds what a later attempt brought: its targets replace the earlier ones of the same name.
    /// What both found is one finding.
    /// What an attempt planned for a thing stands: a later one plans only what is left of it. What
    /// only the later one could look at is added.
    pub fn merge(&mut self, later: Self) {
        self.failure = later.failure;
        self.skipped = later.skipped;
        let known: BTreeSet<&Target> = self.plan.iter().map(|step| &step.target).collect();
        let fresh = later.plan.into_iter().filter(|step| !known.contains(&step.target));
        let fresh: Vec<Step> = fresh.collect();
        self.plan.extend(fresh);
        for report in later.targets {
            match self.targets.iter_mut().find(|known| known.target == report.target) {
                Some(known) => *known = report,
                None => self.targets.push(report),
            }
        }
        for finding in later.findings {
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
        self.samples.extend(later.samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::Class;

    fn report(outcomes: &[Outcome]) -> Report {
        let targets = outcomes
            .iter()
            .enumerate()
            .map(|(index, outcome)| {
                let target = Target { object: Some(index.to_string()), ..Target::default() };
                TargetReport::new(target, outcome.clone())
            })
            .collect();
        Report { targets, ..Report::default() }
    }

    #[test]
    fn the_verdict_follows_the_targets() {
        let failed = || Outcome::Failed(Failure::new(Class::Sql, "x", "y"));
        let skipped = || Outcome::Skipped("locked".to_owned());
        let cases = [
            (vec![], Verdict::Succeeded),
            (vec![Outcome::Succeeded], Verdict::Succeeded),
            (vec![Outcome::Succeeded, skipped()], Verdict::Succeeded),
            (vec![skipped(), skipped()], Verdict::Failed),
            (vec![Outcome::Succeeded, failed()], Verdict::Partial),
            (vec![failed(), skipped()], Verdict::Failed),
            (vec![Outcome::Succeeded, Outcome::Cancelled], Verdict::Cancelled),
        ];
        for (outcomes, verdict) in cases {
            assert_eq!(report(&outcomes).verdict(), verdict, "{outcomes:?}");
        }
    }

    #[test]
    fn a_failure_beside_the_targets_counts() {
        let mut whole = report(&[Outcome::Succeeded]);
        whole.failure = Some(Failure::new(Class::Sql, "x", "y"));
        assert_eq!(whole.verdict(), Verdict::Partial);
        whole.targets.clear();
        assert_eq!(whole.verdict(), Verdict::Failed);
        whole.merge(report(&[Outcome::Succeeded]));
        assert_eq!(whole.verdict(), Verdict::Succeeded);
    }

    #[test]
    fn a_run_that_was_left_out_neither_succeeded_nor_failed() {
        let left_out = Report::left_out("a standby");
        assert_eq!(left_out.verdict(), Verdict::Skipped);
        assert!(!Verdict::Skipped.did_something() && !Verdict::Skipped.completes());
        let json = serde_json::to_string(&left_out).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), left_out);
        // What an earlier attempt did, or failed to do, is not made undone.
        let mut failed = report(&[Outcome::Failed(Failure::new(Class::Sql, "x", "y"))]);
        failed.merge(left_out.clone());
        assert_eq!(failed.verdict(), Verdict::Failed);
        let mut whole = Report::from_failure(Failure::new(Class::Standby, "x", "y"));
        whole.merge(left_out.clone());
        assert_eq!(whole.verdict(), Verdict::Skipped);
        whole.merge(report(&[Outcome::Succeeded]));
        assert_eq!(whole.verdict(), Verdict::Succeeded);
    }

    #[test]
    fn what_two_attempts_find_is_one_finding() {
        let severity = crate::domain::finding::Severity::Warning;
        let found = Finding::new("tool-version", severity, "x");
        let mut first = Report { findings: vec![found.clone()], ..Report::default() };
        first.merge(Report { findings: vec![found.clone()], ..Report::default() });
        assert_eq!(first.findings, [found]);
    }

    #[test]
    fn what_only_a_retry_could_look_at_is_added_to_the_plan() {
        let step = |object: &str, action: &str| Step {
            target: Target { object: Some(object.to_owned()), ..Target::default() },
            action: action.to_owned(),
            reason: String::new(),
        };
        let mut first = Report { plan: vec![step("a", "remove")], ..Report::default() };
        let plan = vec![step("a", "keep"), step("b", "remove")];
        first.merge(Report { plan, ..Report::default() });
        assert_eq!(first.plan, [step("a", "remove"), step("b", "remove")]);
    }

    #[test]
    fn a_retry_replaces_what_failed() {
        let mut first = report(&[Outcome::Succeeded, Outcome::Cancelled]);
        let mut second = report(&[Outcome::Succeeded, Outcome::Succeeded]);
        second.targets.remove(0);
        first.merge(second);
        assert_eq!(first.verdict(), Verdict::Succeeded);
        assert_eq!(first.targets.len(), 2);
    }
}
