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
    survey::{Held, SeriesPlan, Survey, survey},
};
use super::owner::Owners;
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, During, Failure, IntoFailure},
        name::ServerName,
        retention::Policy,
    },
    repository::{
        layout,
        listing::Listed,
        repo::Repository,
        store::{StoreError, StoreErrorKind},
    },
    sys::{fixed, task::Task},
};

/// Backups that are removed at once. Each takes a listing and a request per object.
const PARALLEL: usize = 4;
/// How long removals that are under way may take to end once the run was cancelled. What they leave
/// then has no manifest.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// What is to be pruned and by which policy.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// What stays.
    pub policy: &'a Policy,
    /// The servers whose series are meant.
    pub servers: &'a BTreeSet<ServerName>,
    /// Whose series are this host's to prune.
    pub owners: &'a Owners,
    /// The most backups of one series that one run removes.
    pub max_remove: Option<u32>,
    /// The time for which the plan is made.
    pub now: Timestamp,
}

/// What was removed of one series.
#[derive(Debug, Default)]
pub struct Done {
    /// Backups that are gone.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Backups that somebody was writing or reading: they go the next time.
    pub spared: Vec<(BackupId, String)>,
    /// What ended it before all were gone.
    pub failure: Option<Failure>,
}

/// Removes what the plan of one series says.
pub async fn carry_out(repository: &Repository, plan: &SeriesPlan, task: &Task) -> Done {
    let doing = format!("prune {} in {}", plan.series.subject, repository.name());
    let mut done = Done::default();
    if plan.remove.is_empty() {
        return done;
    }
    if let Err(failure) = look_at_floors(repository, plan, &doing, &task.cancel).await {
        done.failure = Some(failure);
        return done;
    }
    task.progress.set_stage(&*doing);
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
            Some((id, Err(error))) if is_in_use(&error, &plan.series, id) => {
                done.spared.push((id.clone(), error.what));
            }
            Some((_, Err(error))) => {
                done.failure.get_or_insert_with(|| error.into_failure(&*doing));
            }
        }
    }
    if task.cancel.is_cancelled() && (queue.next().is_some() || !running.is_empty()) {
        done.failure = Some(interrupted(&doing));
    }
    let of = plan.remove.len();
    if let Some(failure) = &mut done.failure {
        failure.what = format!("{}; {} of {of} were removed before", failure.what, done.removed);
    }
    done
}

fn interrupted(doing: &str) -> Failure {
    Failure::new(Class::Interrupted, doing, "the run was cancelled")
}

async fn given_up(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(fixed::limit(CANCEL_GRACE)).await;
}

/// The listing may be hours old by now, or was never true: of what stays whatever happens each object is
/// asked for, before anything goes that could stand in for it.
async fn look_at_floors(
    repository: &Repository,
    plan: &SeriesPlan,
    doing: &str,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let changed = |what| {
        Failure::new(Class::RepositoryDamaged, doing, what)
            .hint("nothing was removed; look at the series with `pgkeep list` and `pgkeep show`")
    };
    if plan.floor.is_none() {
        let what = "the plan has no backup that stays: a defect in pgkeep, please report it";
        return Err(changed(what.to_owned()));
    }
    for id in plan.floor.iter().chain(&plan.before) {
        let unseen = Listed::unseen(plan.series.clone(), id.clone());
        let looked = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted(doing)),
            looked = survey::examine(repository, &unseen) => looked,
        };
        if let Some(problem) = looked.during(doing)?.problem {
            return Err(changed(format!("{id}, which has to stay, changed meanwhile: {problem}")));
        }
    }
    Ok(())
}

/// Whether the backup as a whole was refused to go, since somebody is writing or reading it. A store
/// that refuses to delete names one of its objects instead.
fn is_in_use(error: &StoreError, series: &Series, id: &BackupId) -> bool {
    error.kind == StoreErrorKind::Refused
        && error.doing == format!("delete {}", layout::folder(series, id))
}

#[cfg(test)]
mod tests;
