//! A copy that is stopped at each step in turn: killed, failed, cut off from its store.

use std::{path::Path, time::Duration};

use super::*;
use crate::repository::{
    faulty::{Act, Faults, Faulty, When},
    layout::{MARKER_KEY, manifest_key},
    local::{LocalOptions, LocalStore},
    store::StoreErrorKind,
};

const DAY: Duration = Duration::from_hours(24);

fn local(path: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(LocalOptions {
        path: path.to_owned(),
        min_free: 0,
        others_may_write: false,
    }))
}

/// A store that can be looked at from behind.
struct Ground {
    store: Arc<dyn Store>,
    memory: Option<MemoryStore>,
    folder: tempfile::TempDir,
}

/// Both kinds of store; the local one in its own folder.
fn grounds() -> [Ground; 2] {
    let [folder, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let memory = memory();
    [
        Ground { store: Arc::new(memory.clone()), memory: Some(memory), folder },
        Ground { store: local(other.path()), memory: None, folder: other },
    ]
}

impl Ground {
    /// What is there of unfinished uploads.
    fn leftovers(&self) -> usize {
        let hidden = |path: &Path| {
            let mut folders = vec![path.to_owned()];
            let mut count = 0;
            while let Some(folder) = folders.pop() {
                // It may go away meanwhile.
                for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    if entry.path().is_dir() {
                        folders.push(entry.path());
                    }
                    count += usize::from(entry.file_name().as_encoded_bytes()[0] == b'.');
                }
            }
            count
        };
        self.memory.as_ref().map_or_else(|| hidden(self.folder.path()), MemoryStore::unfinished)
    }

    /// Sweeps until nothing unfinished is left: a task that was aborted ends when it ends, and
    /// holds its upload until then.
    async fn sweep_clean(&self, now: crate::domain::Timestamp, story: &str) {
        let sweeping = async {
            while self.leftovers() > 0 {
                self.store.sweep(DAY, now).await.expect(story);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), sweeping).await.expect(story);
    }
}

/// What one copy with one fault came to.
enum Ending {
    Killed,
    Done(Result<Manifest, StoreError>),
    /// The copy has fewer steps.
    NotReached(Result<Manifest, StoreError>),
}

