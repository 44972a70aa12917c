//! Harm on the way: each has its kind of error, within its time, and nothing half done is seen.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use pgkeep::{
    repository::{
        s3::{S3Credentials, S3Store},
        store::{Store as _, StoreError, StoreErrorKind},
    },
    sys::clock::SystemClock,
};

use super::{Bench, KEY, PART, bytes, list, open, read};
use crate::harness::{
    chaos::Fault,
    s3::{ACCESS_KEY, SECRET_KEY},
};

const PART_REQUEST: &str = "partNumber=";
/// Completing has no other parameter than this; parts have one more before it.
const COMPLETE_REQUEST: &str = "uploadId=";

/// How long something took.
#[expect(clippy::disallowed_methods, reason = "the store's limits run by the machine's clock")]
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let done = work.await;
    (done, start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_unavailable_at_once() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    bench.chaos.refuse().await;
    let (error, took) = timed(store.head("x")).await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.what.to_lowercase().contains("refused"), "the cause is named: {error}");
    assert!(error.hint.expect("a hint").contains("endpoint"));
    assert!(took < Duration::from_secs(5), "nobody repeats it here: {took:?}");
    bench.chaos.calm().await;
    assert_eq!(store.head("x").await.expect("a look"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_is_unavailable_and_nothing_is_repeated() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    bench.chaos.next(2, "PUT", PART_REQUEST, Fault::slow_down());
    for attempt in 1..=2 {
        let error = upload.part(1, bytes(100, 1)).await.expect_err("busy");
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        assert!(error.what.contains("SlowDown") && error.what.contains("503"), "{error}");
        assert_eq!(bench.chaos.seen("PUT", PART_REQUEST).len(), attempt, "one request per call");
    }
    upload.part(1, bytes(100, 1)).await.expect("not busy any more");
    upload.commit().await.expect("committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_with_the_time_limit() {
    for fault in [Fault::BlackHole, Fault::NeverRead] {
        let bench = Bench::start().await;
        let store = bench.hasty_store().await;
        let upload = store.begin(KEY).await.expect("begun");
        bench.chaos.on("", "", fault.clone());
        let (error, took) = timed(upload.part(1, bytes(PART, 1))).await;
        assert_eq!(error.expect_err("silence").kind, StoreErrorKind::Slow, "{fault:?}");
        assert!((1.0..4.0).contains(&took.as_secs_f64()), "{fault:?}: {took:?}");
        let (error, took) = timed(store.head(KEY)).await;
        assert_eq!(error.expect_err("silence").kind, StoreErrorKind::Unavailable);
        assert!(took < Duration::from_secs(4), "{took:?}");
        let error = store.list("").next().await.expect("an item").expect_err("silence");
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        let (error, took) = timed(upload.abort()).await;
        assert_eq!(error.expect_err("silence").kind, StoreErrorKind::Unavailable);
        assert!(took < Duration::from_secs(11), "{took:?}");
        assert_eq!(bench.records(), 1, "what could not be aborted stays remembered");
        bench.chaos.calm().await;
        upload.abort().await.expect("aborted");
        assert_eq!((bench.records(), bench.server.parts()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_may_be_as_slow_as_the_minimum_rate() {
    let bench = Bench::start().await;
    let mut options = bench.options();
    options.request_timeout = Duration::from_secs(1);
    // 5 MiB may take 20 s.
    options.min_rate = 256 * 1024;
    let store = open(options).await;
    let upload = store.begin(KEY).await.expect("begun");
    bench.chaos.on("PUT", PART_REQUEST, Fault::Throttle(2 * 1024 * 1024));
    let (done, took) = timed(upload.part(1, bytes(PART, 1))).await;
    done.expect("slow but alive");
    assert!(took > Duration::from_secs(1), "longer than a request without bytes may take");
    upload.abort().await.expect("aborted");

    // And no slower: 5 MiB have 1 s, the line needs 5.
    let mut options = bench.hasty();
    options.min_rate = 5 * 1024 * 1024;
    bench.chaos.calm().await;
    let upload = open(options).await.begin(KEY).await.expect("begun");
    bench.chaos.on("PUT", PART_REQUEST, Fault::Throttle(1024 * 1024));
    let (error, took) = timed(upload.part(1, bytes(PART, 1))).await;
    assert_eq!(error.expect_err("too slow").kind, StoreErrorKind::Slow);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_cut_can_be_sent_again() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    bench.chaos.next(1, "PUT", PART_REQUEST, Fault::CutRequest(1_000_000));
    let whole = bytes(PART, 1);
    let error = upload.part(1, whole.clone()).await.expect_err("cut");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    upload.part(1, whole.clone()).await.expect("sent again");
    upload.commit().await.expect("committed");
    assert!(read(&store, KEY).await.expect("read") == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_settled_by_looking() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    bench.chaos.on("POST", COMPLETE_REQUEST, Fault::SwallowAnswer);
    let meta = upload.commit().await.expect("it is there");
    assert_eq!(meta.bytes, 100);
    assert_eq!(bench.records(), 0);
    // A small object, too.
    bench.chaos.on("PUT", "small", Fault::SwallowAnswer);
    store.put_new("small", "{}".into()).await.expect("it is there");
    bench.chaos.calm().await;
    assert_eq!(list(&store, "").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_never_arrived_fails_and_can_be_repeated_or_aborted() {
    tokio::join!(a_commit_that_never_arrived(true), a_commit_that_never_arrived(false));
}

async fn a_commit_that_never_arrived(is_repeated: bool) {
    let bench = Bench::start().await;
    let store = bench.hasty_store().await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    bench.chaos.on("POST", COMPLETE_REQUEST, Fault::BlackHole);
    let (error, took) = timed(upload.commit()).await;
    assert_eq!(error.expect_err("lost").kind, StoreErrorKind::Unavailable);
    // Completing has five times the limit of other requests, and one look follows.
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert!(list(&store, "").await.is_empty());
    bench.chaos.calm().await;
    if is_repeated {
        upload.commit().await.expect("committed");
        assert_eq!(list(&store, "").await.len(), 1);
    } else {
        upload.abort().await.expect("aborted");
        assert_eq!(bench.server.parts(), 0);
    }
    assert_eq!(bench.records(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_takes_back_what_a_lost_commit_may_have_done() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    bench.chaos.on("POST", COMPLETE_REQUEST, Fault::SwallowAnswer);
    bench.chaos.on("HEAD", "", Fault::slow_down());
    let error = upload.commit().await.expect_err("nobody knows");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.what.contains("not known"), "{error}");
    bench.chaos.calm().await;
    assert_eq!(list(&store, "").await.len(), 1, "the server did it");
    upload.abort().await.expect("aborted");
    assert!(list(&store, "").await.is_empty());
    assert_eq!(bench.records(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_took_meanwhile_is_not_overwritten() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let (first, second) = (store.begin(KEY).await, store.begin(KEY).await);
    let (first, second) = (first.expect("begun"), second.expect("begun"));
    first.part(1, bytes(100, 1)).await.expect("a part");
    second.part(1, bytes(100, 2)).await.expect("a part");
    first.commit().await.expect("committed");
    let error = second.commit().await.expect_err("taken");
    assert_eq!(error.kind, StoreErrorKind::Exists);
    second.abort().await.expect("aborted");
    assert!(read(&store, KEY).await.expect("read") == bytes(100, 1), "the first one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_good_answer_is_an_error() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    let body = "<Error><Code>InternalError</Code><Message>try again</Message></Error>";
    bench.chaos.on("POST", COMPLETE_REQUEST, Fault::Answer(200, "", body.into()));
    let error = upload.commit().await.expect_err("not done");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.what.contains("InternalError"), "{error}");
    upload.abort().await.expect("aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_or_stalls_is_noticed() {
    let bench = Bench::start().await;
    let store = bench.hasty_store().await;
    store.put_new("big", bytes(300_000, 1)).await.expect("written");
    for fault in [Fault::CutAnswer(100_000), Fault::StallAnswer(100_000)] {
        bench.chaos.next(1, "GET", "big", fault.clone());
        let mut body = store.get("big", None).await.expect("a body");
        let mut got = 0;
        let (error, took) = timed(async {
            loop {
                match body.try_next().await {
                    Ok(piece) => got += piece.expect("not the end").len(),
                    Err(error) => return error,
                }
            }
        })
        .await;
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{fault:?}");
        assert!(got > 0 && got <= 100_000, "{fault:?}: {got}");
        assert!(took < Duration::from_secs(4), "{fault:?}: {took:?}");
    }
    assert_eq!(read(&store, "big").await.expect("read").len(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_refused_by_name_of_the_setting() {
    let bench = Bench::start().await;
    let mut options = bench.options();
    options.bucket = "no-such-bucket".into();
    let store = S3Store::new(options, SystemClock::new()).await.expect("a store");
    let listed = store.list("").next().await.expect("an item").expect_err("no bucket");
    for error in [store.probe().await.expect_err("no bucket"), listed] {
        assert_eq!(error.kind, StoreErrorKind::Refused);
        assert!(error.what.contains("NoSuchBucket"), "{error}");
        assert!(error.hint.expect("a hint").contains("`bucket`"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_and_never_shown() {
    let bench = Bench::start().await;
    let with = async |id: &str, secret: &str| {
        let mut options = bench.options();
        options.credentials = S3Credentials::Static {
            access_key_id: id.into(),
            secret_access_key: secret.to_owned().into(),
        };
        let store = S3Store::new(options, SystemClock::new()).await.expect("a store");
        let error = store.probe().await;
        assert!(!format!("{store:?}").contains(secret), "the store shows its secret");
        error
    };
    with(ACCESS_KEY, SECRET_KEY).await.expect("the right ones");
    let refused = |error: Result<(), StoreError>, setting: &str| {
        let error = error.expect_err("the wrong ones");
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        let hint = error.hint.clone().expect("a hint");
        assert!(hint.contains(setting), "{hint}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    };
    refused(with(ACCESS_KEY, "hunter2").await, "secret");
    refused(with("AKIANOBODY", "hunter2").await, "access_key_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_found_are_refused() {
    let bench = Bench::start().await;
    let mut options = bench.options();
    options.credentials = S3Credentials::Profile("pgkeep-no-such-profile".into());
    let store = S3Store::new(options, SystemClock::new()).await.expect("a store");
    let error = store.probe().await.expect_err("no credentials");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.hint.expect("a hint").contains("profile"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_region_and_a_wrong_clock_say_what_to_do() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let headers = "x-amz-bucket-region: eu-west-3\r\n";
    bench.chaos.next(1, "HEAD", "", Fault::Answer(301, headers, String::new()));
    let error = store.head("x").await.expect_err("elsewhere");
    assert_eq!(error.kind, StoreErrorKind::Refused);
    assert!(error.hint.expect("a hint").contains("eu-west-3"));
    let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";
    bench.chaos.next(1, "GET", "", Fault::Answer(403, "", body.into()));
    let error = store.get("x", None).await.err().expect("refused");
    assert_eq!(error.kind, StoreErrorKind::Refused);
    assert!(error.hint.expect("a hint").contains("clock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_no_conditions_is_asked_without() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let body = "<Error><Code>NotImplemented</Code><Message>A header</Message></Error>";
    bench.chaos.next(1, "PUT", "manifest", Fault::Answer(501, "", body.into()));
    store.put_new("manifest", "{}".into()).await.expect("written");
    let puts = bench.chaos.seen("PUT", "manifest");
    let conditions: Vec<_> = puts.iter().map(|put| put.header("if-none-match")).collect();
    assert_eq!(conditions, [Some("*"), None]);
    let error = store.put_new("manifest", "[]".into()).await.expect_err("taken all the same");
    assert_eq!(error.kind, StoreErrorKind::Exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_arrives_whole_through_seeded_chaos() {
    let bench = Bench::start().await;
    let mut options = bench.hasty();
    options.request_timeout = Duration::from_secs(5);
    let store = open(options).await;
    bench.chaos.chance(15, Fault::slow_down());
    bench.chaos.chance(15, Fault::SwallowAnswer);
    bench.chaos.chance(15, Fault::CutRequest(1));
    bench.chaos.chance(20, Fault::Delay(Duration::from_millis(20)));
    let whole = bytes(3 * PART + 17, 5);
    let upload = patiently(|| store.begin(KEY)).await;
    for (number, start) in (1..).zip((0..whole.len()).step_by(PART)) {
        let part = whole.slice(start..whole.len().min(start + PART));
        patiently(|| upload.part(number, part.clone())).await;
    }
    let meta = patiently(|| upload.commit()).await;
    assert_eq!(meta.bytes, whole.len() as u64);
    // 4 parts and a commit would have done without chaos.
    let requests = bench.chaos.seen("PUT", "").len() + bench.chaos.seen("POST", "uploadId=").len();
    assert!(requests > 5, "the seed does no harm: {requests}");
    bench.chaos.calm().await;
    assert!(read(&store, KEY).await.expect("read") == whole);
    assert_eq!(bench.records(), 0);
}

/// What the retry decorator does, without its waiting.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut work: impl FnMut() -> F) -> T {
    for _ in 0..50 {
        match work().await {
            Ok(done) => return done,
            Err(error) => assert!(error.kind.is_worth_a_retry(), "{error}"),
        }
    }
    panic!("50 attempts in vain");
}
