//! `pgkeep run JOB`: through the daemon where one is up, else in place. The exit code is the
//! outcome.

use std::{
    io::{IsTerminal as _, Write as _},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use crate::{
    daemon::{
        control::{CallError, ControlClient, Reply, Request},
        dry_run, oneshot,
        signals::{Signal, SignalStream},
        table::{Configured, Table},
    },
    domain::{
        failure::{Class, Failure},
        finding::Severity,
        name::JobName,
        report::{Figures, Outcome as TargetOutcome, Report, Verdict},
        text,
    },
    sys::time_limits,
};

use super::{Cli, Outcome, Running, Stop, call, daemon, exit::Exit, output, runtime};

/// Without a terminal, progress is a line each so many replies (one comes a second) …
const PLAIN_EVERY: u32 = 10;
/// … or so many, where something else is being done.
const PLAIN_NEWS: u32 = 5;
/// A daemon that says nothing of a run for so long hangs.
const SILENCE_MAX: Duration = Duration::from_mins(2);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job.
    job: JobName,
    /// Only say what would be done, and why; change nothing. Needs no daemon.
    #[arg(long)]
    dry_run: bool,
    /// End with exit code 7 where the run succeeded and found something at least so bad.
    #[arg(long, value_name = "SEVERITY", value_parser = ["info", "warning", "critical"])]
    fail_on: Option<String>,
}

impl Arguments {
    /// Whether something was found that the caller wants to stumble over.
    fn found_too_much(&self, report: &Report) -> bool {
        let asked = Severity::ALL.iter().find(|s| self.fail_on.as_deref() == Some(s.as_str()));
        asked.is_some_and(|asked| report.findings.iter().any(|f| f.severity >= *asked))
    }
}

/// What came of a run, or of a dry run: that has no id.
#[derive(Serialize)]
struct Finished<'a> {
    job: &'a JobName,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
    verdict: Verdict,
    report: &'a Report,
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    let job = &arguments.job;
    known(&table, job)?;
    if arguments.dry_run {
        return plan(cli, &table, arguments);
    }
    let mut show = Show::default();
    let runtime = runtime()?;
    let daemon = runtime.block_on(call::connect(&table.daemon.runtime_dir))?;
    let (last, stopped_by) = match daemon {
        Some(client) => match runtime.block_on(through_daemon(client, job, &mut show))? {
            Followed::Continue(last) => (last, None),
            Followed::Break(signal) => {
                show.end_line();
                let goes_on = "the run goes on in the daemon";
                output::say(&format!("{goes_on}: `pgkeep cancel {job}` stops it\n"));
                return Ok(Exit::of_signal(signal));
            }
        },
        None => in_place(cli, &runtime, table, job, &mut show)?,
    };
    show.end_line();
    match last {
        Some(Reply::Ended { run, verdict, report }) => {
            finish(cli, arguments, Some(&run), verdict, &report, stopped_by)
        }
        Some(reply @ (Reply::Refused { .. } | Reply::Failed(_))) => {
            Err(call::not_done(&format!("run {job}"), Some(reply)))
        }
        _ => {
            let what = "the daemon went away before the run ended";
            let failure = Failure::new(Class::Interrupted, format!("run {job}"), what);
            Err(Stop::failed(failure.hint("`pgkeep status` shows how the run ended")))
        }
    }
}

/// Prints what came of it; the exit code says it too.
fn finish(
    cli: &Cli,
    arguments: &Arguments,
    run: Option<&str>,
    verdict: Verdict,
    report: &Report,
    stopped_by: Option<Signal>,
) -> Outcome {
    let job = &arguments.job;
    if cli.json {
        output::json(&Finished { job, run, verdict, report })?;
    } else if let Some(run) = run {
        print_report(job, report)?;
        output::line(&format!("job {job}: {verdict} (run {run})"))?;
    } else {
        print_plan(job, report)?;
    }
    Ok(match (verdict, stopped_by) {
        (Verdict::Cancelled, Some(Signal::Terminate)) => Exit::Terminated,
        (Verdict::Succeeded, _) if arguments.found_too_much(report) => Exit::Findings,
        _ => Exit::of(verdict),
    })
}

/// A job that the configuration has.
///
/// # Errors
/// Exit code 5 where it has none of that name.
pub(super) fn known<'a>(table: &'a Table, job: &JobName) -> Result<&'a Arc<Configured>, Stop> {
    table.jobs.get(job).ok_or_else(|| {
        let what = format!("there is no job {job}");
        let failure = Failure::new(Class::Configuration, "look up the job", what);
        Stop::Failed(Exit::NotFound, failure)
    })
}

/// What the job would do, by the job itself.
fn plan(cli: &Cli, table: &Table, arguments: &Arguments) -> Outcome {
    let name = &arguments.job;
    let job = known(table, name)?;
    if !job.job.has_dry_run() {
        let what = format!("jobs of kind {} have no dry run", job.kind.name);
        let failure = Failure::new(Class::Configuration, format!("plan job {name}"), what);
        return Err(Stop::Failed(Exit::Usage, failure));
    }
    let run = dry_run::run(job.clone(), cli.clock.clone());
    let (report, stopped_by) = runtime()?.block_on(run)?;
    finish(cli, arguments, None, report.verdict(), &report, stopped_by)
}

/// The daemon's last reply; or the signal that told us to go, while the run goes on.
type Followed = ControlFlow<Signal, Option<Reply>>;

