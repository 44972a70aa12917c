//! `pgkeep list`: the backups in the repositories, read from the repositories themselves. No
//! local state is needed, nor a daemon.

use clap::Args;
use futures_util::{TryStreamExt as _, future::join_all};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    daemon::table::Table,
    domain::{
        backup::BackupId,
        failure::{Class, During, Failure},
        name::{RepositoryName, ServerName},
    },
    repository::{
        handle::Handle,
        listing::{Listed, Listing, Within},
    },
    sys::task::Progress,
};

use super::{Cli, Outcome, Stop, exit::Exit, output, runtime};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this repository.
    #[arg(long)]
    repository: Option<RepositoryName>,
    /// Only this server.
    #[arg(long)]
    server: Option<ServerName>,
    /// Only this database, or @globals.
    #[arg(long)]
    database: Option<String>,
    /// Data without a manifest too: of a run under way, or left behind by one that died.
    #[arg(long)]
    incomplete: bool,
}

/// One copy of one backup.
#[derive(Debug, Serialize)]
struct Row {
    id: BackupId,
    time: Timestamp,
    server: ServerName,
    #[serde(with = "crate::domain::backup::as_text")]
    system_id: u64,
    subject: String,
    contents: String,
    repository: RepositoryName,
    complete: bool,
    /// Something seemed to be missing in it when it was made.
    suspicious: bool,
    /// Somebody has said that it is as it should be.
    acknowledged: bool,
    bytes: u64,
    objects: usize,
}

impl Row {
    /// By series, time and repository.
    fn key(&self) -> impl Ord + '_ {
        let Self { server, system_id, subject, contents, id, repository, .. } = self;
        (server, system_id, subject, contents, id, repository)
    }

    const fn state(&self) -> &'static str {
        match (self.complete, self.suspicious && !self.acknowledged) {
            (false, _) => "incomplete",
            (true, true) => "SUSPICIOUS",
            (true, false) => "complete",
        }
    }
}

pub(super) fn list(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    if let Some(name) = arguments.repository.as_ref() {
        known(&table, name, "list backups")?;
    }
    let (rows, failures) = runtime()?.block_on(collect(&table, arguments));
    print_failures(&failures);
    if cli.json {
        output::json(&rows)?;
    } else {
        print(&rows)?;
    }
    Ok(match (rows.is_empty(), failures.is_empty()) {
        (_, true) if !rows.is_empty() => Exit::Done,
        (true, true) => {
            output::say("pgkeep: there are no such backups\n");
            Exit::NotFound
        }
        (false, _) => Exit::Partial,
        (true, false) => Exit::Failed,
    })
}

/// Refuses a repository that is not configured.
pub(super) fn known(table: &Table, name: &RepositoryName, doing: &str) -> Result<(), Stop> {
    if table.repositories.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = table.repositories.keys().map(RepositoryName::as_str).collect();
    let what = format!("there is no repository {name} in the configuration");
    let failure = Failure::new(Class::Configuration, doing, what)
        .hint(format!("there is {}", known.join(", ")));
    Err(Stop::Failed(Exit::NotFound, failure))
}

/// Says which repositories could not be read.
pub(super) fn print_failures(failures: &[Failure]) {
    for failure in failures {
        output::say_failure("pgkeep: error", failure);
    }
}

async fn collect(table: &Table, arguments: &Arguments) -> (Vec<Row>, Vec<Failure>) {
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (name, listed) in ask_all(table, arguments.repository.as_ref(), read).await {
        match listed {
            Ok(listed) => {
                let wanted = listed.into_iter().filter(|listed| matches(arguments, listed));
                rows.extend(wanted.map(|listed| row(&name, listed)));
            }
            Err(failure) => failures.push(failure),
        }
    }
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    (rows, failures)
}

/// What each repository answers, all asked at the same time; those that are slow are named meanwhile.
pub(super) async fn ask_all<T>(
    table: &Table,
    only: Option<&RepositoryName>,
    ask: impl AsyncFn(&Handle) -> Result<T, Failure>,
) -> Vec<(RepositoryName, Result<T, Failure>)> {
    let progress = Progress::default();
    let wanted =
        table.repositories.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let asked = wanted.map(async |(name, handle)| {
        let _waits = progress.waits_for(format!("repository {name}"));
        (name.clone(), ask(handle).await)
    });
    output::patiently(&progress, join_all(asked)).await
}

/// Everything that a repository holds.
///
/// # Errors
/// When it cannot be read; never a part of a listing.
pub(super) async fn read(handle: &Handle) -> Result<Vec<Listed>, Failure> {
    let doing = &*format!("list repository {}", handle.name());
    let Some(repository) = handle.open_existing().await.during(doing)? else {
        return Ok(Vec::new());
    };
    let mut listing = Listing::default();
    let mut entries = repository.list_in_time(&Within::All);
    while let Some(entry) = entries.try_next().await.during(doing)? {
        listing.push(entry);
    }
    Ok(listing.backups)
}

fn matches(arguments: &Arguments, listed: &Listed) -> bool {
    let series = &listed.series;
    (arguments.incomplete || listed.complete)
        && arguments.server.as_ref().is_none_or(|only| *only == series.server)
        && arguments.database.as_ref().is_none_or(|only| *only == series.subject.to_string())
}

fn row(repository: &RepositoryName, listed: Listed) -> Row {
    Row {
        time: listed.id.time(),
        bytes: listed.bytes(),
        objects: listed.objects.len(),
        suspicious: listed.was_suspicious(),
        acknowledged: listed.is_acknowledged(),
        id: listed.id,
        server: listed.series.server,
        system_id: listed.series.system_id,
        subject: listed.series.subject.to_string(),
        contents: listed.series.contents,
        repository: repository.clone(),
        complete: listed.complete,
    }
}

fn print(rows: &[Row]) -> Result<(), super::Stop> {
    let cells: Vec<[String; 8]> = rows
        .iter()
        .map(|row| {
            [
                row.id.to_string(),
                output::time(Some(row.time)),
                row.server.to_string(),
                row.subject.clone(),
                row.contents.clone(),
                row.repository.to_string(),
                output::bytes(row.bytes),
                row.state().to_owned(),
            ]
        })
        .collect();
    output::table(
        ["ID", "TIME", "SERVER", "DATABASE", "CONTENTS", "REPOSITORY", "SIZE", "STATE"],
        &cells,
    )
}
