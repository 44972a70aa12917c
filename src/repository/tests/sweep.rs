//! Listing and sweeping.

use std::time::Duration;

use super::*;
use crate::{
    domain::{Timestamp, manifest::MANIFEST_NAME},
    repository::{
        faulty::{Act, Faults, Faulty, When},
        layout,
        listing::Entry,
        lying::{Lies, Lying},
        store::StoreErrorKind,
    },
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

/// A backup of 30 hours ago, and data without a manifest of the same time.
async fn old_ones(store: &MemoryStore) -> [BackupId; 2] {
    let repository = open(Arc::new(store.clone())).await;
    let old = SystemClock::new().now().wall - 30 * HOUR;
    let [backup, garbage] = [id_at(old), id_at(old)];
    whole_copy(&repository, &backup).await.unwrap();
    for key in store.keys().iter().filter(|key| key.contains(backup.as_str())) {
        let bytes = store.lose(key).unwrap();
        store.plant(key, bytes, old);
    }
    plant(store, &garbage, old);
    [backup, garbage]
}

#[tokio::test]
async fn a_listing_without_the_manifest_lets_no_backup_go() {
    let store = memory();
    let [backup, garbage] = old_ones(&store).await;
    let hidden = vec![MANIFEST_NAME.to_owned()];
    let lies = Lies { hidden, ..Lies::default() };
    let repository = open(Lying::new(Arc::new(store.clone()), lies)).await;
    let now = SystemClock::new().now().wall;
    let plan = repository.garbage(24 * HOUR, now).await.unwrap();
    assert_eq!(plan.remove.len(), 2, "by the listing, both have none");
    let before = store.keys();
    let report = repository.sweep(plan).await.unwrap();
    let [removed] = &report.removed[..] else { panic!("{report:?}") };
    let [unlisted] = &report.unlisted[..] else { panic!("{report:?}") };
    assert_eq!((&removed.id, &unlisted.id), (&garbage, &backup));
    let left = before.into_iter().filter(|key| !key.contains(garbage.as_str()));
    assert_eq!(store.keys(), left.collect::<Vec<_>>());
    // The same of what is to be removed on purpose: nothing is left that looks like a backup.
    let removed = repository.delete_backup(&series(), &backup).await.unwrap().unwrap();
    assert!(!removed.complete, "{removed:?}");
    assert_eq!(store.keys(), ["pgkeep-repository.json"]);
}

#[tokio::test]
async fn only_the_answer_that_there_is_none_lets_data_go() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Slow, StoreErrorKind::Refused] {
        let store = memory();
        let [_, garbage] = old_ones(&store).await;
        // Opening and the second listing come first.
        let at = Some((2, When::Before, Act::Fail(kind)));
        let store = Arc::new(store);
        let faulty = Faulty::new(store.clone(), Faults { at, ..Faults::default() });
        let repository = open(faulty).await;
        let before = store.keys();
        let now = SystemClock::new().now().wall;
        let asked = repository.remove_garbage(&series(), &garbage, HOUR, now).await;
        assert_eq!(asked.unwrap_err().kind, kind);
        assert_eq!(store.keys(), before);
        let asked = repository.remove_garbage(&series(), &garbage, HOUR, now).await;
        assert!(matches!(asked, Ok(crate::repository::garbage::Cleared::Removed(_))));
    }
}

#[tokio::test]
async fn what_is_there_and_not_listed_is_not_said_to_be_gone() {
    let store = memory();
    let [backup, _] = old_ones(&store).await;
    let hidden =
        vec![MANIFEST_NAME.to_owned(), STEM.to_owned(), ".001".to_owned(), ".zst".to_owned()];
    let lying = Lying::new(Arc::new(store.clone()), Lies { hidden, ..Lies::default() });
    let repository = open(lying).await;
    let before = store.keys();
    let error = repository.delete_backup(&series(), &backup).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Spared, "{error}");
    assert_eq!(store.keys(), before);
}

/// One that begins again would never end.
#[tokio::test]
async fn a_listing_out_of_order_or_twice_is_an_error() {
    let store = memory();
    old_ones(&store).await;
    let mut refused = 0;
    for seed in 0..200 {
        let lies = Lies { seed, rate: 1.0, ..Lies::default() };
        let repository = open(Lying::new(Arc::new(store.clone()), lies)).await;
        match repository.listing(&Within::All).await {
            Ok(listing) => assert!(listing.backups.len() <= 2, "seed {seed}"),
            Err(error) => {
                assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
                refused += 1;
            }
        }
    }
    assert!((50..150).contains(&refused), "{refused}");
}
