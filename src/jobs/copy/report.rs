//! What became of the backups, counted for each database and repository: a report stays short
//! however many there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    backup::transfer::{Brought, Item},
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        name::RepositoryName,
        report::{Figures, Outcome, Report, Sample, TargetReport},
        target::Target,
        transfer::{Decided, Decision},
    },
    repository::layout,
};

use super::{COPIED_BACKUPS, COPIED_BYTES, OLDEST_PENDING, PENDING};

/// Lines of output that a target has.
const OUTPUT_MAX: usize = 50;
/// Findings about single backups. The rest is said in one.
const DAMAGED_MAX: usize = 20;

/// What a backup of the series in that repository counts for. Series of one database (of a cluster
/// that was made anew, of another selection) are one target.
pub(super) fn target(repository: &RepositoryName, series: &Series) -> Target {
    Target::series(series).in_repository(repository)
}

/// One target.
#[derive(Debug, Default)]
struct Tally {
    /// Whether this attempt is to do it.
    wanted: bool,
    counts: BTreeMap<&'static str, u64>,
    newest_copied: Option<BackupId>,
    failures: Vec<Failure>,
    cancelled: bool,
    output: Vec<String>,
    more_output: usize,
}

impl Tally {
    fn count(&mut self, name: &'static str, more: u64) {
        *self.counts.entry(name).or_default() += more;
    }

    fn say(&mut self, line: String) {
        if self.output.len() < OUTPUT_MAX { self.output.push(line) } else { self.more_output += 1 }
    }

    fn fail(&mut self, id: &BackupId, failure: Failure) {
        self.count("failed", 1);
        self.say(format!("{id}: failed: {}", failure.what));
        self.keep(failure);
    }

    /// Keeps the first failure, and the first that is worth a retry.
    fn keep(&mut self, failure: Failure) {
        let worth = |failure: &Failure| failure.class.is_worth_a_retry();
        if self.failures.is_empty() || (worth(&failure) && !self.failures.iter().any(worth)) {
            self.failures.push(failure);
        }
    }

    /// The failure that a retry is decided by, with how many there were.
    fn failure(&self) -> Option<Failure> {
        let worth = self.failures.iter().find(|failure| failure.class.is_worth_a_retry());
        let failure = worth.or(self.failures.first())?.clone();
        let more = self.counts.get("failed").copied().unwrap_or_default().saturating_sub(1);
        let what = match more {
            0 => return Some(failure),
            1 => format!("{}; and another backup was not copied", failure.what),
            more => format!("{}; and {more} other backups were not copied", failure.what),
        };
        Some(Failure { what, ..failure })
    }

    fn into_report(mut self, target: Target) -> TargetReport {
        let outcome = match self.failure() {
            _ if self.cancelled => Outcome::Cancelled,
            Some(failure) => Outcome::Failed(failure),
            None => Outcome::Succeeded,
        };
        if self.more_output > 0 {
            self.output.push(format!("and {} lines more", self.more_output));
        }
        let figures = Figures { backup: self.newest_copied, ..self.counts.into_iter().collect() };
        TargetReport { figures, output: self.output, ..TargetReport::new(target, outcome) }
    }
}

/// What one repository waits for, and what it got.
#[derive(Debug, Default)]
struct Pending {
    /// In order of time.
    ids: BTreeSet<(BackupId, Arc<Series>)>,
    there: Vec<(Arc<Series>, BackupId)>,
    copied: u64,
    copied_bytes: u64,
}

/// A backup that the source does not hold whole: how many newer ones there are comes first.
type Damaged = (usize, Arc<Series>, BackupId);

/// A backup of which a target has only the manifest: how many newer ones there are comes first.
type ManifestAlone = (usize, RepositoryName, Arc<Series>, BackupId);

/// All targets.
#[derive(Debug)]
pub(super) struct Tallies {
    source: RepositoryName,
    targets: BTreeMap<Target, Tally>,
    pending: BTreeMap<RepositoryName, Pending>,
    damaged: BTreeMap<Damaged, Failure>,
    manifests_alone: BTreeSet<ManifestAlone>,
    unlisted: Vec<Finding>,
}

