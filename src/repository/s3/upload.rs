//! Objects that arrive in parts.
//!
//! Completing is not idempotent: after an answer that was lost, most stores know the upload no
//! more. Whatever goes wrong there is settled by looking the object up: it is ours if it carries
//! the nonce that this upload was begun with and has the length of the parts.
//!
//! What can still go wrong: a store that goes on completing after it was looked up. The caller
//! then has an error, and [`Upload::abort`] removes the object if it is there by then.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::SdkError,
    primitives::ByteStream,
    types::{
        ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, StorageClass,
    },
};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::{
    client::Bucket,
    digest::{Check, Digest, crc64_header, whole_crc64},
    error::Failure,
    object::{NONCE, There},
    record::Held,
};
use crate::repository::store::{ObjectMeta, StoreError, StoreErrorKind, Upload};

/// How long giving up may take: it stands in the way of a shutdown.
const ABORT_LIMIT: Duration = Duration::from_secs(10);
/// How many times the limit of other requests completing may take. Source: Amazon S3 API
/// reference, CompleteMultipartUpload: "can take several minutes".
const COMPLETE_FACTOR: u32 = 5;

/// One upload under way. Dropped without an end, its record is nobody's and the sweep takes it.
#[derive(Debug)]
pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    key: String,
    upload_id: String,
    nonce: String,
    parts: std::sync::Mutex<BTreeMap<u32, Part>>,
    stage: Mutex<Stage>,
    /// Completing was tried, so that the object may be there.
    tried: AtomicBool,
    /// None where only the store knows of it.
    record: Option<Held>,
}

#[derive(Debug)]
enum Stage {
    Open,
    Committed(ObjectMeta),
    Aborted,
}

/// A part that is stored.
#[derive(Debug, Clone)]
struct Part {
    etag: String,
    bytes: u64,
    digest: Digest,
}

/// All parts, in order.
struct Whole {
    bytes: u64,
    parts: CompletedMultipartUpload,
    crc64: Option<String>,
}

impl Bucket {
    /// Begins an upload and remembers it on disk.
    pub(super) async fn begin_upload(
        self: &Arc<Self>,
        key: &str,
    ) -> Result<Box<dyn Upload>, StoreError> {
        let mut upload = self.begin_unremembered(key).await?;
        let (id, nonce) = (upload.upload_id.clone(), upload.nonce.clone());
        let started = self.clock.now().wall;
        match self.records.remember(key.to_owned(), id, nonce, started).await {
            Ok(record) => upload.record = Some(record),
            Err(error) => {
                // Nobody would ever find it: better no upload at all.
                drop(self.abort_upload(key, &upload.upload_id).await);
                let what = format!("the upload cannot be remembered on disk: {error}");
                let doing = format!("begin {key}");
                return Err(StoreError::new(StoreErrorKind::Refused, doing, what)
                    .hint("check room and permissions of the state directory"));
            }
        }
        Ok(Box::new(upload))
    }

    /// Begins an upload of which only the store knows.
    pub(super) async fn begin_unremembered(
        self: &Arc<Self>,
        key: &str,
    ) -> Result<S3Upload, StoreError> {
        let doing = format!("begin {key}");
        let fail = |failure: Failure| failure.into_error(&doing, StoreErrorKind::Unavailable);
        if self.look(key).await.map_err(fail)?.is_some() {
            return Err(StoreError::new(StoreErrorKind::Exists, doing, "the key is taken"));
        }
        let nonce = nonce().map_err(fail)?;
        let upload_id = self.create(key, &nonce).await.map_err(fail)?;
        Ok(S3Upload {
            bucket: Arc::clone(self),
            key: key.to_owned(),
            upload_id,
            nonce,
            parts: std::sync::Mutex::default(),
            stage: Mutex::new(Stage::Open),
            tried: AtomicBool::new(false),
            record: None,
        })
    }

    async fn create(&self, key: &str, nonce: &str) -> Result<String, Failure> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(self.full(key))
            .metadata(NONCE, nonce)
            .set_storage_class(self.storage_class.as_deref().map(StorageClass::from));
        // What is not declared here must not be sent at the end.
        let request = match self.check {
            Check::None | Check::Md5 => request,
            Check::Crc32 => request.checksum_algorithm(ChecksumAlgorithm::Crc32),
            Check::Crc64Nvme => request
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                .checksum_type(ChecksumType::FullObject),
        };
        let output = request.customize().config_override(self.briefly()).send().await;
        let id = match output {
            Ok(output) => output.upload_id,
            Err(error) => Some(misnamed_id(&error).ok_or_else(|| Failure::of_write(error))?),
        };
        id.filter(|id| !id.is_empty()).ok_or_else(|| {
            Failure::judged(StoreErrorKind::Refused, "the store gave the upload no id")
        })
    }

    /// Aborts an upload; whether there was one. That there is none is no error.
    pub(super) async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<bool, Failure> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.name)
            .key(self.full(key))
            .upload_id(upload_id)
            .customize()
            .config_override(Self::within(self.request_timeout.min(ABORT_LIMIT)));
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error) => match Failure::from(error) {
                failure if failure.is_no_such_upload() || failure.is_not_found() => Ok(false),
                failure => Err(failure),
            },
        }
    }
}

