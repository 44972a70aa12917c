//! What an S3 store does with what is asked of it: conditions and digests that it may ignore without a
//! word, and rules of the bucket that keep or remove objects behind our back.
//!
//! Not every store has each of these questions, and credentials for backups need not be allowed to ask
//! them: what is not answered is not known.

use std::sync::Arc;

use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleRule, LifecycleRuleFilter,
};
use bytes::Bytes;

use super::{client::Bucket, error::Failure};
use crate::repository::{
    store::{StoreError, StoreErrorKind},
    survey::{Compliance, Survey},
};

/// Rules that are told.
const RULES_MAX: usize = 10;
/// What is written over the scratch object, where the store lets us.
const OTHER: &[u8] = b"written by a probe over an object that was there";

impl Bucket {
    /// Looks closely, with an object of a probe that is there and may be overwritten.
    pub(super) async fn survey(self: &Arc<Self>, scratch: &str) -> Result<Survey, StoreError> {
        let fail = |failure: Failure| {
            failure.into_error(format!("overwrite {scratch}"), StoreErrorKind::Unavailable)
        };
        Ok(Survey {
            condition: Some(self.condition(scratch).await.map_err(fail)?),
            digest: Some(self.digest(scratch).await.map_err(fail)?),
            parts: Some(self.try_parts(&format!("{scratch}-parts")).await),
            space: None,
            versioned: self.versioned().await,
            lock: self.lock().await,
            expiry: self.expiry().await,
        })
    }

    /// A write that is to be refused, since there is an object. Sent as such, without the look before.
    async fn condition(&self, scratch: &str) -> Result<Compliance, Failure> {
        let bytes = Bytes::from_static(OTHER);
        let digest = self.check.of(&bytes).await.ok_or_else(Failure::going_down)?;
        match self.put_once(scratch, bytes, None, &digest, true).await {
            Ok(()) => Ok(Compliance::Ignored),
            Err(failure) if failure.is_taken() => Ok(Compliance::Yes),
            Err(failure) if failure.is_unsupported() => Ok(Compliance::Unsupported),
            Err(failure) => Err(failure),
        }
    }

    /// A write that is to be refused, since its digest is that of other bytes.
    async fn digest(&self, scratch: &str) -> Result<Compliance, Failure> {
        let Some(wrong) = self.check.wrong() else { return Ok(Compliance::NotAsked) };
        let bytes = Bytes::from_static(OTHER);
        Compliance::of_digest(self.put_once(scratch, bytes, None, &wrong, false).await)
    }

    async fn versioned(&self) -> Option<bool> {
        let request = self.client.get_bucket_versioning().bucket(&self.name);
        let answer = request.customize().config_override(self.briefly()).send().await.ok()?;
        Some(matches!(answer.status(), Some(BucketVersioningStatus::Enabled)))
    }

    /// The default lock of new objects, in words.
    async fn lock(&self) -> Option<String> {
        let request = self.client.get_object_lock_configuration().bucket(&self.name);
        let answer = request.customize().config_override(self.briefly()).send().await.ok()?;
        let rule = answer.object_lock_configuration()?.rule()?;
        let retention = rule.default_retention()?;
        let mode = retention.mode().map_or("", |mode| mode.as_str());
        let time = match (retention.days(), retention.years()) {
            (Some(days), _) => format!("{days} days"),
            (None, Some(years)) => format!("{years} years"),
            (None, None) => return None,
        };
        Some(format!("{mode} for {time}"))
    }

    /// Lifecycle rules that remove objects of this repository, in words.
    async fn expiry(&self) -> Option<Vec<String>> {
        let request = self.client.get_bucket_lifecycle_configuration().bucket(&self.name);
        match request.customize().config_override(self.briefly()).send().await {
            Ok(answer) => {
                let rules = answer.rules().iter().filter_map(|rule| removes(rule, &self.prefix));
                Some(rules.take(RULES_MAX).collect())
            }
            Err(error) => Failure::from(error).is_no_lifecycle().then(Vec::new),
        }
    }
}

/// What of this prefix a rule removes, in words; none where it removes nothing of it.
fn removes(rule: &LifecycleRule, prefix: &str) -> Option<String> {
    if *rule.status() != ExpirationStatus::Enabled {
        return None;
    }
    let expiration = rule.expiration()?;
    let when = match (expiration.days(), expiration.date()) {
        (Some(days), _) => format!("after {days} days"),
        (None, Some(date)) => format!("on {date}"),
        // Delete markers whose versions are gone.
        (None, None) => return None,
    };
    #[expect(deprecated, reason = "older buckets have it")]
    let bare = rule.prefix();
    let filter = rule.filter().and_then(prefix_of);
    let concerns = filter.or(bare).unwrap_or("");
    if !prefix.starts_with(concerns) && !concerns.starts_with(prefix) {
        return None;
    }
    let id = rule.id().filter(|id| !id.is_empty()).unwrap_or("without a name");
    Some(format!("{id} removes objects {when}"))
}

fn prefix_of(filter: &LifecycleRuleFilter) -> Option<&str> {
    filter.prefix().or_else(|| filter.and().and_then(|and| and.prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::LifecycleExpiration;

    #[test]
    fn rules_that_concern_the_repository_are_told_apart() {
        let rule = |prefix: &str, days: Option<i32>, status: ExpirationStatus| {
            LifecycleRule::builder()
                .id("tidy")
                .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
                .expiration(LifecycleExpiration::builder().set_days(days).build())
                .status(status)
                .build()
                .unwrap()
        };
        let on = ExpirationStatus::Enabled;
        let told = |rule: &LifecycleRule| removes(rule, "db1/");
        let text = Some("tidy removes objects after 30 days".to_owned());
        assert_eq!(told(&rule("", Some(30), on.clone())), text);
        assert_eq!(told(&rule("db1/main/", Some(30), on.clone())), text);
        assert_eq!(told(&rule("logs/", Some(30), on.clone())), None);
        assert_eq!(told(&rule("", None, on)), None);
        assert_eq!(told(&rule("", Some(30), ExpirationStatus::Disabled)), None);
    }
}
