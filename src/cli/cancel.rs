//! `pgkeep cancel JOB`: stops the run of a job that is under way. It ends in its own time: children
//! get their grace, nothing half is left behind.

use clap::Args;
use serde::Serialize;

use crate::{
    daemon::control::{Reply, Request},
    domain::{
        failure::{Class, Failure},
        name::JobName,
    },
};

use super::{Cli, Outcome, Stop, exit::Exit, output, run, runtime};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job.
    job: JobName,
}

#[derive(Serialize)]
struct Cancelled<'a> {
    job: &'a JobName,
    text: &'a str,
}

pub(super) fn cancel(cli: &Cli, arguments: &Arguments) -> Outcome {
    let job = &arguments.job;
    let doing = format!("cancel {job}");
    let loaded = cli.load();
    if let Some(table) = &loaded.table
        && !table.jobs.contains_key(job)
    {
        let what = format!("there is no job {job}");
        let failure = Failure::new(Class::Configuration, "look up the job", what);
        return Err(Stop::Failed(Exit::NotFound, failure));
    }
    let Some(runtime_dir) = loaded.runtime_dir.clone() else {
        return Err(Stop::Configuration(loaded.render()));
    };
    let reply = runtime()?.block_on(async {
        let Some(client) = run::connect(&runtime_dir).await? else {
            let failure = Failure::new(Class::State, &doing, "no daemon is running")
                .hint("a run without a daemon is stopped with Ctrl-C");
            return Err(Stop::failed(failure));
        };
        run::ask(client, &Request::Cancel { job: job.clone() }, &doing, run::answer_limit()).await
    })?;
    match reply {
        Reply::Done(text) if cli.json => output::json(&Cancelled { job, text: &text })?,
        Reply::Done(text) => output::line(&text)?,
        Reply::Refused { reason } => return Err(run::refused(&doing, &reason)),
        Reply::Failed(failure) => return Err(failure.into()),
        _ => return Err(Failure::new(Class::State, doing, "the daemon gave no answer").into()),
    }
    Ok(Exit::Done)
}
