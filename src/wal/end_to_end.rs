//! The end-to-end probe: a segment is ended, and has to arrive.
//!
//! It writes: a record of some bytes, and the rest of a segment as padding, which then is archived. So
//! it is asked for by name, seldom, and never put into a queue that is stuck.

use std::time::Duration;

use tokio::time::sleep;

use super::archive::{Archive, ListError, Resume};
use crate::{
    domain::{
        failure::{Class, During, Failure},
        finding::{CheckName, Finding, Severity},
        units::format_duration,
        wal::{SegmentName, WalFile},
    },
    postgres::{
        Session,
        queries::Queries,
        wal::{self, WalFacts},
    },
    sys::task::Task,
};

/// The finding that a segment did not arrive, or that this cannot be tried.
const END_TO_END: CheckName = CheckName("wal-end-to-end");

/// Between two questions to the server.
const POLL: Duration = Duration::from_millis(250);
/// Between two looks into the archive, which may be large.
const LOOK: Duration = Duration::from_secs(1);

/// Where a segment is to arrive.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Whether the server says when it is archived.
    pub by_archiver: bool,
    /// The archive to look into, and from where on.
    pub archive: Option<(&'a Archive, Option<&'a Resume>)>,
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    Arrived(SegmentName),
    /// It did not, within the time limit.
    Late(SegmentName, Finding),
    /// The role may not end a segment.
    NotAllowed(Finding),
}

/// Ends the present segment and waits until it arrives.
///
/// # Errors
/// When the server or the archive cannot be asked; when the run is cancelled.
pub async fn probe(
    session: &Session,
    facts: &WalFacts,
    to: Destination<'_>,
    limit: Duration,
    task: &Task,
) -> Result<Probed, Failure> {
    let task = &task.doing("try WAL archiving from end to end");
    let ask = session.queries(&task.cancel);
    if !wal::may_execute(ask, "pg_switch_wal()").await.during(task)? {
        let what = "the role may not end a WAL segment: archiving is not tried from end to end";
        let hint =
            "as a superuser: GRANT EXECUTE ON FUNCTION pg_switch_wal() TO the role of pgkeep";
        let finding = Finding::new(END_TO_END, Severity::Warning, what).hint(hint);
        return Ok(Probed::NotAllowed(finding));
    }
    let start = task.clock.now().mono;
    let left = || limit.saturating_sub(task.clock.now().mono.saturating_sub(start));
    let end = wal::switch_wal(ask).await.during(task)?;
    let size = facts.segment_size;
    let segment = SegmentName::new(facts.timeline, size.segment_before(end), size);
    while to.by_archiver && !is_archived(segment, ask, task).await? {
        if left().is_zero() {
            let what = format!("{segment} was not archived within {}", format_duration(limit));
            return Ok(late(segment, what));
        }
        task.unless_cancelled(sleep(POLL.min(left()))).await?;
    }
    let Some((archive, resume)) = to.archive else { return Ok(Probed::Arrived(segment)) };
    while !arrived(archive.holds(segment, resume, task).await, to.by_archiver, task)? {
        if left().is_zero() {
            let by =
                if to.by_archiver { "the server takes it for archived" } else { "it was ended" };
            let (place, limit) = (archive.place(), format_duration(limit));
            let what = format!("{segment} is not in {place} {limit} later, although {by}");
            return Ok(late(segment, what));
        }
        task.unless_cancelled(sleep(LOOK.min(left()).max(POLL))).await?;
    }
    Ok(Probed::Arrived(segment))
}

/// Whether a segment is archived, by the server's word.
async fn is_archived(segment: SegmentName, ask: Queries<'_>, task: &Task) -> Result<bool, Failure> {
    let archiver = wal::archiver(ask).await.during(task)?;
    Ok(archiver.last_archived.is_some_and(|(name, _)| covers(&name, segment)))
}

/// Whether a segment has arrived, by what a look into the archive brought.
fn arrived(held: Result<bool, ListError>, by_archiver: bool, task: &Task) -> Result<bool, Failure> {
    match held {
        Ok(held) => Ok(held),
        // A finding of its own says so; the server's word is what is left.
        Err(ListError::Unreadable { .. }) if by_archiver => Ok(true),
        Err(ListError::Unreadable { what, hint }) => {
            Err(task.failure(Class::RepositoryRefused, what).hint(hint))
        }
        Err(ListError::Failed(failure)) => Err(failure),
    }
}

/// Whether the server, which archives in the order of names, is past a segment.
fn covers(last: &str, segment: SegmentName) -> bool {
    match WalFile::parse(last) {
        Some(WalFile::Segment(name) | WalFile::Partial(name) | WalFile::Backup(name, _)) => {
            name >= segment
        }
        Some(WalFile::History(_)) | None => false,
    }
}

fn late(segment: SegmentName, what: String) -> Probed {
    let hint = "the server's log has what the archive command said; run it by hand as the server's user. \
                If it is only slow, raise end_to_end_timeout";
    Probed::Late(segment, Finding::new(END_TO_END, Severity::Critical, what).hint(hint))
}
