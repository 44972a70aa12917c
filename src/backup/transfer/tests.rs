//! The queue against repositories in memory: its order, what stops it, and what does not.

use super::*;
use crate::{
    backup::copy::tests::{backup_of, repository},
    domain::Timestamp,
    repository::{
        faulty::{Act, Faults, Faulty, When},
        layout,
        listing::Within,
        memory::MemoryStore,
        store::{Store, StoreErrorKind},
    },
    sys::clock::{Clock as _, SystemClock},
};

mod killed;
mod lied;

const HOUR: Duration = Duration::from_hours(1);

fn series(database: &str) -> Arc<Series> {
    Arc::new(Series::from_path(&format!("main/7/{database}/all")).unwrap())
}

fn now() -> Timestamp {
    SystemClock::new().now().wall
}

/// The id of a backup of so many hours ago.
fn hour(ago: u32) -> BackupId {
    BackupId::new(now() - HOUR * ago, 1)
}

fn task() -> Task {
    Task::new(SystemClock::new())
}

async fn named(name: &str, store: Arc<dyn Store>) -> Arc<Repository> {
    Arc::new(Repository::open(name.parse().unwrap(), store, true).await.unwrap())
}

/// A source with those backups of one series, the newest last.
async fn source(ids: &[BackupId]) -> (Arc<Repository>, Arc<MemoryStore>) {
    let (source, store) = repository().await;
    for id in ids {
        backup_of(&source, &series("app"), id).await;
    }
    (Arc::new(source), store)
}

async fn target() -> (Arc<Repository>, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new(SystemClock::new()));
    (named("offsite", Arc::clone(&store) as Arc<dyn Store>).await, store)
}

fn items(target: &Arc<Repository>, ids: &[BackupId]) -> Vec<Item> {
    let item = |(rank, id): (usize, &BackupId)| Item {
        target: Arc::clone(target),
        series: series("app"),
        id: id.clone(),
        rank,
        unfinished: false,
    };
    ids.iter().enumerate().map(item).collect()
}

async fn complete(repository: &Repository) -> usize {
    let listing = repository.listing(&Within::All).await.unwrap();
    listing.backups.iter().filter(|listed| listed.complete).count()
}

#[tokio::test]
async fn what_is_first_in_the_queue_is_first_there() {
    let ids = [hour(1), hour(2), hour(3)];
    let (source, _) = source(&ids).await;
    let (target, store) = target().await;
    let done = bring(&source, items(&target, &ids), 1, &task()).await;
    let order: Vec<&BackupId> = done.iter().map(|(item, _)| &item.id).collect();
    assert_eq!(order, ids.iter().collect::<Vec<_>>());
    assert!(done.iter().all(|(_, brought)| matches!(brought, Brought::Copied(5))), "{done:?}");
    // It was brought by somebody else since the listing: no error, and nothing is harmed.
    let before = store.keys();
    store.lose(&layout::object_key(&series("app"), &ids[2], "globals.sql.zst")).unwrap();
    store.plant(&layout::object_key(&series("app"), &ids[2], "globals.sql.zst"), "other", now());
    let done = bring(&source, items(&target, &ids[2..]), 1, &task()).await;
    assert!(matches!(done[0].1, Brought::Present), "{done:?}");
    assert_eq!(store.keys(), before);
}

#[tokio::test]
async fn a_damaged_or_vanished_backup_keeps_no_other_from_being_copied() {
    let ids = [hour(1), hour(2), hour(3), hour(4)];
    let (source, store) = source(&ids).await;
    let data = |id| layout::object_key(&series("app"), id, "globals.sql.zst");
    store.lose(&data(&ids[0])).unwrap();
    store.plant(&data(&ids[0]), "damag", now());
    // Another host is removing the second: its manifest is gone, its data is not yet.
    store.lose(&layout::manifest_key(&series("app"), &ids[1])).unwrap();
    // Of the third only the data is lost.
    store.lose(&data(&ids[2])).unwrap();
    let (target, _) = target().await;
    let done = bring(&source, items(&target, &ids), 1, &task()).await;
    let [damaged, vanished, lost, copied] = &done[..] else { panic!("{done:?}") };
    for (_, brought) in [damaged, lost] {
        let Brought::SourceFailed(failure) = brought else { panic!("{brought:?}") };
        assert_eq!(failure.class, Class::RepositoryDamaged);
    }
    assert!(matches!(vanished.1, Brought::Vanished), "{done:?}");
    assert!(matches!(copied.1, Brought::Copied(_)), "{done:?}");
    assert_eq!(complete(&target).await, 1);
}

