//! Brings many backups from one repository to others: several at once, in the order of the queue.
//!
//! One backup that cannot be copied keeps no other from being copied; a target that is away or full
//! is out until the end of the run, and so is a source that is away. What somebody else wrote or
//! removed since the listing is found by looking again, and is no error.
//!
//! What can still go wrong: a backup that another host copies to the same target at the same moment is
//! sent twice; the one that ends second finds it there.

pub mod seen;
pub mod survey;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure, IntoFailure},
        finding::Finding,
        name::RepositoryName,
    },
    repository::{
        garbage::Cleared,
        repo::Repository,
        store::{Limits, StoreError},
    },
    sys::task::Task,
};

use super::{
    copy::{self, CopyError},
    look_up::look_up,
};

/// Data without a manifest that lies where a backup is to be written is what a copy left that was
/// killed between its last object and the manifest: seconds of work. Another host that is in
/// between for longer than this does its work anew. What this host itself left is known as such, and
/// goes at once.
const LEFTOVER_MIN_AGE: Duration = Duration::from_hours(1);
/// A target that refuses so many one after the other will refuse the next as well.
const REFUSED_IN_A_ROW: u32 = 8;
/// Parts in memory beside those that the store has under way: one is filled, one waits for the
/// channel, one is in it (`copy::Cutter`).
const OWN_PARTS: u64 = 3;
/// What one copy has in memory beside its parts: a piece of the source (1 MiB at most), the index,
/// the manifest.
const OTHER_BYTES: u64 = 4 << 20;

/// The most memory that so many copies at once take, into targets with these limits, in bytes.
pub fn memory(targets: &[Limits], parallel: usize) -> u64 {
    let one = |limits: &Limits| {
        (limits.parallel_parts.max(1) as u64 + OWN_PARTS) * limits.part_bytes as u64
    };
    let largest = targets.iter().map(one).max().unwrap_or(0);
    parallel as u64 * (largest + OTHER_BYTES)
}

/// One backup that is to be brought to one target.
#[derive(Debug, Clone)]
pub struct Item {
    pub target: Arc<Repository>,
    pub series: Arc<Series>,
    pub id: BackupId,
    /// How many newer ones of its series the source has.
    pub rank: usize,
    /// Whether data without a manifest lies there.
    pub unfinished: bool,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Brought {
    /// It is there; so many bytes were stored.
    Copied(u64),
    /// The same, and the target's listing does not show it.
    Unlisted(u64, Box<Finding>),
    Present,
    Vanished,
    /// This process is writing it there for another job.
    Busy,
    SourceFailed(Failure),
    TargetFailed(Failure),
    /// It was not tried: the source or the target had failed before.
    Left(Failure),
    Cancelled,
}

/// Brings the items, `parallel` at once, the first of them first. Each comes back with what became
/// of it. It looks at the task's token, and returns when all copies under way have ended.
pub async fn bring(
    source: &Arc<Repository>,
    items: Vec<Item>,
    parallel: usize,
    task: &Task,
) -> Vec<(Item, Brought)> {
    let total = items.len();
    let mut queue = VecDeque::from(items);
    let mut running = JoinSet::new();
    let mut under_way = HashMap::new();
    let mut outs = Outs::default();
    let mut done = Vec::with_capacity(total);
    loop {
        task.progress.set_stage(format!(
            "copy from {}: {} of {total} backups done",
            source.name(),
            done.len()
        ));
        while running.len() < parallel.max(1) {
            let Some(item) = queue.pop_front() else { break };
            if let Some(why) = outs.refusal(&item, task) {
                done.push((item, why));
                continue;
            }
            let (source, task, one) = (Arc::clone(source), task.clone(), item.clone());
            let handle = running.spawn(async move { bring_one(&source, &one, &task).await });
            under_way.insert(handle.id(), item);
        }
        let Some(ended) = running.join_next_with_id().await else { break };
        let (id, brought) = ended.unwrap_or_else(|error| {
            let failure = Failure::from_error(Class::Internal, "copy a backup", &error);
            (error.id(), Brought::TargetFailed(failure))
        });
        if let Some(item) = under_way.remove(&id) {
            outs.heed(&item, &brought);
            done.push((item, brought));
        }
    }
    done
}

/// Who is out, and why.
#[derive(Debug, Default)]
struct Outs {
    source: Option<Failure>,
    targets: BTreeMap<RepositoryName, Failure>,
    refused_in_a_row: BTreeMap<RepositoryName, u32>,
}

impl Outs {
    fn refusal(&self, item: &Item, task: &Task) -> Option<Brought> {
        if task.cancel.is_cancelled() {
            return Some(Brought::Cancelled);
        }
        let why = self.source.as_ref().or_else(|| self.targets.get(item.target.name()));
        why.map(|failure| Brought::Left(failure.clone()))
    }

