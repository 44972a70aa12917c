//! What is true below a store that lies: a recorder that judges each request by what is there.
//!
//! A manifest is put when all that it names is there, and what lies beside one stays. What has none goes
//! by the hand that wrote it, or when it is as old as the process has to wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    codec::hex,
    domain::{
        backup::{BackupId, Series},
        manifest::{MANIFEST_NAME, Manifest},
        retention::{self, Candidate, Policy, Standing},
        suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
    },
    repository::{
        layout::{self, Place},
        memory::MemoryStore,
        store::{Limits, ObjectMeta, Store, StoreError, Swept, Upload},
    },
    sys::clock::Clock,
};

/// More requests than any step makes.
const REQUESTS_MAX: u64 = 2_000;

/// One backup of one series.
pub(super) type Backup = (Series, BackupId);

/// Who asks, and what it may remove beside what it wrote itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Leave {
    /// The host that it runs on.
    pub(super) host: usize,
    /// Data without a manifest, once it is so old.
    pub(super) garbage: Option<Duration>,
    /// Data without a manifest whatever its age: its host has notes of what it left.
    pub(super) noted: bool,
    pub(super) backups: BTreeSet<Backup>,
}

#[derive(Debug, Default)]
struct Deeds {
    leave: Leave,
    process: u64,
    requests: u64,
    /// The process that wrote what is there.
    writers: BTreeMap<String, u64>,
    /// Backups whose manifest this process removed.
    ended: BTreeSet<Backup>,
    wrong: Vec<String>,
    /// The one of which nothing but the manifest is left.
    spoiled: Option<Backup>,
}

/// A store that is as it seems.
#[derive(Debug)]
pub(super) struct Truth {
    store: MemoryStore,
    clock: Arc<dyn Clock>,
    deeds: Mutex<Deeds>,
}

