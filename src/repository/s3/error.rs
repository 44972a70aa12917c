//! From what the SDK says to what a store says: which kind of trouble, in which words, and which
//! setting to look at.
//!
//! Codes differ between stores and a HEAD has none at all, so the status decides where the code
//! says nothing.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::bound::TooLong;
use crate::repository::store::{StoreError, StoreErrorKind};

/// How much of a server's own message is kept, in characters.
const MESSAGE_CHARS: usize = 400;

const RIGHTS: &str = "the credentials need s3:ListBucket, s3:ListBucketMultipartUploads, \
                      s3:GetObject, s3:PutObject, s3:DeleteObject and \
                      s3:AbortMultipartUpload on this bucket and prefix";

const TOO_LARGE: &str = "the store, or a proxy before it, does not take so many bytes at once: make \
                         `part_size` smaller (or `max_parts`, where the whole object is too large), \
                         or let the proxy pass more";

/// What stores answer where a digest is not that of the bytes. Source: Amazon S3 API reference, "Error
/// responses"; the last is MinIO's.
const WRONG_DIGEST: [&str; 4] =
    ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"];

/// One request that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    cause: Cause,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    Timeout,
    /// No connection, or it broke off.
    Broken,
    Certificate,
    Credentials,
    Unbuilt,
    /// An answer that no store gives: too long, or "there is none" in a form that is not S3's.
    Foreign,
    /// "There is none" where something is to be written or listed: not an object is missing, but the
    /// bucket or the upload.
    Astray,
    Answer {
        status: u16,
        code: String,
        region: Option<String>,
    },
    Judged(StoreErrorKind),
}

impl Failure {
    /// A failure of which the kind is known.
    pub(super) fn judged(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self { cause: Cause::Judged(kind), text: text.into() }
    }

