//! `pgkeep schedule next`: when which job runs.

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    daemon::table::Table,
    domain::{
        failure::{Class, Failure},
        name::JobName,
    },
    sys::clock::Clock as _,
};

use super::{Cli, Outcome, Stop, exit::Exit, output};

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

/// One future run. `at` holds the jitter already.
#[derive(Debug, Serialize)]
pub(super) struct NextRun {
    job: JobName,
    at: Option<Timestamp>,
    zone: Option<String>,
    local: Option<String>,
    after: Vec<JobName>,
}

pub(super) fn schedule(cli: &Cli, command: &Command) -> Outcome {
    let Command::Next { job, count } = command;
    let table = cli.table()?;
    if let Some(job) = job.as_ref().filter(|job| !table.jobs.contains_key(*job)) {
        let failure =
            Failure::new(Class::Configuration, "look up the job", format!("there is no job {job}"));
        return Err(Stop::Failed(Exit::NotFound, failure));
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
        if only.is_some_and(|only| *only != common.name) || !common.enabled {
            continue;
        }
        let after: Vec<_> = common.after.iter().map(|after| after.value.clone()).collect();
        let Some(schedule) = &job.schedule else {
            runs.push(NextRun {
                job: common.name.clone(),
                at: None,
                zone: None,
                local: None,
                after,
            });
            continue;
        };
        let offset = crate::domain::schedule::jitter_offset(&common.name, common.jitter);
        for slot in schedule.preview(count, now) {
            let at = slot.saturating_add(offset).unwrap_or(slot);
            let local = at.to_zoned(schedule.zone().clone());
            runs.push(NextRun {
                job: common.name.clone(),
                at: Some(at),
                zone: schedule.zone().iana_name().map(str::to_owned),
                local: Some(local.strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string()),
                after: after.clone(),
            });
        }
    }
    runs.sort_by_key(|run| (run.at.is_none(), run.at));
    runs
}

pub(super) fn print(runs: &[NextRun]) -> Result<(), Stop> {
    let names =
        |names: &[JobName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rows: Vec<[String; 2]> = runs
        .iter()
        .map(|run| {
            let when = match (&run.local, run.after.is_empty()) {
                (Some(local), _) => local.clone(),
                (None, false) => format!("after {}", names(&run.after)),
                (None, true) => "when asked (pgkeep run)".to_owned(),
            };
            [run.job.to_string(), when]
        })
        .collect();
    output::table(["JOB", "NEXT RUN"], &rows)
}
