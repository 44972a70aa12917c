//! Asks for what a plan counts on, object by object: a listing may be stale, or leave things out.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Open, Surveyor};
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::chain,
        retention::{Reason, Reasons, Standing},
        suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
    },
    repository::{
        repo::{ManifestProblem, Repository},
        store::{StoreError, StoreErrorKind},
    },
};

/// Backups that are asked for at once.
const ASKED_AT_ONCE: usize = 8;

/// What a backup is, by its own objects.
enum Found {
    /// As it was listed.
    AsListed,
    /// In doubt, or not any more.
    Suspicious(bool),
    /// It cannot be counted on.
    Damaged(String),
    /// The repository does not say: it may well be whole.
    Refused(StoreError),
}

impl Surveyor<'_> {
    /// Asks for the manifest of each backup that stands in the place of another, and for who
    /// acknowledged one in doubt that goes. False: the candidates changed, and the plan with them.
    /// What the repository refuses to say is noted: nothing of the series goes then.
    pub(super) async fn ask(
        &mut self,
        open: &mut Open,
        reasons: &[Reasons],
        asked: &mut BTreeSet<BackupId>,
    ) -> Result<bool, StoreError> {
        let (repository, series) = (self.repository, &open.series);
        let due = open.candidates.iter().zip(reasons).enumerate().filter(|(_, (it, reasons))| {
            let stands = reasons.iter().any(Reason::pushes_out);
            (stands || (it.suspicious && reasons.is_empty())) && !asked.contains(&it.id)
        });
        let due: Vec<_> = due
            .map(|(at, (it, reasons))| (at, it.id.clone(), it.suspicious, reasons.is_empty()))
            .collect();
        asked.extend(due.iter().map(|(_, id, ..)| id.clone()));
        let looks = due.into_iter().map(|(at, id, suspicious, goes)| async move {
            let found = if goes {
                acknowledged(repository, series, &id).await
            } else {
                look(repository, series, &id, suspicious).await
            };
            match found {
                Err(error) if !error.kind.is_worth_a_retry() => Ok((at, Found::Refused(error))),
                found => found.map(|found| (at, found)),
            }
        });
        let looks = stream::iter(looks).buffer_unordered(ASKED_AT_ONCE);
        let mut changed = false;
        for (at, found) in looks.try_collect::<Vec<_>>().await? {
            let candidate = &mut open.candidates[at];
            match found {
                Found::AsListed => continue,
                Found::Refused(error) => {
                    open.refused.get_or_insert_with(|| chain(&error));
                    continue;
                }
                Found::Suspicious(suspicious) => {
                    candidate.suspicious = suspicious;
                    if !suspicious {
                        // It may stand in another's place now, and its manifest was not read.
                        asked.remove(&candidate.id);
                    }
                }
                Found::Damaged(problem) => {
                    candidate.standing = Standing::Damaged;
                    self.report_damage(&open.series, &candidate.id, &problem);
                }
            }
            changed = true;
        }
        Ok(!changed || open.refused.is_some())
    }
}

async fn acknowledged(
    repository: &Repository,
    series: &Series,
    id: &BackupId,
) -> Result<Found, StoreError> {
    let there = repository.has(series, id, ACKNOWLEDGED_NAME).await?;
    Ok(if there { Found::Suspicious(false) } else { Found::AsListed })
}

async fn look(
    repository: &Repository,
    series: &Series,
    id: &BackupId,
    suspicious: bool,
) -> Result<Found, StoreError> {
    let manifest = match repository.manifest(series, id).await {
        Ok(manifest) => manifest,
        Err(ManifestProblem::Store(error)) if error.kind != StoreErrorKind::Damaged => {
            return Err(error);
        }
        Err(problem) => return Ok(Found::Damaged(chain(&problem))),
    };
    if suspicious || manifest.suspicions.is_empty() {
        return Ok(Found::AsListed);
    }
    if !repository.has(series, id, MARK_NAME).await? {
        // Without its mark it would be taken for a good one.
        return Ok(Found::Damaged(format!("{MARK_NAME} is missing")));
    }
    let acknowledged = repository.has(series, id, ACKNOWLEDGED_NAME).await?;
    Ok(if acknowledged { Found::AsListed } else { Found::Suspicious(true) })
}
