//! `pgkeep notify NAME`: sends a test with a single attempt, through the daemon where one is up: what its
//! unit forbids, it meets as the daemon would. The exit code tells whether it arrived.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::{
    daemon::{
        control::{ControlClient, Reply, Request},
        receivers,
    },
    domain::{
        failure::{Class, Failure},
        name::NotifyName,
    },
    sys::clock::Clock as _,
};

use super::{Cli, Outcome, Stop, call, exit::Exit, output, runtime};

const DOING: &str = "send a test";
/// The receiver has a limit of its own, which the daemon keeps.
const LIMIT: Duration = Duration::from_mins(10);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The [notify.NAME] to try.
    name: NotifyName,
}

#[derive(Serialize)]
struct Tried<'a> {
    notify: &'a NotifyName,
    delivered: bool,
    /// Whether the daemon sent it.
    by_daemon: bool,
    failure: Option<&'a Failure>,
}

pub(super) fn notify(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    let name = &arguments.name;
    if !table.notifiers.contains_key(name) {
        let what = format!("there is no [notify.{name}]");
        let failure = Failure::new(Class::Configuration, "look up the receiver", what);
        return Err(Stop::Failed(Exit::NotFound, failure));
    }
    let runtime = runtime()?;
    let daemon = runtime.block_on(call::connect(&table.daemon.runtime_dir))?;
    let by_daemon = daemon.is_some();
    let sent = if let Some(client) = daemon {
        runtime.block_on(by(client, name))?
    } else {
        let now = cli.clock.now().wall;
        runtime.block_on(receivers::test(&table.notifiers, name, now))
    };
    let failure = sent.err();
    if cli.json {
        let delivered = failure.is_none();
        output::json(&Tried { notify: name, delivered, by_daemon, failure: failure.as_ref() })?;
        return Ok(if delivered { Exit::Done } else { Exit::Failed });
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let from = if by_daemon { "by the daemon" } else { "from here; no daemon is up" };
    output::line(&format!("notify {name}: delivered {from}"))?;
    Ok(Exit::Done)
}

/// The daemon's answer; the outer error is that there was none.
async fn by(client: ControlClient, name: &NotifyName) -> Result<Result<(), Failure>, Stop> {
    let call = Request::Notify { name: name.clone() };
    match call::ask(client, &call, DOING, LIMIT).await? {
        Reply::Done(_) => Ok(Ok(())),
        Reply::Failed(failure) => Ok(Err(failure)),
        other => Err(call::not_done(DOING, Some(other))),
    }
}
