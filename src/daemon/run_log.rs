//! What the log tells of runs: their attempts, their ends, and what could not be kept of them.

use crate::domain::{
    failure::Failure,
    finding::Severity,
    name::JobName,
    report::{Report, Verdict},
    run::EndedRun,
};

use super::table::Configured;

/// Failures of one attempt that are logged one by one; the report has all.
const LOGGED_FAILURES: usize = 20;

/// Something that the engine could not do for itself.
pub(super) fn failure(failure: &Failure, what: &str) {
    let hint = failure.hint.as_deref();
    tracing::error!(class = %failure.class, hint, "{what}: {failure}");
}

/// What went wrong in an attempt, and what it found.
pub(super) fn attempt(job: &Configured, attempt: u32, report: &Report) {
    let name = &job.common.name;
    // One cause often fails many targets: it is said once.
    let mut causes: Vec<&Failure> = Vec::new();
    for failure in report.failures() {
        if !causes.contains(&failure) {
            causes.push(failure);
        }
    }
    for failure in causes.iter().take(LOGGED_FAILURES) {
        let hint = failure.hint.as_deref();
        tracing::error!(job = %name, attempt, class = %failure.class, hint, "failed: {failure}");
    }
    let more = causes.len().saturating_sub(LOGGED_FAILURES);
    if more > 0 {
        tracing::error!(job = %name, attempt, more, "more failures: see the run's report");
    }
    for finding in &report.findings {
        let hint = finding.hint.as_deref();
        if finding.severity == Severity::Info {
            tracing::info!(job = %name, check = finding.check, hint, "{}", finding.what);
        } else {
            tracing::warn!(job = %name, check = finding.check, hint, "{}", finding.what);
        }
    }
}

/// A run with all its attempts is over.
pub(super) fn end(job: &JobName, ended: &EndedRun) {
    let EndedRun { run, verdict, report, .. } = ended;
    let (done, failed) = (report.count("succeeded"), report.count("failed"));
    let seconds = ended.took.as_secs_f64();
    if let (Verdict::Skipped, Some(reason)) = (verdict, &report.skipped) {
        tracing::info!(%job, %run, reason, "skipped");
    } else if *verdict == Verdict::Succeeded {
        tracing::info!(%job, %run, done, seconds, "succeeded");
    } else {
        tracing::warn!(%job, %run, %verdict, done, failed, seconds, "ended");
    }
}
