//! The client of one bucket, and the time limits of its requests.
//!
//! Measured against servers that never read or never answer: with the SDK's defaults an upload
//! from memory hangs for ever (its stalled-stream protection sees nothing, since the one chunk is
//! handed over at once), and a `read_timeout` cuts healthy uploads, since it spans the sending
//! too. So each request has a limit of its own from its length, and there is no other.
//!
//! The SDK repeats nothing: that is the work of the retry decorator, which knows the deadline.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain,
    environment::EnvironmentVariableRegionProvider,
    meta::region::{ProvideRegion, RegionProviderChain},
    profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider},
    provider_config::ProviderConfig,
};
use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use secrecy::ExposeSecret;

use super::{
    bound::Bound,
    digest::Check,
    options::{S3Credentials, S3Options},
    record::Records,
};
use crate::{
    repository::store::{Limits, StoreError, StoreErrorKind},
    sys::clock::Clock,
};

/// How long a connection may take to be made. A SYN that is lost once is sent again after 1 s,
/// lost twice after 3 s (RFC 6298, section 2).
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// One bucket and prefix, with all that a request needs.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) name: String,
    /// Empty, or ending with a slash.
    pub(super) prefix: String,
    pub(super) place: String,
    pub(super) check: Check,
    /// TLS and the digest guard the body: its SHA-256 in the signature would guard it again.
    pub(super) unsigned_body: bool,
    pub(super) storage_class: Option<String>,
    pub(super) limits: Limits,
    pub(super) request_timeout: Duration,
    pub(super) min_rate: u64,
    /// Whether the store knows `If-None-Match`; cleared when it answers that it does not.
    pub(super) conditional: AtomicBool,
    pub(super) records: Records,
    pub(super) clock: Arc<dyn Clock>,
}

impl Bucket {
    pub(super) async fn open(
        options: S3Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        options.check()?;
        let region = region(&options).await?;
        let check = Check::choose(options.integrity, options.endpoint.is_none());
        let tls = options.endpoint.as_ref().is_none_or(|url| url.starts_with("https://"));
        let prefix = match options.bare_prefix() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Ok(Arc::new(Self {
            client: Client::from_conf(config(&options, region).await),
            place: options.place(),
            check,
            unsigned_body: tls && check != Check::None,
            limits: options.limits(),
            request_timeout: options.request_timeout,
            min_rate: options.min_rate,
            conditional: AtomicBool::new(true),
            records: Records::new(
                options.uploads_dir,
                options.endpoint.unwrap_or_default(),
                options.bucket.clone(),
                prefix.clone(),
            ),
            name: options.bucket,
            storage_class: options.storage_class,
            prefix,
            clock,
        }))
    }

    /// The key as the bucket knows it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// How long a request that carries `bytes` may take.
    pub(super) fn limit(&self, bytes: usize) -> Duration {
        self.request_timeout.max(Duration::from_secs(bytes as u64 / self.min_rate))
    }

    /// The override that gives a request its limit.
    pub(super) fn within(limit: Duration) -> aws_sdk_s3::config::Builder {
        let limits = TimeoutConfig::builder()
            .connect_timeout(CONNECT_LIMIT.min(limit))
            .operation_attempt_timeout(limit)
            .build();
        Config::builder().timeout_config(limits)
    }

    /// The override of a request that carries next to nothing.
    pub(super) fn briefly(&self) -> aws_sdk_s3::config::Builder {
        Self::within(self.request_timeout)
    }
}

async fn config(options: &S3Options, region: Region) -> Config {
    let credentials = credentials(&options.credentials, &region).await;
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .credentials_provider(credentials)
        .force_path_style(options.path_style)
        .retry_config(RetryConfig::disabled())
        .interceptor(Bound)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build());
    if let Some(url) = &options.endpoint {
        config = config.endpoint_url(with_last_slash(url));
    }
    config.build()
}

/// The SDK puts the bucket right behind the path of the URL.
fn with_last_slash(url: &str) -> String {
    format!("{}/", url.trim_end_matches('/'))
}

async fn credentials(from: &S3Credentials, region: &Region) -> SharedCredentialsProvider {
    let provider = ProviderConfig::default()
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_region(Some(region.clone()));
    match from {
        S3Credentials::Static { access_key_id, secret_access_key } => {
            SharedCredentialsProvider::new(Credentials::new(
                access_key_id,
                secret_access_key.expose_secret(),
                None,
                None,
                "pgkeep configuration",
            ))
        }
        S3Credentials::Profile(name) => SharedCredentialsProvider::new(
            ProfileFileCredentialsProvider::builder()
                .configure(&provider)
                .profile_name(name)
                .build(),
        ),
        S3Credentials::DefaultChain => SharedCredentialsProvider::new(
            // The region is given, so that nobody is asked for it.
            DefaultCredentialsChain::builder()
                .region(region.clone())
                .configure(provider)
                .build()
                .await,
        ),
    }
}

/// The region; never from the instance metadata, which takes seconds where there are none.
async fn region(options: &S3Options) -> Result<Region, StoreError> {
    if let Some(region) = &options.region {
        return Ok(Region::new(region.clone()));
    }
    let found = match &options.credentials {
        S3Credentials::Static { .. } => None,
        S3Credentials::Profile(name) => {
            ProfileFileRegionProvider::builder().profile_name(name).build().region().await
        }
        S3Credentials::DefaultChain => {
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .region()
                .await
        }
    };
    match found {
        Some(region) => Ok(region),
        // What servers of one's own take by default.
        None if options.endpoint.is_some() => Ok(Region::from_static("us-east-1")),
        None => {
            let doing = format!("open {}", options.place());
            Err(StoreError::new(StoreErrorKind::Refused, doing, "no region is known")
                .hint("set `region` to the region of the bucket"))
        }
    }
}
