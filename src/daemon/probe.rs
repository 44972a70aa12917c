//! Looks at the repositories from time to time, so that what is scraped was measured: what each
//! holds, when its newest backup is of, and what lies there without a manifest.
//!
//! Freshness is read from the repositories, not remembered: it is right after a restart, and when
//! somebody else deleted something. Of each series the manifest of the newest backup is read and held
//! against the listing: one that is damaged, or names what is not there, does not count, and the
//! next older one is looked at. Older ones are counted by their names.

mod told;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use crate::{
    domain::{backup::Series, failure::chain, name::RepositoryName, suspicion::MARK_NAME},
    repository::{
        handle::Handle,
        listing::{Entry, Listed, Within},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
    sys::clock::Clock,
    telemetry::metrics::{Metrics, RepositoryFacts, StoredBackups},
};

/// How often a repository is listed, beside after each run that may have changed it. A listing
/// costs one request per thousand objects.
pub const INTERVAL: Duration = Duration::from_mins(15);
/// How often leftovers are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_hours(24);
/// Data without a manifest may belong to a run of another host: it is garbage only when it is
/// older than any run takes.
const GARBAGE_MIN_AGE: Duration = Duration::from_hours(24);
/// Longest time for one repository: a probe that hangs must not stop the probes.
const PROBE_LIMIT: Duration = Duration::from_mins(10);
/// Clocks of hosts may differ by so much. A backup further in the future was made by a clock that
/// was wrong: it says nothing about freshness, for as long as it would seem to.
const CLOCK_SKEW: Duration = Duration::from_mins(10);
/// Damaged backups of one series that are passed over in search of a whole one. Behind so many
/// there is no freshness to speak of.
const DAMAGED_MAX: usize = 16;

/// What is in doubt in each repository, as last seen: `main/app`.
#[derive(Debug, Clone, Default)]
pub struct Suspicious(Arc<Mutex<BTreeMap<RepositoryName, Vec<String>>>>);

impl Suspicious {
    /// What was seen last.
    pub fn seen(&self) -> BTreeMap<RepositoryName, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, repository: &RepositoryName, facts: &RepositoryFacts) {
        let doubted = facts.backups.iter().filter(|backups| backups.suspicious > 0);
        let names: Vec<String> =
            doubted.map(|backups| format!("{}/{}", backups.server, backups.subject)).collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() {
            known.remove(repository);
        } else {
            known.insert(repository.clone(), names);
        }
    }
}

/// Probes a repository.
pub async fn probe(handle: &Handle, metrics: &Metrics, suspicious: &Suspicious, clock: &dyn Clock) {
    let name = handle.name();
    let looked = tokio::time::timeout(PROBE_LIMIT, look(handle, clock)).await;
    let now = clock.now().wall;
    match looked {
        Ok(Ok(facts)) => {
            metrics.repository_probed(name, now, Some(&facts));
            suspicious.put(name, &facts);
        }
        Ok(Err(error)) => {
            metrics.repository_probed(name, now, None);
            let hint = error.hint.as_deref();
            tracing::warn!(repository = %name, hint, "cannot list the repository: {error}");
        }
        Err(_) => {
            metrics.repository_probed(name, now, None);
            tracing::warn!(repository = %name, "listing the repository took too long");
        }
    }
}

async fn look(handle: &Handle, clock: &dyn Clock) -> Result<RepositoryFacts, StoreError> {
    let Some(repository) = handle.open_existing().await? else {
        return Ok(RepositoryFacts::default());
    };
    facts(&repository, clock.now().wall).await
}

/// Counts what lies there, series by series: memory does not grow with the number of backups.
async fn facts(repository: &Repository, now: Timestamp) -> Result<RepositoryFacts, StoreError> {
    let latest = now.saturating_add(CLOCK_SKEW).unwrap_or(Timestamp::MAX);
    let mut facts = RepositoryFacts::default();
    let mut open: Option<Open> = None;
    let mut entries = repository.list(&Within::All);
    while let Some(entry) = entries.try_next().await? {
        let Entry::Backup(listed) = entry else { continue };
        if !listed.complete {
            facts.incomplete += 1;
            continue;
        }
        if listed.id.time() > latest {
            let (name, path, id) = (repository.name(), listed.series.path(), &listed.id);
            tracing::warn!(
                repository = %name, series = path, %id, hint = "was the clock wrong when it was made?",
                "a backup is from the future and does not count"
            );
            continue;
        }
        // A listing comes in order: one series after the other.
        match &mut open {
            Some(open) if open.series == listed.series => open.take(listed),
            _ => {
                if let Some(whole) = open.replace(Open::new(listed)) {
                    facts.backups.extend(whole.close(repository).await?);
                }
            }
        }
    }
    if let Some(whole) = open {
        facts.backups.extend(whole.close(repository).await?);
    }
    Ok(facts)
}

