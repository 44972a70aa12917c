//! Opening, copying, reading, deleting.

use std::time::Duration;

use futures_util::{TryStreamExt, future::join_all};

use super::*;
use crate::domain::Timestamp;
use crate::repository::{
    faulty::{Act, Faults, Faulty, When},
    garbage::Cleared,
    layout,
    listing::SizeProblem,
    repo::ManifestProblem,
    retry::{Retry, RetryPolicy},
    store::{Limits, StoreErrorKind},
};

#[tokio::test]
async fn several_that_open_at_once_settle_on_one() {
    let store = memory();
    let delay = Duration::from_millis(2);
    let faulty = Faulty::new(Arc::new(store.clone()), Faults { delay, ..Faults::default() });
    let opened = join_all((0..8).map(|_| open(faulty.clone()))).await;
    assert!(opened.iter().all(|repository| repository.id() == opened[0].id()));
    assert_eq!(store.keys(), [layout::MARKER_KEY]);
    let again = Repository::open("other".parse().unwrap(), Arc::new(store), false).await.unwrap();
    assert_eq!(again.id(), opened[0].id());
}

#[tokio::test]
async fn no_repository_is_made_unasked_or_over_damage() {
    let store = memory();
    let open = |create| Repository::open("local".parse().unwrap(), Arc::new(store.clone()), create);
    let error = open(false).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert!(error.hint.is_some());
    assert!(store.keys().is_empty());
    store.plant(layout::MARKER_KEY, "not json", SystemClock::new().now().wall);
    assert_eq!(open(true).await.unwrap_err().kind, StoreErrorKind::Damaged);
    store.plant(layout::MARKER_KEY, vec![b' '; 1 << 20], SystemClock::new().now().wall);
    assert_eq!(open(true).await.unwrap_err().kind, StoreErrorKind::Damaged);
}

#[tokio::test]
async fn a_copy_through_faults_is_whole() {
    let store = memory();
    let faulty = Faulty::new(Arc::new(store.clone()), Faults::bad_day(3));
    let policy = RetryPolicy {
        give_up_after: Duration::from_mins(1),
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(5),
        seed: 1,
    };
    let repository = open(Arc::new(Retry::new(faulty, policy))).await;
    let id = new_id();
    let written = whole_copy(&repository, &id).await.unwrap();
    let names: Vec<_> = written.objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["app.dump.zst", "app.dump.zst.001"]);
    assert_eq!(repository.manifest(&series(), &id).await.unwrap(), written);
    let found = repository.look_at(&series(), &id).await.unwrap().unwrap();
    assert!(found.complete);
    assert_eq!(found.objects.len(), 4);
    assert_eq!(found.check_sizes(&written), []);
    for (object, byte) in written.objects.iter().zip(1..) {
        let stream = repository.read(&series(), &id, &object.name, None).await.unwrap();
        let bytes = stream.try_collect::<Vec<_>>().await.unwrap().concat();
        assert_eq!(bytes.len() as u64, object.bytes);
        assert!(bytes.iter().all(|b| *b == byte));
    }
    let index = written.index.as_ref().unwrap();
    assert_eq!(index.bytes, 5);
    // printf index | sha256sum
    let sha256 = "1bc04b5291c26a46d918139138b992d2de976d6851d0893b0476b85bfbdfc6e6";
    assert_eq!(index.sha256, sha256);
}

#[tokio::test]
async fn as_many_parts_are_under_way_as_the_store_takes() {
    for parallel_parts in [1, 3] {
        let limits = Limits { part_bytes: 1000, max_parts: 100, parallel_parts };
        let slow = Faults { delay: Duration::from_millis(5), ..Faults::default() };
        let faulty = Faulty::new(Arc::new(memory().with_limits(limits)), slow);
        let repository = open(faulty.clone()).await;
        let mut copy = repository.start_copy(&series(), &new_id(), STEM);
        feed(&mut copy, events(&[60_000], 1000)).await.unwrap();
        assert_eq!(faulty.most_at_once(), parallel_parts as u64);
    }
}

