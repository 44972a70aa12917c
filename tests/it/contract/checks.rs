//! The checks of the contract. Each works below a prefix of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use pgkeep::{
    repository::store::{ObjectMeta, Store, StoreErrorKind},
    sys::clock::{Clock, SystemClock},
};

async fn read(store: &Arc<dyn Store>, key: &str, range: Option<(u64, u64)>) -> Vec<u8> {
    let stream = store.get(key, range.map(|(from, to)| from..to)).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

async fn list(store: &Arc<dyn Store>, prefix: &str) -> Vec<ObjectMeta> {
    store.list(prefix).try_collect().await.unwrap()
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    list(store, prefix).await.into_iter().map(|meta| meta.key).collect()
}

/// Bytes that differ from place to place.
fn pattern(seed: u8, length: usize) -> Bytes {
    let mix = |at: usize| at.wrapping_mul(0x9e37_79b9).to_le_bytes()[2] ^ seed;
    (0..length).map(mix).collect()
}

pub(super) async fn what_is_put_is_there(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/a/b.json");
    let put = store.put_new(&key, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!((put.key.as_str(), put.bytes), (key.as_str(), 5));
    let found = store.head(&key).await.unwrap().unwrap();
    assert_eq!((found.key.as_str(), found.bytes), (key.as_str(), 5));
    assert_eq!(read(&store, &key, None).await, b"hello");
    let listed = list(&store, &root).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].key.as_str(), listed[0].bytes), (key.as_str(), 5));
    if let Some(modified) = listed[0].modified {
        let age = SystemClock::new().now().wall.duration_since(modified);
        assert!(age.as_secs().abs() < 300, "{age}");
    }
}

pub(super) async fn a_taken_key_is_not_overwritten(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/a");
    store.put_new(&key, Bytes::from_static(b"one")).await.unwrap();
    let again = store.put_new(&key, Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(again.bytes, 3);
    for other in [&b"two"[..], b"", b"longer"] {
        let error = store.put_new(&key, Bytes::from_static(other)).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    }
    assert_eq!(read(&store, &key, None).await, b"one");
}

pub(super) async fn an_upload_is_seen_only_after_its_commit(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/volume");
    let limits = store.limits();
    let parts = [pattern(1, limits.part_bytes), pattern(2, limits.part_bytes), pattern(3, 77)];
    let upload = store.begin(&key).await.unwrap();
    for (number, part) in (1..).zip(&parts) {
        upload.part(number, part.clone()).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap(), None);
        assert_eq!(keys(&store, &root).await, Vec::<String>::new());
        let error = store.get(&key, None).await.map(drop).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    }
    let meta = upload.commit().await.unwrap();
    let length = 2 * limits.part_bytes + 77;
    assert_eq!((meta.key.as_str(), meta.bytes), (key.as_str(), length as u64));
    assert_eq!(store.head(&key).await.unwrap().unwrap().bytes, length as u64);
    assert!(read(&store, &key, None).await == parts.concat(), "other bytes came back");
}

pub(super) async fn an_aborted_upload_leaves_nothing(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/volume");
    let upload = store.begin(&key).await.unwrap();
    upload.part(1, pattern(1, 1000)).await.unwrap();
    upload.abort().await.unwrap();
    upload.abort().await.unwrap();
    assert!(upload.commit().await.is_err());
    assert_eq!(store.head(&key).await.unwrap(), None);
    assert_eq!(keys(&store, &root).await, Vec::<String>::new());
    // The name is free.
    let again = store.begin(&key).await.unwrap();
    again.part(1, pattern(2, 10)).await.unwrap();
    again.commit().await.unwrap();
    // What is committed is not undone.
    again.abort().await.unwrap();
    assert!(read(&store, &key, None).await == pattern(2, 10));
}

pub(super) async fn a_dropped_upload_leaves_nothing_to_see(store: Arc<dyn Store>, root: String) {
    let upload = store.begin(&format!("{root}/a/volume")).await.unwrap();
    upload.part(1, pattern(1, 1000)).await.unwrap();
    drop(upload);
    assert_eq!(keys(&store, &root).await, Vec::<String>::new());
}

