//! A close look at a store: does it keep what it promises? A scratch object is written, read, found in a
//! listing, written a second time with other bytes, and removed again.
//!
//! The object lies under [`SCRATCH`], where no backup can be, so that it is in nobody's way. What a probe
//! that was killed left behind, a later one removes.
//!
//! What can still go wrong: a store that keeps its promises for objects of two parts alone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::{
    store::{Store, StoreError, StoreErrorKind},
    survey::Survey,
};
use crate::sys::clock::{Clock, ahead};

/// Where scratch objects lie, right below it. A server may be called so: a backup's key has more
/// segments.
pub const SCRATCH: &str = "pgkeep-doctor";
/// Scratch objects that are older were left behind.
const LEFT_BEHIND: Duration = Duration::from_hours(1);
/// Left-behind objects that one probe removes.
const REMOVED_MAX: usize = 100;
const BYTES: usize = 4096;
/// Stores give whole seconds, cut off (HTTP's `Last-Modified`).
const GRAIN: SignedDuration = SignedDuration::from_secs(1);

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub place: String,
    /// Whether the second write under the same key was refused.
    pub keeps_what_is_there: bool,
    /// Whether what came back, whole and in part, was what was written.
    pub reads_back: bool,
    pub lists: bool,
    /// How far the store's clock is ahead of ours, less what the measuring leaves open; none where it
    /// does not tell.
    pub clock_ahead: Option<SignedDuration>,
    /// Why the object could not be removed again; none: it is gone.
    pub not_removed: Option<String>,
    pub survey: Survey,
}

/// Probes a store. `nonce` makes the name of the scratch object.
///
/// # Errors
/// When the store cannot be reached, or does not take or give the object at all.
pub async fn probe(store: &dyn Store, clock: &dyn Clock, nonce: u64) -> Result<Probed, StoreError> {
    let key = format!("{SCRATCH}/{nonce:016x}");
    let probed = look(store, clock, &key).await;
    // Also after a failure: it may have been stored all the same.
    let removed = store.delete(&key).await;
    let mut probed = probed?;
    probed.not_removed = match removed {
        Err(error) => Some(error.what),
        Ok(()) => store.head(&key).await?.map(|_| "it is still there".to_owned()),
    };
    sweep(store, clock.now().wall).await;
    Ok(probed)
}

async fn look(store: &dyn Store, clock: &dyn Clock, key: &str) -> Result<Probed, StoreError> {
    let bytes: Bytes = key.bytes().cycle().take(BYTES).collect::<Vec<u8>>().into();
    let other: Bytes = bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into();
    let before = clock.now().wall;
    store.put_new(key, bytes.clone()).await?;
    let after = clock.now().wall;
    let Some(meta) = store.head(key).await? else {
        let what = "it was stored and is not there";
        return Err(StoreError::new(StoreErrorKind::Damaged, format!("look up {key}"), what));
    };
    let keeps_what_is_there = match store.put_new(key, other).await {
        Err(error) if error.kind == StoreErrorKind::Exists => true,
        Err(error) => return Err(error),
        Ok(_) => false,
    };
    let whole = read(store, key, None).await?;
    let part = read(store, key, Some(100..200)).await?;
    let reads_back = meta.bytes == BYTES as u64 && whole == bytes && part == bytes[100..200];
    let lists = store.list(SCRATCH).any(async |it| it.is_ok_and(|meta| meta.key == key)).await;
    Ok(Probed {
        place: store.place(),
        keeps_what_is_there,
        reads_back,
        lists,
        clock_ahead: meta.modified.map(|at| ahead(at, before, after, GRAIN)),
        not_removed: None,
        survey: store.survey(key).await?,
    })
}

async fn read(
    store: &dyn Store,
    key: &str,
    range: Option<std::ops::Range<u64>>,
) -> Result<Bytes, StoreError> {
    let mut stream = store.get(key, range).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.try_next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > 2 * BYTES {
            break;
        }
    }
    Ok(bytes.freeze())
}

/// Removes what earlier probes left behind. That it does not work out was said of our own object.
async fn sweep(store: &dyn Store, now: Timestamp) {
    let old = SignedDuration::try_from(LEFT_BEHIND).unwrap_or(SignedDuration::MAX);
    let objects: Vec<_> = store.list(SCRATCH).take(REMOVED_MAX).collect().await;
    for meta in objects.into_iter().flatten() {
        let ours = meta.key.matches('/').count() == 1;
        if ours && meta.modified.is_some_and(|at| now.duration_since(at) > old) {
            drop(store.delete(&meta.key).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        repository::memory::MemoryStore,
        sys::clock::{ManualClock, SystemClock},
    };

    #[tokio::test]
    async fn an_honest_store_passes_and_keeps_nothing() {
        let clock = SystemClock::new();
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let probed = probe(&*store, &*clock, 7).await.unwrap();
        assert!(probed.keeps_what_is_there && probed.reads_back && probed.lists, "{probed:?}");
        assert_eq!(probed.not_removed, None);
        assert!(store.keys().is_empty());
    }

    #[tokio::test]
    async fn backups_of_a_server_that_is_called_so_stay() {
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        for key in ["left", "1/app/all/x/manifest.json"] {
            store.put_new(&format!("{SCRATCH}/{key}"), Bytes::from_static(b"x")).await.unwrap();
        }
        clock.advance(LEFT_BEHIND * 2);
        probe(&*store, &*clock, 7).await.unwrap();
        assert_eq!(store.keys(), [format!("{SCRATCH}/1/app/all/x/manifest.json")]);
    }
}