impl Truth {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let store = MemoryStore::new(clock.clone());
        Arc::new(Self { store, clock, deeds: Mutex::default() })
    }

    fn deeds(&self) -> std::sync::MutexGuard<'_, Deeds> {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new process comes.
    pub(super) fn begin(&self, leave: Leave) {
        let mut deeds = self.deeds();
        deeds.leave = leave;
        deeds.process += 1;
        deeds.requests = 0;
        deeds.ended.clear();
    }

    /// The process may remove no backup of that series any more.
    pub(super) fn keep_all(&self, of: &Series) {
        self.deeds().leave.backups.retain(|(series, _)| series != of);
    }

    pub(super) fn assert_right(&self) {
        let deeds = self.deeds();
        assert!(deeds.wrong.is_empty(), "{:#?}", deeds.wrong);
    }

    /// Somebody removes a backup by hand, as people do, or what lies beside its manifest, as a bucket
    /// does by its rules.
    pub(super) fn lose(&self, (series, id): &Backup, also_manifest: bool) {
        let folder = layout::folder(series, id);
        for key in self.store.keys().iter().filter(|key| key.starts_with(&folder)) {
            if also_manifest || !key.ends_with(MANIFEST_NAME) {
                self.store.lose(key);
            }
        }
    }

    /// Of the newest of its series nothing but the manifest is left from now on. Once in a story; says
    /// whether it was.
    pub(super) fn spoil(&self, backup: &Backup) -> bool {
        let newest = self.complete().into_iter().rfind(|(series, _)| *series == backup.0);
        let spoils = self.spoiled().is_none() && newest.as_ref() == Some(backup);
        if spoils {
            self.lose(backup, false);
            self.deeds().spoiled = Some(backup.clone());
        }
        spoils
    }

    pub(super) fn spoiled(&self) -> Option<Backup> {
        self.deeds().spoiled.clone()
    }

    /// Backups of which all is there.
    pub(super) fn whole(&self) -> BTreeSet<Backup> {
        let spoiled = self.spoiled();
        self.complete().into_iter().filter(|backup| Some(backup) != spoiled.as_ref()).collect()
    }

    /// Those in whose folder is something of which the name ends so.
    fn having(&self, end: &str) -> BTreeSet<Backup> {
        let keys = self.store.keys().into_iter().filter(|key| key.ends_with(end));
        let backups = keys.filter_map(|key| match layout::place(&key) {
            Place::Backup { series, id, .. } => Some((series, id)),
            _ => None,
        });
        backups.collect()
    }

    /// Backups that have a manifest.
    pub(super) fn complete(&self) -> BTreeSet<Backup> {
        self.having(MANIFEST_NAME)
    }

    /// Folders without one.
    pub(super) fn halves(&self) -> BTreeSet<Backup> {
        &self.having("") - &self.complete()
    }

    /// Backups that nobody has vouched for.
    pub(super) fn in_doubt(&self) -> BTreeSet<Backup> {
        &(&self.complete() & &self.having(MARK_NAME)) - &self.having(ACKNOWLEDGED_NAME)
    }

    pub(super) fn unfinished(&self) -> usize {
        self.store.unfinished()
    }

    /// The backups that a policy does not keep.
    pub(super) fn unkept(&self, policy: &Policy) -> BTreeSet<Backup> {
        self.unkept_beside(policy, self.spoiled().as_ref())
    }

    /// Those that a plan may remove. A damaged one that is older than the newest whole one may be counted
    /// by its name.
    pub(super) fn may_go(&self, policy: &Policy) -> BTreeSet<Backup> {
        let mut unkept = self.unkept(policy);
        if let Some(spoiled) = self.spoiled()
            && self.whole().range(&spoiled..).next().is_some_and(|(series, _)| *series == spoiled.0)
        {
            unkept.extend(self.unkept_beside(policy, None));
        }
        unkept
    }

    fn unkept_beside(&self, policy: &Policy, damaged: Option<&Backup>) -> BTreeSet<Backup> {
        let doubted = self.in_doubt();
        let mut all: BTreeMap<Series, Vec<Candidate>> = BTreeMap::new();
        for backup in self.complete() {
            let is_damaged = Some(&backup) == damaged;
            let candidate = Candidate {
                standing: if is_damaged { Standing::Damaged } else { Standing::Complete },
                verified: false,
                drilled: false,
                held: false,
                ahead: false,
                suspicious: doubted.contains(&backup),
                id: backup.1,
            };
            all.entry(backup.0).or_default().push(candidate);
        }
        let now = self.clock.now().wall;
        let mut unkept = BTreeSet::new();
        for (series, candidates) in all {
            let reasons = retention::plan(policy, &candidates, now);
            let goes = candidates.iter().zip(reasons).filter(|(_, reasons)| reasons.is_empty());
            unkept.extend(goes.map(|(candidate, _)| (series.clone(), candidate.id.clone())));
        }
        unkept
    }

    /// What is wrong with a backup that has this manifest.
    async fn amiss(&self, (series, id): &Backup, manifest: &[u8]) -> Option<String> {
        let manifest = match Manifest::from_bytes(manifest, series, id) {
            Ok(manifest) => manifest,
            Err(error) => return Some(error.to_string()),
        };
        for object in manifest.stored() {
            let bytes = self.bytes(&layout::object_key(series, id, &object.name)).await;
            let is_it = |it: &Bytes| {
                it.len() as u64 == object.bytes && hex(&Sha256::digest(it)) == object.sha256
            };
            if !bytes.as_ref().is_some_and(is_it) {
                return Some(format!("{} is not as it says", object.name));
            }
        }
        let marked = self.bytes(&layout::object_key(series, id, MARK_NAME)).await.is_some();
        (marked == manifest.suspicions.is_empty()).then(|| "its mark".to_owned())
    }

    async fn bytes(&self, key: &str) -> Option<Bytes> {
        let pieces = self.store.get(key, None).await.ok()?;
        let pieces: Vec<Bytes> = pieces.map(Result::unwrap).collect().await;
        Some(pieces.concat().into())
    }

    /// What is wrong with a backup that was said to be there.
    pub(super) async fn amiss_of(&self, backup: &Backup) -> Option<String> {
        match self.bytes(&layout::manifest_key(&backup.0, &backup.1)).await {
            Some(manifest) => self.amiss(backup, &manifest).await,
            None => Some("it has no manifest".to_owned()),
        }
    }

    async fn there(&self, key: &str) -> Option<ObjectMeta> {
        self.store.head(key).await.unwrap()
    }

    /// Why an object must not go.
    async fn objection(&self, key: &str) -> Option<&'static str> {
        let Place::Backup { series, id, name } = layout::place(key) else {
            return Some("it is none of ours");
        };
        if name == MANIFEST_NAME {
            self.deeds().ended.insert((series.clone(), id.clone()));
        }
        let there = self.there(key).await?;
        let has_manifest = self.there(&layout::manifest_key(&series, &id)).await.is_some();
        let now = self.clock.now().wall;
        let (deeds, backup) = (self.deeds(), (series, id));
        let is_own = deeds.writers.get(key) == Some(&deeds.process);
        if name == MANIFEST_NAME {
            let may = is_own || deeds.leave.backups.contains(&backup);
            return (!may).then_some("it is a backup that stays");
        }
        if has_manifest {
            return Some("its manifest is there");
        }
        let age = |at: Timestamp| now.duration_since(at).unsigned_abs();
        let age = there.modified.map_or(Duration::ZERO, age).min(age(backup.1.time()));
        let leave = &deeds.leave;
        let is_garbage = leave.garbage.is_some_and(|least| age >= least);
        let may = is_own || is_garbage || leave.noted || deeds.ended.contains(&backup);
        (!may).then_some("somebody may be writing it")
    }

    /// One more request. One too many gets no answer.
    fn asks_without_end(&self) -> bool {
        let mut deeds = self.deeds();
        deeds.requests += 1;
        deeds.requests > REQUESTS_MAX
    }

    async fn ask(&self) {
        if self.asks_without_end() {
            std::future::pending::<()>().await;
        }
    }

    /// Who writes it, unless it is there.
    async fn wrote(&self, key: &str) {
        if self.there(key).await.is_none() {
            let mut deeds = self.deeds();
            let process = deeds.process;
            deeds.writers.insert(key.to_owned(), process);
        }
    }

    fn wrong(&self, what: String) {
        self.deeds().wrong.push(what);
    }
}

#[async_trait]
impl Store for Truth {
    fn place(&self) -> String {
        self.store.place()
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        self.ask().await;
        if let Place::Backup { series, id, name } = layout::place(key)
            && name == MANIFEST_NAME
            && let Some(amiss) = self.amiss(&(series, id), &bytes).await
        {
            self.wrong(format!("{key} was put: {amiss}"));
        }
        self.wrote(key).await;
        self.store.put_new(key, bytes).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.ask().await;
        self.wrote(key).await;
        self.store.begin(key).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.ask().await;
        self.store.head(key).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.ask().await;
        self.store.get(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        if self.asks_without_end() { stream::pending().boxed() } else { self.store.list(prefix) }
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.ask().await;
        if let Some(objection) = self.objection(key).await {
            self.wrong(format!("{key} was deleted: {objection}"));
        }
        self.store.delete(key).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.ask().await;
        self.store.sweep(min_age, now).await
    }
}
