//! Whole objects: look up, write small ones, read, remove.

use std::{ops::Range, sync::atomic::Ordering, time::Duration};

use aws_sdk_s3::{
    operation::get_object::GetObjectOutput,
    primitives::{ByteStream, DateTime},
};
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use jiff::Timestamp;

use super::{
    client::Bucket,
    digest::{Digest, crc64_header},
    error::{Failure, chain},
};
use crate::repository::store::{ObjectMeta, StoreError, StoreErrorKind};

/// The metadata that tells our own upload from anybody else's: sent at the start, read back after
/// an answer that was lost.
pub(super) const NONCE: &str = "pgkeep-upload";

pub(super) type Body = BoxStream<'static, Result<Bytes, StoreError>>;

/// An object that is there.
#[derive(Debug)]
pub(super) struct There {
    pub(super) meta: ObjectMeta,
    pub(super) nonce: Option<String>,
}

impl Bucket {
    /// Looks an object up. A HEAD has no error code: a missing bucket looks like a missing object.
    pub(super) async fn look(&self, key: &str) -> Result<Option<There>, Failure> {
        let request = self.client.head_object().bucket(&self.name).key(self.full(key));
        match request.customize().config_override(self.briefly()).send().await {
            Ok(head) => Ok(Some(There {
                nonce: head.metadata().and_then(|metadata| metadata.get(NONCE)).cloned(),
                meta: ObjectMeta {
                    key: key.to_owned(),
                    bytes: length(head.content_length()),
                    modified: head.last_modified().and_then(timestamp),
                },
            })),
            Err(error) => match Failure::from(error) {
                failure if failure.is_not_found() => Ok(None),
                failure => Err(failure),
            },
        }
    }

    /// Stores a small object, or finds that the same bytes are there already. Stores that ignore
    /// `If-None-Match` (Garage does) would overwrite: so it is looked up first.
    pub(super) async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        let doing = format!("write {key}");
        let late = StoreErrorKind::Unavailable;
        let there = self.look(key).await.map_err(|failure| failure.into_error(&doing, late))?;
        if let Some(there) = there {
            return self.compare(there.meta, &bytes, &doing).await;
        }
        let Err(failure) = self.put(key, bytes.clone(), None).await else {
            return Ok(ObjectMeta { key: key.into(), bytes: bytes.len() as u64, modified: None });
        };
        // Somebody was faster, or our own answer was lost.
        if (failure.is_taken() || failure.is_open_ended())
            && let Ok(Some(there)) = self.look(key).await
        {
            return self.compare(there.meta, &bytes, &doing).await;
        }
        Err(failure.into_error(doing, late))
    }

    async fn compare(
        &self,
        there: ObjectMeta,
        bytes: &Bytes,
        doing: &str,
    ) -> Result<ObjectMeta, StoreError> {
        let taken = || StoreError::new(StoreErrorKind::Exists, doing, "the key is taken");
        if there.bytes != bytes.len() as u64 {
            return Err(taken());
        }
        let mut body = self.read(&there.key, None).await?;
        let mut at = 0;
        while let Some(piece) = body.try_next().await? {
            let end = at + piece.len();
            if bytes.get(at..end) != Some(&piece[..]) {
                return Err(taken());
            }
            at = end;
        }
        Ok(there)
    }

    /// One PutObject; two where the store turns out not to know `If-None-Match`.
    pub(super) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        nonce: Option<&str>,
    ) -> Result<(), Failure> {
        let digest = self.check.of(&bytes).await.ok_or_else(Failure::going_down)?;
        let conditional = self.conditional.load(Ordering::Relaxed);
        match self.put_once(key, bytes.clone(), nonce, &digest, conditional).await {
            Err(failure) if conditional && failure.is_unsupported() => {
                self.conditional.store(false, Ordering::Relaxed);
                self.put_once(key, bytes, nonce, &digest, false).await
            }
            done => done,
        }
    }

    pub(super) async fn put_once(
        &self,
        key: &str,
        bytes: Bytes,
        nonce: Option<&str>,
        digest: &Digest,
        conditional: bool,
    ) -> Result<(), Failure> {
        let limit = Self::within(self.limit(bytes.len()));
        let mut request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(self.full(key))
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .body(ByteStream::from(bytes));
        request = match digest {
            Digest::None => request,
            Digest::Md5(value) => request.content_md5(value),
            Digest::Crc32(value) => request.checksum_crc32(value),
            Digest::Crc64Nvme(value) => request.checksum_crc64_nvme(crc64_header(*value)),
        };
        if let Some(nonce) = nonce {
            request = request.metadata(NONCE, nonce);
        }
        let mut request = request.customize().config_override(limit);
        if self.unsigned_body {
            request = request.disable_payload_signing();
        }
        request.send().await.map_err(Failure::of_write)?;
        Ok(())
    }

    /// Reads an object or a range of it.
    pub(super) async fn read(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Body, StoreError> {
        let doing = format!("read {key}");
        let fail = |failure: Failure| failure.into_error(&doing, StoreErrorKind::Unavailable);
        if range.as_ref().is_some_and(Range::is_empty) {
            return match self.look(key).await.map_err(fail)? {
                Some(_) => Ok(stream::empty().boxed()),
                None => Err(StoreError::new(StoreErrorKind::NotFound, doing, "no such object")),
            };
        }
        let output = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(self.full(key))
            .set_range(
                range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1)),
            )
            .customize()
            .config_override(self.briefly())
            .send()
            .await
            .map_err(Failure::from)
            .map_err(|failure| {
                if !failure.is_not_the_stores() {
                    return fail(failure);
                }
                let what = format!("{}, and not in the words of an S3 store", failure.text());
                StoreError::new(StoreErrorKind::Refused, &doing, what)
                    .hint("does `endpoint` lead to the store, or to a proxy that does not know it?")
            })?;
        let expected = check_range(&output, range).map_err(fail)?;
        Ok(self.guard(output.body, expected, doing))
    }

    /// The bytes of an answer: no more and no fewer than announced, never silent for long, and no
    /// slower than the least rate. Only the time that somebody waits for bytes counts.
    fn guard(&self, body: ByteStream, expected: u64, doing: String) -> Body {
        let start = Download {
            body,
            expected,
            got: 0,
            waited: Duration::ZERO,
            silence: self.request_timeout,
            min_rate: self.min_rate,
            doing,
        };
        stream::try_unfold(start, async |mut download| {
            Ok(download.next().await?.map(|piece| (piece, download)))
        })
        .boxed()
    }

    /// Removes an object. One request for each: DeleteObjects needs checksums that some stores
    /// refuse.
    pub(super) async fn remove(&self, key: &str) -> Result<(), Failure> {
        let request = self.client.delete_object().bucket(&self.name).key(self.full(key));
        match request.customize().config_override(self.briefly()).send().await {
            Ok(_) => Ok(()),
            Err(error) => match Failure::from(error) {
                failure if failure.is_not_found() => Ok(()),
                failure => Err(failure),
            },
        }
    }
}