#[tokio::test]
async fn a_store_that_fails_is_out_at_once() {
    let store = memory();
    let part_bytes = store.limits().part_bytes;
    // Steps: read the marker, put it, read it; begin; part 1.
    let at = Some((4, When::Before, Act::Fail(StoreErrorKind::Refused)));
    let faulty = Faulty::new(Arc::new(store.clone()), Faults { at, ..Faults::default() });
    let repository = open(faulty).await;
    let mut copy = repository.start_copy(&series(), &new_id(), STEM);
    let (sender, receiver) = mpsc::channel(4);
    let first = events(&[part_bytes], part_bytes).swap_remove(0);
    sender.send(first).await.unwrap();
    // The source is silent, and its channel stays open.
    let error = copy.store(receiver).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    sender.closed().await;
    copy.abort().await.unwrap();
    assert_eq!(store.unfinished(), 0);
}

#[tokio::test]
async fn a_stream_that_is_not_whole_is_never_committed() {
    let limits = Limits { part_bytes: 100, max_parts: 3, parallel_parts: 2 };
    let store = memory().with_limits(limits);
    let repository = open(Arc::new(store.clone())).await;
    let whole = events(&[250, 30], 100);
    let without = |index: usize| {
        let mut events = whole.clone();
        events.remove(index);
        events
    };
    let mut short_end = whole.clone();
    short_end[3] = Sealed::VolumeEnd { volume: 1, bytes: 249, sha256: String::new() };
    let stories = [
        vec![],
        whole[..2].to_vec(),
        whole[..5].to_vec(),
        without(0),
        without(1),
        without(2),
        without(3),
        without(4),
        short_end,
        [whole.clone(), whole.clone()].concat(),
        events(&[301], 100),
        events(&[250], 125),
        events(&[250], 50),
    ];
    for (number, story) in stories.into_iter().enumerate() {
        let id = new_id();
        let mut copy = repository.start_copy(&series(), &id, STEM);
        let error = feed(&mut copy, story).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged, "{number}: {error}");
        // Even if the caller does not care: without all volumes there is no commit.
        if number < 3 {
            let error = copy.commit(|objects| manifest(&id, objects, None)).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Damaged, "{number}: {error}");
        } else {
            copy.abort().await.unwrap();
        }
        assert_eq!(store.keys(), [layout::MARKER_KEY], "{number}");
        assert_eq!(store.unfinished(), 0, "{number}");
    }
}

#[tokio::test]
async fn what_a_manifest_names_and_is_not_there_is_found() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let id = new_id();
    let written = whole_copy(&repository, &id).await.unwrap();
    let [lost, shorter] =
        [0, 1].map(|index| layout::object_key(&series(), &id, &written.objects[index].name));
    store.lose(&lost).unwrap();
    store.plant(&shorter, "short", SystemClock::new().now().wall);
    let found = repository.look_at(&series(), &id).await.unwrap().unwrap();
    let problem = |index: usize, found| {
        let object = &written.objects[index];
        SizeProblem { name: object.name.clone(), expected: object.bytes, found }
    };
    assert_eq!(found.check_sizes(&written), [problem(0, None), problem(1, Some(5))]);
}