impl Tallies {
    pub(super) fn new(source: RepositoryName) -> Self {
        Self {
            source,
            targets: BTreeMap::new(),
            pending: BTreeMap::new(),
            damaged: BTreeMap::new(),
            manifests_alone: BTreeSet::new(),
            unlisted: Vec::new(),
        }
    }

    /// Counts for the target from now on. `wanted`: this attempt is to do it.
    pub(super) fn open(&mut self, repository: &RepositoryName, series: &Series, wanted: bool) {
        self.targets.entry(target(repository, series)).or_default().wanted = wanted;
    }

    /// Nothing may be added to the series there, or the run was cancelled before that was known.
    pub(super) fn refused(
        &mut self,
        repository: &RepositoryName,
        series: &Series,
        failure: &Failure,
    ) {
        let tally = self.targets.entry(target(repository, series)).or_default();
        tally.cancelled |= failure.class == Class::Interrupted;
        tally.keep(failure.clone());
    }

    /// What was decided about a backup.
    pub(super) fn decided(
        &mut self,
        repository: &RepositoryName,
        series: &Arc<Series>,
        decided: &Decided,
    ) {
        let name = match decided.decision {
            Decision::Present => "present",
            Decision::NotAmongNewest | Decision::TooOld => "left_out",
            Decision::Removed => "removed",
            Decision::Missing | Decision::Unfinished | Decision::Lost | Decision::Damaged => {
                let pending = self.pending.entry(repository.clone()).or_default();
                pending.ids.insert((decided.id.clone(), Arc::clone(series)));
                return;
            }
        };
        self.targets.entry(target(repository, series)).or_default().count(name, 1);
    }

    /// Of a backup that is to be there only the manifest is.
    pub(super) fn found_damaged(
        &mut self,
        repository: &RepositoryName,
        series: &Arc<Series>,
        Decided { id, rank, .. }: &Decided,
    ) {
        let found = (*rank, repository.clone(), Arc::clone(series), id.clone());
        self.manifests_alone.insert(found);
    }

    /// What became of a backup that was to be brought.
    pub(super) fn take(&mut self, item: &Item, brought: Brought) {
        let Item { target: repository, series, id, rank, .. } = item;
        let brought = match brought {
            Brought::Unlisted(bytes, finding) => {
                self.unlisted.push(*finding);
                Brought::Copied(bytes)
            }
            brought => brought,
        };
        let pending = self.pending.entry(repository.name().clone()).or_default();
        if matches!(brought, Brought::Copied(_) | Brought::Present | Brought::Vanished) {
            pending.ids.remove(&(id.clone(), Arc::clone(series)));
        }
        if matches!(brought, Brought::Copied(_) | Brought::Present) {
            pending.there.push((Arc::clone(series), id.clone()));
        }
        let tally = self.targets.entry(target(repository.name(), series)).or_default();
        match brought {
            Brought::Copied(bytes) | Brought::Unlisted(bytes, _) => {
                pending.copied += 1;
                pending.copied_bytes += bytes;
                tally.count("copied", 1);
                tally.count("stored_bytes", bytes);
                tally.newest_copied = tally.newest_copied.take().max(Some(id.clone()));
                tally.say(format!("{id}: copied, {bytes} bytes"));
            }
            Brought::Present => tally.count("present", 1),
            Brought::Vanished => {
                tally.count("vanished", 1);
                tally.say(format!("{id}: skipped: it was removed from {} meanwhile", self.source));
            }
            Brought::Busy => {
                tally.count("busy", 1);
                tally.say(format!("{id}: skipped: another job is writing it there"));
            }
            Brought::SourceFailed(failure) => {
                tally.fail(id, failure.clone());
                if failure.class == Class::RepositoryDamaged {
                    self.damaged.insert((*rank, Arc::clone(series), id.clone()), failure);
                }
            }
            Brought::TargetFailed(failure) => tally.fail(id, failure),
            Brought::Left(failure) => {
                tally.count("not_tried", 1);
                tally.keep(failure);
            }
            Brought::Cancelled => tally.cancelled = true,
        }
    }

