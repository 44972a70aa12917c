//! A store whose listings lie, and what is true below it.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    domain::{
        backup::{BackupId, Series},
        manifest::MANIFEST_NAME,
        suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
    },
    repository::{
        faulty::{Act, Faults, Faulty, When},
        layout::{self, Place},
        lying::{Lies, Lying},
        memory::MemoryStore,
        repo::Repository,
        store::{Limits, ObjectMeta, Store, StoreError, Swept, Upload},
    },
    sys::clock::Clock,
};

/// Share of the listings that lie.
const LIES: f64 = 0.3;
/// More requests than any step makes.
const REQUESTS_MAX: u64 = 20_000;

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Rng(u64, bool);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed, false)
    }

    /// No more kills: every choice is the largest.
    pub(super) fn calm(&mut self) {
        self.1 = true;
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        if self.1 { limit - 1 } else { self.next() % limit }
    }

    pub(super) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % (length as u64).max(1)).unwrap()
    }
}

/// Where a process is killed, once it comes there.
#[derive(Debug, Clone, Default)]
pub(super) struct Trap(Vec<Arc<Faulty>>);

impl Trap {
    /// One of two.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    pub(super) async fn sprung(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let each = self.0.iter().map(|faulty| Box::pin(faulty.hung()));
        futures_util::future::select_all(each).await;
    }
}

/// What is really there, and what is done to it.
#[derive(Debug)]
struct Recorder {
    truth: MemoryStore,
    /// Data that was deleted while its manifest was there.
    wrong: Mutex<Vec<String>>,
    requests: AtomicU64,
}

impl Recorder {
    fn ask(&self) {
        let asked = self.requests.fetch_add(1, Ordering::SeqCst);
        assert!(asked < REQUESTS_MAX, "it asks without end");
    }
}

/// One repository of a story.
#[derive(Debug)]
pub(super) struct Shelf {
    name: &'static str,
    truth: MemoryStore,
    recorder: Arc<Recorder>,
    store: Arc<dyn Store>,
    notes: tempfile::TempDir,
    seed: u64,
    opened: u64,
}

impl Shelf {
    pub(super) fn new(name: &'static str, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let truth = MemoryStore::new(clock);
        let (wrong, requests) = (Mutex::default(), AtomicU64::new(0));
        let recorder = Arc::new(Recorder { truth: truth.clone(), wrong, requests });
        let lies = Lies { seed: seed ^ name.len() as u64, rate: LIES, ..Lies::default() };
        let store = Lying::new(Arc::clone(&recorder) as Arc<dyn Store>, lies);
        let notes = tempfile::tempdir().unwrap();
        Self { name, truth, recorder, store, notes, seed, opened: 0 }
    }

    /// From now on its listings tell the truth.
    pub(super) fn be_honest(&mut self) {
        self.store = Arc::clone(&self.recorder) as Arc<dyn Store>;
    }

    /// Opens it as a new process does, which is killed after so many requests.
    pub(super) async fn open(&mut self, kill: Option<u64>) -> (Option<Arc<Repository>>, Trap) {
        self.recorder.requests.store(0, Ordering::SeqCst);
        self.opened += 1;
        let when = if self.opened.is_multiple_of(2) { When::Before } else { When::After };
        let at = kill.map(|step| (step + 4, when, Act::Hang));
        let faults = Faults { seed: self.seed, at, ..Faults::default() };
        let deadly = Faulty::new(Arc::clone(&self.store), faults);
        let opened = Repository::open(self.name.parse().unwrap(), deadly.clone(), true).await;
        let noting = |it: Repository| Arc::new(it.noting_in(self.notes.path().join("begun")));
        (opened.ok().map(noting), Trap(vec![deadly]))
    }

    /// The repository by what is true.
    pub(super) async fn honest(&self) -> Repository {
        let store = Arc::new(self.truth.clone()) as Arc<dyn Store>;
        Repository::open(self.name.parse().unwrap(), store, true).await.unwrap()
    }

    fn folders(&self) -> Vec<(BackupId, String)> {
        let keys = self.truth.keys().into_iter();
        let places = keys.filter_map(|key| match layout::place(&key) {
            Place::Backup { id, name, .. } => Some((id, name)),
            _ => None,
        });
        places.collect()
    }

    /// Backups that have a manifest.
    pub(super) fn complete(&self) -> BTreeSet<BackupId> {
        let folders = self.folders().into_iter();
        folders.filter(|(_, name)| name == MANIFEST_NAME).map(|(id, _)| id).collect()
    }

    /// Folders without one.
    pub(super) fn halves(&self) -> BTreeSet<BackupId> {
        let folders = self.folders();
        let has =
            |id: &BackupId| folders.iter().any(|(it, name)| it == id && name == MANIFEST_NAME);
        folders.iter().map(|(id, _)| id.clone()).filter(|id| !has(id)).collect()
    }

    pub(super) fn in_doubt(&self, there: &BTreeSet<BackupId>) -> Vec<BackupId> {
        let folders = self.folders();
        let has =
            |id: &BackupId, what: &str| folders.iter().any(|(it, name)| it == id && name == what);
        let doubted = |id: &&BackupId| has(id, MARK_NAME) && !has(id, ACKNOWLEDGED_NAME);
        there.iter().filter(doubted).cloned().collect()
    }

    pub(super) async fn assert_whole(&self, series: &Series, id: &BackupId) {
        let honest = self.honest().await;
        let manifest = honest.manifest(series, id).await.expect("it was said to be stored");
        let listed = honest.look_at(series, id).await.unwrap().expect("it is there");
        assert_eq!(listed.check_sizes(&manifest), [], "{id} in {}", self.name);
    }

    /// Whatever has a manifest is whole, and nothing was deleted beside one.
    pub(super) async fn assert_sound(&self) {
        let wrong = self.recorder.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "deleted while their manifest is there: {wrong:?}");
        for id in self.complete() {
            self.assert_whole(&super::series(), &id).await;
        }
    }
}

#[async_trait]
impl Store for Recorder {
    fn place(&self) -> String {
        self.truth.place()
    }

    fn limits(&self) -> Limits {
        self.truth.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        self.ask();
        self.truth.put_new(key, bytes).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.ask();
        self.truth.begin(key).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.ask();
        self.truth.head(key).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.ask();
        self.truth.get(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        self.ask();
        self.truth.list(prefix)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.ask();
        if let Place::Backup { series, id, name } = layout::place(key)
            && name != MANIFEST_NAME
        {
            let manifest = layout::manifest_key(&series, &id);
            let there = self.truth.head(&manifest).await;
            match there {
                Ok(None) => {}
                _ => self.wrong.lock().unwrap().push(key.to_owned()),
            }
        }
        self.truth.delete(key).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.ask();
        self.truth.sweep(min_age, now).await
    }
}
