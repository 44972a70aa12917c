//! An object that arrives in parts, as every dump does: tried with parts of full size, since a proxy or
//! a store that takes a small object may refuse those.
//!
//! What can still go wrong: nobody remembers the upload, so that a doctor that is killed leaves it to
//! the bucket's own rules, or to the sweep, where the store can list uploads.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::{client::Bucket, error::Failure, upload::S3Upload};
use crate::repository::{
    store::{StoreError, StoreErrorKind, Upload as _},
    survey::{Compliance, Parts},
};

/// Bytes of the second part, which is the last and may be short.
const TAIL: usize = 1_000;

impl Bucket {
    /// Stores an object in two parts, reads it back and removes it.
    pub(super) async fn try_parts(self: &Arc<Self>, key: &str) -> Parts {
        match self.store_in_parts(key).await {
            Ok(digest) => Parts { trouble: None, digest },
            Err(error) => Parts {
                trouble: Some((error.to_string(), error.hint)),
                digest: Compliance::NotAsked,
            },
        }
    }

    async fn store_in_parts(self: &Arc<Self>, key: &str) -> Result<Compliance, StoreError> {
        let upload = self.begin_unremembered(key).await?;
        let filled = self.fill(&upload, key).await;
        if filled.is_err() {
            drop(upload.abort().await);
        }
        // Also after a failure: it may have been completed all the same. That it stays is told of the
        // scratch object.
        drop(self.remove(key).await);
        filled?;
        self.send_wrong(key).await
    }

    /// A part that is to be refused, since its digest is that of other bytes. In an upload of its own:
    /// rclone 1.75 gives up the whole upload with the part.
    async fn send_wrong(self: &Arc<Self>, key: &str) -> Result<Compliance, StoreError> {
        let Some(wrong) = self.check.wrong() else { return Ok(Compliance::NotAsked) };
        // Another key: where nothing may be removed, that of the object is taken.
        let key = format!("{key}-wrong");
        let upload = self.begin_unremembered(&key).await?;
        let sent = upload.send_part(1, Bytes::from_static(&[7; TAIL]), &wrong).await;
        drop(upload.abort().await);
        Compliance::of_digest(sent.map(drop)).map_err(|failure| {
            let doing = format!("write a part of {key} with a wrong digest");
            failure.into_error(doing, StoreErrorKind::Slow)
        })
    }

    async fn fill(&self, upload: &S3Upload, key: &str) -> Result<(), StoreError> {
        let bytes: Bytes = (0_u8..251).cycle().take(self.limits.part_bytes + TAIL).collect();
        upload.part(1, bytes.slice(..self.limits.part_bytes)).await?;
        upload.part(2, bytes.slice(self.limits.part_bytes..)).await?;
        upload.commit().await?;
        let mut body = self.read(key, None).await?;
        let mut at = 0;
        while let Some(piece) = body.try_next().await? {
            if bytes.get(at..at + piece.len()) != Some(&piece[..]) {
                let what = "other bytes came back than were stored in parts";
                return Err(StoreError::new(StoreErrorKind::Damaged, format!("read {key}"), what));
            }
            at += piece.len();
        }
        if at != bytes.len() {
            let what = format!("{} bytes were stored in parts and {at} came back", bytes.len());
            return Err(StoreError::new(StoreErrorKind::Damaged, format!("read {key}"), what));
        }
        Ok(())
    }
}

impl Compliance {
    /// What a store did with bytes whose digest was wrong.
    pub(super) fn of_digest(answer: Result<(), Failure>) -> Result<Self, Failure> {
        match answer {
            Ok(()) => Ok(Self::Ignored),
            Err(failure) if failure.is_wrong_digest() => Ok(Self::Yes),
            Err(failure) if failure.is_unsupported() => Ok(Self::Unsupported),
            Err(failure) => Err(failure),
        }
    }
}
