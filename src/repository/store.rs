//! Bytes under keys. A store knows nothing of backups.
//!
//! Objects are written once, under names never used before. Any future of a store may be dropped:
//! that leaves at most something unlisted behind, which [`Store::sweep`] finds later.

use std::{fmt::Debug, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use jiff::Timestamp;

use super::survey::Survey;

/// What kind of trouble a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    NotFound,
    Exists,
    /// It cannot be reached, broke off, or answered that it is busy.
    Unavailable,
    /// It did not take or give the bytes in the time that the minimum rate allows.
    Slow,
    /// Credentials, permissions, a missing bucket or folder, something it does not support.
    Refused,
    /// It was left as it is: somebody uses it, or a listing does not show what is there.
    Spared,
    /// What is to be encrypted is not, or cannot be.
    Encryption,
    /// No room, or there would be less than `min_free`.
    Space,
    /// It holds something else than what was stored.
    Damaged,
}

impl StoreErrorKind {
    /// Whether the same request may succeed soon without anybody doing anything.
    pub const fn is_worth_a_retry(self) -> bool {
        matches!(self, Self::Unavailable | Self::Slow)
    }
}

/// A request that a store did not carry out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {what}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// What was being done: `write main/…/app.dump.zst`.
    pub doing: String,
    pub what: String,
    pub hint: Option<String>,
}

impl StoreError {
    /// An error without a hint.
    pub fn new(kind: StoreErrorKind, doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), what: what.into(), hint: None }
    }

    /// An error of whoever does not know what was being done: [`Doing`] says it at the store's edge.
    pub(super) fn bare(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self::new(kind, "", what)
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Says at the edge of a store what was being done.
pub(super) trait Doing {
    /// The same; an error that does not say what was being done says it now.
    fn doing(self, phrase: &str) -> Self;
}

impl Doing for StoreError {
    fn doing(mut self, phrase: &str) -> Self {
        if self.doing.is_empty() {
            phrase.clone_into(&mut self.doing);
        }
        self
    }
}

impl<T> Doing for Result<T, StoreError> {
    fn doing(self, phrase: &str) -> Self {
        self.map_err(|error| error.doing(phrase))
    }
}

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key, relative to the root of the repository.
    pub key: String,
    /// Length in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock; where it knows.
    pub modified: Option<Timestamp>,
}

/// What a store can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a part. All parts of an object but its last are equal (R2 demands it); they are
    /// shorter where the same stream goes to a store that takes less.
    pub part_bytes: usize,
    /// Most parts of one object; a volume ends before.
    pub max_parts: u32,
    /// Parts that may be under way at once.
    pub parallel_parts: usize,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unfinished uploads, hidden temporary files.
    pub uploads: u64,
    /// Their bytes, where the store knows.
    pub bytes: u64,
}

/// Bytes under keys: a folder, a bucket with a prefix.
///
/// Keys are relative paths of segments `[A-Za-z0-9=@._-]+` joined by `/`, never starting with a
/// dot. The contract is `tests/it/contract.rs`; every kind and every decorator passes it.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The place for messages, without secrets: `s3://bucket/prefix`, `/var/backups/pgkeep`.
    fn place(&self) -> String;

    /// What it can take.
    fn limits(&self) -> Limits;

    /// Stores a small object whole, or nothing. [`StoreErrorKind::Exists`] where the key is taken
    /// by other bytes; the same bytes again are a success (so that a retry after a lost answer
    /// settles).
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError>;

    /// Begins an object that arrives in parts. Nothing can be seen under the key before
    /// [`Upload::commit`].
    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Looks an object up; `None` where there is none.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError>;

    /// Reads an object, or the given bytes of it.
    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError>;

    /// Lists every object whose key starts with `prefix` (whole segments), in order of the keys'
    /// bytes, page by page in bounded memory. Unfinished uploads are not listed.
    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>>;

    /// As [`Store::list`], but only what comes after the key `after`. A store that can start there
    /// does so; else all of it is listed and the beginning left out.
    fn list_after<'a>(
        &'a self,
        prefix: &str,
        after: &str,
    ) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let after = after.to_owned();
        let wanted = move |object: &Result<ObjectMeta, StoreError>| {
            let wanted = object.as_ref().map_or(true, |meta| meta.key > after);
            std::future::ready(wanted)
        };
        self.list(prefix).filter(wanted).boxed()
    }

    /// Removes an object; that there is none is no error.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Removes unfinished uploads of ours that are older than `min_age` at `now`.
    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError>;

    /// What only this kind of store can tell of itself. `scratch` is the key of an object of a probe,
    /// which is there and may be overwritten.
    async fn survey(&self, _scratch: &str) -> Result<Survey, StoreError> {
        Ok(Survey::default())
    }

    /// What requests fail with that are being repeated now; none where it repeats none.
    fn trouble(&self) -> Option<StoreError> {
        None
    }

    /// The same store without repeats, for somebody who waits for the answer; none where it has none.
    fn without_repeats(&self) -> Option<Arc<dyn Store>> {
        None
    }
}

/// An object that arrives in parts.
#[async_trait]
pub trait Upload: Send + Sync + Debug {
    /// Stores part `number`, counted from 1. Every part but the last has the length of the first, at
    /// most [`Limits::part_bytes`]. The same number again replaces the part. Up to
    /// [`Limits::parallel_parts`] may be under way at once.
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError>;

    /// Ends the object: it is now whole under its key and survives a crash, or there is an error
    /// and nothing is there.
    async fn commit(&self) -> Result<ObjectMeta, StoreError>;

    /// Gives the upload up and removes its parts, within a time limit of its own.
    async fn abort(&self) -> Result<(), StoreError>;
}
