//! A store in memory, for tests: with S3's manners. A dropped upload leaves its parts behind until
//! a sweep.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};

use super::{
    key,
    store::{Doing as _, Limits, ObjectMeta, Store, StoreError, StoreErrorKind, Swept, Upload},
};
use crate::sys::clock::Clock;

/// Length of the pieces in which an object is read.
const CHUNK_BYTES: usize = 64 << 10;
/// Objects of one page of a listing.
const PAGE_OBJECTS: usize = 500;

/// A store in memory. Clones are the same store.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    limits: Limits,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<u64, Unfinished>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
}

impl Object {
    fn meta(&self, key: &str) -> ObjectMeta {
        let bytes = self.bytes.len() as u64;
        ObjectMeta { key: key.to_owned(), bytes, modified: Some(self.modified) }
    }
}

#[derive(Debug)]
struct Unfinished {
    parts: BTreeMap<u32, Bytes>,
    started: Timestamp,
    is_live: bool,
}

impl MemoryStore {
    /// An empty store: parts of 64 KiB, four at once.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared { clock, state: Mutex::default() });
        let limits = Limits { part_bytes: 64 << 10, max_parts: 10_000, parallel_parts: 4 };
        Self { shared, limits }
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Puts an object there by hand, replacing what is there.
    pub fn plant(&self, key: &str, bytes: impl Into<Bytes>, modified: Timestamp) {
        let object = Object { bytes: bytes.into(), modified };
        self.shared.state().objects.insert(key.to_owned(), object);
    }

    /// Takes an object away by hand.
    pub fn lose(&self, key: &str) -> Option<Bytes> {
        self.shared.state().objects.remove(key).map(|object| object.bytes)
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.shared.state().objects.keys().cloned().collect()
    }

    /// Uploads that were neither committed nor aborted nor swept.
    pub fn unfinished(&self) -> usize {
        self.shared.state().uploads.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert_new(&self, key: &str, bytes: &Bytes) -> Result<ObjectMeta, StoreError> {
        let modified = self.clock.now().wall;
        let mut state = self.state();
        let object = state
            .objects
            .entry(key.to_owned())
            .or_insert_with(|| Object { bytes: bytes.clone(), modified });
        if object.bytes == *bytes {
            return Ok(object.meta(key));
        }
        let what = "there is already an object of that name";
        Err(StoreError::new(StoreErrorKind::Exists, format!("write {key}"), what))
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        key::check(key).doing(&format!("write {key}"))?;
        self.shared.insert_new(key, &bytes)
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        key::check(key).doing(&format!("write {key}"))?;
        let started = self.shared.clock.now().wall;
        let unfinished = Unfinished { parts: BTreeMap::new(), started, is_live: true };
        let mut state = self.shared.state();
        let id = state.next;
        state.next += 1;
        state.uploads.insert(id, unfinished);
        Ok(Box::new(MemoryUpload {
            shared: Arc::clone(&self.shared),
            limits: self.limits,
            id,
            key: key.to_owned(),
            committed: Mutex::default(),
        }))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        key::check(key).doing(&format!("look up {key}"))?;
        Ok(self.shared.state().objects.get(key).map(|object| object.meta(key)))
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let doing = format!("read {key}");
        key::check(key).doing(&doing)?;
        let bytes = self.shared.state().objects.get(key).map(|object| object.bytes.clone());
        let Some(bytes) = bytes else {
            let what = "there is no object of that name";
            return Err(StoreError::new(StoreErrorKind::NotFound, doing, what));
        };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let wanted = match range {
            Some(range) if range.start >= bytes.len() as u64 && range.start < range.end => {
                let what = format!("it has {} bytes; asked for {range:?}", bytes.len());
                return Err(StoreError::new(StoreErrorKind::Damaged, doing, what));
            }
            Some(range) => bytes.slice(place(range.start)..place(range.end.max(range.start))),
            None => bytes,
        };
        let pieces = wanted.chunks(CHUNK_BYTES).map(|piece| Ok(wanted.slice_ref(piece)));
        Ok(stream::iter(pieces.collect::<Vec<_>>()).boxed())
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        let prefix = prefix.to_owned();
        let pages = stream::unfold(Bound::Unbounded, move |after: Bound<String>| {
            let state = self.shared.state();
            let mut page = Vec::new();
            let range = state.objects.range((after, Bound::Unbounded));
            for (key, object) in range.filter(|(key, _)| key::is_under(key, &prefix)) {
                page.push(object.meta(key));
                if page.len() == PAGE_OBJECTS {
                    break;
                }
            }
            let last = page.last().map(|meta: &ObjectMeta| Bound::Excluded(meta.key.clone()));
            std::future::ready(last.map(|last| (page, last)))
        });
        pages.flat_map(|page| stream::iter(page.into_iter().map(Ok))).boxed()
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        key::check(key).doing(&format!("delete {key}"))?;
        self.shared.state().objects.remove(key);
        Ok(())
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        let min_age = SignedDuration::try_from(min_age).unwrap_or(SignedDuration::MAX);
        let mut swept = Swept::default();
        self.shared.state().uploads.retain(|_, upload| {
            let goes = !upload.is_live && now.duration_since(upload.started) >= min_age;
            if goes {
                swept.uploads += 1;
                swept.bytes += upload.parts.values().map(|part| part.len() as u64).sum::<u64>();
            }
            !goes
        });
        Ok(swept)
    }
}

#[derive(Debug)]
struct MemoryUpload {
    shared: Arc<Shared>,
    limits: Limits,
    id: u64,
    key: String,
    committed: Mutex<Option<ObjectMeta>>,
}

impl MemoryUpload {
    fn refuse(&self, what: impl Into<String>) -> StoreError {
        StoreError::new(StoreErrorKind::Refused, format!("write {}", self.key), what)
    }