    /// What is in a target now that was not there before.
    pub(super) fn brought(
        &self,
        repository: &RepositoryName,
    ) -> impl Iterator<Item = &(Arc<Series>, BackupId)> {
        self.pending.get(repository).into_iter().flat_map(|pending| &pending.there)
    }

    /// What is measured of a target that could be listed.
    pub(super) fn samples(&self, repository: &RepositoryName) -> Vec<Sample> {
        let none = Pending::default();
        let pending = self.pending.get(repository).unwrap_or(&none);
        let seconds = |at: Timestamp| at.as_duration().as_secs_f64();
        let oldest = pending.ids.first().map_or(0.0, |(id, _)| seconds(id.time()));
        vec![
            OLDEST_PENDING.sample([repository], oldest),
            PENDING.sample([repository], pending.ids.len() as f64),
            COPIED_BACKUPS.sample([repository], pending.copied as f64),
            COPIED_BYTES.sample([repository], pending.copied_bytes as f64),
        ]
    }

    /// Adds the targets that this attempt did, and what was found damaged.
    pub(super) fn into_report(self, report: &mut Report) {
        report.findings.extend(self.damaged_in_source());
        report.findings.extend(self.damaged_in_targets());
        report.findings.extend(self.not_listed());
        let wanted = self.targets.into_iter().filter(|(_, tally)| tally.wanted);
        report.targets.extend(wanted.map(|(target, tally)| tally.into_report(target)));
    }

    /// The newest of each series first.
    fn damaged_in_source(&self) -> Vec<Finding> {
        let check = CheckName("copy-source-damaged");
        let one = |((rank, series, id), failure): (&Damaged, &Failure)| {
            let what = format!(
                "backup {id} of {}/{} in {} is damaged{} and cannot be copied: {}",
                series.server,
                series.subject,
                self.source,
                if *rank == 0 { ", with no newer good one in its series," } else { "" },
                failure.what
            );
            Finding::new(check, severity(*rank), what)
                .hint(format!(
                    "look at it with `pgkeep show {id}`; where another repository has it whole, copy it \
                     from there"
                ))
                .about(backup(&self.source, series, id))
        };
        bounded(self.damaged.iter().map(one), |first, more| {
            let what = format!("{more} more backups in {} are damaged", self.source);
            Finding::new(check, first.severity, what)
                .hint("look at its disk or bucket: this is no accident of one")
                .about(Target::repository(&self.source))
        })
    }

    fn not_listed(&self) -> Vec<Finding> {
        bounded(self.unlisted.iter().cloned(), |first, more| {
            let target = Target { repository: first.target.repository, ..Target::default() };
            Finding { target, what: format!("{more} more backups are not listed"), ..first }
        })
    }

    /// The newest of each series first.
    fn damaged_in_targets(&self) -> Vec<Finding> {
        let check = CheckName("copy-target-damaged");
        let one = |(rank, repository, series, id): &ManifestAlone| {
            let what = format!(
                "backup {id} of {}/{} in {repository} is damaged: nothing but its manifest is there",
                series.server, series.subject
            );
            Finding::new(check, severity(*rank), what)
                .hint(format!(
                    "delete the folder {} there, and the next run copies the backup again; find out who \
                     or what removed its data",
                    layout::folder(series, id)
                ))
                .about(backup(repository, series, id))
        };
        bounded(self.manifests_alone.iter().map(one), |first, more| {
            Finding::new(check, first.severity, format!("{more} more backups are damaged so"))
                .hint("the plan of `--dry-run` counts them")
        })
    }
}

/// The first findings of a check, and one that counts the rest: made of the first of these, and their number.
fn bounded(
    mut found: impl Iterator<Item = Finding>,
    rest: impl FnOnce(Finding, usize) -> Finding,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = found.by_ref().take(DAMAGED_MAX).collect();
    if let Some(first) = found.next() {
        findings.push(rest(first, found.count() + 1));
    }
    findings
}

/// A backup of a repository.
fn backup(repository: &RepositoryName, series: &Series, id: &BackupId) -> Target {
    target(repository, series).with_object(id.to_string())
}

/// How bad it is that one is damaged of which there are so many newer ones.
const fn severity(rank: usize) -> Severity {
    if rank == 0 { Severity::Critical } else { Severity::Warning }
}
