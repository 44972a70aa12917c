//! An object that arrives in parts at a local store.
//!
//! Parts are written in order, so that a slow disk holds the stream back instead of filling memory.
//! Every [`FLUSH_EVERY`] bytes are synced in the background and dropped from the page cache. An
//! error of a sync is kept: Linux reports it once, and a sync after it would pretend that all is
//! well (<https://wiki.postgresql.org/wiki/Fsync_Errors>).

use std::{
    fs, io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{
    PART_BYTES,
    files::{Root, STEP_LIMIT, Temp, blocking, forget_pages, hangs, meta_of, taken},
};
use crate::repository::store::{Doing as _, ObjectMeta, StoreError, StoreErrorKind, Upload};

/// Bytes between two syncs: at most twice as many are dirty.
const FLUSH_EVERY: u64 = 32 << 20;
/// How long one part, or the end, may take. At most twice [`FLUSH_EVERY`] bytes are dirty: who takes
/// longer hangs, as a network filesystem may, and must not hold up pg_dump and the other
/// repositories.
const REQUEST_LIMIT: Duration = STEP_LIMIT;
/// How long an abort may take; the filesystem may hang.
const ABORT_LIMIT: Duration = Duration::from_secs(30);

/// An upload to a local store.
#[derive(Debug)]
pub(super) struct LocalUpload {
    inner: Arc<Inner>,
    /// The sync that runs in the background.
    flush: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    root: Arc<Root>,
    doing: String,
    key: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file; none after an abort.
    temp: Option<Temp>,
    parts: u32,
    /// Length of the first of them, and of every other but the last.
    full: u64,
    /// Length of the last of them.
    tail: u64,
    /// Bytes that were handed to a sync.
    synced: u64,
    /// What the object became.
    committed: Option<ObjectMeta>,
    /// Why it can no longer become one.
    failed: Option<StoreError>,
}

impl State {
    fn length(&self) -> u64 {
        u64::from(self.parts.saturating_sub(1)) * self.full + self.tail
    }
}

impl LocalUpload {
    pub(super) fn begin(root: &Arc<Root>, doing: String, key: String) -> Result<Self, StoreError> {
        let path = root.path_of(&key)?;
        let temp = root.new_temp(&path)?;
        let state = Mutex::new(State { temp: Some(temp), ..State::default() });
        let inner = Inner { root: Arc::clone(root), doing, key, state };
        Ok(Self { inner: Arc::new(inner), flush: tokio::sync::Mutex::default() })
    }

    /// Waits for the sync in the background. Its error is in the state, so that a dropped future
    /// does not lose it.
    async fn flushed(&self) -> tokio::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        let mut slot = self.flush.lock().await;
        if let Some(running) = slot.as_mut() {
            if let Err(error) = running.await {
                let what = format!("the sync did not end: {error}");
                Inner::fail(&mut self.inner.state(), StoreErrorKind::Damaged, what);
            }
            *slot = None;
        }
        slot
    }
}

impl LocalUpload {
    /// The same, or an error after so long.
    async fn limited<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let late = |_| Err(hangs(limit).doing(&self.inner.doing));
        tokio::time::timeout(limit, request).await.unwrap_or_else(late)
    }
}