    fn join(&self, parts: &BTreeMap<u32, Bytes>) -> Result<Bytes, StoreError> {
        let mut whole = Vec::new();
        let full = parts.first_key_value().map_or(0, |(_, first)| first.len());
        for (expected, (number, bytes)) in (1..).zip(parts) {
            let is_last = parts.len() == usize::try_from(expected).unwrap_or(0);
            if *number != expected || bytes.len() > full || (!is_last && bytes.len() != full) {
                return Err(self.refuse(format!("part {expected} is missing or too short")));
            }
            whole.extend_from_slice(bytes);
        }
        Ok(whole.into())
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        if number == 0 || number > self.limits.max_parts || bytes.len() > self.limits.part_bytes {
            return Err(self.refuse(format!("part {number} is not within the limits")));
        }
        match self.shared.state().uploads.get_mut(&self.id) {
            Some(upload) => drop(upload.parts.insert(number, bytes)),
            None => return Err(self.refuse("the upload was given up")),
        }
        Ok(())
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meta) = &*committed {
            return Ok(meta.clone());
        }
        let parts = self.shared.state().uploads.get(&self.id).map(|upload| upload.parts.clone());
        let parts = parts.ok_or_else(|| self.refuse("the upload was given up"))?;
        let whole = self.join(&parts)?;
        if self.shared.state().objects.contains_key(&self.key) {
            // Another's, whatever is in it: as in the stores that are real.
            let doing = format!("write {}", self.key);
            return Err(StoreError::new(StoreErrorKind::Exists, doing, "the key is taken"));
        }
        let meta = self.shared.insert_new(&self.key, &whole)?;
        self.shared.state().uploads.remove(&self.id);
        Ok(committed.insert(meta).clone())
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.shared.state().uploads.remove(&self.id);
        Ok(())
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        if let Some(upload) = self.shared.state().uploads.get_mut(&self.id) {
            upload.is_live = false;
        }
    }
}