#[tokio::test]
async fn manifests_that_cannot_be_had_are_told_apart() {
    use crate::domain::{
        failure::{Class, IntoFailure},
        manifest::ManifestError,
    };

    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let [id, other] = [new_id(), new_id()];
    whole_copy(&repository, &id).await.unwrap();
    let key = |id| layout::manifest_key(&series(), id);
    let of = series();
    let get = || repository.manifest(&of, &other);
    assert!(matches!(get().await, Err(ManifestProblem::Missing)));
    let now = SystemClock::new().now().wall;
    let plant = |bytes: Bytes| store.plant(&key(&other), bytes, now);
    let invalid = |found| match found {
        Err(ManifestProblem::Invalid(error)) => error,
        found => panic!("{found:?}"),
    };

    plant(store.lose(&key(&id)).unwrap());
    assert!(matches!(invalid(get().await), ManifestError::Misplaced { .. }));
    plant(Bytes::from_static(b"{\"format_version\":1,"));
    assert!(matches!(invalid(get().await), ManifestError::Damaged(_)));
    plant(Bytes::from_static(b"{\"format_version\":99}"));
    let newer = get().await.unwrap_err().into_failure("show");
    assert_eq!(newer.class, Class::RepositoryRefused);
    assert!(newer.hint.is_some());
    plant(vec![b' '; (16 << 20) + 1].into());
    match get().await {
        Err(ManifestProblem::Store(error)) => assert_eq!(error.kind, StoreErrorKind::Damaged),
        found => panic!("{found:?}"),
    }
}

#[tokio::test]
async fn deleting_goes_from_the_manifest_on() {
    for step in 0.. {
        let store = memory();
        let plain = open(Arc::new(store.clone())).await;
        let [id, other] = [new_id(), new_id()];
        whole_copy(&plain, &id).await.unwrap();
        whole_copy(&plain, &other).await.unwrap();
        // Opening reads the marker: step 0.
        let at = Some((step + 1, When::Before, Act::Die(StoreErrorKind::Unavailable)));
        let faulty = Faulty::new(Arc::new(store.clone()), Faults { at, ..Faults::default() });
        let deleted = open(faulty).await.delete_backup(&series(), &id).await;
        assert!(assert_sound(&plain, &format!("step {step}")).await >= 1);
        let Ok(deleted) = deleted else { continue };
        assert_eq!(deleted.unwrap().objects.len(), 4);
        assert_eq!(listed(&plain).await.len(), 1);
        assert!(plain.delete_backup(&series(), &id).await.unwrap().is_none());
        assert!(step >= 5, "it took a listing and four deletes, not {step}");
        return;
    }
}

#[tokio::test]
async fn what_is_being_written_is_not_deleted() {
    let repository = open(Arc::new(memory())).await;
    let id = new_id();
    let copy = repository.start_copy(&series(), &id, STEM);
    let error = repository.delete_backup(&series(), &id).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Spared);
    drop(copy);
    assert!(repository.delete_backup(&series(), &id).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_being_read_is_not_deleted() {
    let store = Arc::new(memory());
    let repository = open(Arc::clone(&store) as Arc<dyn Store>).await;
    let [id, other] = [new_id(), new_id()];
    whole_copy(&repository, &id).await.unwrap();
    whole_copy(&repository, &other).await.unwrap();
    let [first, second] = [repository.hold(&series(), &id), repository.hold(&series(), &id)];
    // Opened anew, as after a reload, it is the same repository.
    let again = open(store).await;
    for held in [first, second] {
        let error = again.delete_backup(&series(), &id).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Spared);
        assert!(error.what.contains("read"), "{error}");
        assert!(!again.is_live(&series(), &id), "it is not being written");
        drop(held);
    }
    assert!(again.delete_backup(&series(), &other).await.unwrap().is_some());
    assert!(again.delete_backup(&series(), &id).await.unwrap().is_some());
}

/// A delete that the store holds up would remove what was written anew under the same name.
#[tokio::test]
async fn nothing_is_written_where_something_is_being_removed() {
    let repository = open(Arc::new(memory())).await;
    let (series, id) = (series(), new_id());
    whole_copy(&repository, &id).await.unwrap();
    let removal = repository.removal(&series, &id).unwrap();
    let refused = repository.start_copy_anew(&series, &id, STEM).unwrap_err();
    assert!(refused.what.contains("removed"), "{refused}");
    assert!(repository.is_going(&series, &id));
    let second = repository.delete_backup(&series, &id).await.unwrap_err();
    assert_eq!(second.kind, StoreErrorKind::Spared);
    let swept = repository.remove_garbage(&series, &id, Duration::ZERO, Timestamp::MAX);
    assert_eq!(swept.await.unwrap(), Cleared::Spared("it is being removed"));
    drop(removal);
    let copy = repository.start_copy_anew(&series, &id, STEM).unwrap();
    assert!(repository.removal(&series, &id).is_err(), "it is being written");
    drop(copy);
    assert!(repository.delete_backup(&series, &id).await.unwrap().is_some());
    assert!(!repository.is_going(&series, &id));
}