pub(super) async fn parts_may_come_in_any_order_and_again(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/volume");
    let limits = store.limits();
    let parts = [pattern(4, limits.part_bytes), pattern(5, limits.part_bytes), pattern(6, 99)];
    let upload = store.begin(&key).await.unwrap();
    if limits.parallel_parts > 1 {
        let late = async {
            upload.part(2, parts[1].clone()).await.unwrap();
            upload.part(1, pattern(9, limits.part_bytes)).await.unwrap();
        };
        let (last, ()) = tokio::join!(upload.part(3, parts[2].clone()), late);
        last.unwrap();
    } else {
        upload.part(1, pattern(9, limits.part_bytes)).await.unwrap();
        upload.part(2, parts[1].clone()).await.unwrap();
        upload.part(3, pattern(9, 100)).await.unwrap();
        upload.part(3, parts[2].clone()).await.unwrap();
    }
    // The same number again replaces the part.
    upload.part(1, parts[0].clone()).await.unwrap();
    upload.commit().await.unwrap();
    assert!(read(&store, &key, None).await == parts.concat(), "other bytes came back");
}

pub(super) async fn committing_again_changes_nothing(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/volume");
    let upload = store.begin(&key).await.unwrap();
    upload.part(1, pattern(1, 4321)).await.unwrap();
    let first = upload.commit().await.unwrap();
    let second = upload.commit().await.unwrap();
    assert_eq!((first.bytes, second.bytes), (4321, 4321));
    drop(upload);
    assert_eq!(keys(&store, &root).await, [key]);
}

pub(super) async fn an_upload_does_not_overwrite(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/volume");
    store.put_new(&key, Bytes::from_static(b"first")).await.unwrap();
    if let Ok(upload) = store.begin(&key).await {
        upload.part(1, Bytes::from_static(b"second")).await.unwrap();
        let error = upload.commit().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
        upload.abort().await.unwrap();
    }
    assert_eq!(read(&store, &key, None).await, b"first");
}

pub(super) async fn empty_objects_are_objects(store: Arc<dyn Store>, root: String) {
    let keys = [format!("{root}/put"), format!("{root}/upload")];
    store.put_new(&keys[0], Bytes::new()).await.unwrap();
    let upload = store.begin(&keys[1]).await.unwrap();
    upload.part(1, Bytes::new()).await.unwrap();
    upload.commit().await.unwrap();
    for key in &keys {
        assert_eq!(store.head(key).await.unwrap().unwrap().bytes, 0);
        assert_eq!(read(&store, key, None).await, b"");
    }
    assert_eq!(list(&store, &root).await.len(), 2);
}

