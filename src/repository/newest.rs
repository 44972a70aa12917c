//! Which backup of a series is the newest that counts. Prune, the probe, doctor, the comparison of a new
//! backup with the last one, and the question whose a series is all ask here, so that they cannot
//! disagree about the same bucket (docs/adr/0014).
//!
//! The rules, and their reasons:
//! - The newest is the one with the latest id. A listing only names those that may count; each is asked
//!   for by itself, the newest first, until one fits. Listings are stale, or leave things out.
//! - From the future is what [`Listed::is_from_the_future`] says, and does not count: a clock was wrong,
//!   and it would be the newest for as long as that clock was ahead.
//! - At most [`ASKED_MAX`] of a series are asked for. Behind so many damaged ones there is nothing to
//!   speak of, and nobody waits for a hundred thousand answers.
//! - One that the repository has and does not give (no permission, an archive class) is neither whole nor
//!   damaged: [`Verdict::Refused`]. A repository that does not answer is an error: it says nothing of what
//!   it holds.
//! - In doubt is what its manifest or a listed mark says so of, unless it was acknowledged; the mark and the
//!   acknowledgement are asked for where the listing does not show them. Without its mark it would be
//!   taken for a good one elsewhere: it is damaged.
//!
//! What can still go wrong: a listing that leaves out the newest manifest hides that backup from all who
//! ask here. Whoever stores one looks it up (`backup::look_up`).

use std::collections::VecDeque;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::{
    listing::{Entry, Listed, Within},
    repo::{ManifestProblem, Repository},
    store::{StoreError, StoreErrorKind},
};
use crate::domain::{
    backup::{BackupId, Series},
    failure::chain,
    manifest::{Manifest, ManifestError},
    retention::Proof,
    suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
};

/// Backups of one series that are asked for, the newest of those that may count.
pub const ASKED_MAX: usize = 16;

/// Which backups may count. By default every whole one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Criteria {
    /// Only one that is not in doubt.
    pub trusted: bool,
    pub proof: Option<Proof>,
    /// Only one that was begun then, or earlier.
    pub until: Option<Timestamp>,
    /// Also those from the future, behind all others: for whose they are.
    pub future: bool,
    /// Its manifest is enough, whatever became of its data.
    pub manifest_alone: bool,
}

impl Criteria {
    fn admits(&self, listed: &Listed) -> bool {
        !(self.trusted && listed.is_suspicious())
            && self.proof.is_none_or(|proof| listed.proves(proof))
            && self.until.is_none_or(|until| listed.id.time() <= until)
    }
}

/// What a backup is, by its own objects.
#[derive(Debug)]
pub enum Verdict {
    /// All that its manifest names is there.
    Whole {
        /// Something seems to be missing in it, and nobody has acknowledged that.
        in_doubt: bool,
    },
    /// What is wrong with it, to stand behind its id: `is damaged: …`. One that only a newer pgkeep reads is
    /// among them, and is not called damaged.
    Damaged(String),
    /// The repository does not say: it may well be whole.
    Refused(StoreError),
}

impl Verdict {
    fn damaged(what: &str) -> Self {
        Self::Damaged(format!("is damaged: {what}"))
    }

    /// What an error says of the backup that was asked for.
    ///
    /// # Errors
    /// The same, where the repository does not answer.
    pub fn of(error: StoreError) -> Result<Self, StoreError> {
        match error.kind {
            kind if kind.is_worth_a_retry() => Err(error),
            StoreErrorKind::Damaged => Ok(Self::damaged(&chain(&error))),
            _ => Ok(Self::Refused(error)),
        }
    }
}

/// A backup that was asked for.
#[derive(Debug)]
pub struct Examined {
    pub manifest: Option<Manifest>,
    pub verdict: Verdict,
}

impl Repository {
    /// Asks for a backup itself, and holds its manifest against what is `listed` of it; without a listing,
    /// only the manifest and its marks are looked at.
    ///
    /// # Errors
    /// Where the repository does not answer.
    pub async fn examine(
        &self,
        series: &Series,
        id: &BackupId,
        listed: Option<&Listed>,
    ) -> Result<Examined, StoreError> {
        let manifest = match self.manifest(series, id).await {
            Ok(manifest) => manifest,
            Err(problem) => {
                let verdict = match problem {
                    ManifestProblem::Store(error) => Verdict::of(error)?,
                    ManifestProblem::Invalid(
                        error @ (ManifestError::Newer { .. } | ManifestError::Codec { .. }),
                    ) => Verdict::Damaged(format!("cannot be read here: {error}")),
                    problem => Verdict::damaged(&chain(&problem)),
                };
                return Ok(Examined { manifest: None, verdict });
            }
        };
        let verdict = self.judge(series, id, listed, &manifest).await.or_else(Verdict::of)?;
        Ok(Examined { manifest: Some(manifest), verdict })
    }

