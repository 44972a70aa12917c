//! A store that tries again, round a store that gives up.
//!
//! Every request has a time limit of its own from the first attempt on; a stream has it
//! anew whenever it got a good deal further, a listing with each key. Waits grow exponentially with full jitter (Brooker: Exponential
//! Backoff And Jitter, AWS Architecture Blog, 2015), so that hosts that lost the same store do not
//! come back in step. Only kinds that may pass by themselves are tried again.
//!
//! What can still go wrong: an attempt under way is never cut off here, so that the store below must
//! have time limits for single requests.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use tokio::time::{Sleep, sleep};

use super::{
    dice::Dice,
    store::{Limits, ObjectMeta, Store, StoreError, Swept, Upload},
    survey::Survey,
};

/// What a stream has to bring before its time limit begins anew: one that trickles, or is cut again and
/// again after some bytes, would never end otherwise. In five minutes it is 3.4 KiB/s.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How long and how often a store is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After so long no new attempt begins.
    pub give_up_after: Duration,
    /// The first wait is up to so long; each next one up to twice as long.
    pub first_wait: Duration,
    pub longest_wait: Duration,
    pub seed: u64,
}

impl RetryPolicy {
    /// Waits of up to 0.5 s, 1 s, 2 s, … 30 s. The seed is random.
    pub fn new(give_up_after: Duration) -> Self {
        Self {
            give_up_after,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            seed: getrandom::u64().unwrap_or(0),
        }
    }
}

/// A store that tries again.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Store>,
    patience: Arc<Patience>,
}

impl Retry {
    /// `inner`, asked again as `policy` says.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy) -> Self {
        let patience =
            Arc::new(Patience { policy, dice: Dice::new(policy.seed), trouble: Mutex::default() });
        Self { inner, patience }
    }
}

impl Retry {
    fn lister<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
        stream: BoxStream<'a, Result<ObjectMeta, StoreError>>,
    ) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let lister = Lister {
            store: &*self.inner,
            patience: Arc::clone(&self.patience),
            prefix: prefix.to_owned(),
            last: after.map(str::to_owned),
            stream,
            tries: None,
        };
        stream::try_unfold(lister, Lister::next).boxed()
    }
}

#[derive(Debug)]
struct Patience {
    policy: RetryPolicy,
    dice: Dice,
    /// What a request fails with that is being repeated.
    trouble: Mutex<Option<StoreError>>,
}

impl Patience {
    fn told(&self, trouble: Option<StoreError>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn run<T, F: Future<Output = Result<T, StoreError>> + Send>(
        self: &Arc<Self>,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StoreError> {
        let mut tries = Tries::new(self);
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => tries.wait(error).await?,
            }
        }
    }
}

/// The attempts at one request.
struct Tries {
    patience: Arc<Patience>,
    deadline: Pin<Box<Sleep>>,
    failed: u32,
}

impl Tries {
    fn new(patience: &Arc<Patience>) -> Self {
        let deadline = Box::pin(sleep(patience.policy.give_up_after));
        Self { patience: Arc::clone(patience), deadline, failed: 0 }
    }

    /// Waits until it is time for the next attempt; or gives the error back, if there is none.
    async fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.kind.is_worth_a_retry() {
            return Err(error);
        }
        let policy = &self.patience.policy;
        let longest = policy.first_wait.saturating_mul(1_u32 << self.failed.min(20));
        let longest = longest.min(policy.longest_wait);
        let wait = self.patience.dice.below(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX));
        self.failed = self.failed.saturating_add(1);
        tracing::debug!(attempts = self.failed, wait_us = wait, %error, "the store is asked again");
        self.patience.told(Some(error.clone()));
        tokio::select! {
            biased;
            () = &mut self.deadline => {
                let attempts = self.failed;
                let after = policy.give_up_after;
                let what = format!("{} (given up after {attempts} attempts, {after:?})", error.what);
                Err(StoreError { what, ..error })
            }
            () = sleep(Duration::from_micros(wait)) => Ok(()),
        }
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        if self.failed > 0 {
            self.patience.told(None);
        }
    }
}

