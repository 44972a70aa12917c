//! Looks at the repositories from time to time, so that what is scraped was measured: what each
//! holds, when its newest backup is of, and what lies there without a manifest.
//!
//! Freshness is read from the repositories, not remembered: it is right after a restart, and when
//! somebody else deleted something. Of each series the manifest of the newest backup is read and held
//! against the listing: one that is damaged, or names what is not there, does not count, and the
//! next older one is looked at. Older ones are counted by their names.

mod told;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use crate::{
    domain::{backup::Series, failure::chain, name::RepositoryName},
    repository::{
        handle::Handle,
        listing::{Entry, Listed, Within},
        newest::{Criteria, Newest, Verdict},
        repo::Repository,
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
    let mut facts = RepositoryFacts::default();
    let mut open: Option<Open> = None;
    let mut entries = repository.list(&Within::All);
    while let Some(entry) = entries.try_next().await? {
        let Entry::Backup(listed) = entry else { continue };
        if !listed.complete {
            facts.incomplete += 1;
            continue;
        }
        if listed.is_from_the_future(now) {
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
                if let Some(whole) = open.replace(Open::new(listed, now)) {
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
    newest: Newest,
    /// Suspicious ones in a row, up to the one before those that may be the newest.
    row_before: u64,
}

impl Open {
    fn new(first: Listed, now: Timestamp) -> Self {
        let (series, newest) = (first.series.clone(), Newest::new(Criteria::default(), now));
        let mut open = Self { series, stored: 0, bytes: 0, newest, row_before: 0 };
        open.take(first);
        open
    }

    fn take(&mut self, listed: Listed) {
        self.stored += 1;
        self.bytes += listed.bytes();
        if let Some(oldest) = self.newest.take(listed) {
            self.row_before = if oldest.is_suspicious() { self.row_before + 1 } else { 0 };
        }
    }

    /// How many are suspicious in a row, up to the newest, which is.
    fn row(&self) -> u64 {
        let mut older = self.newest.rest();
        match older.position(|listed| !listed.is_suspicious()) {
            Some(row) => row as u64 + 1,
            None => self.newest.rest().count() as u64 + 1 + self.row_before,
        }
    }

    /// Leaves out damaged backups that are newer than the newest whole one; none where there is none.
    /// None for a selection, too: it is looked at, so that damage is told, and never counts as the backup of
    /// its database.
    async fn close(mut self, repository: &Repository) -> Result<Option<StoredBackups>, StoreError> {
        while let Some((listed, examined)) = self.newest.next(repository).await? {
            let (name, series, id) = (repository.name(), listed.series.path(), &listed.id);
            match examined.verdict {
                Verdict::Whole { .. } if !self.series.is_whole() => return Ok(None),
                Verdict::Whole { in_doubt } => {
                    let suspicious = if in_doubt { self.row() } else { 0 };
                    return Ok(Some(StoredBackups {
                        server: self.series.server,
                        subject: self.series.subject,
                        newest: id.time(),
                        stored: self.stored,
                        bytes: self.bytes,
                        suspicious,
                    }));
                }
                Verdict::Refused(error) => {
                    let hint = error.hint.as_deref();
                    tracing::warn!(
                        repository = %name, series, %id, hint,
                        "a backup does not count, since it cannot be read: {}", chain(&error)
                    );
                }
                Verdict::Damaged(problem) => {
                    tracing::warn!(
                        repository = %name, series, %id, hint = "look at it with `pgkeep show`",
                        "a backup does not count: it {problem}"
                    );
                    self.stored -= 1;
                    self.bytes -= listed.bytes();
                }
            }
        }
        Ok(None)
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

    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        backup::{
            copy::tests::{backup, repository, series, try_backup},
            owner::tests::{OTHER, owners},
            prune::{Order, Steps, survey},
        },
        daemon::doctor,
        domain::{
            backup::BackupId,
            manifest::MANIFEST_NAME,
            retention::{Limit, Period, Policy, Rule},
            suspicion::{Kind, MARK_NAME, Suspicion},
        },
        repository::{
            layout::object_key,
            lying::{Lies, Lying},
            newest::{ASKED_MAX, tests as bucket},
            store::Store,
        },
        sys::{clock::SystemClock, task::Task},
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

    /// What a listing leaves out is asked for.
    #[tokio::test]
    async fn a_backup_whose_data_or_mark_is_not_listed_counts_and_is_in_doubt() {
        let now = SystemClock::new().now().wall;
        let (repository, store) = repository().await;
        let id = BackupId::new(now.saturating_sub(Duration::from_hours(1)).unwrap(), 1);
        let doubt = [Suspicion::new(Kind::NoRows, "0 rows, before 5000")];
        let nothing = std::future::ready(());
        try_backup(&repository, &series(), &id, &doubt, nothing).await.unwrap();
        for hidden in [".zst", MARK_NAME] {
            let lies = Lies { hidden: vec![hidden.to_owned()], ..Lies::default() };
            let lying = Lying::new(Arc::clone(&store) as Arc<dyn Store>, lies);
            let lying = Repository::open("local".parse().unwrap(), lying, false).await.unwrap();
            let facts = facts(&lying, now).await.unwrap();
            let [counted] = &facts.backups[..] else { panic!("{hidden}: {facts:?}") };
            assert_eq!(counted.suspicious, 1, "{hidden}");
        }
        store.lose(&object_key(&series(), &id, MARK_NAME)).unwrap();
        assert!(facts(&repository, now).await.unwrap().backups.is_empty(), "the mark is gone");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn prune_and_doctor_agree_on_the_newest(drawn in bucket::drawn()) {
            bucket::block_on(async {
                let now = bucket::now();
                let repository = bucket::bucket(&drawn, now).await;
                let newest = bucket::newest_whole(&drawn, now);
                let facts = facts(&repository, now).await.unwrap();
                let probed = facts.backups.first().map(|backups| backups.newest);
                assert_eq!(probed, newest.as_ref().map(BackupId::time));
                let rule = Rule { period: Period::Each, limit: Limit::Count(2) };
                let order = Order {
                    policy: &Policy::new([rule], TimeZone::UTC).unwrap(),
                    servers: &["main".parse().unwrap()].into(),
                    owners: &owners(&[OTHER]),
                    max_remove: None,
                    now,
                };
                let (steps, task) = (Steps::new("local".parse().unwrap(), 9), SystemClock::new());
                let survey = survey(&repository, &order, steps, &Task::new(task)).await.unwrap();
                let planned = survey.series.first();
                assert_eq!(planned.and_then(|plan| plan.floor.clone()), newest);
                if let Some(plan) = planned {
                    assert!(newest.is_some() || plan.remove.is_empty(), "{plan:?}");
                    assert!(plan.remove.iter().all(|id| Some(id) != newest.as_ref()), "{plan:?}");
                }
                let opened = doctor::repository::newest(&repository, now).await;
                let opened = opened.ok().flatten().map(|(listed, _)| listed.id);
                // Doctor asks for none that has nothing encrypted, so it may come to older ones.
                assert!(opened == newest || newest.is_none() && drawn.len() > ASKED_MAX);
            });
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
        let doubted = ASKED_MAX as u64 + 3;
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
