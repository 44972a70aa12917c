//! Listings, page by page.
//!
//! A store may answer with pages that hold nothing and go on for ever, with the same token or with ever
//! new ones. Some such pages are honest (a versioned bucket with many delete markers), so that their
//! number and their time have limits.

use std::collections::VecDeque;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use futures_util::stream::{self, BoxStream, StreamExt as _};

use super::{
    client::Bucket,
    error::Failure,
    object::{length, timestamp},
    whole::WholeXml,
};
use crate::repository::store::{ObjectMeta, StoreError, StoreErrorKind};

/// Pages in a row that bring nothing new: what follows is taken for endless. Ceph and Amazon S3 give
/// some where a page is full of delete markers.
pub(super) const IDLE_PAGES_MAX: u32 = 1_000;
/// How many times the limit of one request a listing may go on without anything new.
const IDLE_FACTOR: u32 = 5;

/// Where a listing stands.
struct Walk<'a> {
    bucket: &'a Bucket,
    /// As the store knows it, ending with a slash unless empty.
    prefix: String,
    doing: String,
    page: VecDeque<ObjectMeta>,
    next: Next,
    /// The key handed out last: the order is checked, which also ends a listing that goes round.
    last: Option<String>,
    /// The last key of all, ours or not.
    seen: String,
    /// Pages in a row without a key behind that one.
    idle: u32,
}

enum Next {
    /// The first page; from behind a key as the store knows it.
    First(Option<String>),
    Token(String),
    /// Nothing was found below the prefix: it may itself be an object's key.
    Itself(String),
    End,
}

impl Bucket {
    /// Lists below `prefix` (whole segments), from behind the key `after` where one is given.
    pub(super) fn list_below(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        let bare = prefix.trim_matches('/');
        let walk = Walk {
            bucket: self,
            prefix: self.full(&if bare.is_empty() { String::new() } else { format!("{bare}/") }),
            doing: format!("list {}", if bare.is_empty() { &self.place } else { bare }),
            page: VecDeque::new(),
            next: Next::First(after.map(|after| self.full(after))),
            last: after.map(str::to_owned),
            seen: String::new(),
            idle: 0,
        };
        let bare = bare.to_owned();
        stream::try_unfold(walk, move |mut walk| {
            let bare = bare.clone();
            async move {
                let limit = walk.bucket.request_timeout * IDLE_FACTOR;
                let turned = tokio::time::timeout(limit, walk.turn_until_full(&bare)).await;
                turned.unwrap_or_else(|_| Err(walk.endless(StoreErrorKind::Unavailable)))?;
                let Some(meta) = walk.page.pop_front() else { return Ok(None) };
                walk.check_order(&meta.key)?;
                Ok(Some((meta, walk)))
            }
        })
        .boxed()
    }

    /// One page; also the cheapest request whose failure has an error code.
    pub(super) async fn page(
        &self,
        prefix: &str,
        token: Option<String>,
        after: Option<String>,
        most: Option<i32>,
    ) -> Result<ListObjectsV2Output, Failure> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix);
        let request =
            request.set_continuation_token(token).set_start_after(after).set_max_keys(most);
        let request = request.customize().config_override(self.briefly()).interceptor(WholeXml);
        request.send().await.map_err(Failure::of_write)
    }
}

impl Walk<'_> {
    async fn turn_until_full(&mut self, bare: &str) -> Result<(), StoreError> {
        while self.page.is_empty() && !matches!(self.next, Next::End) {
            self.turn(bare).await?;
        }
        Ok(())
    }

    /// Counts the pages without anything new.
    fn check_progress(
        &mut self,
        page: &ListObjectsV2Output,
        token: Option<&str>,
    ) -> Result<(), StoreError> {
        let last = page.contents().last().and_then(|object| object.key());
        if let Some(last) = last.filter(|last| *last > self.seen.as_str()) {
            last.clone_into(&mut self.seen);
            self.idle = 0;
            return Ok(());
        }
        self.idle += 1;
        let goes_on = page.is_truncated() == Some(true);
        let is_same = goes_on && token.is_some() && token == page.next_continuation_token();
        if is_same || (goes_on && self.idle >= IDLE_PAGES_MAX) {
            return Err(self.endless(StoreErrorKind::Refused));
        }
        Ok(())
    }

    fn endless(&self, kind: StoreErrorKind) -> StoreError {
        let what =
            format!("the list goes on and brings nothing new (after {} empty pages)", self.idle);
        StoreError::new(kind, &self.doing, what)
            .hint("the store's list has no end: look at the store, or at what stands before it")
    }

    async fn turn(&mut self, bare: &str) -> Result<(), StoreError> {
        let (token, after) = match std::mem::replace(&mut self.next, Next::End) {
            Next::First(after) => (None, after),
            Next::Token(token) => (Some(token), None),
            Next::Itself(key) => {
                let there = self.bucket.look(&key).await.map_err(|failure| self.error(failure))?;
                self.page.extend(there.map(|there| there.meta));
                return Ok(());
            }
            Next::End => return Ok(()),
        };
        // With a key to start from, an empty page says nothing of the prefix.
        let first = token.is_none() && after.is_none();
        let page = self.bucket.page(&self.prefix, token.clone(), after, None).await;
        let page = page.map_err(|failure| self.error(failure))?;
        self.check_progress(&page, token.as_deref())?;
        self.next = match page.next_continuation_token() {
            Some(token) if page.is_truncated() == Some(true) => Next::Token(token.to_owned()),
            _ if page.is_truncated() == Some(true) => {
                let what = "the store cut the list short and does not say how to go on";
                return Err(StoreError::new(StoreErrorKind::Refused, &self.doing, what));
            }
            _ if page.is_truncated() == Some(false)
                && first
                && page.contents().is_empty()
                && !bare.is_empty() =>
            {
                Next::Itself(bare.to_owned())
            }
            _ if page.is_truncated() == Some(false) => Next::End,
            _ => {
                let what = "the store does not say whether the list goes on";
                return Err(StoreError::new(StoreErrorKind::Refused, &self.doing, what).hint(
                    "every S3 server says so (IsTruncated): is it one that `endpoint` names?",
                ));
            }
        };
        for object in page.contents() {
            let ours = object.key().and_then(|key| key.strip_prefix(&self.bucket.prefix));
            // Not ours: other keys that a lax store lists, and the marker of an empty folder.
            let Some(key) = ours.filter(|key| !key.is_empty() && !key.ends_with('/')) else {
                continue;
            };
            self.page.push_back(ObjectMeta {
                key: key.to_owned(),
                bytes: length(object.size()),
                modified: object.last_modified().and_then(timestamp),
            });
        }
        Ok(())
    }

    fn check_order(&mut self, key: &str) -> Result<(), StoreError> {
        if self.last.as_deref().is_some_and(|last| last >= key) {
            let what = format!("the store lists {key} out of order");
            return Err(StoreError::new(StoreErrorKind::Refused, &self.doing, what)
                .hint("directory buckets are not supported"));
        }
        self.last = Some(key.to_owned());
        Ok(())
    }

    fn error(&self, failure: Failure) -> StoreError {
        failure.into_error(&self.doing, StoreErrorKind::Unavailable)
    }
}