/// The series that is being listed.
struct Open {
    series: Series,
    stored: u64,
    bytes: u64,
    /// Its newest backups, the newest last.
    newest: VecDeque<Listed>,
    /// Suspicious ones in a row, up to the one before those.
    row_before: u64,
}

impl Open {
    fn new(first: Listed) -> Self {
        let series = first.series.clone();
        let (stored, bytes, row_before) = (0, 0, 0);
        let mut open = Self { series, stored, bytes, newest: VecDeque::new(), row_before };
        open.take(first);
        open
    }

    fn take(&mut self, listed: Listed) {
        self.stored += 1;
        self.bytes += listed.bytes();
        self.newest.push_back(listed);
        if self.newest.len() > DAMAGED_MAX
            && let Some(oldest) = self.newest.pop_front()
        {
            self.row_before = if oldest.is_suspicious() { self.row_before + 1 } else { 0 };
        }
    }

    /// How many up to `newest` and with it are suspicious, one after the other.
    fn row(&self, newest: &Listed) -> u64 {
        let mut backwards = std::iter::once(newest).chain(self.newest.iter().rev());
        match backwards.position(|listed| !listed.is_suspicious()) {
            Some(row) => row as u64,
            None => self.newest.len() as u64 + 1 + self.row_before,
        }
    }

    /// None for a selection: it is looked at, so that damage is told, and never counts as the backup of its
    /// database.
    ///
    /// Leaves out backups that cannot be counted on, from the newest on to one that can; none where
    /// there is none.
    async fn close(mut self, repository: &Repository) -> Result<Option<StoredBackups>, StoreError> {
        while let Some(newest) = self.newest.pop_back() {
            let Some(problem) = problem(repository, &newest).await? else {
                if !self.series.is_whole() {
                    return Ok(None);
                }
                let suspicious = self.row(&newest);
                return Ok(Some(StoredBackups {
                    server: self.series.server,
                    subject: self.series.subject,
                    newest: newest.id.time(),
                    stored: self.stored,
                    bytes: self.bytes,
                    suspicious,
                }));
            };
            let (name, series, id) = (repository.name(), newest.series.path(), &newest.id);
            tracing::warn!(
                repository = %name, series, %id, hint = "look at it with `pgkeep show`",
                "a backup cannot be counted on: {problem}"
            );
            self.stored -= 1;
            self.bytes -= newest.bytes();
        }
        Ok(None)
    }
}

/// What is wrong with a backup as far as manifest and sizes tell.
async fn problem(repository: &Repository, listed: &Listed) -> Result<Option<String>, StoreError> {
    match repository.manifest(&listed.series, &listed.id).await {
        Ok(manifest) => {
            if listed.has_lost_its_mark(&manifest) {
                // Whether it is in doubt is counted by listings: it would be taken for a good one.
                return Ok(Some(format!("{MARK_NAME} is not listed")));
            }
            match repository.problems(listed, &manifest, 1).await {
                Ok(problems) => Ok(problems.first().map(ToString::to_string)),
                Err(error) if error.kind.is_worth_a_retry() => Err(error),
                Err(error) => Ok(Some(chain(&error))),
            }
        }
        Err(ManifestProblem::Store(error)) if error.kind.is_worth_a_retry() => Err(error),
        Err(problem) => Ok(Some(chain(&problem))),
    }
}

/// Removes what runs that died have left behind.
pub async fn sweep(handle: &Handle, clock: &dyn Clock) {
    let name = handle.name();
    match tokio::time::timeout(PROBE_LIMIT, sweep_one(handle, clock.now().wall)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(repository = %name, "cannot sweep the repository: {error}");
        }
        Err(_) => tracing::warn!(repository = %name, "sweeping the repository took too long"),
    }
}

