//! `pgkeep cancel JOB`: stops the run of a job that is under way. It ends in its own time: children
//! get their grace, nothing half is left behind.

use clap::Args;
use serde::Serialize;

use crate::{
    daemon::control::{Reply, Request},
    domain::name::JobName,
};

use super::{Cli, Outcome, call, exit::Exit, output, run};

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
    if let Some(table) = &loaded.table {
        run::known(table, job)?;
    }
    let hint = "a run without a daemon is stopped with Ctrl-C";
    let request = Request::Cancel { job: job.clone() };
    let reply = call::ask_running(&loaded, &request, &doing, call::answer_limit(), hint)?;
    match reply {
        Reply::Done(text) if cli.json => output::json(&Cancelled { job, text: &text })?,
        Reply::Done(text) => output::line(&text)?,
        other => return Err(call::not_done(&doing, Some(other))),
    }
    Ok(Exit::Done)
}
