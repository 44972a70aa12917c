//! `pgkeep notify NAME`: sends a test, in place and with a single attempt. The exit code tells
//! whether it arrived.

use clap::Args;
use serde::Serialize;

use crate::{
    domain::{
        failure::{Class, Failure},
        name::NotifyName,
        notice::Notice,
    },
    sys::{clock::Clock as _, host},
};

use super::{Cli, Outcome, Stop, exit::Exit, output, runtime};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The [notify.NAME] to try.
    name: NotifyName,
}

#[derive(Serialize)]
struct Tried<'a> {
    notify: &'a NotifyName,
    delivered: bool,
    failure: Option<&'a Failure>,
}

pub(super) fn notify(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    let name = &arguments.name;
    let Some(notifier) = table.notifiers.get(name) else {
        let what = format!("there is no [notify.{name}]");
        let failure = Failure::new(Class::Configuration, "look up the receiver", what);
        return Err(Stop::Failed(Exit::NotFound, failure));
    };
    let notice = Notice::test(name, &host::hostname(), cli.clock.now().wall);
    let runtime = runtime()?;
    let failure = runtime.block_on(notifier.try_once(&notice)).err();
    runtime.shutdown_background();
    if cli.json {
        let delivered = failure.is_none();
        output::json(&Tried { notify: name, delivered, failure: failure.as_ref() })?;
        return Ok(if delivered { Exit::Done } else { Exit::Failed });
    }
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    output::line(&format!("notify {name}: delivered"))?;
    Ok(Exit::Done)
}
