//! `pgkeep acknowledge`: suspicious backups are as they should be. Through the daemon where one is up,
//! else in place by the owner of the state directory.

use std::time::Duration;

use clap::Args;

use crate::{
    backup::acknowledge::{Acknowledged, Order},
    daemon::{
        acknowledge,
        control::{Reply, Request},
        table::Table,
    },
    domain::{name::RepositoryName, text},
    sys::{clock::Clock as _, task::Progress},
};

use super::{Cli, Outcome, Running, Stop, call, daemon, exit::Exit, list, output, runtime};

const DOING: &str = "acknowledge backups";
/// The daemon has a limit for each repository; this is for one that hangs itself.
const LIMIT: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A backup's id, as `list` prints it, or its beginning where that is unique; or SERVER/DATABASE
    /// (SERVER/@globals) for all of its suspicious backups.
    #[arg(required = true, value_name = "BACKUP|SERIES")]
    words: Vec<String>,
    /// Only in this repository.
    #[arg(long)]
    repository: Option<RepositoryName>,
}

pub(super) fn acknowledge(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    if let Some(name) = arguments.repository.as_ref() {
        list::known(&table, name, DOING)?;
    }
    let (words, repository) = (arguments.words.clone(), arguments.repository.clone());
    let runtime = runtime()?;
    let daemon = runtime.block_on(call::connect(&table.daemon.runtime_dir))?;
    let reply = match daemon {
        Some(client) => {
            let call = Request::Acknowledge { words, repository };
            runtime.block_on(patiently(call::ask(client, &call, DOING, LIMIT)))?
        }
        None => in_place(cli, &runtime, &table, words, repository)?,
    };
    match reply {
        Reply::Acknowledged(done) => finish(cli, &done),
        other => Err(call::not_done(DOING, Some(other))),
    }
}

/// Does the work, and says now and then that it waits for the repositories.
async fn patiently<T>(work: impl Future<Output = T>) -> T {
    let progress = Progress::default();
    let _waits = progress.waits_for("the repositories");
    output::patiently(&progress, work).await
}

fn in_place(
    cli: &Cli,
    runtime: &Running,
    table: &Table,
    words: Vec<String>,
    repository: Option<RepositoryName>,
) -> Result<Reply, Stop> {
    let _state = daemon::take_own(cli, table, DOING)?;
    let uid = rustix::process::geteuid().as_raw();
    let by = acknowledge::by(uid, cli.clock.now().wall);
    let order = Order { words, repository, by };
    let work = acknowledge::run(table, &order);
    Ok(Reply::Acknowledged(runtime.block_on(patiently(work))?))
}

fn finish(cli: &Cli, done: &Acknowledged) -> Outcome {
    list::print_failures(&done.failures);
    for (word, reason) in &done.unmatched {
        output::say(&format!("pgkeep: {}\n", text::line(&format!("{word}: {reason}"))));
    }
    if cli.json {
        output::json(done)?;
    } else {
        for line in &done.acknowledged {
            let subject = &line.subject;
            let before = if line.before { ", as before" } else { "" };
            output::line(&format!(
                "acknowledged {} of {}/{subject} in {}{before}",
                line.id, line.server, line.repository
            ))?;
        }
    }
    let (none, whole) =
        (done.acknowledged.is_empty(), done.failures.is_empty() && done.unmatched.is_empty());
    Ok(match (none, whole) {
        (_, true) => Exit::Done,
        (false, false) => Exit::Partial,
        (true, false) if done.failures.is_empty() => Exit::NotFound,
        (true, false) => Exit::Failed,
    })
}
