//! `pgkeep reload`: has the daemon read its configuration again, and returns the verdict.

use std::time::Duration;

use serde::Serialize;

use crate::{
    daemon::control::{Reply, Request},
    domain::failure::Class,
    sys::time_limits,
};

use super::{Cli, Outcome, Stop, call, exit::Exit, output};

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
    let hint = "systemctl start pgkeep";
    let reply =
        call::ask_running(&loaded, &Request::Reload, DOING, time_limits::limit(LIMIT), hint)?;
    let (accepted, text) = match &reply {
        Reply::Done(text) => (true, text),
        Reply::Failed(failure) if failure.class == Class::Configuration => (false, &failure.what),
        _ => return Err(call::not_done(DOING, Some(reply))),
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