#[tokio::test]
async fn a_copy_that_comes_second_leaves_the_first_alone() {
    let store = Arc::new(memory());
    let repository = open(Arc::clone(&store) as Arc<dyn Store>).await;
    let id = new_id();
    let written = whole_copy(&repository, &id).await.unwrap();
    let before = store.keys();
    let mut second = repository.start_copy(&series(), &id, STEM);
    feed(&mut second, events(&[9], repository.limits().part_bytes)).await.unwrap();
    let index = second.put("index.json.zst", &b"index"[..]).await.unwrap();
    let commit = second.commit(|objects| manifest(&id, objects, Some(index)));
    let error = commit.await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    assert_eq!(store.keys(), before, "the index was the same, and still is another's");
    let found = repository.look_at(&series(), &id).await.unwrap().unwrap();
    assert_eq!(found.check_sizes(&written), []);
}

#[tokio::test]
async fn a_copy_that_is_overtaken_leaves_the_index_that_both_put() {
    let store = Arc::new(memory());
    let repository = open(Arc::clone(&store) as Arc<dyn Store>).await;
    let id = new_id();
    let mut slow = repository.start_copy(&series(), &id, STEM);
    feed(&mut slow, events(&[9], repository.limits().part_bytes)).await.unwrap();
    let index = slow.put("index.json.zst", &b"index"[..]).await.unwrap();
    let written = whole_copy(&repository, &id).await.unwrap();
    let commit = slow.commit(|objects| manifest(&id, objects, Some(index)));
    let error = commit.await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    let found = repository.look_at(&series(), &id).await.unwrap().unwrap();
    assert_eq!(found.check_sizes(&written), []);
}

/// Somebody else may be bringing the same backup, and have come no further yet.
#[tokio::test]
async fn a_small_object_that_was_there_before_stays_when_a_copy_is_given_up() {
    let store = Arc::new(memory());
    let repository = open(Arc::clone(&store) as Arc<dyn Store>).await;
    let id = new_id();
    let mut copy = repository.start_copy(&series(), &id, STEM);
    feed(&mut copy, events(&[9], repository.limits().part_bytes)).await.unwrap();
    let key = format!("{}/{id}/index.json.zst", series().path());
    store.plant(&key, "index", id.time());
    copy.put("index.json.zst", &b"index"[..]).await.unwrap();
    copy.put("settings.json.zst", &b"ours"[..]).await.unwrap();
    copy.abort().await.unwrap();
    let left: Vec<String> =
        store.keys().into_iter().filter(|it| it != layout::MARKER_KEY).collect();
    assert_eq!(left, [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_waits_for_parts_of_a_store_that_was_dropped() {
    let store = memory();
    // Steps: read the marker, put it, read it; begin; part 1, which never ends.
    let at = Some((4, When::Before, Act::Hang));
    let faulty = Faulty::new(Arc::new(store.clone()), Faults { at, ..Faults::default() });
    let repository = open(faulty.clone()).await;
    let part_bytes = repository.limits().part_bytes;
    let mut copy = repository.start_copy(&series(), &new_id(), STEM);
    tokio::select! {
        () = faulty.hung() => {}
        stored = feed(&mut copy, events(&[part_bytes], part_bytes)) => panic!("{stored:?}"),
    }
    copy.abort().await.unwrap();
    assert_eq!(store.unfinished(), 0);
    assert_eq!(store.keys(), [layout::MARKER_KEY]);
}
