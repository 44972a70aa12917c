//! `pgkeep schedule next`: when which job runs.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    daemon::table::{Configured, Table},
    domain::{
        name::JobName,
        schedule::{Schedule, jitter_offset},
    },
    sys::clock::Clock as _,
};

use super::{Cli, Outcome, Stop, exit::Exit, output, run};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the next runs of one job or of all.
    Next {
        /// The job; all where none is named.
        job: Option<JobName>,
        /// How many runs of each job.
        #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
}

/// One future run. `at` holds the jitter already, and the end of the blackout where that is later.
#[derive(Debug, Clone, Serialize)]
pub(super) struct NextRun {
    job: JobName,
    at: Option<Timestamp>,
    zone: Option<String>,
    local: Option<String>,
    after: Vec<JobName>,
    /// It waits for the end of a blackout.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    blackout: bool,
    /// It is switched off (`enabled = false`), and runs only when it is asked to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
}

pub(super) fn schedule(cli: &Cli, command: &Command) -> Outcome {
    let Command::Next { job, count } = command;
    let table = cli.table()?;
    if let Some(job) = job {
        run::known(&table, job)?;
    }
    let runs = next_runs(cli, &table, job.as_ref(), usize::from(*count));
    if cli.json {
        output::json(&runs)?;
    } else {
        print(&runs)?;
    }
    Ok(Exit::Done)
}

/// The next `count` runs of each job, the earliest first; jobs that run after others last.
pub(super) fn next_runs(
    cli: &Cli,
    table: &Table,
    only: Option<&JobName>,
    count: usize,
) -> Vec<NextRun> {
    let now = cli.clock.now().wall;
    let mut runs = Vec::new();
    for job in table.jobs.values() {
        let common = &job.common;
        if only.is_some_and(|only| *only != common.name) {
            continue;
        }
        let paused = !common.enabled;
        let after: Vec<_> = common.after.iter().map(|after| after.value.clone()).collect();
        let run = NextRun {
            job: common.name.clone(),
            at: None,
            zone: None,
            local: None,
            after,
            blackout: false,
            paused,
        };
        let Some(schedule) = job.schedule.as_ref().filter(|_| !paused) else {
            runs.push(run);
            continue;
        };
        let offset = jitter_offset(&common.name, common.jitter);
        for (at, blackout) in starts(job, schedule, offset, count, now) {
            let local = at.to_zoned(schedule.zone().clone());
            runs.push(NextRun {
                at: Some(at),
                zone: schedule.zone().iana_name().map(str::to_owned),
                local: Some(local.strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string()),
                blackout,
                ..run.clone()
            });
        }
    }
    runs.sort_by_key(|run| (run.at.is_none(), run.at));
    runs
}

/// Slots that are looked at for the next start: all slots of one blackout are one start.
const SLOTS_MAX: usize = 20_000;

/// The next `count` starts after `now`, and which of them wait for the end of a blackout.
fn starts(
    job: &Configured,
    schedule: &Schedule,
    jitter: Duration,
    count: usize,
    now: Timestamp,
) -> Vec<(Timestamp, bool)> {
    let mut starts: Vec<(Timestamp, bool)> = Vec::new();
    let mut slot = now;
    for _ in 0..SLOTS_MAX {
        let Some(next) = schedule.next_after(slot) else { break };
        slot = next;
        let due = slot.saturating_add(jitter).unwrap_or(slot);
        let end = job.common.blackout.as_ref().and_then(|blackout| blackout.ends(due));
        let start = (end.unwrap_or(due), end.is_some());
        if starts.last().is_some_and(|(last, _)| *last == start.0) {
            continue;
        }
        if starts.len() == count {
            break;
        }
        starts.push(start);
    }
    starts
}

pub(super) fn print(runs: &[NextRun]) -> Result<(), Stop> {
    let names =
        |names: &[JobName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rows: Vec<[String; 2]> = runs
        .iter()
        .map(|run| {
            let when = match (&run.local, run.after.is_empty()) {
                _ if run.paused => {
                    "paused (enabled = false): only when asked (pgkeep run)".to_owned()
                }
                (Some(local), _) if run.blackout => format!("{local} (after its blackout)"),
                (Some(local), _) => local.clone(),
                (None, false) => format!("after {}", names(&run.after)),
                (None, true) => "when asked (pgkeep run)".to_owned(),
            };
            [run.job.to_string(), when]
        })
        .collect();
    output::table(["JOB", "NEXT RUN"], &rows)
}
