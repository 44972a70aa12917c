//! Listing and sweeping.

use std::time::Duration;

use super::*;
use crate::{
    domain::Timestamp,
    repository::{layout, listing::Entry},
};

const HOUR: Duration = Duration::from_hours(1);

fn id_at(at: Timestamp) -> BackupId {
    BackupId::new(at, getrandom::u64().unwrap())
}

/// Data without a manifest.
fn plant(store: &MemoryStore, id: &BackupId, modified: Timestamp) {
    for name in [STEM, "index.json.zst"] {
        store.plant(&layout::object_key(&series(), id, name), "data", modified);
    }
}

#[tokio::test]
async fn a_sweep_removes_old_garbage_and_nothing_else() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let now = SystemClock::new().now().wall;
    let old = now - 30 * HOUR;
    let complete = new_id();
    whole_copy(&repository, &complete).await.unwrap();
    let [garbage, live, young] = [id_at(old), id_at(old), id_at(now - HOUR)];
    let [long, future] = [id_at(old), id_at(now + 30 * HOUR)];
    for id in [&garbage, &live, &young, &future] {
        plant(&store, id, old);
    }
    plant(&store, &long, now - HOUR);
    store.plant("main/7/notes.txt", "mine", old);
    let copy = repository.clone().start_copy(&series(), &live, STEM);

    let plan = repository.garbage(24 * HOUR, now).await.unwrap();
    assert_eq!(plan.remove.iter().map(|listed| &listed.id).collect::<Vec<_>>(), [&garbage]);
    assert_eq!(plan.spare.len(), 4);
    assert_eq!(plan.foreign, 1);
    let before = store.keys();
    let report = repository.sweep(plan).await.unwrap();
    assert_eq!(report.removed.len(), 1);
    assert_eq!(report.removed[0].bytes(), 8);
    let gone = layout::folder(&series(), &garbage);
    let expected: Vec<_> = before.into_iter().filter(|key| !key.starts_with(&gone)).collect();
    assert_eq!(store.keys(), expected);

    drop(copy);
    let plan = repository.garbage(24 * HOUR, now).await.unwrap();
    assert_eq!(plan.remove.iter().map(|listed| &listed.id).collect::<Vec<_>>(), [&live]);
}

#[tokio::test]
async fn a_sweep_looks_again_before_it_acts() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let now = SystemClock::new().now().wall;
    let [completed, resumed, gone] = [(); 3].map(|()| id_at(now - 30 * HOUR));
    for id in [&completed, &resumed, &gone] {
        plant(&store, id, now - 30 * HOUR);
    }
    let plan = repository.garbage(HOUR, now).await.unwrap();
    assert_eq!(plan.remove.len(), 3);
    // Meanwhile another host gets on with its work.
    store.plant(&layout::manifest_key(&series(), &completed), "{}", now);
    store.plant(&layout::object_key(&series(), &resumed, "more"), "data", now);
    for name in [STEM, "index.json.zst"] {
        store.lose(&layout::object_key(&series(), &gone, name)).unwrap();
    }
    let before = store.keys();
    let report = repository.sweep(plan).await.unwrap();
    assert!(report.removed.is_empty() && report.failed.is_empty(), "{report:?}");
    assert_eq!(store.keys(), before);
}

#[tokio::test]
async fn listings_group_by_backup_and_tell_what_is_foreign() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let now = SystemClock::new().now().wall;
    let mut ids = [id_at(now), id_at(now - HOUR)];
    ids.sort();
    whole_copy(&repository, &ids[1]).await.unwrap();
    plant(&store, &ids[0], now - HOUR);
    let other = Series { server: "main-2".parse().unwrap(), ..series() };
    store.plant(&layout::manifest_key(&other, &ids[0]), "{}", now);
    for foreign in ["a/b", "main/x", "zzz"] {
        store.plant(foreign, "x", now);
    }

    let all = repository.listing(&Within::All).await.unwrap();
    assert_eq!(all.foreign, 3);
    let found = |listed: &Listed| (listed.series.clone(), listed.id.clone(), listed.complete);
    let mut expected = vec![
        (other.clone(), ids[0].clone(), true),
        (series(), ids[0].clone(), false),
        (series(), ids[1].clone(), true),
    ];
    assert_eq!(all.backups.iter().map(found).collect::<Vec<_>>(), expected);
    let partial = &all.backups[1];
    assert_eq!((partial.bytes(), partial.objects.len()), (8, 2));

    let within = repository.listing(&Within::Server("main".parse().unwrap())).await.unwrap();
    assert_eq!(within.foreign, 1);
    assert_eq!(within.backups.iter().map(found).collect::<Vec<_>>(), expected.split_off(1));
    let within = repository.listing(&Within::Series(other)).await.unwrap();
    assert_eq!((within.backups.len(), within.foreign), (1, 0));
    assert!(matches!(
        futures_util::TryStreamExt::try_next(&mut repository.list(&Within::All)).await,
        Ok(Some(Entry::Foreign(_)))
    ));
}