#[async_trait]
impl Upload for LocalUpload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        self.limited(REQUEST_LIMIT, async {
            let (inner, Inner { root, doing, .. }) = (Arc::clone(&self.inner), &*self.inner);
            let due = blocking(root, doing, move || inner.write_part(number, &bytes)).await?;
            if let Some(from) = due {
                let mut slot = self.flushed().await;
                let inner = Arc::clone(&self.inner);
                *slot = Some(tokio::task::spawn_blocking(move || inner.sync_from(from)));
            }
            Ok(())
        })
        .await
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        self.limited(REQUEST_LIMIT, async {
            drop(self.flushed().await);
            let (inner, Inner { root, doing, .. }) = (Arc::clone(&self.inner), &*self.inner);
            blocking(root, doing, move || inner.commit()).await
        })
        .await
    }

    async fn abort(&self) -> Result<(), StoreError> {
        let (inner, Inner { root, doing, .. }) = (Arc::clone(&self.inner), &*self.inner);
        let aborted = blocking(root, doing, move || inner.abort());
        tokio::time::timeout(ABORT_LIMIT, aborted).await.unwrap_or_else(|_| {
            let what = format!("the file was not removed within {} s", ABORT_LIMIT.as_secs());
            Err(StoreError::new(StoreErrorKind::Slow, doing, what))
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, error: &io::Error) -> StoreError {
        self.root.error(error)
    }

    fn refuse(what: impl Into<String>) -> StoreError {
        StoreError::bare(StoreErrorKind::Refused, what)
    }

    /// Makes the upload fail from now on.
    fn fail(state: &mut State, kind: StoreErrorKind, what: String) -> StoreError {
        let error = StoreError::bare(kind, what);
        state.failed.get_or_insert(error).clone()
    }

    fn fail_sync(&self, state: &mut State, error: &io::Error) -> StoreError {
        let kind = match self.error(error).kind {
            StoreErrorKind::Space => StoreErrorKind::Space,
            _ => StoreErrorKind::Damaged,
        };
        Self::fail(state, kind, format!("sync to disk: {error}"))
    }

    /// Writes a part. Some: so many bytes are unsynced, from this offset, that a sync is due.
    fn write_part(&self, number: u32, bytes: &Bytes) -> Result<Option<u64>, StoreError> {
        let state = &mut *self.state();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let Some(temp) = state.temp.as_ref().filter(|_| state.committed.is_none()) else {
            return Err(Self::refuse("a part came after the object's end"));
        };
        let length = bytes.len() as u64;
        let full = if number == 1 && state.parts <= 1 { length } else { state.full };
        let is_next = Some(number) == state.parts.checked_add(1);
        if number == 0 || (number > state.parts && !is_next) {
            return Err(Self::refuse(format!("part {number} came after part {}", state.parts)));
        }
        if bytes.len() > PART_BYTES
            || length > full
            || (number < state.parts && length != full)
            || (is_next && number > 1 && state.tail != full)
        {
            return Err(Self::refuse(format!("every part but the last has {full} bytes")));
        }
        self.root.check_space(&temp.file, bytes.len())?;
        let offset = u64::from(number - 1) * full;
        temp.file.write_all_at(bytes, offset).map_err(|error| self.error(&error))?;
        if number == state.parts && length < state.tail {
            temp.file.set_len(offset + length).map_err(|error| self.error(&error))?;
        }
        if number >= state.parts {
            (state.parts, state.full, state.tail) = (number, full, length);
        }
        // A part that was written again may have been synced with its old bytes.
        state.synced = state.synced.min(offset);
        let end = state.length();
        if end.saturating_sub(state.synced) < FLUSH_EVERY {
            return Ok(None);
        }
        Ok(Some(std::mem::replace(&mut state.synced, end)))
    }

    /// Syncs what was written so far and forgets the pages from `offset` on. Does not hold the
    /// state meanwhile: the next part is written at the same time.
    fn sync_from(&self, offset: u64) {
        let (file, end) = {
            let state = self.state();
            let Some(temp) = &state.temp else { return };
            (Arc::clone(&temp.file), state.length())
        };
        match file.sync_data() {
            Ok(()) => forget_pages(&file, offset, NonZeroU64::new(end.saturating_sub(offset))),
            Err(error) => drop(self.fail_sync(&mut self.state(), &error)),
        }
    }

    fn commit(&self) -> Result<ObjectMeta, StoreError> {
        let state = &mut *self.state();
        if let Some(meta) = &state.committed {
            return Ok(meta.clone());
        }
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let path = self.root.path_of(&self.key)?;
        let Some(temp) = &mut state.temp else {
            return Err(Self::refuse("the upload was given up"));
        };
        if let Err(error) = temp.file.sync_all() {
            return Err(self.fail_sync(state, &error));
        }
        forget_pages(&temp.file, 0, None);
        let facts = temp.file.metadata().map_err(|error| self.error(&error))?;
        let meta = meta_of(&self.key, &facts);
        match temp.publish(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(taken());
            }
            Err(error) => return Err(self.error(&error)),
        }
        if let Err(error) = self.root.sync_folders(&path) {
            // An error means that nothing is there.
            drop(fs::remove_file(&path));
            return Err(self.fail_sync(state, &error));
        }
        state.temp = None;
        state.committed = Some(meta.clone());
        Ok(meta)
    }

    fn abort(&self) -> Result<(), StoreError> {
        let state = &mut *self.state();
        if state.committed.is_some() {
            return Ok(());
        }
        Self::fail(state, StoreErrorKind::Refused, "the upload was given up".to_owned());
        match state.temp.take() {
            Some(temp) => temp.remove().map_err(|error| self.error(&error)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{
        local::{LocalOptions, LocalStore},
        store::Store,
    };

    /// No error of a real disk can be had here; Linux tells each one once.
    #[tokio::test]
    async fn after_an_error_of_a_sync_nothing_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(LocalOptions {
            path: folder.path().to_owned(),
            min_free: 0,
            others_may_write: false,
        });
        let upload = LocalUpload::begin(&store.root, "write a".to_owned(), "a".to_owned()).unwrap();
        upload.part(1, Bytes::from_static(b"x")).await.unwrap();
        let eio = io::Error::from(rustix::io::Errno::IO);
        upload.inner.fail_sync(&mut upload.inner.state(), &eio);
        for _ in 0..2 {
            let error = upload.commit().await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Damaged, "{error}");
            assert!(!error.kind.is_worth_a_retry());
        }
        assert!(upload.part(2, Bytes::from_static(b"y")).await.is_err());
        assert_eq!(store.head("a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_filesystem_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(LocalOptions {
            path: folder.path().to_owned(),
            min_free: 0,
            others_may_write: false,
        });
        let upload = LocalUpload::begin(&store.root, "write a".to_owned(), "a".to_owned()).unwrap();
        let hangs = std::future::pending::<Result<(), StoreError>>();
        let error = upload.limited(Duration::from_millis(1), hangs).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Slow);
        assert!(error.hint.is_some());
    }
}