/// The id in an answer whose root element has another name than S3's `InitiateMultipartUploadResult`,
/// which the SDK does not take. Seen with rclone 1.75: `InitiateMultipartUpload`.
fn misnamed_id<E>(error: &SdkError<E, HttpResponse>) -> Option<String> {
    let response = error.raw_response().filter(|response| response.status().is_success())?;
    let text = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, inside) = text.split_once("<InitiateMultipartUpload>")?;
    let (id, _) = inside.split_once("<UploadId>")?.1.split_once("</UploadId>")?;
    // What is escaped would have to be decoded, and no id is.
    (!id.contains(['<', '&'])).then(|| id.to_owned())
}

/// 128 random bits in hexadecimal.
fn nonce() -> Result<String, Failure> {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Failure::judged(StoreErrorKind::Unavailable, format!("no random numbers: {error}"))
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

#[async_trait]
impl Upload for S3Upload {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<(), StoreError> {
        let doing = format!("write part {number} of {}", self.key);
        let fail = |failure: Failure| failure.into_error(&doing, StoreErrorKind::Slow);
        if !(1..=self.bucket.limits.max_parts).contains(&number) {
            let what = format!("an object has parts 1 to {}", self.bucket.limits.max_parts);
            return Err(StoreError::new(StoreErrorKind::Refused, doing, what));
        }
        let length = bytes.len() as u64;
        let digest = self.bucket.check.of(&bytes).await;
        let digest = digest.ok_or_else(Failure::going_down).map_err(fail)?;
        let etag = self.send_part(number, bytes, &digest).await.map_err(fail)?;
        let part = Part { etag, bytes: length, digest };
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
        Ok(())
    }

    async fn commit(&self) -> Result<ObjectMeta, StoreError> {
        let doing = format!("complete {}", self.key);
        let mut stage = self.stage.lock().await;
        match &*stage {
            Stage::Committed(meta) => return Ok(meta.clone()),
            Stage::Aborted => {
                return Err(StoreError::new(StoreErrorKind::Refused, doing, "it was aborted"));
            }
            Stage::Open => {}
        }
        let whole = self.whole(&doing)?;
        self.tried.store(true, Ordering::Relaxed);
        let bytes = whole.as_ref().map_or(0, |whole| whole.bytes);
        let has_parts = whole.is_some();
        let done = match whole {
            Some(whole) => self.complete(whole).await,
            None => self.bucket.put(&self.key, Bytes::new(), Some(&self.nonce)).await,
        };
        let meta = match done {
            Ok(()) => ObjectMeta { key: self.key.clone(), bytes, modified: None },
            Err(failure) => self.settle(failure, bytes, &doing).await?,
        };
        *stage = Stage::Committed(meta.clone());
        // An object without parts leaves its upload behind.
        if has_parts || self.bucket.abort_upload(&self.key, &self.upload_id).await.is_ok() {
            self.forget().await;
        }
        Ok(meta)
    }

    async fn abort(&self) -> Result<(), StoreError> {
        let doing = format!("abort {}", self.key);
        match tokio::time::timeout(ABORT_LIMIT, self.give_up()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.into_error(doing, StoreErrorKind::Unavailable)),
            Err(_) => {
                let what = format!("no end within {} s", ABORT_LIMIT.as_secs());
                Err(StoreError::new(StoreErrorKind::Unavailable, doing, what))
            }
        }
        .map_err(|error| error.hint("the next sweep removes what is left of it"))
    }
}

impl S3Upload {
    pub(super) async fn send_part(
        &self,
        number: u32,
        bytes: Bytes,
        digest: &Digest,
    ) -> Result<String, Failure> {
        let limit = Bucket::within(self.bucket.limit(bytes.len()));
        let request = self
            .bucket
            .client
            .upload_part()
            .bucket(&self.bucket.name)
            .key(self.bucket.full(&self.key))
            .upload_id(&self.upload_id)
            .part_number(number.cast_signed())
            .body(ByteStream::from(bytes));
        let request = match digest {
            Digest::None => request,
            Digest::Md5(value) => request.content_md5(value),
            Digest::Crc32(value) => request.checksum_crc32(value),
            Digest::Crc64Nvme(value) => request.checksum_crc64_nvme(crc64_header(*value)),
        };
        let mut request = request.customize().config_override(limit);
        if self.bucket.unsigned_body {
            request = request.disable_payload_signing();
        }
        let output = request.send().await.map_err(Failure::of_write)?;
        output.e_tag.filter(|etag| !etag.is_empty()).ok_or_else(|| {
            Failure::judged(StoreErrorKind::Refused, "the store gave the part no ETag")
        })
    }

