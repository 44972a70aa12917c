//! `kind = "command"`: a program that gets the notice as JSON on its standard input.
//!
//! No shell is involved. The program runs in a process group of its own, with a limit in time, and
//! with nothing of our environment but `PATH`, `HOME` and `TZ`; the variables in [`variables`] are
//! for programs that do not read JSON. What it says on standard error is logged where it fails: its
//! end, with addresses cut down to their hosts. What can still go wrong: other secrets that it
//! prints there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Again, Channel, Context, NotifyKind, Undelivered};
use crate::{
    config::{Diagnostics, Options},
    domain::{
        failure::chain,
        name::JobName,
        notice::{Event, Notice},
        report::Verdict,
    },
    sys::process::{Child, ChildSettings, Spec, Stdout, Waited},
};

/// The kind.
pub(super) const KIND: NotifyKind = NotifyKind {
    name: "command",
    events: Event::CHOICES,
    default: &[Event::Failure, Event::Recovery, Event::Findings],
    counts_runs: false,
    build,
};

/// How long it has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// Characters of its standard error that are shown.
const SAID_MAX: usize = 500;

#[derive(Debug)]
struct Command {
    program: PathBuf,
    arguments: Vec<String>,
    children: ChildSettings,
}

fn build(o: &mut Options<'_>, context: &Context, d: &mut Diagnostics) -> Option<Arc<dyn Channel>> {
    let (program, arguments) = o.program("command", d)?;
    Some(Arc::new(Command { program, arguments, children: context.children.clone() }))
}

/// What is handed over beside the JSON.
fn variables(notice: &Notice) -> Vec<(&'static str, String)> {
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    vec![
        ("PGKEEP_EVENT", notice.event.to_string()),
        ("PGKEEP_TEXT", notice.text.clone()),
        ("PGKEEP_HOST", notice.host.clone()),
        ("PGKEEP_JOB", text(notice.job.as_ref().map(JobName::as_str))),
        ("PGKEEP_RUN", text(notice.run.as_deref())),
        ("PGKEEP_VERDICT", text(notice.verdict.map(Verdict::as_str))),
    ]
}

#[async_trait]
impl Channel for Command {
    async fn deliver(
        &self,
        notice: &Notice,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Undelivered> {
        let stdin = serde_json::to_vec(notice).map_err(|error| {
            Undelivered::new(Again::No, format!("the notice cannot be written: {error}"))
        })?;
        let spec = Spec {
            stdin: stdin.into(),
            nice: self.children.nice,
            record_in: Some(self.children.records.clone()),
            ..Spec::new(&self.program)
                .args(&self.arguments)
                .envs(variables(notice).into_iter().filter(|(_, value)| !value.contains('\0')))
        };
        let program = self.program.display();
        let mut child = Child::spawn(spec, Stdout::Null).await.map_err(|error| {
            Undelivered::new(Again::No, chain(&error)).hint("look at `command`")
        })?;
        match tokio::time::timeout(limit, child.wait_or_cancel(stop, GRACE)).await {
            Ok(Waited::Ended(exit)) if exit.success() => Ok(()),
            Ok(Waited::Ended(exit)) => {
                let said = said(&exit.stderr);
                Err(Undelivered::new(Again::Yes, format!("{program} {}{said}", exit.end)))
            }
            Ok(Waited::Cancelled(_)) => Err(Undelivered::stopped()),
            Err(_) => {
                let exit = child.terminate(GRACE).await;
                let late = Undelivered::late(program, limit);
                Err(Undelivered { what: format!("{}{}", late.what, said(&exit.stderr)), ..late })
            }
        }
    }
}

/// The end of what it said, on one line.
fn said(stderr: &str) -> String {
    let words: Vec<String> = stderr.split_whitespace().map(host_only).collect();
    let line = words.join(" ");
    if line.is_empty() {
        return line;
    }
    match line.char_indices().nth_back(SAID_MAX) {
        Some((at, _)) => format!(": …{}", &line[at..]),
        None => format!(": {line}"),
    }
}

/// A word without what follows the host of an address in it.
fn host_only(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    match host.find(['/', '?', '#']) {
        Some(end) => format!("{scheme}://{}/…", &host[..end]),
        None => format!("{scheme}://{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_short_and_shows_no_address() {
        let text = "curl: (22)\n  https://me:hunter2@hooks.example.org/hunter2?x failed\n";
        assert_eq!(said(text), ": curl: (22) https://hooks.example.org/… failed");
        assert_eq!(said(" \n"), "");
        let long = said(&"é".repeat(10_000));
        assert!(long.chars().count() < SAID_MAX + 10, "{long}");
    }
}
