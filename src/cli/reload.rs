//! `pgkeep reload`: has the daemon read its configuration again, and returns the verdict.

use std::time::Duration;

use serde::Serialize;

use crate::{
    daemon::control::{Reply, Request},
    domain::failure::{Class, Failure},
    sys::fixed,
};

use super::{Cli, Outcome, Stop, exit::Exit, output, run, runtime};

#[derive(Serialize)]
struct Verdict<'a> {
    accepted: bool,
    /// What was read, or why it was refused.
    text: &'a str,
}

pub(super) fn reload(cli: &Cli) -> Outcome {
    const DOING: &str = "have the daemon reload";
    // It may have to look up versions of programs.
    const LIMIT: Duration = Duration::from_mins(2);
    // Only where the daemon is has to be known here: it reads the files itself, and its verdict
    // counts, also on a configuration with errors.
    let loaded = cli.load();
    let Some(runtime_dir) = loaded.runtime_dir.clone() else {
        return Err(Stop::Configuration(loaded.render()));
    };
    let reply = runtime()?.block_on(async {
        let Some(client) = run::connect(&runtime_dir).await? else {
            let failure = Failure::new(Class::State, DOING, "no daemon is running");
            return Err(Stop::failed(failure.hint("systemctl start pgkeep")));
        };
        run::ask(client, &Request::Reload, DOING, fixed::limit(LIMIT)).await
    })?;
    let (accepted, text) = match &reply {
        Reply::Done(text) => (true, text),
        Reply::Failed(failure) if failure.class == Class::Configuration => (false, &failure.what),
        Reply::Failed(failure) => return Err(failure.clone().into()),
        Reply::Refused { reason } => return Err(run::refused(DOING, reason)),
        _ => return Err(Failure::new(Class::State, DOING, "the daemon gave no verdict").into()),
    };
    if cli.json {
        output::json(&Verdict { accepted, text })?;
    } else if accepted {
        output::line(&format!("reloaded: {text}"))?;
    } else {
        let old = "the daemon refused the reload; the old configuration runs on\n";
        return Err(Stop::Configuration(format!("{text}{old}")));
    }
    Ok(if accepted { Exit::Done } else { Exit::Configuration })
}