    /// What there is to complete; `None` without parts. A gap is a defect of the caller.
    fn whole(&self, doing: &str) -> Result<Option<Whole>, StoreError> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(missing) = (1..).zip(parts.keys()).find(|(at, number)| at != *number) {
            let what = format!("part {} was never stored", missing.0);
            return Err(StoreError::new(StoreErrorKind::Refused, doing, what));
        }
        let crc64 = parts.values().map(|part| match part.digest {
            Digest::Crc64Nvme(value) => Some((value, part.bytes)),
            _ => None,
        });
        let crc64: Option<Vec<_>> = crc64.collect();
        let completed = parts.iter().map(|(number, part)| {
            let completed =
                CompletedPart::builder().part_number(number.cast_signed()).e_tag(&part.etag);
            match &part.digest {
                Digest::Crc32(value) => completed.checksum_crc32(value),
                _ => completed,
            }
            .build()
        });
        Ok((!parts.is_empty()).then(|| Whole {
            bytes: parts.values().map(|part| part.bytes).sum(),
            parts: CompletedMultipartUpload::builder().set_parts(Some(completed.collect())).build(),
            crc64: crc64.map(|parts| crc64_header(whole_crc64(parts))),
        }))
    }

    /// Completes; a second time where the store turns out not to know `If-None-Match`.
    async fn complete(&self, whole: Whole) -> Result<(), Failure> {
        let conditional = self.bucket.conditional.load(Ordering::Relaxed);
        match self.complete_once(&whole, conditional).await {
            Err(failure) if conditional && failure.is_unsupported() => {
                self.bucket.conditional.store(false, Ordering::Relaxed);
                self.complete_once(&whole, false).await
            }
            done => done,
        }
    }

    async fn complete_once(&self, whole: &Whole, conditional: bool) -> Result<(), Failure> {
        let mut request = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.bucket.full(&self.key))
            .upload_id(&self.upload_id)
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .multipart_upload(whole.parts.clone());
        if let Some(value) = &whole.crc64 {
            request = request
                .checksum_type(ChecksumType::FullObject)
                .checksum_crc64_nvme(value)
                .mpu_object_size(whole.bytes.cast_signed());
        }
        let limit = Bucket::within(self.bucket.request_timeout * COMPLETE_FACTOR);
        let output = request.customize().config_override(limit).send().await;
        let output = output.map_err(Failure::of_write)?;
        // Amazon sends the head of the answer while it is still at work. Without what belongs in its
        // body nothing is known.
        if output.e_tag().is_none_or(str::is_empty) {
            let what = "the store answered without saying what it made";
            return Err(Failure::judged(StoreErrorKind::Unavailable, what));
        }
        Ok(())
    }

    /// Finds out what a failed completion did.
    async fn settle(
        &self,
        failure: Failure,
        bytes: u64,
        doing: &str,
    ) -> Result<ObjectMeta, StoreError> {
        let error = |kind, what: String| StoreError::new(kind, doing, what);
        match self.bucket.look(&self.key).await {
            Ok(Some(there)) if !self.is_ours(&there) => {
                Err(error(StoreErrorKind::Exists, "the key is taken by another object".into()))
            }
            Ok(Some(There { meta, .. })) if meta.bytes == bytes => {
                tracing::info!(key = self.key, answer = failure.text(), "settled: it is stored");
                Ok(meta)
            }
            Ok(Some(There { meta, .. })) => {
                let what = format!("{bytes} bytes were sent and {} are stored", meta.bytes);
                Err(error(StoreErrorKind::Damaged, what))
            }
            // A store that says "taken" of a key that is free.
            Ok(None) if failure.is_taken() => {
                Err(error(StoreErrorKind::Unavailable, failure.text().to_owned()))
            }
            Ok(None) => Err(failure.into_error(doing, StoreErrorKind::Unavailable)),
            Err(second) => {
                let what = format!(
                    "{}; whether it was stored is not known, since looking it up failed: {}",
                    failure.text(),
                    second.text()
                );
                Err(error(StoreErrorKind::Unavailable, what))
            }
        }
    }

    fn is_ours(&self, there: &There) -> bool {
        there.nonce.as_ref() == Some(&self.nonce)
    }

    async fn give_up(&self) -> Result<(), Failure> {
        let mut stage = self.stage.lock().await;
        match &*stage {
            // What is complete is not taken back: deleting is another request.
            Stage::Aborted | Stage::Committed(_) => return Ok(()),
            Stage::Open => {}
        }
        let aborted = self.bucket.abort_upload(&self.key, &self.upload_id).await;
        if self.tried.load(Ordering::Relaxed) {
            // An answer that was lost may have been a success. Names are never used again, so
            // what carries our nonce can be nobody else's.
            match self.bucket.look(&self.key).await? {
                Some(there) if self.is_ours(&there) => self.bucket.remove(&self.key).await?,
                // Not completed, so the upload must have been there.
                _ => _ = aborted?,
            }
        } else {
            aborted?;
        }
        *stage = Stage::Aborted;
        self.forget().await;
        Ok(())
    }

    /// A record that stays is harmless: the sweep finds that its upload is gone.
    async fn forget(&self) {
        if let Some(record) = &self.record
            && let Err(error) = record.forget().await
        {
            tracing::warn!(%error, key = self.key, "the record of an ended upload stays");
        }
    }
}
