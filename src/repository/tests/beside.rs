//! Objects beside the volumes that are too large to be put whole.

use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::repository::store::{Limits, StoreErrorKind};

/// As many bytes as asked for, none like the last.
fn bytes(length: usize) -> Vec<u8> {
    (0..251u8).cycle().take(length).collect()
}

/// A copy that has its volume.
async fn begun(repository: &Repository, id: &BackupId) -> Copy {
    let mut copy = repository.start_copy(&series(), id, STEM);
    feed(&mut copy, events(&[7], repository.limits().part_bytes)).await.unwrap();
    copy
}

async fn written(
    copy: &mut Copy,
    length: usize,
    pieces: usize,
) -> Result<StoredObject, StoreError> {
    let mut beside = copy.beside("index.json.zst", &Recipients::default())?;
    for piece in bytes(length).chunks(pieces) {
        beside.write(piece).await?;
    }
    beside.finish().await
}

#[tokio::test]
async fn what_is_large_arrives_in_parts_and_reads_back() {
    let part = memory().limits().part_bytes;
    for (length, pieces) in [
        (0, 1),
        (1 << 20, 1 << 20),
        ((1 << 20) + 1, 1 << 20),
        (3 << 20, 10_007),
        (20 * part, part),
        (20 * part + 1, 20 * part + 1),
    ] {
        let store = memory();
        let repository = open(Arc::new(store.clone())).await;
        let id = new_id();
        let mut copy = begun(&repository, &id).await;
        let object = written(&mut copy, length, pieces).await.unwrap();
        let stored = (object.bytes, object.sha256.clone());
        assert_eq!(stored, (length as u64, crate::codec::hex(&Sha256::digest(bytes(length)))));
        let index = Some(object);
        copy.commit(|objects| manifest(&id, objects, index)).await.unwrap();
        let read = repository.read(&series(), &id, "index.json.zst", None).await.unwrap();
        assert!(read.try_collect::<Vec<_>>().await.unwrap().concat() == bytes(length), "{length}");
        assert_eq!((assert_sound(&repository, "large").await, store.unfinished()), (1, 0));
    }
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    for is_finished in [false, true] {
        let store = memory();
        let repository = open(Arc::new(store.clone())).await;
        let before = store.keys();
        let mut copy = begun(&repository, &new_id()).await;
        if is_finished {
            written(&mut copy, 2 << 20, 4096).await.unwrap();
        } else {
            let mut beside = copy.beside("index.json.zst", &Recipients::default()).unwrap();
            beside.write(&bytes(2 << 20)).await.unwrap();
            assert_eq!(store.unfinished(), 2);
        }
        copy.abort().await.unwrap();
        assert_eq!((store.keys(), store.unfinished()), (before, 0));
    }
}

#[tokio::test]
async fn what_does_not_fit_or_is_anothers_is_an_error() {
    let narrow = Limits { part_bytes: 64 << 10, max_parts: 20, parallel_parts: 1 };
    let repository = open(Arc::new(memory().with_limits(narrow))).await;
    let mut copy = begun(&repository, &new_id()).await;
    let error = written(&mut copy, 2 << 20, 4096).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    assert!(error.what.contains("more than 20 parts"), "{error}");
    copy.abort().await.unwrap();

    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let id = new_id();
    let mut copy = begun(&repository, &id).await;
    let key = format!("{}/{id}/index.json.zst", series().path());
    store.plant(&key, "another's", id.time());
    let error = written(&mut copy, 2 << 20, 4096).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    copy.abort().await.unwrap();
    assert!(store.keys().contains(&key), "it is not ours to remove");
}

#[tokio::test]
async fn nothing_plain_gets_in_where_all_is_encrypted() {
    let to: Recipients = ["age1x".to_owned()].into_iter().collect();
    for length in [10, 2 << 20] {
        let store = memory();
        let repository = open(Arc::new(store.clone())).await.encrypted_to(to.clone());
        let mut copy = repository.start_copy(&series(), &new_id(), STEM);
        let error = written(&mut copy, length, 4096).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Encryption, "{error}");
        copy.abort().await.unwrap();
        assert_eq!(store.unfinished(), 0);
    }
}