    fn heed(&mut self, item: &Item, brought: &Brought) {
        let name = item.target.name();
        match brought {
            Brought::SourceFailed(failure) if is_away(failure) => {
                self.source.get_or_insert_with(|| failure.clone());
            }
            Brought::TargetFailed(failure) => {
                let refused = self.refused_in_a_row.entry(name.clone()).or_default();
                *refused += 1;
                if is_away(failure) || failure.class == Class::Space || *refused >= REFUSED_IN_A_ROW
                {
                    self.targets.entry(name.clone()).or_insert_with(|| failure.clone());
                }
            }
            Brought::Copied(_) | Brought::Unlisted(..) => {
                self.refused_in_a_row.remove(name);
            }
            _ => {}
        }
    }
}

const fn is_away(failure: &Failure) -> bool {
    matches!(failure.class, Class::RepositoryUnavailable | Class::RepositorySlow)
}

async fn bring_one(source: &Repository, item: &Item, task: &Task) -> Brought {
    let Item { target, series, id, .. } = item;
    let task = &task.doing(format!("copy {} {id} to {}", series.subject, target.name()));
    if target.is_live(series, id) || target.is_going(series, id) {
        return Brought::Busy;
    }
    // By the backup itself, before anything is removed or sent: that a listing did not show it says little.
    match task.unless_cancelled(is_complete(target, item)).await {
        Ok(Ok(true)) => return Brought::Present,
        Ok(Ok(false)) => {}
        Ok(Err(error)) => return Brought::TargetFailed(error.into_failure(task)),
        Err(_) => return Brought::Cancelled,
    }
    if item.unfinished
        && let Some(brought) = clear(item, task).await
    {
        return brought;
    }
    let failed = match copy::copy_backup(source, target, series, id, task).await {
        Ok(manifest) => {
            let bytes = manifest.stored_bytes();
            return match look_up(target, &manifest, task).await {
                None => Brought::Copied(bytes),
                Some(finding) => Brought::Unlisted(bytes, Box::new(finding)),
            };
        }
        Err(failed) => failed,
    };
    if task.cancel.is_cancelled() {
        return Brought::Cancelled;
    }
    match failed {
        CopyError::Source(failure) => match is_complete(source, item).await {
            Ok(false) => Brought::Vanished,
            Ok(true) | Err(_) => Brought::SourceFailed(failure),
        },
        CopyError::Target(failure) => match is_complete(target, item).await {
            Ok(true) => Brought::Present,
            Ok(false) | Err(_) => Brought::TargetFailed(failure),
        },
    }
}

/// By the manifest itself: a listing may leave it out.
async fn is_complete(repository: &Repository, item: &Item) -> Result<bool, StoreError> {
    repository.has_manifest(&item.series, &item.id).await
}

/// Makes room where a copy was killed. Some: the backup cannot be written, or needs not.
async fn clear(item: &Item, task: &Task) -> Option<Brought> {
    let Item { target, series, id, .. } = item;
    // Nobody writes what this host left there before it was killed, whatever the clock says.
    let (min_age, now) = if target.was_left(series, id) {
        (Duration::ZERO, Timestamp::MAX)
    } else {
        (LEFTOVER_MIN_AGE, task.clock.now().wall)
    };
    let removed = task.unless_cancelled(target.remove_garbage(series, id, min_age, now)).await;
    let Ok(cleared) = removed else { return Some(Brought::Cancelled) };
    match cleared {
        Ok(Cleared::Nothing) => None,
        Ok(Cleared::Removed(listed)) => {
            let (repository, series, bytes) = (target.name(), series.path(), listed.bytes());
            tracing::info!(%repository, series, %id, bytes, "removed what a killed copy left");
            None
        }
        Ok(Cleared::Unlisted) => Some(Brought::Present),
        Ok(Cleared::Spared(_)) if matches!(is_complete(target, item).await, Ok(true)) => {
            Some(Brought::Present)
        }
        Ok(Cleared::Spared(reason)) => {
            let what = format!("data without a manifest lies there, and stays for now: {reason}");
            let failure = task.failure(Class::RepositoryRefused, what).hint(
                "another host may be copying it, or was killed a short time ago: a run that comes an \
                 hour later removes it and copies anew",
            );
            Some(Brought::TargetFailed(failure))
        }
        Err(error) => Some(Brought::TargetFailed(error.into_failure(task))),
    }
}

#[cfg(test)]
mod tests;
