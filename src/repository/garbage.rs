//! Data without a manifest: what a run left that was killed, or that lost its repository.
//!
//! First a plan, with a reason for each line; then the act, which looks at each folder once more, and
//! asks for the manifest itself: a listing that is stale or cut leaves out what is there, and only the
//! answer that there is no such object lets a folder go.
//! Something is garbage only if both its id and its newest object are older than the minimum age:
//! the id alone would condemn a dump that takes long, the time of the objects alone one whose
//! volumes were committed before the host was suspended. What lies in the future is spared: a clock
//! is wrong, and nobody knows which.
//!
//! What can still go wrong: another host that was suspended between its last look and its manifest
//! for longer than the minimum age finds its data gone; its listing of sizes shows it.

use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};

use super::{
    layout,
    listing::{Entry, Listed, Within},
    repo::Repository,
    store::{StoreError, StoreErrorKind, Swept},
};
use crate::domain::{
    backup::{BackupId, Series},
    manifest::MANIFEST_NAME,
};

/// What is to happen to data without a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Remove,
    Spare(&'static str),
}

/// Decides about one backup. `is_live`: this process is writing it.
pub fn judge(listed: &Listed, min_age: Duration, now: Timestamp, is_live: bool) -> Fate {
    let min_age = SignedDuration::try_from(min_age).unwrap_or(SignedDuration::MAX);
    let is_young = |at: Timestamp| now.duration_since(at) < min_age;
    let Some(newest) = listed.newest_modified() else {
        return Fate::Spare("the store does not know when it was written");
    };
    if listed.complete {
        Fate::Spare("it is a complete backup")
    } else if is_live {
        Fate::Spare("it is being written")
    } else if listed.id.time() > now || newest > now {
        Fate::Spare("its time lies in the future")
    } else if is_young(listed.id.time()) {
        Fate::Spare("it was begun a short time ago")
    } else if is_young(newest) {
        Fate::Spare("it was written to a short time ago")
    } else {
        Fate::Remove
    }
}

/// What a sweep would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepPlan {
    pub min_age: Duration,
    pub now: Timestamp,
    pub remove: Vec<Listed>,
    pub spare: Vec<(Listed, &'static str)>,
    pub foreign: u64,
}

impl SweepPlan {
    fn new(min_age: Duration, now: Timestamp) -> Self {
        Self { min_age, now, remove: Vec::new(), spare: Vec::new(), foreign: 0 }
    }

