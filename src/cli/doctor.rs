//! `pgkeep doctor`: looks at everything that the configuration names, and says what is wrong, what to do
//! about it, and what is fine. Beside a daemon or without one.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    codec::identity::Identities,
    daemon::{
        doctor::{self, Asked, Item},
        runner,
        signals::{Signal, SignalStream},
        table::Table,
    },
    domain::{
        failure::{Class, Failure, chain},
        finding::Severity,
        name::{JobName, ServerName},
    },
    sys::files,
};

use super::{Cli, Outcome, Stop, exit::Exit, output, runtime};

/// A file with keys is a few hundred bytes.
const IDENTITY_MAX: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this server, and what is dumped from it.
    #[arg(long)]
    server: Option<ServerName>,
    /// Only what this job works with.
    #[arg(long)]
    job: Option<JobName>,
    /// Secret keys of age, to try on what is encrypted. They are read here and go nowhere.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// End with exit code 7 where something was found at least so bad.
    #[arg(long, value_name = "SEVERITY", default_value = "warning",
          value_parser = ["info", "warning", "critical"])]
    fail_on: String,
}

#[derive(Serialize)]
struct Diagnosis<'a> {
    worst: Option<Severity>,
    items: &'a [Item],
}

pub(super) fn doctor(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    let asked = asked(cli, &table, arguments)?;
    let mut items = Vec::new();
    let mut printed = Ok(());
    let runtime = runtime()?;
    let stopped_by = runtime.block_on(look(cli, &table, &asked, |item| {
        if !cli.json && printed.is_ok() {
            printed = print(&item, items.last());
        }
        items.push(item);
    }))?;
    printed?;
    let worst = items.iter().filter_map(Item::worst).max();
    if cli.json {
        output::json(&Diagnosis { worst, items: &items })?;
    } else {
        summary(&items)?;
    }
    let limit = Severity::ALL.iter().find(|it| it.as_str() == arguments.fail_on);
    Ok(match stopped_by {
        Some(Signal::Terminate) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if worst.is_some_and(|worst| limit.is_some_and(|limit| worst >= *limit)) => {
            Exit::Findings
        }
        None => Exit::Done,
    })
}

/// What is asked for, if the configuration has it.
fn asked(cli: &Cli, table: &Table, arguments: &Arguments) -> Result<Asked, Stop> {
    let missing = |what: String| {
        let failure = Failure::new(Class::Configuration, "look up what to look at", what);
        Stop::Failed(Exit::NotFound, failure)
    };
    if let Some(name) = arguments.server.as_ref().filter(|it| !table.servers.contains_key(*it)) {
        return Err(missing(format!("there is no [server.{name}]")));
    }
    if let Some(name) = arguments.job.as_ref().filter(|it| !table.jobs.contains_key(*it)) {
        return Err(missing(format!("there is no job {name}")));
    }
    let identities = arguments.identity.as_deref().map(read_identities).transpose()?;
    let (config, server, job) =
        (cli.config.clone(), arguments.server.clone(), arguments.job.clone());
    Ok(Asked { config, server, job, identities })
}

/// Says nothing of what stands in the file.
fn read_identities(path: &Path) -> Result<Identities, Stop> {
    let fail = |what: String| {
        let doing = format!("read the keys in {}", path.display());
        Stop::failed(
            Failure::new(Class::Encryption, doing, what)
                .hint("name a file as `age-keygen` writes it, without a passphrase"),
        )
    };
    let bytes = files::read_limited(path, IDENTITY_MAX).map_err(|error| fail(chain(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("it is no text".to_owned()))?;
    Identities::read(&text).map_err(|line| match line {
        0 => fail("there is no key in it".to_owned()),
        line => fail(format!("line {line} is no X25519 key of age")),
    })
}

/// Looks, until everything was looked at or a signal comes.
async fn look(
    cli: &Cli,
    table: &Table,
    asked: &Asked,
    show: impl FnMut(Item),
) -> Result<Option<Signal>, Failure> {
    let mut signals = SignalStream::new()?;
    let all = CancellationToken::new();
    let task = runner::task_of(&all, cli.clock.clone());
    let mut looking = Box::pin(doctor::look(table, asked, &task, show));
    let mut stopped_by = None;
    loop {
        tokio::select! {
            () = output::patiently(&task.progress, &mut looking) => return Ok(stopped_by),
            signal = signals.next() => {
                if signal.is_some_and(|signal| signal.exit_status().is_some()) {
                    stopped_by = signal;
                    all.cancel();
                }
            }
        }
    }
}

/// One line for each thing, under the heading of its group; what was found stands below it.
fn print(item: &Item, before: Option<&Item>) -> Result<(), Stop> {
    if before.is_none_or(|before| before.group != item.group) {
        if before.is_some() {
            output::line("")?;
        }
        output::line(&item.group)?;
    }
    let (label, text) = (&item.label, &item.text);
    output::line(&format!("  {:<8}  {label}: {text}", item.state))?;
    for finding in &item.findings {
        let (severity, check) = (finding.severity.as_str(), &finding.check);
        output::line(&format!("            {severity} [{check}]: {}", finding.what))?;
        if let Some(hint) = &finding.hint {
            output::line(&format!("              hint: {hint}"))?;
        }
    }
    Ok(())
}

fn summary(items: &[Item]) -> Result<(), Stop> {
    let count = |severity| {
        let findings = items.iter().flat_map(|item| &item.findings);
        findings.filter(|finding| finding.severity == severity).count()
    };
    let [info, warning, critical] =
        [Severity::Info, Severity::Warning, Severity::Critical].map(count);
    output::line(&format!(
        "\n{} things looked at: {critical} critical, {warning} warning, {info} info",
        items.len()
    ))
}