#[async_trait]
impl Store for Retry {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        self.patience.run(|| self.inner.put_new(key, bytes.clone())).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.patience.run(|| self.inner.begin(key)).await?;
        Ok(Box::new(RetryUpload { inner, patience: Arc::clone(&self.patience) }))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.patience.run(|| self.inner.head(key)).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let first = self.patience.run(|| self.inner.get(key, range.clone())).await?;
        let reader = Reader {
            store: Arc::clone(&self.inner),
            patience: Arc::clone(&self.patience),
            key: key.to_owned(),
            at: range.as_ref().map_or(0, |range| range.start),
            end: range.map(|range| range.end),
            stream: first,
            tries: None,
            resumed: 0,
        };
        Ok(stream::try_unfold(reader, Reader::next).boxed())
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        self.lister(prefix, None, self.inner.list(prefix))
    }

    fn list_after<'a>(
        &'a self,
        prefix: &str,
        after: &str,
    ) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.lister(prefix, Some(after), self.inner.list_after(prefix, after))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.patience.run(|| self.inner.delete(key)).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        // It runs again and again as it is, and a second attempt would count wrong.
        self.inner.sweep(min_age, now).await
    }

    async fn survey(&self, scratch: &str) -> Result<Survey, StoreError> {
        self.patience.run(|| self.inner.survey(scratch)).await
    }

    fn trouble(&self) -> Option<StoreError> {
        self.patience.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn without_repeats(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::clone(&self.inner))
    }
}

/// An object that is being read; after a break it goes on at the byte that comes next.
struct Reader {
    store: Arc<dyn Store>,
    patience: Arc<Patience>,
    key: String,
    at: u64,
    end: Option<u64>,
    stream: BoxStream<'static, Result<Bytes, StoreError>>,
    tries: Option<Tries>,
    /// Bytes since the first of these tries.
    resumed: u64,
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        let mut broken = match self.stream.next().await {
            None => return Ok(None),
            Some(Ok(bytes)) => return Ok(Some(self.progress(bytes))),
            Some(Err(error)) => error,
        };
        loop {
            if self.tries.is_none() {
                self.resumed = 0;
            }
            self.tries.get_or_insert_with(|| Tries::new(&self.patience)).wait(broken).await?;
            broken = match self.resume().await {
                Ok(true) => match self.stream.next().await {
                    None => return Ok(None),
                    Some(Ok(bytes)) => return Ok(Some(self.progress(bytes))),
                    Some(Err(error)) => error,
                },
                Ok(false) => return Ok(None),
                Err(error) => error,
            };
        }
    }

    fn progress(mut self, bytes: Bytes) -> (Bytes, Self) {
        self.at += bytes.len() as u64;
        self.resumed += bytes.len() as u64;
        if self.resumed >= PROGRESS_BYTES {
            self.tries = None;
        }
        (bytes, self)
    }

    /// Opens the rest; false where there is none.
    async fn resume(&mut self) -> Result<bool, StoreError> {
        let length = self.store.head(&self.key).await?.map_or(u64::MAX, |meta| meta.bytes);
        let end = self.end.unwrap_or(length).min(length);
        if self.at >= end {
            return Ok(false);
        }
        self.stream = self.store.get(&self.key, Some(self.at..end)).await?;
        Ok(true)
    }
}

/// A listing; after a break it goes on after what it gave. Keys come in order.
struct Lister<'a> {
    store: &'a dyn Store,
    patience: Arc<Patience>,
    prefix: String,
    last: Option<String>,
    stream: BoxStream<'a, Result<ObjectMeta, StoreError>>,
    tries: Option<Tries>,
}

