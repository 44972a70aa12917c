//! Copies of backups in doubt.

use jiff::Timestamp;

use super::*;
use crate::{
    backup::copy::tests::{backup, repository},
    domain::suspicion::{ACKNOWLEDGED_NAME, Acknowledgement, Kind, MARK_NAME, Suspicion},
    repository::{listing::Within, memory::MemoryStore},
    sys::clock::SystemClock,
};

/// Makes it suspicious after the fact.
pub(crate) async fn doubt(source: &Repository, store: &MemoryStore, id: &BackupId) -> Series {
    let mut manifest = backup(source, id).await;
    manifest.suspicions = vec![Suspicion::new(Kind::NoRows, "0 rows, before 5000")];
    let series = manifest.series.clone();
    let key = layout::manifest_key(&series, id);
    store.lose(&key).unwrap();
    store.plant(&key, manifest.to_bytes().unwrap(), Timestamp::UNIX_EPOCH);
    let mark = layout::object_key(&series, id, MARK_NAME);
    store.plant(&mark, "[]", Timestamp::UNIX_EPOCH);
    series
}

#[tokio::test]
async fn a_copy_is_in_doubt_as_its_source_is() {
    let task = Task::new(SystemClock::new());
    let ((source, store), id) = (repository().await, BackupId::new(task.clock.now().wall, 1));
    let series = doubt(&source, &store, &id).await;
    let somebody: Recipients =
        ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned()]
            .into_iter()
            .collect();
    let by = Acknowledgement { at: id.time(), user: "postgres".to_owned(), host: "db1".to_owned() };
    for acknowledged in [false, true] {
        if acknowledged {
            assert!(source.acknowledge(&series, &id, &by).await.unwrap());
            let other = Acknowledgement { user: "other".to_owned(), ..by.clone() };
            assert!(!source.acknowledge(&series, &id, &other).await.unwrap());
        }
        for recipients in [Recipients::default(), somebody.clone()] {
            let (target, kept) = repository().await;
            let target = target.encrypted_to(recipients);
            let copied = copy_backup(&source, &target, &series, &id, &task).await.unwrap();
            assert_eq!(copied.suspicions.len(), 1);
            let listed = target.look_at(&series, &id).await.unwrap().unwrap();
            assert!(listed.was_suspicious());
            assert_eq!(listed.is_suspicious(), !acknowledged);
            let there = target.acknowledgement(&series, &id).await.unwrap();
            assert_eq!(there, acknowledged.then(|| by.clone()));
            let key = layout::object_key(&series, &id, ACKNOWLEDGED_NAME);
            assert_eq!(kept.keys().contains(&key), acknowledged);
        }
    }
}

#[tokio::test]
async fn where_the_acknowledgement_cannot_be_read_nothing_is_copied() {
    let task = Task::new(SystemClock::new());
    let ((source, store), id) = (repository().await, BackupId::new(task.clock.now().wall, 1));
    let series = doubt(&source, &store, &id).await;
    let key = layout::object_key(&series, &id, ACKNOWLEDGED_NAME);
    store.plant(&key, "{", Timestamp::UNIX_EPOCH);
    let (target, _) = repository().await;
    let error = copy_backup(&source, &target, &series, &id, &task).await.unwrap_err();
    assert!(matches!(error, CopyError::Source(_)), "{error:?}");
    assert!(target.listing(&Within::All).await.unwrap().backups.is_empty());
}