#[tokio::test]
async fn a_target_that_is_away_is_out_and_the_other_goes_on() {
    let ids: Vec<BackupId> = (1..6).map(hour).collect();
    let (source, _) = source(&ids).await;
    let (good, _) = target().await;
    for (kind, tried) in [(StoreErrorKind::Unavailable, 1), (StoreErrorKind::Space, 1)] {
        // Opening takes three steps.
        let at = Some((3, When::Before, Act::Die(kind)));
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        let bad = named("bad", Faulty::new(store, Faults { at, ..Faults::default() })).await;
        let mut queue = items(&bad, &ids);
        queue.extend(items(&good, &ids));
        queue.sort_by_key(|item| item.rank);
        let done = bring(&source, queue, 1, &task()).await;
        let count = |is: fn(&Brought) -> bool| {
            let of = |(item, brought): &&(Item, Brought)| {
                item.target.name() == bad.name() && is(brought)
            };
            done.iter().filter(of).count()
        };
        assert_eq!(count(|brought| matches!(brought, Brought::TargetFailed(_))), tried);
        assert_eq!(count(|brought| matches!(brought, Brought::Left(_))), ids.len() - tried);
        assert_eq!(complete(&good).await, ids.len(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_source_that_is_away_ends_it_all() {
    let ids: Vec<BackupId> = (1..5).map(hour).collect();
    let (_, store) = source(&ids).await;
    // One step to open it.
    let at = Some((1, When::Before, Act::Die(StoreErrorKind::Unavailable)));
    let away = named("local", Faulty::new(store, Faults { at, ..Faults::default() })).await;
    let (target, _) = target().await;
    let done = bring(&away, items(&target, &ids), 1, &task()).await;
    assert!(matches!(&done[0].1, Brought::SourceFailed(_)), "{done:?}");
    assert!(done[1..].iter().all(|(_, brought)| matches!(brought, Brought::Left(_))), "{done:?}");
}

#[tokio::test]
async fn never_more_copies_than_allowed_are_under_way() {
    let ids: Vec<BackupId> = (1..20).map(hour).collect();
    let (_, store) = source(&ids).await;
    for parallel in [1, 3] {
        let slow = Faults { delay: Duration::from_millis(3), ..Faults::default() };
        let faulty = Faulty::new(Arc::clone(&store) as Arc<dyn Store>, slow);
        let source = named("local", Arc::clone(&faulty) as Arc<dyn Store>).await;
        let (target, _) = target().await;
        bring(&source, items(&target, &ids), parallel, &task()).await;
        assert_eq!(faulty.most_at_once(), parallel as u64);
        assert_eq!(complete(&target).await, ids.len());
    }
}

#[tokio::test]
async fn what_is_being_copied_is_not_deleted_here() {
    let ids = [hour(1)];
    let (plain, store) = source(&ids).await;
    // Steps of the source: the marker, the manifest, the data, which never comes.
    let at = Some((2, When::Before, Act::Hang));
    let faulty = Faulty::new(store, Faults { at, ..Faults::default() });
    let source = named("local", Arc::clone(&faulty) as Arc<dyn Store>).await;
    assert_eq!(source.id(), plain.id());
    let (target, kept) = target().await;
    let task = task();
    let (queue, cancelled) = (items(&target, &ids), task.clone());
    let running = tokio::spawn(async move { bring(&source, queue, 1, &cancelled).await });
    faulty.hung().await;
    let error = plain.delete_backup(&series("app"), &ids[0]).await.unwrap_err();
    assert_eq!((error.kind, &*error.what), (StoreErrorKind::Spared, "it is being read"));
    let error = target.delete_backup(&series("app"), &ids[0]).await.unwrap_err();
    assert_eq!(&*error.what, "it is being written");
    task.cancel.cancel();
    let done = running.await.unwrap();
    assert!(matches!(done[0].1, Brought::Cancelled), "{done:?}");
    assert_eq!((complete(&target).await, kept.unfinished()), (0, 0));
    assert!(plain.delete_backup(&series("app"), &ids[0]).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_killed_copy_left_is_removed_when_it_is_old_and_copied_anew() {
    let ids = [hour(30), hour(20), hour(10)];
    let (source, _) = source(&ids).await;
    let (target, store) = target().await;
    let [old, young, live] = &ids;
    for (id, written) in [(old, now() - HOUR * 2), (young, now()), (live, now() - HOUR * 2)] {
        store.plant(&layout::object_key(&series("app"), id, "globals.sql.zst"), "half", written);
    }
    let mut queue = items(&target, &ids);
    for item in &mut queue {
        item.unfinished = true;
    }
    let writing = target.start_copy(&series("app"), live, "x");
    let done = bring(&source, queue, 1, &task()).await;
    drop(writing);
    assert!(matches!(done[0].1, Brought::Copied(5)), "{done:?}");
    let Brought::TargetFailed(failure) = &done[1].1 else { panic!("{done:?}") };
    assert_eq!(failure.class, Class::RepositoryRefused);
    assert!(failure.hint.is_some());
    assert!(matches!(done[2].1, Brought::Busy), "{done:?}");
    assert_eq!(complete(&target).await, 1);
}

#[test]
fn memory_is_that_of_the_largest_target_times_the_copies() {
    let s3 = Limits { part_bytes: 8 << 20, max_parts: 10_000, parallel_parts: 4 };
    let disk = Limits { parallel_parts: 1, ..s3 };
    assert_eq!(memory(&[disk], 1), 36 << 20);
    assert_eq!(memory(&[disk, s3], 2), 2 * (60 << 20));
}