async fn through_daemon(
    client: ControlClient,
    job: &JobName,
    show: &mut Show,
) -> Result<Followed, Stop> {
    let doing = format!("run {job} through the daemon");
    let fail = |error: CallError| match error {
        CallError::Silent(_) => call::failed(&doing, &error),
        error => Stop::failed(
            Failure::from_error(Class::State, &*doing, &error)
                .hint("`pgkeep status` shows how the run ended"),
        ),
    };
    let mut signals = SignalStream::new()?;
    let mut replies = client.call(&Request::Run { job: job.clone() }).await.map_err(fail)?;
    let follow = async {
        let mut last = None;
        let mut limit = call::answer_limit();
        while let Some(reply) = replies.next_within(limit).await.map_err(fail)? {
            show.reply(&reply);
            last = Some(reply);
            limit = time_limits::limit(SILENCE_MAX);
        }
        Ok::<_, Stop>(Followed::Continue(last))
    };
    tokio::pin!(follow);
    loop {
        tokio::select! {
            ended = &mut follow => return ended,
            signal = signals.next() => {
                if let Some(signal) = signal.filter(|signal| signal.exit_status().is_some()) {
                    return Ok(Followed::Break(signal));
                }
            }
        }
    }
}

fn in_place(
    cli: &Cli,
    runtime: &Running,
    table: Table,
    job: &JobName,
    show: &mut Show,
) -> Result<oneshot::Ran, Stop> {
    daemon::start_log(&table)?;
    daemon::end_within(&table)?;
    let state = daemon::take_own(cli, &table, &format!("run {job} without a daemon"))?;
    let clock = cli.clock.clone();
    let replies = oneshot::run(table, state, job, clock, |reply| show.reply(reply));
    Ok(runtime.block_on(replies)?)
}

/// Shows how far a run is: one line that is written over on a terminal, a line now and then
/// elsewhere. On standard error, so that `--json` stays clean.
#[derive(Debug, Default)]
struct Show {
    /// Replies since the last line, and its stage.
    since: u32,
    stage: Option<String>,
    open: bool,
}

impl Show {
    fn reply(&mut self, reply: &Reply) {
        let Reply::Progress { stage, bytes } = reply else { return };
        let bytes = (*bytes > 0).then(|| format!(": {}", output::bytes(*bytes)));
        let text = text::line(&format!("{stage}{}", bytes.unwrap_or_default()));
        let mut err = std::io::stderr().lock();
        // What cannot be shown is not worth failing for.
        if err.is_terminal() {
            drop(write!(err, "\r\x1b[K{text}").and_then(|()| err.flush()));
            self.open = true;
            return;
        }
        self.since += 1;
        let due = match &self.stage {
            None => true,
            Some(before) if before == stage => self.since >= PLAIN_EVERY,
            Some(_) => self.since >= PLAIN_NEWS,
        };
        if due && !stage.is_empty() {
            drop(writeln!(err, "{text}"));
            (self.since, self.stage) = (0, Some(stage.clone()));
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.open) {
            output::say_styled("\r\x1b[K");
        }
    }
}

fn print_plan(job: &JobName, report: &Report) -> Result<(), Stop> {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for step in &report.plan {
        rows.push([step.action.clone(), step.target.to_string(), step.reason.clone()]);
    }
    if rows.is_empty() {
        // Only where everything could be looked at.
        if report.verdict() == Verdict::Succeeded {
            output::line(&format!("job {job}: nothing to do"))?;
        }
    } else {
        output::table(["ACTION", "TARGET", "WHY"], &rows)?;
    }
    print_report(job, report)
}

fn print_report(job: &JobName, report: &Report) -> Result<(), Stop> {
    if let Some(failure) = &report.failure {
        output::say_failure(&format!("job {job} failed"), failure);
    }
    if let Some(reason) = &report.skipped {
        output::line(&format!("  skipped    {reason}"))?;
    }
    // One cause often fails many targets: it is said once.
    let mut causes: Vec<(&Failure, String)> = Vec::new();
    for target in &report.targets {
        let name = target.target.to_string();
        match &target.outcome {
            TargetOutcome::Failed(failure) => {
                if let Some((_, first)) = causes.iter().find(|(known, _)| *known == failure) {
                    output::line(&format!("  failed     {name}: as {first}"))?;
                    continue;
                }
                causes.push((failure, name.clone()));
                output::line(&format!("  failed     {name} [{}]: {failure}", failure.class))?;
                hint(failure.hint.as_ref())?;
            }
            TargetOutcome::Skipped(why) => {
                output::line(&format!("  skipped    {name}: {why}"))?;
            }
            TargetOutcome::Cancelled => output::line(&format!("  cancelled  {name}"))?,
            TargetOutcome::Succeeded => {
                let figures = figures(&target.figures);
                output::line(format!("  done       {name}  {figures}").trim_end())?;
            }
        }
    }
    for finding in &report.findings {
        output::line(&format!("  {:<9}  {}", finding.severity.as_str(), finding.what))?;
        hint(finding.hint.as_ref())?;
    }
    Ok(())
}

fn hint(hint: Option<&String>) -> Result<(), Stop> {
    hint.map_or(Ok(()), |hint| output::line(&format!("             hint: {hint}")))
}

/// Of a backup its id and what it takes; of anything else all that was counted.
fn figures(figures: &Figures) -> String {
    let count = |(name, value): (&String, &u64)| {
        if let Some(what) = name.strip_suffix("_bytes") {
            format!("{} {}", output::bytes(*value), what.replace('_', " "))
        } else if let Some(what) = name.strip_prefix("bytes_") {
            format!("{} {}", output::bytes(*value), what.replace('_', " "))
        } else {
            format!("{value} {}", name.replace('_', " "))
        }
    };
    let Some(id) = &figures.backup else {
        return figures.counts.iter().map(count).collect::<Vec<_>>().join(", ");
    };
    let stored = figures.counts.get_key_value("stored_bytes").map(count);
    stored.map_or_else(|| id.to_string(), |stored| format!("{id}, {stored}"))
}
