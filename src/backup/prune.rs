//! Removes the backups of a repository that a retention policy does not keep.
//!
//! survey (one listing of names, one manifest per series) → plan, with a reason for each backup →
//! series by series: the newest whole backup is looked at once more, and what goes is removed, the
//! oldest first, the manifest of each before its data. Whatever breaks this off leaves whole backups
//! and data without a manifest, which the sweep finds; the next run goes on.
//!
//! What can still go wrong: backups older than the newest whole one are counted by their names. One
//! whose data somebody else removed still counts as one of the last seven days.

mod steps;
mod survey;

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub use self::{
    steps::Steps,
    survey::{Obstacle, SeriesPlan, Survey, survey},
};
use super::owner::Owners;
use crate::{
    domain::{
        backup::BackupId,
        failure::{Class, During, Failure, IntoFailure},
        name::ServerName,
        retention::Policy,
    },
    repository::{listing::Listed, newest::Verdict, repo::Repository, store::StoreErrorKind},
    sys::{task::Task, time_limits},
};

/// Backups that are removed at once. Each takes a listing and a request per object.
const PARALLEL: usize = 4;
/// How long removals that are under way may take to end once the run was cancelled. What they leave
/// then has no manifest.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// What is to be pruned and by which policy.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub policy: &'a Policy,
    pub servers: &'a BTreeSet<ServerName>,
    pub owners: &'a Owners,
    pub max_remove: Option<u32>,
    pub now: Timestamp,
}

/// What was removed of one series.
#[derive(Debug, Default)]
pub struct Done {
    pub removed: u64,
    pub bytes: u64,
    /// Backups that somebody was writing or reading: they go the next time.
    pub spared: Vec<(BackupId, String)>,
    pub failure: Option<Failure>,
}

/// Removes what the plan of one series says.
pub async fn carry_out(repository: &Repository, plan: &SeriesPlan, task: &Task) -> Done {
    let task = &task.doing(format!("prune {} in {}", plan.series.subject, repository.name()));
    let mut done = Done::default();
    if plan.remove.is_empty() {
        return done;
    }
    if let Err(failure) = look_at_floors(repository, plan, task).await {
        done.failure = Some(failure);
        return done;
    }
    task.progress.set_stage(task);
    let mut queue = plan.remove.iter();
    let mut running = FuturesUnordered::new();
    let given_up = given_up(&task.cancel);
    tokio::pin!(given_up);
    loop {
        while running.len() < PARALLEL && done.failure.is_none() && !task.cancel.is_cancelled() {
            let Some(id) = queue.next() else { break };
            running.push(async move { (id, repository.delete_backup(&plan.series, id).await) });
        }
        let ended = tokio::select! {
            biased;
            ended = running.next() => ended,
            () = &mut given_up => None,
        };
        match ended {
            None => break,
            // Somebody else was faster.
            Some((_, Ok(None))) => {}
            Some((_, Ok(Some(listed)))) => {
                done.removed += 1;
                done.bytes += listed.bytes();
            }
            Some((id, Err(error))) if error.kind == StoreErrorKind::Spared => {
                done.spared.push((id.clone(), error.what));
            }
            Some((_, Err(error))) => {
                done.failure.get_or_insert_with(|| error.into_failure(task));
            }
        }
    }
    if task.cancel.is_cancelled() && (queue.next().is_some() || !running.is_empty()) {
        done.failure = Some(task.cancelled());
    }
    let of = plan.remove.len();
    if let Some(failure) = &mut done.failure {
        failure.what = format!("{}; {} of {of} were removed before", failure.what, done.removed);
    }
    done
}

async fn given_up(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(time_limits::limit(CANCEL_GRACE)).await;
}

/// The listing may be hours old by now, or was never true: of what stays whatever happens each object is
/// asked for, before anything goes that could stand in for it.
async fn look_at_floors(
    repository: &Repository,
    plan: &SeriesPlan,
    task: &Task,
) -> Result<(), Failure> {
    let changed = |what: String| {
        task.failure(Class::RepositoryDamaged, what)
            .hint("nothing was removed; look at the series with `pgkeep list` and `pgkeep show`")
    };
    if plan.floor.is_none() {
        let what = "the plan has no backup that stays: a defect in pgkeep, please report it";
        return Err(changed(what.to_owned()));
    }
    for id in plan.floor.iter().chain(&plan.before) {
        let unseen = Listed::unseen(plan.series.clone(), id.clone());
        let examined = repository.examine(&plan.series, id, Some(&unseen));
        match task.unless_cancelled(examined).await?.during(task)?.verdict {
            Verdict::Whole { .. } => {}
            Verdict::Refused(error) => return Err(error.into_failure(task)),
            Verdict::Damaged(problem) => {
                let what = format!("{id}, which has to stay, changed meanwhile and {problem}");
                return Err(changed(what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
