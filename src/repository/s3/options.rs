//! What an S3 store is told, and what of it is refused before anything is sent.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::repository::store::{Limits, StoreError, StoreErrorKind};

/// Least length of every part but the last. Source: Amazon S3 user guide, "Multipart upload
/// limits": 5 MiB.
pub const LEAST_PART_BYTES: usize = 5 * 1024 * 1024;
/// Greatest length of a part. Source: the same page: 5 GiB; here what fits into one buffer.
pub(super) const MOST_PART_BYTES: usize = 1024 * 1024 * 1024;
/// Most parts of an upload. Source: the same page: 10,000. Scaleway allows 1,000 (`max_parts`).
const MOST_PARTS: u32 = 10_000;

/// Whose rights are used.
#[derive(Clone)]
pub enum S3Credentials {
    /// A key pair. It does not expire.
    Static { access_key_id: String, secret_access_key: SecretString },
    /// A profile in the AWS configuration files. Nothing else is tried: variables of the
    /// environment do not win over a profile that was asked for by name.
    Profile(String),
    /// The usual order: environment, default profile, web identity, container, instance metadata.
    /// Where none is there, the last step asks the instance metadata service; off EC2 that ends
    /// after 5 s (the SDK's limit for loading credentials) in every request.
    /// `AWS_EC2_METADATA_DISABLED=true` skips it.
    DefaultChain,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { .. } => f.write_str("Static(redacted)"),
            Self::Profile(name) => f.debug_tuple("Profile").field(name).finish(),
            Self::DefaultChain => f.write_str("DefaultChain"),
        }
    }
}

/// What guards the bytes on their way. What a store does with it differs: some check nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Integrity {
    /// `Crc64Nvme` at Amazon (no endpoint of one's own), else `Md5`, which every store takes.
    #[default]
    Auto,
    /// Nothing but the signature.
    None,
    /// `Content-MD5` with each part.
    Md5,
    /// CRC-32 with each part, and all of them again at the end.
    Crc32,
    /// CRC-64/NVME with each part, and that of the whole object at the end.
    Crc64Nvme,
}

/// All that an S3 store is told.
#[derive(Debug, Clone)]
pub struct S3Options {
    pub bucket: String,
    /// What all keys start with; empty: the whole bucket.
    pub prefix: String,
    /// The region; `None`: from the environment or the profile, and `us-east-1` with an endpoint
    /// of one's own.
    pub region: Option<String>,
    pub endpoint: Option<String>,
    /// `https://host/bucket/key` instead of `https://bucket.host/key`.
    pub path_style: bool,
    pub credentials: S3Credentials,
    pub integrity: Integrity,
    /// The least speed that is taken for alive, in bytes/s; a request that carries bytes may take
    /// their number divided by this.
    pub min_rate: u64,
    /// How long a request may take at least, and how long a download may be silent.
    pub request_timeout: Duration,
    /// Parts of one upload that may be under way at once.
    pub parallel_parts: usize,
    /// Length of every part but the last, in bytes.
    pub part_bytes: usize,
    pub max_parts: u32,
    /// Storage class of what arrives in parts. Small objects (manifests) stay in the bucket's
    /// default class: they are read often and must be readable at once.
    pub storage_class: Option<String>,
    /// A folder of our own that remembers unfinished uploads.
    pub uploads_dir: PathBuf,
}

impl S3Options {
    /// Options with every default.
    pub fn new(
        bucket: impl Into<String>,
        credentials: S3Credentials,
        uploads_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: false,
            credentials,
            integrity: Integrity::Auto,
            min_rate: 64 * 1024,
            request_timeout: Duration::from_mins(1),
            parallel_parts: 4,
            part_bytes: 8 * 1024 * 1024,
            max_parts: MOST_PARTS,
            storage_class: None,
            uploads_dir: uploads_dir.into(),
        }
    }

    /// Refuses what no store takes.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let trouble = if self.bucket.is_empty() {
            "`bucket` is empty".to_owned()
        } else if !(LEAST_PART_BYTES..=MOST_PART_BYTES).contains(&self.part_bytes) {
            format!("parts of {} bytes: 5 MiB to 1 GiB are possible", self.part_bytes)
        } else if !(1..=MOST_PARTS).contains(&self.max_parts) {
            format!("{} parts: 1 to {MOST_PARTS} are possible", self.max_parts)
        } else if self.parallel_parts == 0 {
            "no part may be under way".to_owned()
        } else if self.min_rate == 0 || self.request_timeout.is_zero() {
            "the minimum rate and the time limit must be above zero".to_owned()
        } else {
            return Ok(());
        };
        Err(StoreError::new(StoreErrorKind::Refused, format!("open {}", self.place()), trouble))
    }

    /// The prefix without slashes at its ends.
    pub(super) fn bare_prefix(&self) -> &str {
        self.prefix.trim_matches('/')
    }

    /// The place for messages.
    pub(super) fn place(&self) -> String {
        match self.bare_prefix() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// The limits that the callers see.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            part_bytes: self.part_bytes,
            max_parts: self.max_parts,
            parallel_parts: self.parallel_parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> S3Options {
        let credentials = S3Credentials::Static {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI".to_owned().into(),
        };
        S3Options::new("acme", credentials, "/nowhere")
    }

    #[test]
    fn debug_shows_no_credentials() {
        let text = format!("{:?}", options());
        assert!(text.contains("acme") && !text.contains("wJalr") && !text.contains("AKID"));
    }

    #[test]
    fn small_parts_are_refused() {
        assert!(options().check().is_ok());
        let small = S3Options { part_bytes: LEAST_PART_BYTES - 1, ..options() };
        let error = small.check().expect_err("too small");
        assert_eq!(error.kind, StoreErrorKind::Refused);
        assert!(error.what.contains("5 MiB"), "{error}");
    }

    #[test]
    fn the_place_names_bucket_and_prefix() {
        assert_eq!(options().place(), "s3://acme");
        assert_eq!(S3Options { prefix: "/db1/".into(), ..options() }.place(), "s3://acme/db1");
    }
}
