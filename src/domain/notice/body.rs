//! What a person is told: one stable shape, bounded whatever the report is like.
//!
//! docs/NOTIFY.md documents it; keys are only added.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Event, findings};
use crate::domain::{
    failure::Failure,
    finding::{Finding, Severity},
    name::{JobName, NotifyName, ServerName},
    report::{Report, Verdict},
    text,
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
    /// Done.
    pub succeeded: usize,
    /// Not done.
    pub failed: usize,
    /// Left out on purpose.
    pub skipped: usize,
    /// Stopped before they were done.
    pub cancelled: usize,
}

/// One failure: of a target, or of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What failed; none: the run itself.
    pub target: Option<String>,
    /// The failure.
    #[serde(flatten)]
    pub failure: Failure,
}

/// What was left out since it was too much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Failures.
    pub failures: usize,
    /// Findings.
    pub findings: usize,
}

/// The run that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The host that pgkeep runs on.
    pub host: String,
    /// The job.
    pub job: JobName,
    /// Its kind.
    pub kind: String,
    /// The servers that it works on.
    pub servers: Vec<ServerName>,
    /// The run's id.
    pub run: String,
    /// When it was started.
    pub started: Timestamp,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notice {
    /// Why it is told.
    pub event: Event,
    /// One line for people.
    pub text: String,
    /// The host that pgkeep runs on.
    pub host: String,
    /// The job; none for a test.
    pub job: Option<JobName>,
    /// The job's kind.
    pub kind: Option<String>,
    /// The servers that the job works on.
    pub servers: Vec<ServerName>,
    /// The run's id.
    pub run: Option<String>,
    /// A UUID made from it, for receivers that want one.
    pub run_uuid: Option<String>,
    /// How the run ended; none while it runs.
    pub verdict: Option<Verdict>,
    /// How the run before ended.
    pub previous_verdict: Option<Verdict>,
    /// Attempts that were made.
    pub attempts: u32,
    /// When the run was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How long it took, in seconds.
    pub duration_seconds: Option<f64>,
    /// How many targets ended in which way.
    pub targets: TargetCounts,
    /// What failed, bounded.
    pub failures: Vec<Cause>,
    /// What was found, from the receiver's severity on, bounded.
    pub findings: Vec<Finding>,
    /// What the bounds left out.
    pub left_out: Left,
    /// The version of pgkeep.
    pub pgkeep_version: &'static str,
}

impl Notice {
    fn new(event: Event, host: &str, text: String) -> Self {
        Self {
            event,
            text,
            host: host.to_owned(),
            job: None,
            kind: None,
            servers: Vec::new(),
            run: None,
            run_uuid: None,
            verdict: None,
            previous_verdict: None,
            attempts: 0,
            started: None,
            ended: None,
            duration_seconds: None,
            targets: TargetCounts::default(),
            failures: Vec::new(),
            findings: Vec::new(),
            left_out: Left::default(),
            pgkeep_version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What a person sends to try a receiver.
    pub fn test(name: &NotifyName, host: &str, now: Timestamp) -> Self {
        let text = format!("a test of [notify.{name}] from {host}: it arrives");
        let (started, ended) = (Some(now), Some(now));
        Self { started, ended, ..Self::new(Event::Test, host, text) }
    }

    /// A run starts.
    pub fn start(subject: &Subject) -> Self {
        let text = format!("{} on {} starts", subject.job, subject.host);
        Self { attempts: 1, ..Self::of(Event::Start, subject, &text) }
    }

    fn of(event: Event, subject: &Subject, text: &str) -> Self {
        Self {
            job: Some(subject.job.clone()),
            kind: Some(subject.kind.clone()),
            servers: subject.servers.iter().take(SERVERS_MAX).cloned().collect(),
            run: Some(subject.run.clone()),
            run_uuid: Some(run_uuid(&subject.job, &subject.run)),
            started: Some(subject.started),
            ..Self::new(event, &subject.host, shorten(&text::line(text)))
        }
    }

    /// A run ended: [`Notice::start`] with its outcome.
    #[must_use]
    pub fn end(
        event: Event,
        subject: &Subject,
        report: &Report,
        verdict: Verdict,
        min: Severity,
    ) -> Self {
        let found: Vec<&Finding> = findings(report, min).collect();
        let of_targets =
            report.failed().map(|(target, failure)| (Some(target.to_string()), failure));
        let causes: Vec<_> =
            report.failure.iter().map(|failure| (None, failure)).chain(of_targets).collect();
        let text = text(event, subject, verdict, report, &found);
        let failures: Vec<Cause> = causes
            .iter()
            .take(FAILURES_MAX)
            .map(|(target, failure)| cause(target.as_deref(), failure))
            .collect();
        let left_out = Left {
            failures: causes.len() - failures.len(),
            findings: found.len().saturating_sub(FINDINGS_MAX),
        };
        Self {
            verdict: Some(verdict),
            targets: TargetCounts {
                succeeded: report.count("succeeded"),
                failed: report.count("failed"),
                skipped: report.count("skipped"),
                cancelled: report.count("cancelled"),
            },
            failures,
            findings: found.into_iter().take(FINDINGS_MAX).map(short_finding).collect(),
            left_out,
            ..Self::of(event, subject, &text)
        }
    }

    /// When it ended, after how many attempts and how long, and how the run before ended.
    #[must_use]
    pub fn at(
        self,
        ended: Timestamp,
        took: Duration,
        attempts: u32,
        previous: Option<Verdict>,
    ) -> Self {
        Self {
            ended: Some(ended),
            duration_seconds: Some(took.as_secs_f64()),
            attempts,
            previous_verdict: previous,
            ..self
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

fn text(
    event: Event,
    subject: &Subject,
    verdict: Verdict,
    report: &Report,
    found: &[&Finding],
) -> String {
    let Subject { host, job, .. } = subject;
    if event == Event::Findings {
        let worst = found.iter().max_by_key(|finding| finding.severity);
        return match worst {
            None => format!("{job} on {host}: nothing is found any more"),
            Some(worst) => format!(
                "{job} on {host}: {}{}: {}",
                worst.severity.as_str(),
                more(found.len()),
                worst.what
            ),
        };
    }
    let failures = report.failures().count();
    let first = report.failures().next();
    let why = first.map(|failure| format!("{}: {failure}", more(failures))).unwrap_or_default();
    match verdict {
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

fn more(count: usize) -> String {
    if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn cause(target: Option<&str>, failure: &Failure) -> Cause {
    Cause {
        target: target.map(shorten),
        failure: Failure {
            class: failure.class,
            doing: shorten(&failure.doing),
            what: shorten(&failure.what),
            hint: failure.hint.as_deref().map(shorten),
        },
    }
}

fn short_finding(finding: &Finding) -> Finding {
    Finding {
        check: shorten(&finding.check),
        severity: finding.severity,
        target: finding.target.clone(),
        what: shorten(&finding.what),
        hint: finding.hint.as_deref().map(shorten),
    }
}

/// A UUID that stands for a run, the same each time it is asked for: version 8 of RFC 9562, from a
/// hash.
pub fn run_uuid(job: &JobName, run: &str) -> String {
    let digest = Sha256::digest(format!("pgkeep run {job} {run}").as_bytes());
    let byte = |(at, byte): (usize, &u8)| match at {
        6 => byte & 0x0f | 0x80,
        8 => byte & 0x3f | 0x80,
        _ => *byte,
    };
    let bytes = digest.iter().take(16).enumerate().map(byte);
    let hex: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
    [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex[part].concat()).join("-")
}