    /// The failure of a request that writes or lists: that "there is none" is no missing object.
    pub(super) fn of_write<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let failure = Self::from(error);
        if failure.is_not_found() { Self { cause: Cause::Astray, ..failure } } else { failure }
    }

    /// Work on another thread did not come back: the process is going down.
    pub(super) fn going_down() -> Self {
        Self::judged(StoreErrorKind::Unavailable, "interrupted: the process is going down")
    }

    /// The store answered "there is no such object".
    pub(super) fn is_not_found(&self) -> bool {
        self.kind(StoreErrorKind::Unavailable) == StoreErrorKind::NotFound
    }

    /// An answer 404 that has a body, but none of the store's: a page of some proxy, which says
    /// nothing of the object.
    pub(super) fn is_not_the_stores(&self) -> bool {
        matches!(&self.cause, Cause::Answer { status: 404, code, .. } if code.is_empty())
    }

    /// The store answered "there is an object already".
    pub(super) fn is_taken(&self) -> bool {
        self.kind(StoreErrorKind::Unavailable) == StoreErrorKind::Exists
    }

    /// The store answered that it cannot do what was asked of it.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(&self.cause, Cause::Answer { status, code, .. }
            if matches!(status, 405 | 501) || code == "NotImplemented")
    }

    /// The store answered that it knows no such upload.
    pub(super) fn is_no_such_upload(&self) -> bool {
        matches!(&self.cause, Cause::Answer { code, .. } if code == "NoSuchUpload")
    }

    /// The store answered that the bytes are not those of the digest.
    pub(super) fn is_wrong_digest(&self) -> bool {
        // Stores that check differ in the code; the status is 400.
        matches!(&self.cause, Cause::Answer { status: 400, code, .. } if WRONG_DIGEST.contains(&code.as_str()))
    }

    /// The store answered that the bucket has no lifecycle rules.
    pub(super) fn is_no_lifecycle(&self) -> bool {
        matches!(&self.cause, Cause::Answer { code, .. } if code == "NoSuchLifecycleConfiguration")
    }

    /// It is not known whether the request was carried out.
    pub(super) fn is_open_ended(&self) -> bool {
        self.kind(StoreErrorKind::Unavailable) == StoreErrorKind::Unavailable
    }

    /// The words.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The store's error; `late` is the kind of a request that ran out of time.
    pub(super) fn into_error(self, doing: impl Into<String>, late: StoreErrorKind) -> StoreError {
        let error = StoreError::new(self.kind(late), doing, &self.text);
        match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn kind(&self, late: StoreErrorKind) -> StoreErrorKind {
        match &self.cause {
            Cause::Timeout => late,
            Cause::Broken => StoreErrorKind::Unavailable,
            Cause::Certificate
            | Cause::Credentials
            | Cause::Unbuilt
            | Cause::Foreign
            | Cause::Astray => StoreErrorKind::Refused,
            Cause::Answer { status, code, .. } => judge(*status, code),
            Cause::Judged(kind) => *kind,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match &self.cause {
            Cause::Unbuilt | Cause::Judged(_) => return None,
            Cause::Timeout => {
                "the network or the store hangs or is slow: if it is simply that slow, lower \
                 `min_rate` or raise `request_timeout`"
            }
            Cause::Broken => "check `endpoint` and the network",
            Cause::Certificate => {
                "the certificate of `endpoint` must be valid for its name and signed by an \
                 authority that this machine trusts"
            }
            Cause::Credentials => {
                "set `access_key_id` and its secret, or a `profile`; without them the environment \
                 and the instance metadata are asked"
            }
            Cause::Foreign => {
                "no S3 store answers so: check `endpoint`, and what stands between (a proxy, a login page)"
            }
            Cause::Astray => {
                "the store knows no such bucket or path: check `bucket`, `endpoint` and `path_style`"
            }
            Cause::Answer { region: Some(region), status: 301 | 307 | 400, .. } => {
                return Some(format!("the bucket is in another region: set `region = {region:?}`"));
            }
            Cause::Answer { status, code, .. } => return advise(*status, code).map(str::to_owned),
        };
        Some(text.to_owned())
    }
}

/// The kind of an answer.
fn judge(status: u16, code: &str) -> StoreErrorKind {
    use StoreErrorKind::{Damaged, Exists, NotFound, Refused, Space, Unavailable};
    match code {
        "NoSuchKey" | "NotFound" => NotFound,
        "PreconditionFailed" => Exists,
        // The first five: the bytes changed on their way, which is worth another try.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody"
        | "SlowDown"
        | "ServiceUnavailable"
        | "InternalError"
        | "RequestTimeout"
        | "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "OperationAborted"
        | "ConditionalRequestConflict" => Unavailable,
        "QuotaExceeded" | "InsufficientStorage" | "StorageFull" | "XMinioStorageFull" => Space,
        "InvalidRange" | "InvalidPart" | "InvalidPartOrder" => Damaged,
        "NotImplemented" | "NoSuchBucket" | "NoSuchUpload" | "AccessDenied" | "EntityTooLarge" => {
            Refused
        }
        _ => match status {
            404 => NotFound,
            412 => Exists,
            507 => Space,
            416 => Damaged,
            501 => Refused,
            408 | 409 | 429 | 500.. => Unavailable,
            _ => Refused,
        },
    }
}

/// Which setting to look at.
fn advise(status: u16, code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" => "create the bucket, or correct `bucket`, `endpoint` or `path_style`",
        "InvalidBucketName" => "`bucket` is a name alone, without `s3://` and without a prefix",
        "InvalidAccessKeyId" | "NotSignedUp" => "the store does not know this `access_key_id`",
        "SignatureDoesNotMatch" => {
            "the secret does not belong to this `access_key_id`; a wrong `region` or a proxy that \
             changes headers looks the same"
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            "the temporary credentials have ended: renew them where they come from"
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "the clock of this machine is off by more than 15 minutes: check its time service"
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            "the bucket is in another region or elsewhere: check `region` and `endpoint`"
        }
        "InvalidStorageClass" => "the store does not have this `storage_class`",
        "NoSuchUpload" => {
            "the unfinished upload was removed by a lifecycle rule or a sweep; run again"
        }
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch" => {
            "the bytes changed on their way; if it goes on, suspect memory, network card or proxy, \
             or set `integrity` to what the store supports"
        }
        "EntityTooLarge" => TOO_LARGE,
        "QuotaExceeded" | "InsufficientStorage" | "StorageFull" | "XMinioStorageFull" => {
            "the store has no room: raise the quota or keep fewer backups"
        }
        "NotImplemented" => "the store does not support this request",
        "AccessDenied" | "AllAccessDisabled" => RIGHTS,
        _ => match status {
            301 | 307 => "check `region` and `endpoint`",
            401 | 403 => RIGHTS,
            413 => TOO_LARGE,
            507 => "the store has no room: raise the quota or keep fewer backups",
            _ => return None,
        },
    })
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let Some(response) = error.raw_response() else { return without_answer(&error) };
        let status = response.status().as_u16();
        let header = |name| response.headers().get(name).map(str::to_owned);
        let (region, id) = (header("x-amz-bucket-region"), header("x-amz-request-id"));
        let code = error.code().unwrap_or_default().to_owned();
        let said = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {}", shorten(message)),
            (Some(code), None) => code.to_owned(),
            // Not an error of S3's form: a proxy's page, a cut answer, or a HEAD.
            (None, _) if error.as_service_error().is_some() => "the store refused".to_owned(),
            (None, _) => chain(&error),
        };
        let id = id.map_or_else(String::new, |id| format!(", request {}", shorten(&id)));
        let too_long = sources(&error).find_map(|source| source.downcast_ref::<TooLong>());
        let said = too_long.map_or(said, ToString::to_string);
        let text = format!("{said} (HTTP {status}{id})");
        // A HEAD has no body, and is told by its status alone.
        let is_page = status == 404 && code.is_empty();
        if is_page || (too_long.is_some() && judge(status, "") != StoreErrorKind::Unavailable) {
            return Self { cause: Cause::Foreign, text };
        }
        if code.is_empty() && (200..300).contains(&status) {
            // The head of the answer was good and its body was not: nothing is known.
            return Self { cause: Cause::Broken, text };
        }
        Self { cause: Cause::Answer { status, code, region }, text }
    }
}