    fn push(&mut self, listed: Listed, is_live: bool) {
        if listed.complete {
            return;
        }
        match judge(&listed, self.min_age, self.now, is_live) {
            Fate::Remove => self.remove.push(listed),
            Fate::Spare(reason) => self.spare.push((listed, reason)),
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct SweepReport {
    pub removed: Vec<Listed>,
    /// What stays, since its manifest is there although the listings left it out.
    pub unlisted: Vec<Listed>,
    pub failed: Vec<(Listed, StoreError)>,
    pub uploads: Swept,
}

/// What became of one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleared {
    /// It was garbage, and is gone.
    Removed(Listed),
    Spared(&'static str),
    /// It stays: its manifest is there, and the listing left that out.
    Unlisted,
    Nothing,
}

impl Repository {
    /// Whether a backup has its manifest, by the object itself and not by a listing, which may be
    /// stale, or leave things out. For whoever is about to remove something, or to say that it is there.
    ///
    /// # Errors
    /// Whatever the store answers but that it is there or that there is no such object.
    pub async fn has_manifest(&self, series: &Series, id: &BackupId) -> Result<bool, StoreError> {
        self.has(series, id, MANIFEST_NAME).await
    }

    /// The same of any of its objects. It is read and not looked up: of a bucket that is missing, a
    /// HEAD says the same as of an object.
    pub async fn has(
        &self,
        series: &Series,
        id: &BackupId,
        name: &str,
    ) -> Result<bool, StoreError> {
        match self.store().get(&layout::object_key(series, id, name), None).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Plans what a sweep would remove at `now`.
    pub async fn garbage(
        &self,
        min_age: Duration,
        now: Timestamp,
    ) -> Result<SweepPlan, StoreError> {
        let mut plan = SweepPlan::new(min_age, now);
        let mut entries = self.list(&Within::All);
        while let Some(entry) = entries.try_next().await? {
            match entry {
                Entry::Foreign(_) => plan.foreign += 1,
                Entry::Backup(listed) => {
                    let is_live = self.is_live(&listed.series, &listed.id);
                    plan.push(listed, is_live);
                }
            }
        }
        Ok(plan)
    }

    /// Carries a plan out, after another look at each folder, and removes unfinished uploads of the
    /// same age. An error is that of the uploads; those of single backups are in the report.
    pub async fn sweep(&self, plan: SweepPlan) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        for listed in plan.remove {
            let (series, id) = (&listed.series, &listed.id);
            match self.remove_garbage(series, id, plan.min_age, plan.now).await {
                Ok(Cleared::Removed(removed)) => report.removed.push(removed),
                Ok(Cleared::Unlisted) => report.unlisted.push(listed),
                Ok(Cleared::Nothing | Cleared::Spared(_)) => {}
                Err(error) => report.failed.push((listed, error)),
            }
        }
        report.uploads = self.store().sweep(plan.min_age, plan.now).await?;
        Ok(report)
    }

    /// Looks at one backup, and removes it if it is garbage at `now`.
    pub async fn remove_garbage(
        &self,
        series: &Series,
        id: &BackupId,
        min_age: Duration,
        now: Timestamp,
    ) -> Result<Cleared, StoreError> {
        // Names are used again where a copy begins anew: until all are gone nobody writes there.
        let _removal = match self.removal(series, id) {
            Ok(removal) => removal,
            Err(reason) => return Ok(Cleared::Spared(reason)),
        };
        let Some(listed) = self.look_at(series, id).await? else { return Ok(Cleared::Nothing) };
        match judge(&listed, min_age, now, false) {
            Fate::Spare(reason) => Ok(Cleared::Spared(reason)),
            Fate::Remove if self.has_manifest(series, id).await? => Ok(Cleared::Unlisted),
            Fate::Remove => {
                self.remove_data(&listed).await?;
                Ok(Cleared::Removed(listed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::backup::Series, repository::listing::ListedObject};

    const HOUR: Duration = Duration::from_hours(1);

    fn listed(begun: &str, written: &[Option<&str>]) -> Listed {
        let objects = written.iter().map(|at| ListedObject {
            name: "app.dump.zst".to_owned(),
            bytes: 1,
            modified: at.map(|at| at.parse().unwrap()),
        });
        Listed {
            series: Series::from_path("main/7/app/all").unwrap(),
            id: format!("{begun}-k3f9q2x7").parse().unwrap(),
            complete: false,
            objects: objects.collect(),
        }
    }

    #[test]
    fn only_what_is_old_by_both_times_goes() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let old = Some("2026-11-21T10:59:59Z");
        let judged = |begun, written: &[Option<&str>], is_live| {
            judge(&listed(begun, written), HOUR, now, is_live)
        };
        assert_eq!(judged("20261121T105959Z", &[old], false), Fate::Remove);
        let spared = [
            judged("20261121T105959Z", &[old], true),
            judged("20261121T110001Z", &[old], false),
            judged("20261121T105959Z", &[old, Some("2026-11-21T11:30:00Z")], false),
            judged("20261121T105959Z", &[old, None], false),
            judged("20261121T105959Z", &[old, Some("2026-11-21T12:00:01Z")], false),
            judged("20271121T105959Z", &[old], false),
            judge(
                &Listed { complete: true, ..listed("20201121T105959Z", &[old]) },
                HOUR,
                now,
                false,
            ),
        ];
        for (index, fate) in spared.iter().enumerate() {
            assert!(matches!(fate, Fate::Spare(_)), "{index}");
        }
        // Not even an endless minimum age overflows.
        let forever = judge(&listed("20261121T105959Z", &[old]), Duration::MAX, now, false);
        assert!(matches!(forever, Fate::Spare(_)));
    }
}
