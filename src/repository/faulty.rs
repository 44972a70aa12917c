//! A store that fails as a seed says, round a store that does not. For tests.
//!
//! Beside faults at random there is one fault at an exact step: every request of the store and of
//! its uploads counts as a step, so that a test can stop a story at each of them in turn.

use std::{
    future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    dice::Dice,
    store::{Limits, ObjectMeta, Store, StoreError, StoreErrorKind, Swept, Upload},
};

/// Most bytes that a stream gives before it is cut.
const CUT_WITHIN_BYTES: u64 = 1 << 20;
/// Most objects that a listing gives before it is cut.
const CUT_WITHIN_OBJECTS: u64 = 300;

/// On which side of the request's effect a fault lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing was done.
    Before,
    /// All was done; only the answer is missing.
    After,
}

/// What happens at the exact step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Fail(StoreErrorKind),
    /// No answer ever; [`Faulty::hung`] tells.
    Hang,
    /// An error of that kind, at this step and all later ones.
    Die(StoreErrorKind),
}

/// What goes wrong how often. Rates are shares of the requests, 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The same seed gives the same faults, as far as requests come in the same order.
    pub seed: u64,
    /// Requests that fail without an effect.
    pub before: f64,
    /// Requests that fail although they had their effect.
    pub after: f64,
    /// Streams and listings that break off.
    pub cut: f64,
    /// Each request takes up to so long.
    pub delay: Duration,
    /// Objects whose key ends so are lost right after the store said that it has them.
    pub lose: Option<String>,
    /// Objects whose key ends so can be put, but no request about them ever gets an answer.
    pub dark: Option<String>,
    /// A fault at one step, counted from 0.
    pub at: Option<(u64, When, Act)>,
}

impl Faults {
    /// A bad day: one request of ten fails without, one of ten with its effect, a third of the
    /// streams break off.
    pub fn bad_day(seed: u64) -> Self {
        let delay = Duration::from_micros(300);
        Self { seed, before: 0.1, after: 0.1, cut: 0.3, delay, ..Self::default() }
    }
}

/// A store with faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    faults: Faults,
    dice: Dice,
    steps: AtomicU64,
    under_way: AtomicU64,
    most_at_once: AtomicU64,
    hung: Notify,
}

impl Faulty {
    /// `inner` with faults.
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> Arc<Self> {
        let dice = Dice::new(faults.seed);
        let shared = Shared {
            faults,
            dice,
            steps: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
            hung: Notify::new(),
        };
        Arc::new(Self { inner, shared: Arc::new(shared) })
    }

    /// Requests so far.
    pub fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::SeqCst)
    }

    /// Most requests that were under way at once.
    pub fn most_at_once(&self) -> u64 {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }

    /// Ends when a request hangs.
    pub async fn hung(&self) {
        self.shared.hung.notified().await;
    }
}

impl Shared {
    /// Does `request`, or not.
    async fn through<T>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(under_way, Ordering::SeqCst);
        let answer = self.at_step(step, doing, request).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    async fn at_step<T>(
        &self,
        step: u64,
        doing: &str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let planned = |when| match self.faults.at {
            Some((at, on, act)) if at == step && on == when => Some(act),
            Some((at, _, act @ Act::Die(_))) if at < step => Some(act),
            _ => None,
        };
        let delay = self.dice.below(u64::try_from(self.faults.delay.as_micros()).unwrap_or(0));
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        self.act(doing, planned(When::Before), self.faults.before).await?;
        let answer = request.await?;
        self.act(doing, planned(When::After), self.faults.after).await?;
        Ok(answer)
    }

    async fn act(&self, doing: &str, planned: Option<Act>, rate: f64) -> Result<(), StoreError> {
        match planned {
            Some(Act::Fail(kind) | Act::Die(kind)) => {
                Err(StoreError::new(kind, doing, "a planned fault"))
            }
            Some(Act::Hang) => {
                self.hung.notify_one();
                future::pending().await
            }
            None if self.dice.chance(rate) => {
                Err(StoreError::new(StoreErrorKind::Unavailable, doing, "a fault by chance"))
            }
            None => Ok(()),
        }
    }

    /// Fails where the store gives no answer about `key`.
    fn see(&self, key: &str) -> Result<(), StoreError> {
        if self.faults.dark.as_ref().is_some_and(|end| key.ends_with(end)) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, key, "no answer"));
        }
        Ok(())
    }

    fn loses(&self, key: &str) -> bool {
        self.faults.lose.as_ref().is_some_and(|end| key.ends_with(end))
    }

    /// After how much a stream breaks off, if it does.
    fn cut(&self, within: u64) -> Option<u64> {
        self.dice.chance(self.faults.cut).then(|| self.dice.below(within))
    }
}

fn cut_error(doing: String) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, doing, "the stream was cut")
}

#[async_trait]
impl Store for Faulty {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        let put = async {
            let meta = self.inner.put_new(key, bytes).await?;
            if self.shared.loses(key) {
                self.inner.delete(key).await?;
            }
            self.shared.see(key)?;
            Ok(meta)
        };
        self.shared.through(&format!("write {key}"), put).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.shared.through(&format!("begin {key}"), self.inner.begin(key)).await?;
        let store = Arc::clone(&self.inner);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(FaultyUpload { store, shared, key: key.to_owned(), inner }))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.shared.see(key)?;
        self.shared.through(&format!("look up {key}"), self.inner.head(key)).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.shared.see(key)?;
        let doing = format!("read {key}");
        let stream = self.shared.through(&doing, self.inner.get(key, range)).await?;
        let Some(left) = self.shared.cut(CUT_WITHIN_BYTES) else { return Ok(stream) };
        let cut = stream::unfold(Some((stream, left)), move |state| {
            let doing = doing.clone();
            async move {
                let (mut stream, left) = state?;
                let mut piece = match stream.next().await? {
                    Ok(piece) => piece,
                    Err(error) => return Some((Err(error), None)),
                };
                if left == 0 {
                    return Some((Err(cut_error(doing)), None));
                }
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - piece.len() as u64;
                Some((Ok(piece), Some((stream, left))))
            }
        });
        Ok(cut.boxed())
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        let doing = format!("list {prefix}");
        let stream = self.inner.list(prefix);
        let start = async move {
            if let Err(error) = self.shared.through(&doing, future::ready(Ok(()))).await {
                return stream::iter([Err(error)]).boxed();
            }
            match self.shared.cut(CUT_WITHIN_OBJECTS) {
                None => stream,
                Some(after) => stream
                    .take(usize::try_from(after).unwrap_or(0))
                    .chain(stream::iter([Err(cut_error(doing))]))
                    .boxed(),
            }
        };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.shared.see(key)?;
        self.shared.through(&format!("delete {key}"), self.inner.delete(key)).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        // What was swept would be counted wrong after a fault; sweeping again is no question of
        // luck.
        self.inner.sweep(min_age, now).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    key: String,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        let doing = format!("write part {number} of {}", self.key);
        self.shared.through(&doing, self.inner.part(number, bytes)).await
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        let commit = async {
            let meta = self.inner.commit().await?;
            if self.shared.loses(&self.key) {
                self.store.delete(&self.key).await?;
            }
            Ok(meta)
        };
        self.shared.through(&format!("commit {}", self.key), commit).await
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.shared.through(&format!("abort {}", self.key), self.inner.abort()).await
    }
}