/// The body of an answer, while it comes.
struct Download {
    body: ByteStream,
    expected: u64,
    got: u64,
    /// For bytes, all in all.
    waited: Duration,
    silence: Duration,
    min_rate: u64,
    doing: String,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        // What came so far may have taken so long, and the first byte as long as any request.
        let allowed =
            self.silence + Duration::from_secs_f64(self.got as f64 / self.min_rate as f64);
        let left = allowed.saturating_sub(self.waited);
        let since = tokio::time::Instant::now();
        let piece = tokio::time::timeout(self.silence.min(left), self.body.next()).await;
        self.waited += since.elapsed();
        match piece {
            // Bytes came, and used up the time; else it fell silent.
            Err(_) if left < self.silence / 2 => Err(self.too_slow()),
            Err(_) => {
                let what = format!("no bytes for {} s", self.silence.as_secs_f32());
                Err(self.error(StoreErrorKind::Unavailable, what))
            }
            Ok(Some(Err(error))) => Err(self.error(StoreErrorKind::Unavailable, chain(&error))),
            Ok(Some(Ok(piece))) => {
                self.got += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(None) if self.got != self.expected => {
                let what = format!("ended after {} of {} bytes", self.got, self.expected);
                Err(self.error(StoreErrorKind::Unavailable, what))
            }
            Ok(None) => Ok(None),
        }
    }

    fn too_slow(&self) -> StoreError {
        let (got, waited) = (self.got, self.waited.as_secs());
        let what = format!("{got} bytes in {waited} s: less than {} bytes/s", self.min_rate);
        self.error(StoreErrorKind::Slow, what)
            .hint("if the line is simply that slow, lower `min_rate` or raise `request_timeout`")
    }

    fn error(&self, kind: StoreErrorKind, what: String) -> StoreError {
        StoreError::new(kind, &self.doing, what)
    }
}

/// How many bytes an answer has to bring, if it is the answer to what was asked. A range that ends
/// behind the object is cut there.
fn check_range(output: &GetObjectOutput, range: Option<Range<u64>>) -> Result<u64, Failure> {
    let bytes = length(output.content_length());
    let Some(range) = range else { return Ok(bytes) };
    // `bytes 5-9/100`
    let answered = output.content_range().and_then(|text| text.trim().strip_prefix("bytes "));
    let total = answered.and_then(|text| text.split_once('/')?.1.parse::<u64>().ok());
    let Some(answered) = answered else {
        return Err(Failure::judged(
            StoreErrorKind::Refused,
            "the store ignores ranges and sent the whole object",
        ));
    };
    let end = total.map_or(range.end, |total| range.end.min(total));
    if answered.split('-').next() != Some(&range.start.to_string())
        || Some(bytes) != end.checked_sub(range.start)
    {
        let what = format!("bytes {}-{} asked, got {answered}", range.start, range.end - 1);
        return Err(Failure::judged(StoreErrorKind::Damaged, what));
    }
    Ok(bytes)
}

pub(super) fn length(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
}

pub(super) fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}