async fn sweep_one(handle: &Handle, now: Timestamp) -> Result<(), StoreError> {
    let Some(repository) = handle.open_existing().await? else { return Ok(()) };
    let name = repository.name();
    // An unfinished upload whose lock is free belongs to a process that has ended.
    let uploads = repository.sweep_uploads(Duration::ZERO, now).await?;
    if uploads.uploads > 0 {
        tracing::info!(repository = %name, uploads = uploads.uploads, "removed unfinished uploads");
    }
    let plan = repository.garbage(GARBAGE_MIN_AGE, now).await?;
    told::swept(name, &repository.sweep(plan).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backup::copy::tests::{backup, repository, series, try_backup},
        domain::{
            backup::BackupId,
            manifest::MANIFEST_NAME,
            suspicion::{Kind, Suspicion},
        },
        repository::{
            layout::object_key,
            lying::{Lies, Lying},
            store::Store,
        },
        sys::clock::SystemClock,
    };

    #[tokio::test]
    async fn a_backup_from_the_future_reassures_nobody() {
        let now = SystemClock::new().now().wall;
        let (repository, _) = repository().await;
        let day = Duration::from_hours(24);
        for at in [now.saturating_sub(day).unwrap(), now.saturating_add(day).unwrap()] {
            backup(&repository, &BackupId::new(at, 1)).await;
        }
        let facts = facts(&repository, now).await.unwrap();
        let [counted] = &facts.backups[..] else { panic!("{facts:?}") };
        assert_eq!(counted.stored, 1);
        assert!(counted.newest < now, "{}", counted.newest);
    }

    /// What a listing leaves out is asked for; but doubt is counted by listings alone.
    #[tokio::test]
    async fn a_backup_whose_data_is_not_listed_counts_and_one_without_its_mark_does_not() {
        let now = SystemClock::new().now().wall;
        let (repository, store) = repository().await;
        let id = BackupId::new(now.saturating_sub(Duration::from_hours(1)).unwrap(), 1);
        let doubt = [Suspicion::new(Kind::NoRows, "0 rows, before 5000")];
        let nothing = std::future::ready(());
        try_backup(&repository, &series(), &id, &doubt, nothing).await.unwrap();
        for (hidden, counted) in [(".zst", 1), (MARK_NAME, 0)] {
            let lies = Lies { hidden: vec![hidden.to_owned()], ..Lies::default() };
            let lying = Lying::new(Arc::clone(&store) as Arc<dyn Store>, lies);
            let lying = Repository::open("local".parse().unwrap(), lying, false).await.unwrap();
            assert_eq!(facts(&lying, now).await.unwrap().backups.len(), counted, "{hidden}");
        }
    }

    /// A backup that is damaged takes no doubt away from the one before it.
    #[tokio::test]
    async fn suspicious_ones_count_up_to_the_newest_that_is_whole() {
        let now = SystemClock::new().now().wall;
        let (repository, store) = repository().await;
        let ago = |hours| now.saturating_sub(Duration::from_hours(hours)).unwrap();
        backup(&repository, &BackupId::new(ago(99), 1)).await;
        let key = |listed: &BackupId, name| object_key(&series(), listed, name);
        let doubted = DAMAGED_MAX as u64 + 3;
        for hours in 1..=doubted {
            let id = BackupId::new(ago(hours), 1);
            backup(&repository, &id).await;
            store.plant(&key(&id, MARK_NAME), "[]", Timestamp::UNIX_EPOCH);
        }
        let damaged = BackupId::new(ago(0), 1);
        backup(&repository, &damaged).await;
        let data = repository.look_at(&series(), &damaged).await.unwrap().unwrap();
        for object in data.objects.iter().filter(|object| object.name != MANIFEST_NAME) {
            store.lose(&key(&damaged, &object.name)).unwrap();
        }
        let facts = facts(&repository, now).await.unwrap();
        let [counted] = &facts.backups[..] else { panic!("{facts:?}") };
        assert_eq!((counted.stored, counted.suspicious), (doubted + 1, doubted));
    }
}
