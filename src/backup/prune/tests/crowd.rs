//! What a plan over very many backups takes.

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};

use super::*;
use crate::repository::store::{Limits, ObjectMeta, StoreError, Swept, Upload};

/// Memory that a plan may take for each backup, in bytes: an id of 25 and its flags, why it stays, its place in the order,
/// and the id once more where it goes.
const EACH_MAX: u64 = 80;

/// Memory that comes at once where the kernel gives large pages.
const HUGE_PAGE: u64 = 2 << 20;

/// A store that also lists so many older backups of the same series, which were never made.
#[derive(Debug)]
struct Crowd {
    inner: Arc<MemoryStore>,
    series: String,
    older: i64,
    now: Timestamp,
}

impl Crowd {
    fn objects(&self, number: i64) -> [ObjectMeta; 2] {
        let at = self.now - SignedDuration::from_mins(60 + self.older - number);
        let folder = format!("{}/{}", self.series, BackupId::new(at, 1));
        ["globals.sql.zst", "manifest.json"].map(|name| ObjectMeta {
            key: format!("{folder}/{name}"),
            bytes: 1,
            modified: Some(at),
        })
    }
}

#[async_trait]
impl Store for Crowd {
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
        self.inner.get(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        let older = (0..self.older).flat_map(|number| self.objects(number)).map(Ok);
        stream::iter(older).chain(self.inner.list(prefix)).boxed()
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.inner.sweep(min_age, now).await
    }
}

/// The most memory that this process had at once, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_plan_takes_little_memory_for_each_backup() {
    if std::env::var_os("NEXTEST").is_none() {
        eprintln!(
            "NOT MEASURED: other tests run in this process; cargo nextest gives each its own"
        );
        return;
    }
    let bench = Bench::new(1).await;
    let plan_over = async |older: i64| {
        let now = bench.task.clock.now().wall;
        let series = bench.series.path();
        let crowd = Arc::new(Crowd { inner: Arc::clone(&bench.store), series, older, now });
        let name = "local".parse().unwrap();
        let repository = Repository::open(name, crowd, false).await.unwrap();
        bench.survey(&repository).await.unwrap().series.remove(0)
    };
    plan_over(100).await;
    let (before, older) = (peak(), 40_000);
    let plan = plan_over(older).await;
    let more = (peak() - before).saturating_sub(HUGE_PAGE);
    let each = more / older.unsigned_abs();
    eprintln!("{each} bytes for each backup");
    assert_eq!((plan.remove.len(), plan.held), (40_000, None));
    assert!(peak() - before > 25 * 40_000, "{more} bytes: it was not measured");
    assert!(each <= EACH_MAX, "{each} bytes for each backup");
}
