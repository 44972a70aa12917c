//! The options of a `[repository.NAME]` of the kind `s3`.

use std::{sync::Arc, time::Duration};

use super::{
    Integrity, LEAST_PART_BYTES, S3Credentials, S3Options, S3Store, options::MOST_PART_BYTES,
};
use crate::{
    config::{Diagnostics, Options, class},
    domain::units::ByteSize,
    repository::{
        handle::{Elsewhere, Opener, Place},
        kinds::{Context, GIVE_UP_AFTER, StoreKind},
        retry::{Retry, RetryPolicy},
        store::{Limits, Store, StoreError},
    },
    sys::clock::Clock,
};

/// The kind's row in the table.
pub const KIND: StoreKind =
    StoreKind { name: "s3", build, elsewhere: Some(elsewhere), folder: None };

const INTEGRITY: &[(&str, Integrity)] = &[
    ("auto", Integrity::Auto),
    ("none", Integrity::None),
    ("md5", Integrity::Md5),
    ("crc32", Integrity::Crc32),
    ("crc64nvme", Integrity::Crc64Nvme),
];

/// A URL: without its scheme it would only be refused by the first request.
fn endpoint(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<String> {
    let given = o.take::<String>("endpoint", d)?;
    if !["http://", "https://"].iter().any(|scheme| given.value.starts_with(scheme)) {
        d.error(&given.span, "`endpoint` must be a URL")
            .hint("begin it with \"https://\", or \"http://\" where nothing is encrypted");
    }
    // The bucket and the key go behind it, and the credentials elsewhere.
    if given.value.contains(['?', '#', '@']) {
        d.error(&given.span, "`endpoint` has more than scheme, host, port and path")
            .hint("leave out what begins with `?` or `#`, and names before an `@`");
    }
    Some(given.value)
}

/// A name alone: a URL would only be refused by the first request.
fn bucket(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<String> {
    let given = o.require::<String>("bucket", d)?;
    let name = given.value.strip_prefix("s3://").unwrap_or(&given.value);
    let (name, prefix) = name.split_once('/').unwrap_or((name, ""));
    if name == given.value && !name.is_empty() {
        return Some(given.value);
    }
    let hint = match prefix.trim_matches('/') {
        "" => format!("write bucket = {name:?}"),
        prefix => format!("write bucket = {name:?}, prefix = {prefix:?}"),
    };
    d.error(&given.span, "`bucket` must be a name alone").hint(hint);
    None
}

fn build(o: &mut Options<'_>, context: &Context, d: &mut Diagnostics) -> Option<(Opener, Limits)> {
    let (options, give_up_after) = read(o, context, d)?;
    let (clock, limits) = (context.clock.clone(), options.limits());
    let opener: Opener = Arc::new(move || {
        let (options, clock) = (options.clone(), clock.clone());
        Box::pin(open(options, clock, give_up_after))
    });
    Some((opener, limits))
}

/// Other prefixes and buckets at the same service, with the same credentials.
fn elsewhere(o: &mut Options<'_>, context: &Context) -> Option<Elsewhere> {
    // What is wrong was reported by `build`.
    let (options, give_up_after) = read(o, context, &mut Diagnostics::new())?;
    let clock = context.clock.clone();
    Some(Box::new(move |place: &Place| {
        let mut options = options.clone();
        place.prefix.trim_matches('/').clone_into(&mut options.prefix);
        if let Some(bucket) = &place.bucket {
            options.bucket.clone_from(bucket);
        }
        Box::pin(open(options, clock.clone(), give_up_after))
    }))
}

async fn open(
    options: S3Options,
    clock: Arc<dyn Clock>,
    give_up_after: Duration,
) -> Result<Arc<dyn Store>, StoreError> {
    let store: Arc<dyn Store> = Arc::new(S3Store::new(options, clock).await?);
    Ok(Arc::new(Retry::new(store, RetryPolicy::new(give_up_after))))
}

/// The options, and how long a request is repeated.
fn read(
    o: &mut Options<'_>,
    context: &Context,
    d: &mut Diagnostics,
) -> Option<(S3Options, Duration)> {
    let second = Duration::from_secs(1);
    let hour = Duration::from_hours(1);
    let bucket = bucket(o, d);
    let credentials = credentials(o, d);
    let uploads = context.state_dir.join("uploads");
    let named = bucket.clone().unwrap_or_default();
    let mut options =
        S3Options::new(named, credentials.unwrap_or(S3Credentials::DefaultChain), uploads);
    let prefix = o.take_or("prefix", String::new(), d);
    prefix.trim_matches('/').clone_into(&mut options.prefix);
    options.region = o.take::<String>("region", d).map(|region| region.value);
    options.endpoint = endpoint(o, d);
    options.path_style = o.take_or("path_style", options.endpoint.is_some(), d);
    options.integrity =
        o.one_of("integrity", INTEGRITY, d).map(|integrity| integrity.value).unwrap_or_default();
    let rate = ByteSize(options.min_rate);
    options.min_rate =
        o.take_in_or("min_rate", ByteSize::kib(1)..=ByteSize::gib(1), rate, d).bytes();
    options.request_timeout =
        o.take_in_or("request_timeout", second..=hour, options.request_timeout, d);
    options.parallel_parts = o.take_in_or("parallel_parts", 1..=16, options.parallel_parts, d);
    let (least, most) = (ByteSize(LEAST_PART_BYTES as u64), ByteSize(MOST_PART_BYTES as u64));
    let part = o.take_in_or("part_size", least..=most, ByteSize(options.part_bytes as u64), d);
    options.part_bytes = usize::try_from(part.bytes()).unwrap_or(MOST_PART_BYTES);
    options.max_parts = o.take_in_or("max_parts", 2..=10_000, options.max_parts, d);
    options.storage_class = o.take::<String>("storage_class", d).map(|class| class.value);
    let give_up_after = o.take_in_or("give_up_after", second..=hour, GIVE_UP_AFTER, d);
    bucket?;
    Some((options, give_up_after))
}

/// Keys that stand in the configuration, a named profile, or what the AWS tools find by
/// themselves.
fn credentials(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<S3Credentials> {
    let key = o.take::<String>("access_key_id", d);
    // A secret that is given and cannot be read is reported by `secret`, once.
    let mut forms =
        ["secret_access_key", "secret_access_key_file", "secret_access_key_credential"].into_iter();
    let tried = forms.any(|form| o.given(form).is_some());
    let secret = o.secret("secret_access_key", d).map(|secret| secret.value);
    let profile = o.take::<String>("profile", d);
    match (key, secret, profile) {
        (Some(key), Some(secret), None) => {
            Some(S3Credentials::Static { access_key_id: key.value, secret_access_key: secret })
        }
        (None, None, Some(profile)) => Some(S3Credentials::Profile(profile.value)),
        (None, None, None) => Some(S3Credentials::DefaultChain),
        (_, _, Some(profile)) => {
            d.error(&profile.span, "`profile` and keys exclude each other").class(class::CONFLICT);
            None
        }
        (Some(key), None, None) => {
            if !tried {
                d.error(&key.span, "`access_key_id` needs its secret")
                    .class(class::MISSING)
                    .hint("add secret_access_key_file = \"/…\"");
            }
            None
        }
        (None, Some(_), None) => {
            d.error(o.span(), "`secret_access_key` needs `access_key_id`").class(class::MISSING);
            None
        }
    }
}
