//! Which backups of a series are brought to another repository, and in which order.
//!
//! The rule: what is missing there is brought, within the limits of the job. One exception keeps a
//! retention that is shorter there from being undone each night: what was seen there before, and is
//! gone although the target has a newer one of the series, was removed on purpose. Retention never
//! removes the newest, so that a loss of the newest, or of all of a series, is made good. Whoever keeps
//! what was seen forgets what is [`Decision::Lost`] before it is brought: behind the first that is there
//! again, the rest would look like removed ones.
//!
//! A backup from the future (a clock was wrong) is brought like any other, and pushes none out: it is
//! neither one of the `newest` nor a newer one that is there. One that is in doubt pushes none out that
//! is not, as in retention: it is none of the `newest`, and while the newest are in doubt, the last good
//! one before them is brought whatever its age.
//!
//! What can still go wrong: older backups that were lost there by accident look like removed ones.
//! They are counted, and brought again once what was seen is forgotten.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{backup::BackupId, retention::is_later};

/// How much is brought of each series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Only so many of the newest that the source has; none: all.
    pub newest: Option<usize>,
    /// Only what is not older; none: whatever its age.
    pub within: Option<Duration>,
}

/// What a source has of one series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stocked {
    /// Complete backups, in order of time.
    pub ids: Vec<BackupId>,
    /// Those of them that are in doubt: suspicious, and nobody has acknowledged them.
    pub in_doubt: BTreeSet<BackupId>,
}

impl Stocked {
    /// The newest that is not in doubt, where newer ones are.
    fn last_before_doubt(&self, now: Timestamp) -> Option<&BackupId> {
        let mut newest_first = self.ids.iter().rev().filter(|id| !is_later(id, now)).peekable();
        let newest = newest_first.peek()?;
        if !self.in_doubt.contains(*newest) {
            return None;
        }
        newest_first.find(|id| !self.in_doubt.contains(*id))
    }
}

/// What a target has of one series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    pub complete: BTreeSet<BackupId>,
    /// Those of them that are in doubt there.
    pub in_doubt: BTreeSet<BackupId>,
    /// Backups of which only the manifest is left.
    pub damaged: BTreeSet<BackupId>,
    pub incomplete: BTreeSet<BackupId>,
    /// Backups that were complete there at some time.
    pub seen: BTreeSet<BackupId>,
}

/// What is done with one backup, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// It is brought: the target does not have it.
    Missing,
    /// It is brought: a break left data without a manifest there.
    Unfinished,
    /// It is brought: it was there, and what is left there is older.
    Lost,
    /// Its manifest is there and nothing else: nothing is written over, so that it waits.
    Damaged,
    Present,
    /// There are `newest` newer ones.
    NotAmongNewest,
    /// It is older than `within`.
    TooOld,
    Removed,
}

impl Decision {
    /// Whether it is to be brought.
    pub const fn brings(self) -> bool {
        matches!(self, Self::Missing | Self::Unfinished | Self::Lost)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "it is missing there",
            Self::Unfinished => "only data without a manifest lies there",
            Self::Lost => "it was there and is gone, and nothing as new is left there",
            Self::Damaged => "only the manifest is left there: delete its folder",
            Self::Present => "it is there already",
            Self::NotAmongNewest => "there are enough newer ones (newest)",
            Self::TooOld => "it is too old (within)",
            Self::Removed => "it was there before and was removed, and a newer one is there",
        })
    }
}

/// What was decided about one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub id: BackupId,
    /// How many newer ones of its series the source has, without those from the future
    /// or in doubt.
    pub rank: usize,
    pub decision: Decision,
}

