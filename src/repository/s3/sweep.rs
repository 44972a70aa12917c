//! Removes unfinished uploads that nobody will finish.
//!
//! First those with a record here and nobody who drives them. Then, where the store can list
//! uploads, those that only the store knows: it does not say whose they are, so only keys of our
//! layout (or doctor's) are taken, only when both the upload and its backup are old enough that no other host can
//! still be at work on them, and only where neither its object nor the manifest is there: a list may
//! still show what was completed.

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_s3::types::MultipartUpload;
use jiff::Timestamp;

use super::{
    client::Bucket,
    error::Failure,
    listing::IDLE_PAGES_MAX,
    object::timestamp,
    record::{Held, is_older},
    whole::WholeXml,
};
use crate::{
    domain::manifest::MANIFEST_NAME,
    repository::{
        layout::{self, Place},
        probe::SCRATCH,
        store::{StoreError, StoreErrorKind, Swept},
    },
};

/// Least age of an upload without a record here. Another host may be at work on it, and no lock
/// says so: the upload of a volume is as old as the dump, since all are completed at its end. A week
/// is what rules of buckets for unfinished uploads mostly say; a terabyte at 2 MiB/s takes six days.
const FOREIGN_AGE: Duration = Duration::from_hours(7 * 24);

impl Bucket {
    pub(super) async fn sweep_uploads(
        &self,
        min_age: Duration,
        now: Timestamp,
    ) -> Result<Swept, StoreError> {
        let doing = format!("sweep {}", self.place);
        let found = self.records.find(min_age, now).await.map_err(|error| {
            let what = format!("the records of unfinished uploads cannot be read: {error}");
            StoreError::new(StoreErrorKind::Refused, &doing, what)
                .hint("check the permissions of the state directory")
        })?;
        let fail = |failure: Failure| failure.into_error(&doing, StoreErrorKind::Unavailable);
        let mut swept = Swept::default();
        let mut trouble = None;
        for held in &found.stale {
            match self.sweep_record(held).await {
                Ok(was_there) => swept.uploads += u64::from(was_there),
                // The others may still be possible, unless the store is away.
                Err(failure) if failure.is_open_ended() => return Err(fail(failure)),
                Err(failure) => trouble = Some(failure),
            }
        }
        let live = found.live.into_iter().collect();
        match self.sweep_listed(min_age.max(FOREIGN_AGE), now, &live).await {
            Ok(uploads) => swept.uploads += uploads,
            // s3s-fs and others cannot list uploads; the records are what there is.
            Err(failure) if failure.is_unsupported() => {}
            Err(failure) => trouble = Some(failure),
        }
        trouble.map_or(Ok(swept), |failure| Err(fail(failure)))
    }

    /// Aborts the upload of a record; whether there was one.
    async fn sweep_record(&self, held: &Held) -> Result<bool, Failure> {
        let record = &held.record;
        let was_there = match self.abort_upload(&record.key, &record.upload_id).await {
            Ok(was_there) => was_there,
            Err(failure) if failure.is_open_ended() => return Err(failure),
            // Not every store says "no such upload" of one that was completed.
            Err(failure) => match self.look(&record.key).await? {
                Some(there) if there.nonce.as_ref() == Some(&record.nonce) => false,
                _ => return Err(failure),
            },
        };
        if let Err(error) = held.forget().await {
            tracing::warn!(%error, key = record.key, "the record of an aborted upload stays");
        }
        Ok(was_there)
    }

    async fn sweep_listed(
        &self,
        min_age: Duration,
        now: Timestamp,
        live: &BTreeSet<String>,
    ) -> Result<u64, Failure> {
        let mut count = 0;
        let mut markers = (None, None);
        let mut idle = 0;
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .prefix(&self.prefix)
                .set_key_marker(markers.0.clone())
                .set_upload_id_marker(markers.1.clone())
                .customize()
                .config_override(self.briefly())
                .interceptor(WholeXml)
                .send()
                .await
                .map_err(Failure::of_write)?;
            idle = if page.uploads().is_empty() { idle + 1 } else { 0 };
            for upload in page.uploads() {
                if let Some((key, id)) = self.is_forgotten(upload, min_age, now, live)
                    && !self.was_completed(key).await?
                {
                    count += u64::from(self.abort_upload(key, id).await?);
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() || next == markers {
                return Ok(count);
            }
            if idle >= IDLE_PAGES_MAX {
                let what = "the list of unfinished uploads goes on and brings nothing new";
                return Err(Failure::judged(StoreErrorKind::Refused, what));
            }
            markers = next;
        }
    }

    /// Key and id of an upload that can be taken for ours and for forgotten.
    fn is_forgotten<'a>(
        &self,
        upload: &'a MultipartUpload,
        min_age: Duration,
        now: Timestamp,
        live: &BTreeSet<String>,
    ) -> Option<(&'a str, &'a str)> {
        let key = upload.key()?.strip_prefix(&self.prefix)?;
        let id = upload.upload_id()?;
        let since = upload.initiated().and_then(timestamp)?;
        let is_old = match layout::place(key) {
            Place::Backup { id: backup, .. } => {
                is_older(since, min_age, now) && is_older(backup.time(), min_age, now)
            }
            // What a doctor left that was killed.
            _ => key.split('/').next() == Some(SCRATCH) && is_older(since, min_age, now),
        };
        (is_old && !live.contains(id)).then_some((key, id))
    }

    /// Whether the object is there, or the manifest of its backup, so that the upload is none that
    /// somebody has forgotten. Whatever the store answers but a clear no is an error.
    async fn was_completed(&self, key: &str) -> Result<bool, Failure> {
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let manifest = format!("{folder}/{MANIFEST_NAME}");
        Ok(self.look(key).await?.is_some() || self.look(&manifest).await?.is_some())
    }
}
