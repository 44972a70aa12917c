//! Stores that never come to an end, or answer as no store does.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use pgkeep::repository::{
    retry::{Retry, RetryPolicy},
    store::{Store, StoreError, StoreErrorKind},
};

use super::{Bench, KEY, bytes, faults::timed, open, read};
use crate::harness::chaos::Fault;

const LIST: &str = "list-type=2";

const fn empty_page(with_new_token: bool) -> Fault {
    Fault::EmptyPage { with_new_token, after: Duration::ZERO }
}

async fn list(store: &Arc<dyn Store>) -> Result<Vec<String>, StoreError> {
    store.list("").map_ok(|meta| meta.key).try_collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_empty_and_never_end_are_an_error() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    bench.chaos.on("GET", LIST, empty_page(false));
    let error = list(&store).await.expect_err("the same token again");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.what.contains("nothing new") && error.hint.is_some(), "{error}");
    assert_eq!(bench.chaos.seen("GET", LIST).len(), 2, "the second says it");

    bench.chaos.calm().await;
    bench.chaos.on("GET", LIST, empty_page(true));
    let error = list(&store).await.expect_err("ever new tokens");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(bench.chaos.seen("GET", LIST).len() <= 1_002, "{error}");

    // Each slow page is within its limit, so that only the listing's own ends it.
    bench.chaos.calm().await;
    let slow = Fault::EmptyPage { with_new_token: true, after: Duration::from_millis(300) };
    bench.chaos.on("GET", LIST, slow);
    let store = bench.hasty_store().await;
    let (error, took) = timed(list(&store)).await;
    let error = error.expect_err("no end");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    assert!(error.what.contains("nothing new"), "{error}");
    assert!((4.0..15.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_empty_pages_are_honest() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    store.put_new("a/b", bytes(3, 1)).await.expect("stored");
    bench.chaos.next(300, "GET", LIST, empty_page(true));
    // The real server knows none of the tokens and begins at the start.
    assert_eq!(list(&store).await.expect("a list"), ["a/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_trickles_is_given_up() {
    let bench = Bench::start().await;
    let plain = bench.store().await;
    plain.put_new(KEY, bytes(4_096, 1)).await.expect("stored");
    let mut options = bench.options();
    options.request_timeout = Duration::from_secs(2);
    options.min_rate = 1_024;
    let store = open(options).await;
    // A byte in half a second is never silent for two.
    bench.chaos.on("GET", KEY, Fault::Throttle(2));
    let (error, took) = timed(read(&store, KEY)).await;
    let error = error.expect_err("too slow");
    assert_eq!(error.kind, StoreErrorKind::Slow, "{error}");
    assert!(error.what.contains("less than 1024 bytes/s"), "{error}");
    assert!(error.hint.expect("a hint").contains("min_rate"));
    assert!(took < Duration::from_secs(6), "{took:?}");
    // What it brings is no progress that begins the patience anew.
    let policy = RetryPolicy::new(Duration::from_secs(4));
    let patient: Arc<dyn Store> = Arc::new(Retry::new(store, policy));
    let (error, took) = timed(read(&patient, KEY)).await;
    assert_eq!(error.expect_err("too slow").kind, StoreErrorKind::Slow);
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_pages_that_trickle_end_with_the_request() {
    let bench = Bench::start().await;
    let store = bench.hasty_store().await;
    for fault in [Fault::TrickleHead, Fault::Throttle(2)] {
        bench.chaos.on("GET", "", fault.clone());
        let (error, took) = timed(list(&store)).await;
        let error = error.expect_err("too slow");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{fault:?}: {error}");
        assert!(took < Duration::from_secs(4), "{fault:?}: {took:?}");
        bench.chaos.calm().await;
    }
    bench.chaos.on("GET", KEY, Fault::TrickleHead);
    let (error, took) = timed(read(&store, KEY)).await;
    assert_eq!(error.expect_err("too slow").kind, StoreErrorKind::Unavailable);
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// "There is none" has to be said in S3's form: manifests are asked for before anything is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_proxy_is_no_missing_object() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let page = "<html><head><title>404 Not Found</title></head></html>".to_owned();
    bench.chaos.on("GET", "", Fault::Answer(404, "content-type: text/html\r\n", page));
    let error = read(&store, "a/manifest.json").await.expect_err("not S3's");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.hint.expect("a hint").contains("endpoint"));
    bench.chaos.calm().await;
    let error = read(&store, "a/manifest.json").await.expect_err("missing");
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_beyond_its_limit_says_what_and_what_to_do() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let flood = |status, begin, piece| Fault::Flood { status, begin, piece, bytes: 20 << 20 };
    for (status, kind) in [(403, StoreErrorKind::Refused), (500, StoreErrorKind::Unavailable)] {
        bench.chaos.next(1, "GET", LIST, flood(status, "<Error><Code>", "x"));
        let error = list(&store).await.expect_err("too long");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.what.contains("the store's error is longer than"), "{error}");
    }
    let begin = "<ListBucketResult><IsTruncated>false</IsTruncated>";
    for piece in ["<Contents/>", " "] {
        bench.chaos.next(1, "GET", LIST, flood(200, begin, piece));
        let error = list(&store).await.expect_err("too long");
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        assert!(error.what.contains("a page of a list is longer than"), "{error}");
        assert!(error.hint.expect("a hint").contains("endpoint"));
    }
    let error = store.list("").next().await.transpose().expect("the store goes on");
    assert!(error.is_none());
}

/// "There is none" on a write is the bucket or the path, not a backup that is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_404_on_a_write_is_a_refusal() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    let missing = "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>";
    for body in ["", missing] {
        for method in ["PUT", "POST"] {
            bench.chaos.on(method, "", Fault::Answer(404, "", body.to_owned()));
        }
        bench.chaos.on("GET", LIST, Fault::Answer(404, "", body.to_owned()));
        let errors = [
            store.put_new("small", bytes(10, 1)).await.map(drop).expect_err("no"),
            store.begin("another").await.map(drop).expect_err("no"),
            upload.part(1, bytes(10, 1)).await.expect_err("no"),
            list(&store).await.map(drop).expect_err("no"),
        ];
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
            assert!(error.hint.as_ref().expect("a hint").contains("`bucket`"), "{error:?}");
        }
        bench.chaos.calm().await;
    }
    upload.part(1, bytes(10, 1)).await.expect("a part");
    bench.chaos.next(1, "POST", "uploadId=", Fault::Answer(404, "", String::new()));
    let error = upload.commit().await.expect_err("no");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    upload.commit().await.expect("it is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_too_large_is_no_full_disk() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let upload = store.begin(KEY).await.expect("begun");
    let entity = "<Error><Code>EntityTooLarge</Code><Message>no</Message></Error>";
    for (status, body) in [(413, "<html>Request Entity Too Large</html>"), (413, ""), (400, entity)]
    {
        bench.chaos.next(1, "PUT", "", Fault::Answer(status, "", body.to_owned()));
        let error = upload.part(1, bytes(10, 1)).await.expect_err("too large");
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        assert!(error.hint.expect("a hint").contains("part_size"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_success_of_a_completion_is_looked_at() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    // It was not done.
    for body in ["", "   \n", "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"] {
        let upload = store.begin(KEY).await.expect("begun");
        upload.part(1, bytes(100, 1)).await.expect("a part");
        bench.chaos.next(1, "POST", "uploadId=", Fault::Answer(200, "", body.to_owned()));
        let error = upload.commit().await.expect_err("nothing is there");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{body:?}: {error}");
        // Asked again, it is.
        assert_eq!(upload.commit().await.expect("done").bytes, 100);
        assert_eq!(read(&store, KEY).await.expect("read"), bytes(100, 1));
        store.delete(KEY).await.expect("removed");
    }
    // It was done.
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 1)).await.expect("a part");
    bench.chaos.next(1, "POST", "uploadId=", Fault::EmptyAnswer);
    assert_eq!(upload.commit().await.expect("it is there").bytes, 100);
    assert_eq!(bench.records(), 0);
}

/// As rclone 1.75 does.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_called_otherwise_is_begun() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    let answer = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<InitiateMultipartUpload><Bucket>b\
                  </Bucket><Key>k</Key><UploadId>an-id</UploadId></InitiateMultipartUpload>";
    bench.chaos.next(1, "POST", "uploads", Fault::Answer(200, "", answer.to_owned()));
    bench.chaos.next(1, "PUT", "", Fault::Answer(200, "etag: \"x\"\r\n", String::new()));
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(10, 1)).await.expect("a part");
    assert_eq!(bench.chaos.seen("PUT", "uploadId=an-id").len(), 1);
    for answer in ["<Other><UploadId>x</UploadId></Other>", "", "<InitiateMultipartUpload/>"] {
        bench.chaos.next(1, "POST", "uploads", Fault::Answer(200, "", answer.to_owned()));
        assert!(store.begin("another").await.is_err(), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_path_keeps_it() {
    let bench = Bench::start().await;
    let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    bench.chaos.on("GET", "", Fault::Answer(200, "", empty.to_owned()));
    for slash in ["", "/", "//"] {
        let mut options = bench.options();
        options.endpoint = Some(format!("{}/storage/v1/s3{slash}", bench.chaos.url()));
        let store = open(options).await;
        list(&store).await.expect("a list");
        drop(store.get("a/b", None).await);
    }
    let targets: Vec<String> =
        bench.chaos.seen("GET", "").into_iter().map(|seen| seen.target).collect();
    for target in &targets {
        let rest = target.strip_prefix("/storage/v1/s3/backups").expect(target);
        assert!(rest.starts_with("/?") || rest.starts_with('?') || rest.starts_with("/host/a/a/b"));
    }
    assert_eq!(targets.len(), 6, "{targets:?}");
}