    async fn judge(
        &self,
        series: &Series,
        id: &BackupId,
        listed: Option<&Listed>,
        manifest: &Manifest,
    ) -> Result<Verdict, StoreError> {
        if let Some(listed) = listed
            && let Some(problem) = self.problems(listed, manifest, 1).await?.first()
        {
            return Ok(Verdict::damaged(&problem.to_string()));
        }
        let is_marked = listed.is_some_and(Listed::was_suspicious);
        if !is_marked && manifest.suspicions.is_empty() {
            return Ok(Verdict::Whole { in_doubt: false });
        }
        if listed.is_some_and(Listed::is_acknowledged)
            || self.has(series, id, ACKNOWLEDGED_NAME).await?
        {
            return Ok(Verdict::Whole { in_doubt: false });
        }
        if listed.is_some() || self.has(series, id, MARK_NAME).await? {
            return Ok(Verdict::Whole { in_doubt: true });
        }
        Ok(Verdict::damaged(&format!("{MARK_NAME} is missing")))
    }
}

/// The newest backups of a series that may count, by their names. They are asked for one by one.
#[derive(Debug)]
pub struct Newest {
    criteria: Criteria,
    now: Timestamp,
    /// Whether it counts before all that are from the future, and what was listed; the newest last.
    named: VecDeque<(bool, Listed)>,
    /// Whether there was one that may not count for nothing but the doubt about it.
    pub in_doubt: bool,
}

impl Newest {
    /// Those of a listing that is handed to [`Newest::take`].
    pub const fn new(criteria: Criteria, now: Timestamp) -> Self {
        Self { criteria, now, named: VecDeque::new(), in_doubt: false }
    }

    /// Those of one series. Others wait: the time between two answers is limited, and not the whole, which
    /// a long series may take.
    ///
    /// # Errors
    /// The store's, and that an answer took too long.
    pub async fn of(
        repository: &Repository,
        series: &Series,
        criteria: Criteria,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut newest = Self::new(criteria, now);
        let within = Within::Series(series.clone());
        let mut entries = repository.list_in_time(&within);
        while let Some(entry) = entries.try_next().await? {
            if let Entry::Backup(listed) = entry {
                newest.take(listed);
            }
        }
        Ok(newest)
    }

    /// Those of a list of ids.
    pub fn among<'a>(
        series: &Series,
        ids: impl IntoIterator<Item = &'a BackupId>,
        criteria: Criteria,
        now: Timestamp,
    ) -> Self {
        let mut newest = Self::new(Criteria { manifest_alone: true, ..criteria }, now);
        for id in ids {
            let named = Listed::unseen(series.clone(), id.clone());
            newest.take(Listed { complete: true, ..named });
        }
        newest
    }

    /// Takes up a backup. Gives back what is none of the newest that may count: this one, or an older one.
    pub fn take(&mut self, listed: Listed) -> Option<Listed> {
        let is_future = listed.is_from_the_future(self.now);
        if !listed.complete || (is_future && !self.criteria.future) {
            return Some(listed);
        }
        if !self.criteria.admits(&listed) {
            self.in_doubt |= listed.is_suspicious();
            return Some(listed);
        }
        // There may be tens of thousands of volumes, and nobody asks for them then.
        let objects = if self.criteria.manifest_alone { Vec::new() } else { listed.objects };
        let listed = Listed { objects, ..listed };
        let rank = (!is_future, &listed.id);
        let at = self.named.partition_point(|(present, it)| (*present, &it.id) < rank);
        self.named.insert(at, (!is_future, listed));
        let is_full = self.named.len() > ASKED_MAX;
        if is_full { self.named.pop_front().map(|(_, oldest)| oldest) } else { None }
    }

    /// The newest that was not asked for yet.
    pub fn pop(&mut self) -> Option<Listed> {
        self.named.pop_back().map(|(_, newest)| newest)
    }

    /// Asks for the newest that was not asked for yet; none: there are no more.
    ///
    /// # Errors
    /// Where the repository does not answer.
    pub async fn next(
        &mut self,
        repository: &Repository,
    ) -> Result<Option<(Listed, Examined)>, StoreError> {
        while let Some(listed) = self.pop() {
            let listing = (!self.criteria.manifest_alone).then_some(&listed);
            let examined = repository.examine(&listed.series, &listed.id, listing);
            let examined = Box::pin(examined).await?;
            if self.criteria.trusted
                && matches!(examined.verdict, Verdict::Whole { in_doubt: true })
            {
                self.in_doubt = true;
                continue;
            }
            return Ok(Some((listed, examined)));
        }
        Ok(None)
    }

    /// Those that were not asked for yet, the newest first.
    pub fn rest(&self) -> impl Iterator<Item = &Listed> {
        self.named.iter().rev().map(|(_, listed)| listed)
    }
}

/// The newest of what several repositories gave; of copies of one backup, the first.
pub fn nearest<T>(answers: impl IntoIterator<Item = (BackupId, T)>) -> Option<(BackupId, T)> {
    answers.into_iter().reduce(|best, other| if other.0 > best.0 { other } else { best })
}

#[cfg(test)]
pub(crate) mod tests;