async fn copy_with(store: &Arc<dyn Store>, at: (u64, When, Act)) -> Ending {
    // The marker is there: opening is step 0, and no part of the story.
    let at = (at.0 + 1, at.1, at.2);
    let fault = Faults { at: Some(at), ..Faults::default() };
    let faulty = Faulty::new(Arc::clone(store), fault);
    let repository = open(faulty.clone()).await;
    let id = new_id();
    tokio::select! {
           () = faulty.hung() => Ending::Killed,
           done = whole_copy(&repository, &id) => if faulty.steps() > at.0 {
    Ending::Done(done)
    } else {
    Ending::NotReached(done)
    },
       }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_it_leaves_no_backup_or_a_whole_one() {
    for when in [When::Before, When::After] {
        let mut whole = 0;
        for step in 0.. {
            let mut is_over = false;
            for ground in grounds() {
                let of = &ground.store;
                let observer = open(Arc::clone(of)).await;
                let ending = copy_with(of, (step, when, Act::Hang)).await;
                let story = format!("{} {when:?} {step}", of.place());
                let complete = assert_sound(&observer, &story).await;
                is_over = matches!(ending, Ending::NotReached(Ok(_)));
                assert!(matches!(ending, Ending::Killed) || is_over, "{story}");
                whole += complete;

                // Another process comes, a day later: what is no backup goes without a trace.
                let later = SystemClock::new().now().wall + 2 * DAY;
                let swept = open(Arc::clone(of)).await;
                let plan = swept.garbage(DAY, later).await.unwrap();
                let report = swept.sweep(plan).await.unwrap();
                assert!(report.failed.is_empty(), "{story}");
                assert_eq!(listed(&observer).await.len(), complete, "{story}");
                ground.sweep_clean(later, &story).await;
            }
            if is_over {
                assert!(step > 12, "the story has only {step} steps");
                break;
            }
        }
        // Whole only where the manifest was put: killed after that, or not at all.
        assert!(whole >= 4, "{whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_at_any_step_it_leaves_nothing_or_a_whole_one() {
    for (when, kind) in [
        (When::Before, StoreErrorKind::Refused),
        (When::After, StoreErrorKind::Unavailable),
        (When::Before, StoreErrorKind::Space),
    ] {
        for step in 0.. {
            let mut is_over = false;
            for Ground { store, folder, .. } in grounds() {
                let observer = open(Arc::clone(&store)).await;
                let ending = copy_with(&store, (step, when, Act::Fail(kind))).await;
                let story = format!("{} {when:?} {step}", store.place());
                let complete = assert_sound(&observer, &story).await;
                let (result, reached) = match ending {
                    Ending::Done(result) => (result, true),
                    Ending::NotReached(result) => (result, false),
                    Ending::Killed => unreachable!(),
                };
                is_over = !reached;
                assert_eq!(complete, usize::from(result.is_ok()), "{story}");
                if let Err(error) = result {
                    assert_eq!(error.kind, kind, "{story}: {error}");
                    assert_eq!(listed(&observer).await, [], "{story}");
                    let files = std::fs::read_dir(folder.path()).unwrap();
                    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
                    assert!(names.iter().all(|name| *name == *MARKER_KEY), "{story}: {names:?}");
                }
            }
            if is_over {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_at_any_step_it_leaves_no_backup_that_is_not_whole() {
    for when in [When::Before, When::After] {
        let mut kept = 0;
        for step in 0.. {
            let [Ground { store, .. }, _] = grounds();
            let observer = open(Arc::clone(&store)).await;
            let act = Act::Die(StoreErrorKind::Unavailable);
            let ending = copy_with(&store, (step, when, act)).await;
            let complete = assert_sound(&observer, &format!("{when:?} {step}")).await;
            match ending {
                Ending::Done(Err(_)) => kept += complete,
                Ending::NotReached(Ok(_)) => break,
                Ending::Done(Ok(_)) => panic!("{when:?} {step}: it was never confirmed"),
                _ => unreachable!(),
            }
        }
        // The manifest was put, its answer lost, and nothing could be asked any more: the backup
        // stays, whole.
        assert!(kept >= 1, "{when:?}");
    }
}

#[tokio::test]
async fn a_store_that_loses_what_it_confirmed_gets_no_backup() {
    for lost in [STEM, "app.dump.zst.001", "index.json.zst", "manifest.json"] {
        let store = memory();
        let faults = Faults { lose: Some(format!("/{lost}")), ..Faults::default() };
        let repository = open(Faulty::new(Arc::new(store.clone()), faults)).await;
        let error = whole_copy(&repository, &new_id()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged, "{lost}: {error}");
        assert_eq!(store.keys(), [MARKER_KEY], "{lost}");
    }
}

#[tokio::test]
async fn what_another_wrote_under_the_same_id_is_not_removed() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let id = new_id();
    let theirs = whole_copy(&repository, &id).await.unwrap();
    let mut copy = repository.start_copy(&series(), &id, STEM);
    feed(&mut copy, events(&[99], repository.limits().part_bytes)).await.unwrap();
    let error = copy.commit(|objects| manifest(&id, objects, None)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    assert_eq!(repository.manifest(&series(), &id).await.unwrap(), theirs);
    assert_eq!(assert_sound(&repository, "theirs").await, 1);
}

#[tokio::test]
async fn a_manifest_that_names_what_was_not_stored_is_refused() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    for story in 0..4 {
        let id = new_id();
        let mut copy = repository.start_copy(&series(), &id, STEM);
        feed(&mut copy, events(&[99, 1], repository.limits().part_bytes)).await.unwrap();
        let make = |mut objects: Vec<StoredObject>| match story {
            0 => manifest(&new_id(), objects, None),
            1 => manifest(&id, vec![objects.swap_remove(0)], None),
            2 => {
                objects[1].bytes += 1;
                manifest(&id, objects, None)
            }
            _ => {
                let index = StoredObject { name: "index".to_owned(), ..objects[0].clone() };
                manifest(&id, objects, Some(index))
            }
        };
        let error = copy.commit(make).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{story}: {error}");
        assert_eq!(store.keys(), [MARKER_KEY], "{story}");
    }
}

#[tokio::test]
async fn where_the_manifest_may_be_there_its_data_stays() {
    let store = memory();
    let faults = Faults { dark: Some("/manifest.json".to_owned()), ..Faults::default() };
    let repository = open(Faulty::new(Arc::new(store.clone()), faults)).await;
    let error = whole_copy(&repository, &new_id()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{error}");
    let observer = open(Arc::new(store)).await;
    assert_eq!(assert_sound(&observer, "dark").await, 1);
}

#[tokio::test]
async fn another_manifest_is_neither_replaced_nor_removed() {
    let store = memory();
    let repository = open(Arc::new(store.clone())).await;
    let id = new_id();
    let key = manifest_key(&series(), &id);
    store.plant(&key, "theirs", SystemClock::new().now().wall);
    let error = whole_copy(&repository, &id).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
    assert_eq!(store.lose(&key).unwrap(), "theirs");
    assert_eq!(listed(&repository).await[0].objects.len(), 3, "what it may name stays");
}

/// A manifest that is found although its store said no may be gone after a crash.
#[tokio::test]
async fn only_an_answer_that_was_lost_is_looked_up() {
    let store = Faulty::new(Arc::new(memory()), Faults::default());
    let repository = open(store.clone()).await;
    whole_copy(&repository, &new_id()).await.unwrap();
    // The last two steps: the manifest is put, and read back.
    let put = store.steps() - 2;
    for (kind, stands) in [
        (StoreErrorKind::Unavailable, true),
        (StoreErrorKind::Slow, true),
        (StoreErrorKind::Damaged, false),
        (StoreErrorKind::Refused, false),
    ] {
        let at = Some((put, When::After, Act::Fail(kind)));
        let memory = memory();
        let store = Faulty::new(Arc::new(memory.clone()), Faults { at, ..Faults::default() });
        let repository = open(store).await;
        let copied = whole_copy(&repository, &new_id()).await;
        assert_eq!(copied.is_ok(), stands, "{kind:?}");
        assert_eq!(memory.keys().len() > 1, stands, "{kind:?}: {:?}", memory.keys());
    }
}
