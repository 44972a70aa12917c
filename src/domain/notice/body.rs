//! What a person is told: one stable shape, bounded whatever the report is like.
//!
//! docs/NOTIFY.md documents it; keys are only added.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Event, findings};
use crate::domain::{
    failure::Failure,
    finding::{Finding, Severity},
    name::{JobName, NotifyName, ServerName},
    report::{Outcome, Report, Verdict},
    run::EndedRun,
    text::{self, and_more, shorten},
};

/// Failures that are told one by one.
const FAILURES_MAX: usize = 20;
/// Findings that are told one by one.
const FINDINGS_MAX: usize = 50;
/// Servers that are named.
const SERVERS_MAX: usize = 20;
/// Characters of each text.
const TEXT_MAX: usize = 1000;

/// How many targets ended in which way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TargetCounts {
    pub succeeded: usize,
    pub failed: usize,
    pub skipped: usize,
    pub cancelled: usize,
}

impl TargetCounts {
    fn of(report: &Report) -> Self {
        let [succeeded, failed, skipped, cancelled] =
            Outcome::STATES.map(|state| report.count(state));
        Self { succeeded, failed, skipped, cancelled }
    }
}

/// One failure: of a target, or of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What failed; none: the run itself.
    pub target: Option<String>,
    #[serde(flatten)]
    pub failure: Failure,
}

/// What was left out since it was too much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub failures: usize,
    pub findings: usize,
}

/// Where a notice comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub host: String,
    pub job: JobName,
    pub kind: String,
    pub servers: Vec<ServerName>,
}

/// What is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Notice {
    pub event: Event,
    pub text: String,
    pub host: String,
    pub job: Option<JobName>,
    pub kind: Option<String>,
    pub servers: Vec<ServerName>,
    pub run: Option<String>,
    /// A UUID made from it, for receivers that want one.
    pub run_uuid: Option<String>,
    /// How the run ended; none while it runs.
    pub verdict: Option<Verdict>,
    pub previous_verdict: Option<Verdict>,
    pub attempts: u32,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub duration_seconds: Option<f64>,
    pub targets: TargetCounts,
    pub failures: Vec<Cause>,
    /// What was found, from the receiver's severity on, bounded.
    pub findings: Vec<Finding>,
    pub left_out: LeftOut,
    pub pgkeep_version: &'static str,
}

impl Notice {
    fn new(event: Event, host: &str, text: String) -> Self {
        let (host, pgkeep_version) = (host.to_owned(), env!("CARGO_PKG_VERSION"));
        Self { event, text, host, pgkeep_version, ..Self::default() }
    }

    /// What a person sends to try a receiver.
    pub fn test(name: &NotifyName, host: &str, now: Timestamp) -> Self {
        let text = format!("a test of [notify.{name}] from {host}: it arrives");
        let (started, ended) = (Some(now), Some(now));
        Self { started, ended, ..Self::new(Event::Test, host, text) }
    }

    /// A run starts.
    pub fn start(origin: &Origin, run: &str, at: Timestamp) -> Self {
        let text = format!("{} on {} starts", origin.job, origin.host);
        Self { attempts: 1, ..Self::of(Event::Start, origin, run, at, &text) }
    }

    fn of(event: Event, origin: &Origin, run: &str, started: Timestamp, text: &str) -> Self {
        Self {
            job: Some(origin.job.clone()),
            kind: Some(origin.kind.clone()),
            servers: origin.servers.iter().take(SERVERS_MAX).cloned().collect(),
            run: Some(run.to_owned()),
            run_uuid: Some(run_uuid(&origin.job, run)),
            started: Some(started),
            ..Self::new(event, &origin.host, shorten(&text::line(text), TEXT_MAX))
        }
    }