/// Decides about the complete backups of one series, newest first.
pub fn decide(
    source: &Stocked,
    target: &Holdings,
    limits: &Limits,
    now: Timestamp,
) -> Vec<Decided> {
    let there = || target.complete.iter().rev().filter(|id| !is_later(id, now));
    // Retention removes neither the newest nor the newest that is not in doubt.
    let newest_there = there().next();
    let trusted_there = there().find(|id| !target.in_doubt.contains(*id));
    let before_doubt = source.last_before_doubt(now);
    let decision = |rank: usize, id: &BackupId| {
        if target.complete.contains(id) {
            Decision::Present
        } else if limits.newest.is_some_and(|newest| rank >= newest) {
            Decision::NotAmongNewest
        } else if limits.within.is_some_and(|within| is_older(id, within, now))
            && before_doubt != Some(id)
        {
            Decision::TooOld
        } else if target.damaged.contains(id) {
            Decision::Damaged
        } else if target.seen.contains(id) {
            let newest = if source.in_doubt.contains(id) { newest_there } else { trusted_there };
            let newer_is_there = newest.is_some_and(|newest| newest > id);
            if newer_is_there { Decision::Removed } else { Decision::Lost }
        } else if target.incomplete.contains(id) {
            Decision::Unfinished
        } else {
            Decision::Missing
        }
    };
    let mut newer = 0;
    let newest_first = source.ids.iter().rev();
    newest_first
        .map(|id| {
            let rank = newer;
            newer += usize::from(!is_later(id, now) && !source.in_doubt.contains(id));
            Decided { id: id.clone(), rank, decision: decision(rank, id) }
        })
        .collect()
}

fn is_older(id: &BackupId, within: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(within).is_ok_and(|within| now.duration_since(id.time()) > within)
}

