//! Limits on what a store may answer, below the SDK's parser.
//!
//! The SDK reads every answer whole before it looks at it (but for the bytes of an object), so that a
//! store, or whatever answers in its place, would fill the memory. Each kind of answer has a limit
//! of its own here. XML grows where it is parsed: the shortest elements become some 240 bytes each,
//! so that their number is limited as well as their length.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextMut,
    },
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A page has 1,000 entries, each with a key of at most 1,024 bytes, five times as long where all of
/// it is escaped (`&amp;`): no honest page is longer, and most have 300 KiB.
const PAGE_MAX: u64 = 4 << 20;
/// Source: Amazon S3 API reference, "Error responses": code, message, resource, ids. The rest is
/// room for the page of a proxy.
const ERROR_MAX: u64 = 64 << 10;
/// A lifecycle configuration has up to 1,000 rules; all other answers are shorter.
const OTHER_MAX: u64 = 1 << 20;
/// Beginnings and ends of elements in one answer. An entry of a page has up to 14 elements.
const TAGS_MAX: u64 = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer that no store gives.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{what} is longer than {most} bytes or has more than {TAGS_MAX} tags: not read on")]
pub(super) struct TooLong {
    what: &'static str,
    most: u64,
}

/// Puts a limit on each answer before the SDK reads it.
#[derive(Debug)]
pub(super) struct Bound;

impl Intercept for Bound {
    fn name(&self) -> &'static str {
        "BoundAnswer"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        let is_success = context.response().status().is_success();
        if let Some(limit) = limit(operation, is_success) {
            let body = context.response_mut().take_body();
            *context.response_mut().body_mut() = SdkBody::from_body_1_x(Bounded::new(body, limit));
        }
        Ok(())
    }
}

/// The limit of an answer; none for the bytes of an object, which nobody collects here.
fn limit(operation: &str, is_success: bool) -> Option<TooLong> {
    let (what, most) = match (is_success, operation) {
        (false, _) => ("the store's error", ERROR_MAX),
        (true, "GetObject") => return None,
        (true, "ListObjectsV2" | "ListMultipartUploads") => ("a page of a list", PAGE_MAX),
        (true, _) => ("the store's answer", OTHER_MAX),
    };
    Some(TooLong { what, most })
}

/// A body that ends with an error where it goes beyond its limit.
struct Bounded {
    body: SdkBody,
    limit: TooLong,
    bytes: u64,
    tags: u64,
}

impl Bounded {
    fn new(body: SdkBody, limit: TooLong) -> Self {
        Self { body, limit, bytes: 0, tags: 0 }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.bytes += data.len() as u64;
            self.tags += data.iter().map(|byte| u64::from(*byte == b'<')).sum::<u64>();
            if self.bytes > self.limit.most || self.tags > TAGS_MAX {
                return Poll::Ready(Some(Err(self.limit.into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_answer_has_its_limit() {
        let most = |operation, is_success| limit(operation, is_success).map(|limit| limit.most);
        assert_eq!(most("GetObject", true), None);
        assert_eq!(most("GetObject", false), Some(ERROR_MAX));
        assert_eq!(most("ListObjectsV2", true), Some(PAGE_MAX));
        assert_eq!(most("ListMultipartUploads", true), Some(PAGE_MAX));
        assert_eq!(most("GetBucketVersioning", true), Some(OTHER_MAX));
    }
}
