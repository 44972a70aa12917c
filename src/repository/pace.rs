//! A limit on the bytes per second that go to a repository, all runs together.
//!
//! It stands round the store that tries again: what is sent a second time is not counted, and who waits for its
//! turn uses up no time limit of a request. Who waits is first come, first served, and takes nothing before its
//! turn: an upload that is given up while it waits leaves no gap. The back-pressure is our own and no
//! stall; it reaches pg_dump, whose locks and snapshot are held for longer.
//!
//! What can still go wrong: a part goes at the speed of the line once it is its turn. The limit holds over
//! several parts (of 8 MiB), not within one. After a reload, runs that are under way keep the limit that they
//! started with, beside the new one.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::store::{Limits, ObjectMeta, Store, StoreError, Swept, Upload};
use crate::sys::clock::Clock;

/// When the line is free again, in monotonic time: a bucket that holds nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    free_at: Duration,
}

impl Bucket {
    /// How long the next one has to wait.
    fn wait(self, now: Duration) -> Duration {
        self.free_at.saturating_sub(now)
    }

    /// Takes the line for so many bytes. Time that nobody used is gone.
    fn take(&mut self, bytes: u64, rate: u64, now: Duration) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let taken = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now).saturating_add(taken);
    }
}

/// The limit of one repository.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    clock: Arc<dyn Clock>,
    /// Held by whose turn it is, while it waits.
    bucket: Mutex<Bucket>,
}

impl Pace {
    /// So many bytes per second.
    pub fn new(rate: u64, clock: Arc<dyn Clock>) -> Self {
        Self { rate, clock, bucket: Mutex::default() }
    }

    /// Waits until so many bytes may go.
    async fn pass(&self, bytes: usize) {
        let mut bucket = self.bucket.lock().await;
        // A timer may end a little early by our clock.
        loop {
            let wait = bucket.wait(self.clock.now().mono);
            if wait.is_zero() {
                break;
            }
            tokio::time::sleep(wait).await;
        }
        bucket.take(bytes as u64, self.rate, self.clock.now().mono);
    }
}

/// A store to which bytes go at a limited rate.
#[derive(Debug)]
pub struct Paced {
    inner: Arc<dyn Store>,
    pace: Arc<Pace>,
}

impl Paced {
    /// `inner`, at the pace.
    pub fn new(inner: Arc<dyn Store>, pace: Arc<Pace>) -> Self {
        Self { inner, pace }
    }
}

#[async_trait]
impl Store for Paced {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        self.pace.pass(bytes.len()).await;
        self.inner.put_new(key, bytes).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.inner.begin(key).await?;
        Ok(Box::new(PacedUpload { inner, pace: Arc::clone(&self.pace) }))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(key).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.inner.get(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    fn list_after<'a>(
        &'a self,
        prefix: &str,
        after: &str,
    ) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.inner.list_after(prefix, after)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.inner.sweep(min_age, now).await
    }

    fn trouble(&self) -> Option<StoreError> {
        self.inner.trouble()
    }
}

#[derive(Debug)]
struct PacedUpload {
    inner: Box<dyn Upload>,
    pace: Arc<Pace>,
}

#[async_trait]
impl Upload for PacedUpload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        self.pace.pass(bytes.len()).await;
        self.inner.part(number, bytes).await
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        self.inner.commit().await
    }

    async fn abort(&self) -> Result<(), StoreError> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{repository::memory::MemoryStore, sys::clock::ManualClock};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_holds_over_many_and_rest_is_not_saved_up() {
        let mut bucket = Bucket::default();
        let (rate, mut now, mut sent) = (1000, Duration::from_secs(100), 0);
        for _ in 0..50 {
            now += bucket.wait(now);
            bucket.take(300, rate, now);
            sent += 300;
        }
        assert_eq!(bucket.free_at, SECOND * 100 + SECOND * sent / 1000);
        now += Duration::from_hours(1);
        assert_eq!(bucket.wait(now), Duration::ZERO);
        bucket.take(2000, rate, now);
        assert_eq!(bucket.wait(now), SECOND * 2, "an hour of rest gives no second burst");
        bucket.take(u64::MAX, 1, now);
        bucket.take(u64::MAX, 0, now);
        assert!(bucket.wait(now) > SECOND, "no overflow");
    }

    #[tokio::test]
    async fn all_uploads_of_a_repository_share_its_rate() {
        // A part takes the line for 5 ms, by a clock that goes only where it is moved.
        let turn = Duration::from_millis(5);
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let pace = Arc::new(Pace::new(200 << 10, clock.clone()));
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let stores = [(); 2].map(|()| Paced::new(memory.clone(), pace.clone()));
        let mut uploads = Vec::new();
        for (at, store) in stores.iter().enumerate() {
            uploads.push(store.begin(&format!("a/{at}")).await.unwrap());
        }
        let part = || Bytes::from(vec![0; 1 << 10]);
        uploads[0].part(1, part()).await.unwrap();
        let mut second = uploads[1].part(1, part());
        assert!(futures_util::poll!(&mut second).is_pending(), "the line is taken");
        let mut given_up = uploads[0].part(2, part());
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        clock.advance(turn);
        second.await.unwrap();
        // Who gave up while it waited took nothing.
        let mut third = uploads[0].part(2, part());
        assert!(futures_util::poll!(&mut third).is_pending());
        clock.advance(turn);
        third.await.unwrap();
    }
}