/// Where a backup stands in the queue, the smallest first: the newest of every series before the
/// second newest of any. So what the last run of a dump could not deliver comes before old gaps, and
/// a series with a backup each hour does not keep one with a backup each day waiting.
pub fn place(decided: &Decided) -> (usize, std::cmp::Reverse<BackupId>) {
    (decided.rank, std::cmp::Reverse(decided.id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-11-21T12:00:00Z";
    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    /// The backup of so many days ago.
    fn day(ago: u32) -> BackupId {
        BackupId::new(now().saturating_sub(DAY * ago).unwrap(), 7)
    }

    fn days(ago: &[u32]) -> BTreeSet<BackupId> {
        ago.iter().map(|ago| day(*ago)).collect()
    }

    fn source(ago: &[u32]) -> Stocked {
        Stocked { ids: days(ago).into_iter().collect(), in_doubt: BTreeSet::new() }
    }

    fn target(complete: &[u32], seen: &[u32]) -> Holdings {
        Holdings { complete: days(complete), seen: days(seen), ..Holdings::default() }
    }

    /// Days ago of what is brought, in that order.
    fn brought(source_days: &[u32], there: &Holdings, limits: Limits) -> Vec<u32> {
        let decided = decide(&source(source_days), there, &limits, now());
        let brings = decided.into_iter().filter(|decided| decided.decision.brings());
        let ago = |id: &BackupId| (0..1000).find(|ago| day(*ago) == *id).unwrap();
        brings.map(|decided| ago(&decided.id)).collect()
    }

    #[test]
    fn what_is_missing_is_brought_newest_first_and_once() {
        let all = [0, 1, 2, 3];
        assert_eq!(brought(&all, &target(&[], &[]), Limits::default()), [0, 1, 2, 3]);
        assert_eq!(brought(&all, &target(&[1, 2], &[1, 2]), Limits::default()), [0, 3]);
        assert_eq!(brought(&all, &target(&all, &all), Limits::default()), [0; 0]);
        // What only the target has is none of our business.
        assert_eq!(brought(&[1], &target(&[0, 5], &[]), Limits::default()), [1]);
    }

    #[test]
    fn limits_hold_whatever_is_there() {
        let all = [0, 1, 2, 3, 4];
        let newest = Limits { newest: Some(2), within: None };
        assert_eq!(brought(&all, &target(&[], &[]), newest), [0, 1]);
        assert_eq!(brought(&all, &target(&[0], &[]), newest), [1]);
        let within = Limits { newest: None, within: Some(DAY * 3) };
        assert_eq!(brought(&all, &target(&[], &[]), within), [0, 1, 2, 3]);
        let both = Limits { newest: Some(4), within: Some(DAY) };
        assert_eq!(brought(&all, &target(&[], &[]), both), [0, 1]);
        let endless = Limits { newest: None, within: Some(Duration::MAX) };
        assert_eq!(brought(&all, &target(&[], &[]), endless), all);
    }

    #[test]
    fn what_retention_removed_there_stays_away() {
        let all = [0, 1, 2, 3, 4, 5, 6];
        // It keeps three, and thinned out what is older.
        let thinned = target(&[1, 2, 3, 6], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(brought(&all, &thinned, Limits::default()), [0]);
        let decided = decide(&source(&all), &thinned, &Limits::default(), now());
        assert_eq!(decided.iter().filter(|d| d.decision == Decision::Removed).count(), 2);
        // What an interrupted first run did not get to was never seen there.
        assert_eq!(brought(&all, &target(&[0, 1], &[0, 1]), Limits::default()), [2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_retention_never_removes_was_lost_and_is_brought_again() {
        let all = [0, 1, 2];
        assert_eq!(brought(&all, &target(&[], &all), Limits::default()), all);
        assert_eq!(brought(&all, &target(&[2], &all), Limits::default()), [0, 1]);
        assert_eq!(brought(&all, &target(&[1], &all), Limits::default()), [0]);
    }

    #[test]
    fn the_newest_of_every_series_comes_before_older_ones_of_any() {
        let hourly = source(&[0, 1, 2, 3]);
        let daily = source(&[2, 9]);
        let of = |source: &Stocked, there: &Holdings| {
            let decided = decide(source, there, &Limits::default(), now());
            decided.into_iter().filter(|d| d.decision.brings()).collect::<Vec<_>>()
        };
        // The newest of `hourly` is there: its gap is old, and waits for the newest of `daily`.
        let mut queue = of(&hourly, &target(&[0], &[0]));
        queue.extend(of(&daily, &target(&[], &[])));
        queue.sort_by_key(place);
        let ids: Vec<BackupId> = queue.into_iter().map(|decided| decided.id).collect();
        assert_eq!(ids, [day(2), day(1), day(9), day(2), day(3)]);
    }

    #[test]
    fn what_is_from_the_future_pushes_nothing_out() {
        let future = BackupId::new(now().saturating_add(DAY * 400).unwrap(), 7);
        let mut all = source(&[0, 1, 2]);
        all.ids.push(future.clone());
        let ids = |there: &Holdings, limits: &Limits| {
            let decided = decide(&all, there, limits, now()).into_iter();
            let brings = decided.filter(|decided| decided.decision.brings());
            brings.map(|decided| decided.id).collect::<Vec<BackupId>>()
        };
        let newest = Limits { newest: Some(1), within: None };
        assert_eq!(ids(&Holdings::default(), &newest), [future.clone(), day(0)]);
        // The newest that counts was lost there.
        let mut there = target(&[1, 2], &[0, 1, 2]);
        there.complete.insert(future.clone());
        assert_eq!(ids(&there, &Limits::default()), [day(0)]);
    }

    /// Backups of so many days ago, of which some are in doubt.
    fn doubted(ago: &[u32], in_doubt: &[u32]) -> Stocked {
        Stocked { in_doubt: days(in_doubt), ..source(ago) }
    }

    #[test]
    fn what_is_in_doubt_pushes_nothing_out() {
        let decide_all = |source: &Stocked, there: &Holdings, limits: Limits| {
            let decided = decide(source, there, &limits, now()).into_iter();
            decided.map(|decided| decided.decision).collect::<Vec<_>>()
        };
        let (missing, present) = (Decision::Missing, Decision::Present);
        let source = doubted(&[0, 1, 2, 3, 4], &[0, 1, 4]);
        let none = Holdings::default();
        let newest = Limits { newest: Some(1), within: None };
        let out = Decision::NotAmongNewest;
        assert_eq!(decide_all(&source, &none, newest), [missing, missing, missing, out, out]);
        // The last good one is brought whatever its age, as long as newer ones are in doubt.
        let within = Limits { newest: None, within: Some(DAY) };
        let old = Decision::TooOld;
        assert_eq!(decide_all(&source, &none, within), [missing, missing, missing, old, old]);
        let looked_at = doubted(&[0, 1, 2, 3, 4], &[1, 4]);
        assert_eq!(decide_all(&looked_at, &none, within), [missing, missing, old, old, old]);
        // It was lost there, though newer ones are there: retention never removes it.
        let mut there = target(&[0, 1], &[0, 1, 2]);
        let all = Limits::default();
        there.in_doubt = days(&[0, 1]);
        let lost = Decision::Lost;
        assert_eq!(decide_all(&source, &there, all), [present, present, lost, missing, missing]);
        // Somebody has acknowledged the newest there: then it was removed.
        there.in_doubt = days(&[1]);
        let removed = Decision::Removed;
        assert_eq!(decide_all(&source, &there, all)[2], removed);
        // One in doubt is no floor of retention beside the newest.
        let mut there = target(&[0, 2], &[0, 1, 2]);
        there.in_doubt = days(&[0]);
        assert_eq!(decide_all(&source, &there, all)[..3], [present, removed, present]);
    }

    #[test]
    fn what_has_only_its_manifest_there_is_not_there() {
        let mut there = target(&[1], &[0, 1, 2]);
        there.damaged = days(&[0, 3]);
        let decided = decide(&source(&[0, 1, 2, 3]), &there, &Limits::default(), now());
        let decisions: Vec<Decision> = decided.iter().map(|it| it.decision).collect();
        let (damaged, removed) = (Decision::Damaged, Decision::Removed);
        assert_eq!(decisions, [damaged, Decision::Present, removed, damaged]);
        assert!(!damaged.brings());
        // The newest of what is there is what counts.
        let there = Holdings { damaged: days(&[0]), ..target(&[], &[1]) };
        let decided = decide(&source(&[0, 1]), &there, &Limits::default(), now());
        assert_eq!(decided[1].decision, Decision::Lost);
    }

    proptest! {
        /// A retention in the target, whatever it removes as long as it leaves the newest there, and
        /// the newest that is not in doubt, and the copying come to rest: the second copy after it
        /// brings nothing.
        #[test]
        fn copying_and_pruning_come_to_rest(
            have in proptest::collection::btree_set(0u32..40, 1..20),
            in_doubt in proptest::collection::btree_set(0u32..40, 0..20),
            keep in proptest::collection::vec(any::<bool>(), 40),
            newest in proptest::option::of(1usize..10),
        ) {
            let in_doubt: Vec<u32> = have.intersection(&in_doubt).copied().collect();
            let source = doubted(&have.iter().copied().collect::<Vec<_>>(), &in_doubt);
            let limits = Limits { newest, within: None };
            let mut there = Holdings { in_doubt: days(&in_doubt), ..Holdings::default() };
            let copy = |there: &mut Holdings| {
                let decided = decide(&source, there, &limits, now());
                let brings = decided.into_iter().filter(|decided| decided.decision.brings());
                let ids: Vec<BackupId> = brings.map(|decided| decided.id).collect();
                there.complete.extend(ids.iter().cloned());
                there.seen.extend(there.complete.iter().cloned());
                ids.len()
            };
            prop_assert!(copy(&mut there) > 0);
            prop_assert_eq!(copy(&mut there), 0);
            let last = there.complete.last().cloned();
            let trusted = there.complete.difference(&there.in_doubt).last().cloned();
            let mut keep = keep.iter();
            there.complete.retain(|id| {
                *keep.next().unwrap() || [last.as_ref(), trusted.as_ref()].contains(&Some(id))
            });
            prop_assert_eq!(copy(&mut there), 0);
        }
    }
}
