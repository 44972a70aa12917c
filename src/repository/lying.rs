//! A store whose listings lie, round one whose listings do not. For tests.
//!
//! Objects are told the truth about, unless they are refused: only what is listed is not what is there. A seed decides when a
//! listing lies and how, so that a story can be told again; or it always leaves out the same.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use jiff::Timestamp;

use super::{
    dice::Dice,
    key,
    store::{Limits, ObjectMeta, Store, StoreError, StoreErrorKind, Swept, Upload},
};

/// Listings of the past that a stale one is taken from.
const PAST_MAX: usize = 4;
/// Objects that a listing without end gives before it falls silent: whoever reads on waits for ever, and
/// fills no memory.
const LOOP_MAX: usize = 10_000;

/// How a listing is not the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Some objects are left out, or all of one name.
    Omit,
    /// It ends early, and does not say so.
    Cut,
    /// It goes on after a page of which the end is missing.
    Gap,
    Repeat,
    Reorder,
    /// It begins again where it should end, for ever.
    Loop,
    /// It is one of the past.
    Stale,
}

/// Every sort of lie.
pub const LIES: [Lie; 7] =
    [Lie::Omit, Lie::Cut, Lie::Gap, Lie::Repeat, Lie::Reorder, Lie::Loop, Lie::Stale];

/// When listings lie.
#[derive(Debug, Clone, Default)]
pub struct Lies {
    /// The same seed gives the same lies, as far as requests come in the same order.
    pub seed: u64,
    /// Share of the listings that lie, 0 to 1.
    pub rate: f64,
    /// How they lie; nothing: in every way.
    pub kinds: Vec<Lie>,
    /// Objects whose key ends in one of these are never listed.
    pub hidden: Vec<String>,
    /// Objects whose key ends in one of these are not given.
    pub refused: Vec<String>,
}

/// A store whose listings lie.
#[derive(Debug)]
pub struct Lying {
    inner: Arc<dyn Store>,
    lies: Lies,
    dice: Dice,
    /// All that was there at some listings before, of whatever age.
    past: Mutex<Vec<Vec<ObjectMeta>>>,
}

impl Lying {
    /// `inner`, with listings that lie.
    pub fn new(inner: Arc<dyn Store>, lies: Lies) -> Arc<Self> {
        let dice = Dice::new(lies.seed);
        Arc::new(Self { inner, lies, dice, past: Mutex::default() })
    }

    async fn told(&self, prefix: &str) -> Result<(Vec<ObjectMeta>, bool), StoreError> {
        let truth: Vec<ObjectMeta> = self.inner.list("").try_collect().await?;
        let kinds = if self.lies.kinds.is_empty() { &LIES[..] } else { &self.lies.kinds };
        let lie = self.dice.chance(self.lies.rate).then(|| self.pick(kinds)).flatten();
        let all = if lie == Some(Lie::Stale) { self.stale() } else { None };
        let under = all.unwrap_or_else(|| truth.clone()).into_iter();
        let is_hidden = |key: &str| self.lies.hidden.iter().any(|end| key.ends_with(end.as_str()));
        let under = under.filter(|meta| key::is_under(&meta.key, prefix) && !is_hidden(&meta.key));
        let told = self.bend(under.collect(), lie);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() >= PAST_MAX {
            past.swap_remove(self.place(PAST_MAX));
        }
        past.push(truth);
        Ok((told, lie == Some(Lie::Loop)))
    }

    fn pick<T: Copy>(&self, from: &[T]) -> Option<T> {
        from.get(self.place(from.len())).copied()
    }

    fn place(&self, length: usize) -> usize {
        usize::try_from(self.dice.below(length as u64)).unwrap_or(0)
    }

    fn stale(&self) -> Option<Vec<ObjectMeta>> {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.get(self.place(past.len())).cloned()
    }

    fn bend(&self, mut list: Vec<ObjectMeta>, lie: Option<Lie>) -> Vec<ObjectMeta> {
        match lie {
            Some(Lie::Omit) if self.dice.chance(0.5) => list.retain(|_| !self.dice.chance(0.2)),
            Some(Lie::Omit) if !list.is_empty() => {
                let name = |meta: &ObjectMeta| meta.key.rsplit('/').next().map(str::to_owned);
                let left_out = name(&list[self.place(list.len())]);
                list.retain(|meta| name(meta) != left_out);
            }
            Some(Lie::Cut) => list.truncate(self.place(list.len() + 1)),
            Some(Lie::Gap) => {
                let from = self.place(list.len() + 1);
                list.drain(from..from + self.place(list.len() - from + 1));
            }
            Some(Lie::Repeat) if !list.is_empty() => {
                let at = self.place(list.len());
                list.insert(at, list[at].clone());
            }
            Some(Lie::Reorder) if !list.is_empty() => {
                let (a, b) = (self.place(list.len()), self.place(list.len()));
                list.swap(a, b);
            }
            _ => {}
        }
        list
    }
}

#[async_trait]
impl Store for Lying {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        self.inner.put_new(key, bytes).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.begin(key).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(key).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        if self.lies.refused.iter().any(|end| key.ends_with(end.as_str())) {
            let (doing, what) = (format!("read {key}"), "access denied");
            return Err(StoreError::new(StoreErrorKind::Refused, doing, what));
        }
        self.inner.get(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        let prefix = prefix.to_owned();
        let start = async move {
            match self.told(&prefix).await {
                Err(error) => stream::iter([Err(error)]).boxed(),
                Ok((told, true)) if !told.is_empty() => {
                    let told = told.into_iter().cycle().take(LOOP_MAX);
                    stream::iter(told.map(Ok)).chain(stream::pending()).boxed()
                }
                Ok((told, _)) => stream::iter(told.into_iter().map(Ok)).boxed(),
            }
        };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.inner.sweep(min_age, now).await
    }
}
