//! What waits to be archived: failing, stalled, too much of it.
//!
//! The age of the oldest `.ready` file is the signal that does not lie: the statistics count neither a
//! command that is killed by a signal or not found nor one that is not set, and keep old failures
//! for ever.

use super::{ServerView, about};
use crate::domain::{
    finding::{Found, Severity},
    text::size,
    wal::WalFile,
};

/// Where the command says why it fails.
const SEE_LOG: &str = "the server's log has what the archive command said; run it by hand as the \
                       server's user, with a file of pg_wal";

pub(super) fn failing(view: &ServerView) -> Vec<Found> {
    let archiver = &view.facts.archiver;
    let Some((name, at)) = archiver.last_failed.as_ref().filter(|_| archiver.is_failing()) else {
        return Vec::new();
    };
    // Three attempts, a second apart, are one try: a queue that is empty again has got over it.
    let empty = view.facts.ready.as_ref().is_some_and(|ready| ready.oldest.is_none());
    if !view.archives() || empty {
        return Vec::new();
    }
    let late = view.oldest_ready().is_some_and(|age| age > view.limits.max_ready_age);
    let severity = if late { Severity::Critical } else { Severity::Warning };
    let ago = about(view.age(*at));
    vec![Found::new(severity, format!("archiving {name} failed, last {ago} ago"), SEE_LOG)]
}

pub(super) fn stalled(view: &ServerView) -> Vec<Found> {
    let late = view.oldest_ready().filter(|age| *age > view.limits.max_ready_age);
    let Some((age, ready)) = late.zip(view.facts.ready.as_ref()) else { return Vec::new() };
    if !view.archives() {
        return Vec::new();
    }
    let next = ready.next.as_deref().unwrap_or("a file");
    let first = match WalFile::parse(next) {
        Some(WalFile::History(_)) => {
            "; a history is archived before all else, and holds up the rest"
        }
        _ => "",
    };
    let waiting = ready.segments + ready.histories + ready.backups + ready.partials;
    let what = format!(
        "{waiting} files wait to be archived, the oldest for {}; next is {next}{first}",
        about(age)
    );
    let hint = if waiting == 0 {
        "only files of unknown names wait: look into pg_wal/archive_status".to_owned()
    } else {
        format!("what is not archived is lost with the server; {SEE_LOG}")
    };
    vec![Found::new(Severity::Critical, what, hint)]
}

pub(super) fn backlog(view: &ServerView) -> Vec<Found> {
    let (backlog, limit) = (view.backlog(), view.backlog_limit());
    if !view.archives() || backlog <= limit {
        return Vec::new();
    }
    let room = match view.space {
        Some(space) => {
            format!("; {} of {} are free there", size(space.free), size(space.total))
        }
        None => String::new(),
    };
    let filling = view.space.is_some_and(|space| space.free < backlog.max(space.total / 10));
    let severity = if filling { Severity::Critical } else { Severity::Warning };
    vec![Found::new(
        severity,
        format!("{} of WAL wait to be archived, more than {}{room}", size(backlog), size(limit)),
        format!("the server stops when pg_wal's filesystem is full; {SEE_LOG}"),
    )]
}
