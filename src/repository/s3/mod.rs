//! A bucket with a prefix, at Amazon or at any store that speaks its protocol.
//!
//! Each call makes one attempt (a lookup before or after it where the outcome needs one);
//! repeating is the retry decorator's. The SDK's own repeats, read time-outs, stalled-stream
//! protection and checksums are switched off, each because it was measured to do harm: see
//! [`client`] and [`digest`].
//!
//! What can still go wrong: a store that accepts wrong digests, ignores conditions or drops
//! metadata does so silently; only reading back (`verify`) proves what is there.

mod bound;
mod client;
mod config;
mod digest;
mod error;
mod listing;
mod object;
mod options;
mod record;
mod survey;
mod sweep;
mod trial;
mod upload;
mod whole;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

pub use self::config::KIND;
pub use self::options::{Integrity, LEAST_PART_BYTES, S3Credentials, S3Options};
use self::{client::Bucket, object::Body};
use super::store::{Limits, ObjectMeta, Store, StoreError, StoreErrorKind, Swept, Upload};
use super::survey::Survey;
use crate::sys::clock::Clock;

/// An S3 bucket as a place for backups.
#[derive(Debug, Clone)]
pub struct S3Store(Arc<Bucket>);

impl S3Store {
    /// A store with a client of its own. Sends nothing; reads the AWS configuration files where
    /// the credentials are to come from there. Static keys never change and files are read once:
    /// a reload builds a new store.
    pub async fn new(options: S3Options, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Bucket::open(options, clock).await.map(Self)
    }

    /// Asks the store for one key: shows whether address, bucket, region, credentials and clock
    /// are right, with the error that says which is not. (A HEAD has no error code.)
    pub async fn probe(&self) -> Result<(), StoreError> {
        let asked = self.0.page(&self.0.prefix, None, None, Some(1)).await;
        let doing = || format!("look into {}", self.0.place);
        asked.map(drop).map_err(|failure| failure.into_error(doing(), StoreErrorKind::Unavailable))
    }
}

/// Refuses keys that are not of the trait's form, before anything is sent.
fn check_key(verb: &str, key: &str) -> Result<(), StoreError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"=@._-".contains(&byte);
    let fine = |segment: &str| {
        !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
    };
    // Amazon S3 user guide, "Object key naming": 1,024 bytes, here with room for the prefix.
    if key.len() <= 900 && key.split('/').all(fine) {
        return Ok(());
    }
    let doing = format!("{verb} {key:?}");
    Err(StoreError::new(StoreErrorKind::Refused, doing, "not a key of this program's form"))
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> String {
        self.0.place.clone()
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        check_key("write", key)?;
        self.0.put_new(key, bytes).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        check_key("begin", key)?;
        self.0.begin_upload(key).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        check_key("look up", key)?;
        let there = self.0.look(key).await.map_err(|failure| {
            failure.into_error(format!("look up {key}"), StoreErrorKind::Unavailable)
        })?;
        Ok(there.map(|there| there.meta))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        check_key("read", key)?;
        self.0.read(key, range).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        self.0.list_below(prefix, None)
    }

    fn list_after<'a>(
        &'a self,
        prefix: &str,
        after: &str,
    ) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.0.list_below(prefix, Some(after))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key("delete", key)?;
        self.0.remove(key).await.map_err(|failure| {
            failure.into_error(format!("delete {key}"), StoreErrorKind::Unavailable)
        })
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        self.0.sweep_uploads(min_age, now).await
    }

    async fn survey(&self, scratch: &str) -> Result<Survey, StoreError> {
        check_key("probe", scratch)?;
        self.0.survey(scratch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_form() {
        for key in ["a", "main/7/@globals/all/20261121T021500Z-k3f9q2x7/manifest.json", "a=41.b_-"]
        {
            assert!(check_key("write", key).is_ok(), "{key}");
        }
        for key in ["", "/a", "a/", "a//b", "../a", "a/.b", "a b", "é", "a\n", &"x".repeat(901)] {
            let error = check_key("write", key).expect_err(key);
            assert_eq!(error.kind, StoreErrorKind::Refused);
        }
    }
}
