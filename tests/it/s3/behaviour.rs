//! What every store does.

use std::{ops::Range, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pgkeep::repository::{
    s3::Integrity,
    store::{Store, StoreErrorKind},
};

use super::{Bench, KEY, PART, bytes, list, open, read};

/// Everything that the trait promises. Made of parts so that a failure has a name.
async fn holds_the_contract(store: Arc<dyn Store>) {
    small_objects(&store).await;
    parts_become_an_object(&store).await;
    an_aborted_upload_leaves_nothing(&store).await;
    an_object_may_be_empty(&store).await;
    ranges_are_exact(&store).await;
}

async fn small_objects(store: &Arc<dyn Store>) {
    let key = "small/manifest.json";
    assert_eq!(store.head(key).await.expect("a look"), None);
    let error = read(store, key).await.expect_err("nothing there");
    assert_eq!(error.kind, StoreErrorKind::NotFound);
    let meta = store.put_new(key, "{}".into()).await.expect("written");
    assert_eq!((meta.key.as_str(), meta.bytes), (key, 2));
    store.put_new(key, "{}".into()).await.expect("the same again is a success");
    for other in ["[]", "{ }", ""] {
        let error = store.put_new(key, other.into()).await.expect_err("taken");
        assert_eq!(error.kind, StoreErrorKind::Exists, "{other}");
    }
    let error = store.begin(key).await.expect_err("taken");
    assert_eq!(error.kind, StoreErrorKind::Exists);
    assert_eq!(read(store, key).await.expect("read"), b"{}");
    let meta = store.head(key).await.expect("a look").expect("an object");
    assert_eq!(meta.bytes, 2);
    assert!(meta.modified.is_some());
    store.delete(key).await.expect("deleted");
    store.delete(key).await.expect("deleting what is not there is no error");
    assert_eq!(store.head(key).await.expect("a look"), None);
    let error = store.put_new("../escape", "x".into()).await.expect_err("not a key");
    assert_eq!(error.kind, StoreErrorKind::Refused);
}

async fn parts_become_an_object(store: &Arc<dyn Store>) {
    let whole = bytes(2 * PART + 4_321, 1);
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(3, whole.slice(2 * PART..)).await.expect("the last part first");
    upload.part(1, bytes(PART, 9)).await.expect("a part");
    upload.part(1, whole.slice(..PART)).await.expect("the same part replaces it");
    assert_eq!(store.head(KEY).await.expect("a look"), None, "nothing is seen before the commit");
    let error = upload.commit().await.expect_err("a gap");
    assert!(error.what.contains("part 2"), "{error}");
    upload.part(2, whole.slice(PART..2 * PART)).await.expect("a part");
    let meta = upload.commit().await.expect("committed");
    assert_eq!(meta.bytes, whole.len() as u64);
    assert_eq!(upload.commit().await.expect("again"), meta);
    assert!(read(store, KEY).await.expect("read") == whole, "the bytes differ");
    upload.abort().await.expect("nothing to do");
    assert!(store.head(KEY).await.expect("a look").is_some(), "what is complete is not taken back");
    assert_eq!(list(store, "main").await.len(), 1);
    store.delete(KEY).await.expect("deleted");
}

async fn an_aborted_upload_leaves_nothing(store: &Arc<dyn Store>) {
    let upload = store.begin(KEY).await.expect("begun");
    upload.part(1, bytes(100, 2)).await.expect("a part");
    upload.abort().await.expect("aborted");
    upload.abort().await.expect("again");
    assert!(upload.part(1, bytes(100, 2)).await.is_err());
    assert!(upload.commit().await.is_err());
    assert_eq!(store.head(KEY).await.expect("a look"), None);
    assert!(list(store, "").await.is_empty());
}

async fn an_object_may_be_empty(store: &Arc<dyn Store>) {
    let upload = store.begin("empty/object").await.expect("begun");
    assert_eq!(upload.commit().await.expect("committed").bytes, 0);
    assert!(read(store, "empty/object").await.expect("read").is_empty());
    store.put_new("empty/small", "".into()).await.expect("written");
    store.put_new("empty/small", "".into()).await.expect("the same again");
    assert_eq!(list(store, "empty").await.len(), 2);
    for key in ["empty/object", "empty/small"] {
        store.delete(key).await.expect("deleted");
    }
}

async fn ranges_are_exact(store: &Arc<dyn Store>) {
    let whole = bytes(100_000, 3);
    store.put_new("ranges", whole.clone()).await.expect("written");
    for range in [0..1, 0..100_000, 99_999..100_000, 5..5, 33_333..66_666] {
        let body = store.get("ranges", Some(range.clone())).await.expect("a body");
        let got: Vec<u8> =
            body.map_ok(|piece| piece.to_vec()).try_concat().await.expect("the bytes");
        let expected = usize::try_from(range.start).expect("small")
            ..usize::try_from(range.end).expect("small");
        assert!(got == whole[expected], "{range:?}");
    }
    let error = beyond(store, 100_000..100_001).await;
    assert_eq!(error, StoreErrorKind::Damaged, "nothing of it is there");
    let nothing = store.get("no-ranges", Some(3..3)).await.err().expect("nothing there");
    assert_eq!(nothing.kind, StoreErrorKind::NotFound);
    store.delete("ranges").await.expect("deleted");
}

async fn beyond(store: &Arc<dyn Store>, range: Range<u64>) -> StoreErrorKind {
    store.get("ranges", Some(range)).await.err().expect("too far").kind
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_store() {
    let bench = Bench::start().await;
    holds_the_contract(bench.store().await).await;
    assert_eq!(bench.records(), 0, "no upload is remembered that has ended");
    assert_eq!((bench.server.parts(), bench.server.uploads().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_store_with_each_digest_and_without_a_prefix() {
    for integrity in [Integrity::None, Integrity::Crc32, Integrity::Crc64Nvme] {
        let bench = Bench::start().await;
        let mut options = bench.options();
        options.integrity = integrity;
        options.prefix = String::new();
        let store = open(options).await;
        assert_eq!(store.place(), "s3://backups");
        holds_the_contract(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_go_on_over_pages_in_order_and_by_whole_segments() {
    const MANY: usize = 1_200;
    let bench = Bench::start().await;
    let store = bench.store().await;
    let keys = (0..MANY)
        .map(|n| format!("a/b/{n:04}"))
        .chain(["a/b-c/x", "a/bc", "a/b.d", "z"].map(str::to_owned));
    stream::iter(keys)
        .for_each_concurrent(16, async |key| {
            store.put_new(&key, "x".into()).await.expect("written");
        })
        .await;
    // Of another prefix in the same bucket: not ours.
    let foreign = bench.server.object_path("host/ab/x");
    std::fs::create_dir_all(foreign.parent().expect("a folder")).expect("a folder");
    std::fs::write(foreign, "x").expect("written");

    let below = list(&store, "a/b").await;
    assert_eq!(below.len(), MANY);
    assert_eq!(below[0].key, "a/b/0000");
    assert_eq!(below[MANY - 1].key, format!("a/b/{:04}", MANY - 1));
    let all: Vec<String> = list(&store, "").await.into_iter().map(|meta| meta.key).collect();
    assert_eq!(all.len(), MANY + 4);
    assert!(all.is_sorted());
    assert!(bench.chaos.seen("GET", "continuation-token").len() >= 2, "it took several pages");
    assert_eq!(list(&store, "a/b/0007").await.len(), 1, "a prefix may be a whole key");
    assert!(list(&store, "a/b/000").await.is_empty());
}
