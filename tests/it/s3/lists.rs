//! Lists that are not whole.

use super::{Bench, KEY, bytes, list};
use crate::harness::chaos::Fault;

use futures_util::{StreamExt as _, TryStreamExt as _};
use pgkeep::repository::store::StoreErrorKind;

const LIST: &str = "list-type=2";

/// The SDK's reader takes the end of the bytes for the end of every element.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_page_that_was_cut_is_an_error_and_asked_for_again() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    for name in ["a", "b", "c"] {
        store.put_new(name, bytes(10, 1)).await.expect("written");
    }
    let before_b: fn(&str) -> String = |text| {
        let at = text.find("<Key>host/a/b").expect("the second key");
        text[..text[..at].rfind("<Contents>").expect("its element")].to_owned()
    };
    let before_the_end: fn(&str) -> String =
        |text| text.strip_suffix("</ListBucketResult>").expect("an end").to_owned();
    let nothing: fn(&str) -> String = |_| String::new();
    for cut in [before_b, before_the_end, nothing] {
        bench.chaos.next(1, "GET", LIST, Fault::Rewrite(cut));
        let error = store.list("").try_collect::<Vec<_>>().await.expect_err("it was cut");
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
        assert!(error.what.contains("cut"), "{error}");
        assert_eq!(list(&store, "").await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_does_not_say_whether_more_follow_is_refused() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    store.put_new("a", bytes(10, 1)).await.expect("written");
    bench.chaos.on(
        "GET",
        LIST,
        Fault::Rewrite(|text| text.replace("<IsTruncated>false</IsTruncated>", "")),
    );
    let error = store.list("").next().await.expect("an item").expect_err("it does not say");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.hint.is_some());
}

/// Only the store's own words say that there is no object.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_page_is_not_the_answer_that_there_is_no_object() {
    let bench = Bench::start().await;
    let store = bench.store().await;
    store.put_new(KEY, bytes(10, 1)).await.expect("written");
    let error = store.get("no", None).await.err().expect("there is none");
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    let page = "<html><body><h1>404 Not Found</h1></body></html>";
    bench.chaos.on("GET", "", Fault::Answer(404, "", page.into()));
    let error = store.get(KEY, None).await.err().expect("a page");
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.hint.expect("a hint").contains("endpoint"));
}