    /// A run ended; `previous` is how the one before did. Findings below `min` are left out.
    pub fn end(
        event: Event,
        origin: &Origin,
        run: &EndedRun,
        previous: Option<Verdict>,
        min: Severity,
    ) -> Self {
        let report = &run.report;
        let found: Vec<&Finding> = findings(report, min).collect();
        let of_targets =
            report.failed().map(|(target, failure)| (Some(target.to_string()), failure));
        let causes = report.failure.iter().map(|failure| (None, failure)).chain(of_targets);
        let failures = causes.take(FAILURES_MAX).map(|(target, failure)| Cause {
            target: target.map(|target| shorten(&target, TEXT_MAX)),
            failure: failure.shortened(TEXT_MAX),
        });
        let failures: Vec<Cause> = failures.collect();
        let left_out = LeftOut {
            failures: report.failures().count() - failures.len(),
            findings: found.len().saturating_sub(FINDINGS_MAX),
        };
        let text = text(event, origin, run, &found);
        let findings = found.into_iter().take(FINDINGS_MAX);
        Self {
            verdict: Some(run.verdict),
            previous_verdict: previous,
            attempts: run.attempts,
            ended: Some(run.ended),
            duration_seconds: Some(run.took.as_secs_f64()),
            targets: TargetCounts::of(report),
            failures,
            findings: findings.map(|finding| finding.shortened(TEXT_MAX)).collect(),
            left_out,
            ..Self::of(event, origin, &run.run, run.started, &text)
        }
    }

    /// Everything as lines for people: the text, failures with their hints, findings.
    pub fn lines(&self) -> String {
        let mut lines = vec![self.text.clone()];
        for cause in &self.failures {
            lines.push(format!("failed [{}]: {}", cause.failure.class, cause.failure));
            lines.extend(cause.failure.hint.iter().map(|hint| format!("  hint: {hint}")));
        }
        for finding in &self.findings {
            lines.push(format!(
                "{} {}: {}",
                finding.severity.as_str(),
                finding.check,
                finding.what
            ));
            lines.extend(finding.hint.iter().map(|hint| format!("  hint: {hint}")));
        }
        let left = self.left_out.failures + self.left_out.findings;
        if left > 0 {
            lines.push(format!("and {left} more: see the run's report"));
        }
        lines.iter().map(|one| text::line(one) + "\n").collect()
    }
}

fn text(event: Event, origin: &Origin, run: &EndedRun, found: &[&Finding]) -> String {
    let Origin { host, job, .. } = origin;
    if event == Event::Findings {
        let Some(worst) = found.iter().max_by_key(|finding| finding.severity) else {
            return format!("{job} on {host}: all findings are resolved");
        };
        let (severity, more) = (worst.severity.as_str(), and_more(found.len()));
        return format!("{job} on {host}: {severity}{more}: {}", worst.what);
    }
    let first = run.report.failures().next();
    let more = and_more(run.report.failures().count());
    let why = first.map(|failure| format!("{more}: {failure}")).unwrap_or_default();
    match run.verdict {
        Verdict::Succeeded if event == Event::Recovery => {
            format!("{job} on {host} succeeded again")
        }
        Verdict::Succeeded => format!("{job} on {host} succeeded"),
        Verdict::Partial => format!("{job} on {host} failed in part{why}"),
        Verdict::Failed if first.is_none() => {
            format!("{job} on {host} failed: all targets were skipped")
        }
        Verdict::Failed => format!("{job} on {host} failed{why}"),
        Verdict::Cancelled => format!("{job} on {host} was cancelled"),
        Verdict::Skipped => format!("{job} on {host} was skipped"),
        Verdict::Interrupted => {
            format!("{job} on {host} was interrupted: pgkeep ended in the middle of the run")
        }
    }
}

/// A UUID that stands for a run, the same each time it is asked for: version 8 of RFC 9562, from a
/// hash.
pub fn run_uuid(job: &JobName, run: &str) -> String {
    let digest = Sha256::digest(format!("pgkeep run {job} {run}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}
