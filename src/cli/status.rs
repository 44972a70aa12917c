//! `pgkeep status`: what the daemon does and how each job last ended. Without a daemon: exit
//! code 1.

use std::collections::HashSet;

use crate::{
    daemon::{
        control::{Reply, Request},
        status::{JobLine, Status},
    },
    domain::{
        failure::{Class, Failure},
        finding::Severity,
        name::DatabaseName,
        report::Report,
        scope::Coverage,
    },
};

use super::{Cli, Outcome, Stop, call, exit::Exit, output};

pub(super) fn status(cli: &Cli) -> Outcome {
    const DOING: &str = "ask the daemon for its status";
    let loaded = cli.load();
    let hint = "start it (systemctl start pgkeep), or look at its log";
    let status =
        match call::ask_running(&loaded, &Request::Status, DOING, call::answer_limit(), hint)? {
            Reply::Status(status) => status,
            other => return Err(call::not_done(DOING, Some(other))),
        };
    if cli.json {
        output::json(&status)?;
        return Ok(Exit::Done);
    }
    let status: Status = serde_json::from_value(status)
        .map_err(|error| Failure::from_error(Class::Internal, DOING, &error))?;
    print(&status)?;
    Ok(Exit::Done)
}

fn print(status: &Status) -> Result<(), Stop> {
    let state = if status.stopping { "stopping" } else { "running" };
    output::line(&format!("pgkeep {} {state}, pid {}", status.version, status.pid))?;
    if let Some(refused) = &status.reload_refused {
        output::line(&format!("last reload REFUSED: {refused}"))?;
    }
    for run in &status.running {
        let since = output::time(Some(run.since));
        let doing = &run.stage;
        output::line(&format!(
            "running {} since {since}, attempt {}: {doing}, {}",
            run.job,
            run.attempt,
            output::bytes(run.bytes)
        ))?;
    }
    warnings(status)?;
    output::line("")?;
    let rows: Vec<[String; 6]> = status.jobs.iter().map(row).collect();
    output::table(["JOB", "KIND", "STATE", "LAST RUN", "LAST SUCCESS", "NEXT RUN"], &rows)?;
    status.jobs.iter().try_for_each(|job| {
        job.last.iter().try_for_each(|last| failures(job, &last.report))?;
        findings(job)
    })
}

/// What is wrong beside the jobs.
fn warnings(status: &Status) -> Result<(), Stop> {
    for (server, databases) in status.unprotected.iter().filter(|(_, names)| !names.is_empty()) {
        let names: Vec<&str> = databases.iter().map(DatabaseName::as_str).collect();
        let names = names.join(", ");
        output::line(&format!("NO JOB BACKS UP, on {server}: {names}"))?;
    }
    for (server, databases) in status.in_part.iter().filter(|(_, names)| !names.is_empty()) {
        let each = databases.iter().map(|it| match it.coverage {
            Coverage::Only => format!("{} (only what a job names)", it.database),
            _ => format!("{} (all but what a job names)", it.database),
        });
        let names = each.collect::<Vec<_>>().join(", ");
        output::line(&format!("BACKED UP ONLY IN PART, on {server}: {names}"))?;
    }
    for (repository, names) in &status.suspicious {
        let names = names.join(", ");
        output::line(&format!("SUSPICIOUS, in {repository}: {names}"))?;
        hint(Some("`pgkeep show` says why, `pgkeep acknowledge` that they are as they should be"))?;
    }
    Ok(())
}

fn failures(job: &JobLine, report: &Report) -> Result<(), Stop> {
    if let Some(reason) = &report.skipped {
        output::line(&format!("{} skipped: {reason}", job.job))?;
    }
    // A repository that is away fails every target in the same words: once is enough.
    let mut said = HashSet::new();
    for failure in report.failures() {
        let text = format!("{} [{}]: {failure}", job.job, failure.class);
        if !said.insert(text.clone()) {
            continue;
        }
        output::line(&text)?;
        hint(failure.hint.as_deref())?;
    }
    Ok(())
}

/// What the alerts on findings send people to look at.
fn findings(job: &JobLine) -> Result<(), Stop> {
    for finding in job.findings.iter().filter(|found| found.severity > Severity::Info) {
        let (severity, check) = (finding.severity.as_str(), &finding.check);
        let what = &finding.what;
        output::line(&format!("{} {severity} {check}: {what}", job.job))?;
        hint(finding.hint.as_deref())?;
    }
    Ok(())
}

fn hint(hint: Option<&str>) -> Result<(), Stop> {
    match hint {
        Some(hint) => output::line(&format!("  hint: {hint}")),
        None => Ok(()),
    }
}

fn row(job: &JobLine) -> [String; 6] {
    let last = job.last.as_ref();
    let last = last.map(|last| format!("{} {}", last.verdict, output::time(Some(last.ended))));
    let state = match &job.detail {
        Some(detail) => format!("{}: {detail}", job.state),
        None => job.state.clone(),
    };
    [
        job.job.to_string(),
        job.kind.clone(),
        state,
        last.unwrap_or_else(|| "never".to_owned()),
        output::time(job.last_success),
        output::time(job.next),
    ]
}