fn without_answer<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: Error + Send + Sync + 'static,
{
    let text = chain(error);
    let cause = match error {
        _ if names_credentials(error) => Cause::Credentials,
        SdkError::TimeoutError(_) => Cause::Timeout,
        SdkError::ConstructionFailure(_) => Cause::Unbuilt,
        // rustls: "invalid peer certificate: …".
        _ if text.contains("certificate") => Cause::Certificate,
        _ => Cause::Broken,
    };
    Failure { cause, text }
}

/// Whether credentials could not be loaded; a source of them that is too slow is not meant.
fn names_credentials(error: &(dyn Error + 'static)) -> bool {
    sources(error).filter_map(|source| source.downcast_ref::<CredentialsError>()).any(|error| {
        !matches!(error, CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_))
    })
}

fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error with all its causes, each said once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for source in sources(error) {
        let words = shorten(&source.to_string());
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
    }
    text
}

/// A foreign text on one line and of bounded length.
fn shorten(text: &str) -> String {
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str, region: Option<&str>) -> StoreError {
        let region = region.map(str::to_owned);
        let cause = Cause::Answer { status, code: code.to_owned(), region };
        Failure { cause, text: "said so".into() }.into_error("write x", StoreErrorKind::Slow)
    }

    #[test]
    fn each_answer_has_its_kind() {
        use StoreErrorKind::{Damaged, Exists, NotFound, Refused, Space, Unavailable};
        for (status, code, kind) in [
            (404, "NoSuchKey", NotFound),
            (404, "", NotFound),
            (404, "NoSuchBucket", Refused),
            (404, "NoSuchUpload", Refused),
            (412, "PreconditionFailed", Exists),
            (403, "AccessDenied", Refused),
            (403, "", Refused),
            (403, "InvalidAccessKeyId", Refused),
            (403, "SignatureDoesNotMatch", Refused),
            (403, "RequestTimeTooSkewed", Refused),
            (400, "ExpiredToken", Refused),
            (301, "PermanentRedirect", Refused),
            (503, "SlowDown", Unavailable),
            (429, "", Unavailable),
            (502, "", Unavailable),
            (500, "InternalError", Unavailable),
            (400, "BadDigest", Unavailable),
            (400, "EntityTooLarge", Refused),
            (413, "", Refused),
            (507, "InsufficientStorage", Space),
            (403, "QuotaExceeded", Space),
            (507, "", Space),
            (416, "InvalidRange", Damaged),
            (501, "NotImplemented", Refused),
        ] {
            assert_eq!(answer(status, code, None).kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn refusals_name_the_setting() {
        for (status, code, word) in [
            (403, "InvalidAccessKeyId", "access_key_id"),
            (403, "NotSignedUp", "access_key_id"),
            (403, "SignatureDoesNotMatch", "secret"),
            (403, "AccessDenied", "s3:PutObject"),
            (403, "", "s3:ListBucket"),
            (404, "NoSuchBucket", "`bucket`"),
            (403, "RequestTimeTooSkewed", "clock"),
            (400, "ExpiredToken", "renew"),
            (400, "InvalidStorageClass", "storage_class"),
            (400, "EntityTooLarge", "part_size"),
            (413, "", "part_size"),
        ] {
            let hint = answer(status, code, None).hint.expect("a hint");
            assert!(hint.contains(word), "{code}: {hint}");
        }
        let hint = answer(301, "PermanentRedirect", Some("eu-west-3")).hint.expect("a hint");
        assert!(hint.contains("region = \"eu-west-3\""), "{hint}");
    }

    #[test]
    fn foreign_text_stays_on_one_line() {
        assert_eq!(shorten(" a\nb\u{7}c "), "a b c");
        assert_eq!(shorten(&"x".repeat(5_000)).len(), MESSAGE_CHARS);
    }
}