pub(super) async fn ranges_give_their_bytes(store: Arc<dyn Store>, root: String) {
    let key = format!("{root}/a");
    let bytes = pattern(8, 3_000_000);
    store.put_new(&key, bytes.clone()).await.unwrap();
    let cases = [(0, 1), (0, 3_000_000), (17, 2_500_017), (2_999_999, 3_000_000), (5, 6)];
    for (from, to) in cases {
        let got = read(&store, &key, Some((from, to))).await;
        let wanted = &bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        assert!(got == wanted, "{from}..{to} gave {} other bytes", got.len());
    }
    // A range that ends behind the object is cut, one that starts there is an error.
    assert!(read(&store, &key, Some((2_999_990, 9_999_999))).await == bytes[2_999_990..]);
    let behind = match store.get(&key, Some(3_000_000..3_000_001)).await {
        Ok(stream) => stream.try_collect::<Vec<_>>().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(behind.is_err());
}

pub(super) async fn what_is_missing_is_told_apart(store: Arc<dyn Store>, root: String) {
    store.put_new(&format!("{root}/folder/object"), Bytes::from_static(b"x")).await.unwrap();
    // A folder is not an object.
    for key in [format!("{root}/none"), format!("{root}/folder"), format!("{root}/x/y/z")] {
        assert_eq!(store.head(&key).await.unwrap(), None, "{key}");
        for range in [None, Some(0..1)] {
            let error = store.get(&key, range).await.map(drop).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
        }
        store.delete(&key).await.unwrap();
    }
    assert_eq!(list(&store, &format!("{root}/none")).await, []);
    assert_eq!(keys(&store, &root).await, [format!("{root}/folder/object")]);
}

pub(super) async fn listings_are_in_order_and_count_whole_segments(
    store: Arc<dyn Store>,
    root: String,
) {
    // `-` and `.` sort before `/`, which sorts before letters.
    let names = ["a-b/x", "a.b", "a/b", "a/b-c", "a/b.c/z", "a/bc/y", "a0", "ab/x", "b"];
    let unfinished = store.begin(&format!("{root}/a/aa")).await.unwrap();
    unfinished.part(1, pattern(1, 10)).await.unwrap();
    for name in names.iter().rev() {
        store.put_new(&format!("{root}/{name}"), Bytes::from_static(b"x")).await.unwrap();
    }
    let below = |folder: &str| {
        let found = names.iter().filter(|name| name.starts_with(folder));
        found.map(|name| format!("{root}/{name}")).collect::<Vec<_>>()
    };
    assert_eq!(keys(&store, &root).await, below(""));
    assert_eq!(keys(&store, &format!("{root}/a")).await, below("a/"));
    assert_eq!(keys(&store, &format!("{root}/a/bc")).await, below("a/bc/"));
    assert_eq!(keys(&store, &format!("{root}/a/c")).await, below("a/c/"));
    let all = keys(&store, "").await;
    assert!(all.is_sorted() && below("").iter().all(|key| all.contains(key)));
    unfinished.abort().await.unwrap();
}

pub(super) async fn hostile_keys_are_kept(store: Arc<dyn Store>, root: String) {
    // As long as the S3 server of the tests takes: it makes a file's name of the whole key, in
    // base64. A store in a folder takes what its own tests show.
    let long = "=F0=9F=90=98".repeat(4);
    let mut names = vec![
        "@globals/all/manifest.json".to_owned(),
        "=2E=2E/=2Fetc=2Fpasswd".to_owned(),
        "a=20b@c.d_e-f".to_owned(),
        "-rf".to_owned(),
        "CON".to_owned(),
        "x..y".to_owned(),
        format!("{long}/{long}.dump.zst.001"),
    ];
    for name in &names {
        let key = format!("{root}/{name}");
        store.put_new(&key, Bytes::copy_from_slice(name.as_bytes())).await.unwrap();
        assert_eq!(read(&store, &key, None).await, name.as_bytes());
    }
    names.sort();
    let expected: Vec<String> = names.iter().map(|name| format!("{root}/{name}")).collect();
    assert_eq!(keys(&store, &root).await, expected);
}

pub(super) async fn illegal_keys_are_refused(store: Arc<dyn Store>, root: String) {
    for bad in ["", "..", "../x", "a/../../x", "/etc/x", "a//b", ".tmp-x", "a/.x", "a b", "a\0b"] {
        let key = if bad.starts_with('/') { bad.to_owned() } else { format!("{root}/{bad}") };
        let kinds = [
            store.put_new(&key, Bytes::from_static(b"x")).await.map(drop),
            store.begin(&key).await.map(drop),
            store.head(&key).await.map(drop),
            store.get(&key, None).await.map(drop),
            store.delete(&key).await,
        ];
        for kind in kinds.map(|answer| answer.unwrap_err().kind) {
            assert_eq!(kind, StoreErrorKind::Refused, "{key:?}");
        }
    }
    assert_eq!(keys(&store, &root).await, Vec::<String>::new());
}

pub(super) async fn deleting_is_idempotent(store: Arc<dyn Store>, root: String) {
    let [one, two] = [format!("{root}/a/b/one"), format!("{root}/a/two")];
    for key in [&one, &two] {
        store.put_new(key, Bytes::from_static(b"x")).await.unwrap();
    }
    store.delete(&one).await.unwrap();
    store.delete(&one).await.unwrap();
    assert_eq!(store.head(&one).await.unwrap(), None);
    assert_eq!(keys(&store, &root).await, std::slice::from_ref(&two));
    store.delete(&two).await.unwrap();
    assert_eq!(keys(&store, &root).await, Vec::<String>::new());
    // The name is free again.
    store.put_new(&one, Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(read(&store, &one, None).await, b"y");
}

pub(super) async fn many_objects_are_listed_once_each(store: Arc<dyn Store>, root: String) {
    let mut expected: Vec<String> =
        (0..1500).map(|n| format!("{root}/{}/object-{n}", n % 3)).collect();
    stream::iter(expected.clone())
        .for_each_concurrent(16, |key| {
            let store = Arc::clone(&store);
            async move { drop(store.put_new(&key, Bytes::from_static(b"x")).await.unwrap()) }
        })
        .await;
    expected.sort();
    assert!(keys(&store, &root).await == expected);
    // While others are removed, those that stay are listed once each.
    let (gone, stay) = expected.split_at(500);
    let removed = stream::iter(gone.to_vec()).for_each_concurrent(16, |key| {
        let store = Arc::clone(&store);
        async move { store.delete(&key).await.unwrap() }
    });
    let listing = async {
        loop {
            // A server may stumble over what goes away under it, which a retry hides.
            match store.list(&root).map_ok(|meta| meta.key).try_collect::<Vec<_>>().await {
                Ok(keys) => break keys,
                Err(error) => assert!(error.kind.is_worth_a_retry(), "{error}"),
            }
        }
    };
    let (listed, ()) = tokio::join!(listing, removed);
    assert!(listed.is_sorted());
    assert_eq!(listed.iter().filter(|key| stay.contains(key)).count(), stay.len());
    assert!(keys(&store, &root).await == stay);
}

pub(super) async fn a_sweep_spares_what_lives_and_what_is_young(
    store: Arc<dyn Store>,
    root: String,
) {
    const HOUR: Duration = Duration::from_hours(1);
    let now = SystemClock::new().now().wall;
    let later = now + 2 * HOUR;
    // What the checks before left behind.
    store.sweep(HOUR, later).await.unwrap();
    store.put_new(&format!("{root}/done"), Bytes::from_static(b"x")).await.unwrap();
    let part = pattern(1, store.limits().part_bytes);
    let live = store.begin(&format!("{root}/live")).await.unwrap();
    live.part(1, part.clone()).await.unwrap();
    let dead = store.begin(&format!("{root}/dead")).await.unwrap();
    dead.part(1, part.clone()).await.unwrap();
    drop(dead);

    assert_eq!(store.sweep(HOUR, now).await.unwrap().uploads, 0, "young ones stay");
    assert_eq!(store.sweep(HOUR, now - 2 * HOUR).await.unwrap().uploads, 0, "the clock is wrong");
    // A store may remove a dropped upload at once, and a begin that was asked for twice may have
    // left one more.
    store.sweep(HOUR, later).await.unwrap();
    assert_eq!(store.sweep(HOUR, later).await.unwrap().uploads, 0, "old ones are gone");
    live.part(2, Bytes::from_static(b"end")).await.unwrap();
    let meta = live.commit().await.unwrap();
    assert_eq!(meta.bytes, part.len() as u64 + 3);
    assert_eq!(keys(&store, &root).await, [format!("{root}/done"), format!("{root}/live")]);
}

pub(super) async fn a_listing_starts_after_any_key(store: Arc<dyn Store>, root: String) {
    let all: Vec<String> = ["a/1", "a/2", "b", "c/1"].map(|key| format!("{root}/{key}")).into();
    for key in &all {
        store.put_new(key, Bytes::from_static(b"x")).await.unwrap();
    }
    // Keys that are there, that are not, and a folder.
    for (after, left) in [("a/1", 3), ("a/11", 3), ("a", 4), ("a/2", 2), ("b", 1), ("z", 0)] {
        let after = format!("{root}/{after}");
        let listed = store.list_after(&root, &after).map_ok(|meta| meta.key);
        let listed: Vec<String> = listed.try_collect().await.unwrap();
        assert_eq!(listed, all[all.len() - left..], "after {after}");
    }
}