impl Lister<'_> {
    async fn next(mut self) -> Result<Option<(ObjectMeta, Self)>, StoreError> {
        loop {
            match self.stream.next().await {
                None => return Ok(None),
                Some(Ok(meta)) => {
                    if self.last.as_ref().is_some_and(|last| meta.key <= *last) {
                        continue;
                    }
                    self.last = Some(meta.key.clone());
                    self.tries = None;
                    return Ok(Some((meta, self)));
                }
                Some(Err(error)) => {
                    let tries = self.tries.get_or_insert_with(|| Tries::new(&self.patience));
                    tries.wait(error).await?;
                    self.stream = match &self.last {
                        Some(last) => self.store.list_after(&self.prefix, last),
                        None => self.store.list(&self.prefix),
                    };
                }
            }
        }
    }
}

#[derive(Debug)]
struct RetryUpload {
    inner: Box<dyn Upload>,
    patience: Arc<Patience>,
}

#[async_trait]
impl Upload for RetryUpload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        self.patience.run(|| self.inner.part(number, bytes.clone())).await
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        self.patience.run(|| self.inner.commit()).await
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.patience.run(|| self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::{
        repository::{
            faulty::{Act, Faults, Faulty, When},
            memory::MemoryStore,
            store::StoreErrorKind,
        },
        sys::clock::SystemClock,
    };

    fn quick(give_up_after: Duration) -> RetryPolicy {
        let first_wait = Duration::from_millis(1);
        let longest_wait = Duration::from_millis(2);
        RetryPolicy { give_up_after, first_wait, longest_wait, seed: 7 }
    }

    fn faulty(faults: Faults) -> (MemoryStore, Arc<Faulty>) {
        let memory = MemoryStore::new(SystemClock::new());
        (memory.clone(), Faulty::new(Arc::new(memory), faults))
    }

    #[tokio::test]
    async fn it_gives_up_after_its_time_and_says_so() {
        let (_, faulty) = faulty(Faults { before: 1.0, ..Faults::default() });
        let retry = Retry::new(faulty.clone(), quick(Duration::from_millis(40)));
        let error = retry.head("a").await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        assert!(error.to_string().contains("given up after"), "{error}");
        assert!(faulty.steps() > 3, "{} attempts", faulty.steps());
        // A stream that never gets further ends as well.
        let error = retry.list("").try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn what_will_not_pass_is_not_tried_again() {
        let at = Some((0, When::Before, Act::Fail(StoreErrorKind::Refused)));
        let (_, faulty) = faulty(Faults { at, ..Faults::default() });
        let retry = Retry::new(faulty.clone(), quick(Duration::from_mins(1)));
        assert_eq!(retry.head("a").await.unwrap_err().kind, StoreErrorKind::Refused);
        assert_eq!(faulty.steps(), 1);
        assert_eq!(retry.head("a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stream_that_is_always_cut_goes_on_where_it_broke() {
        let (memory, faulty) = faulty(Faults { cut: 1.0, ..Faults::default() });
        let bytes: Bytes = (0..5_000_000_u32).map(|n| n.to_be_bytes()[2]).collect();
        memory.put_new("a", bytes.clone()).await.unwrap();
        let retry = Retry::new(faulty.clone(), quick(Duration::from_mins(1)));
        for (range, wanted) in [(None, &bytes[..]), (Some(10..4_999_999), &bytes[10..4_999_999])] {
            let stream = retry.get("a", range).await.unwrap();
            assert!(stream.try_collect::<Vec<_>>().await.unwrap().concat() == wanted);
        }
        assert!(faulty.steps() > 10);
    }

    #[tokio::test]
    async fn an_object_that_goes_away_in_the_middle_is_an_error() {
        let (memory, faulty) = faulty(Faults { cut: 1.0, ..Faults::default() });
        memory.put_new("a", vec![0; 5_000_000].into()).await.unwrap();
        let retry = Retry::new(faulty, quick(Duration::from_mins(1)));
        let stream = retry.get("a", None).await.unwrap();
        memory.lose("a");
        let error = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NotFound);
    }
}
