//! Copies that were killed between their data and the manifest.

use super::*;

/// A target behind faults, whose host notes in that folder what it begins.
async fn noting(
    store: &Arc<MemoryStore>,
    faults: Faults,
    folder: &std::path::Path,
) -> (Arc<Repository>, Arc<Faulty>) {
    let deadly = Faulty::new(Arc::clone(store) as Arc<dyn Store>, faults);
    let opened = Repository::open("offsite".parse().unwrap(), deadly.clone(), true);
    (Arc::new(opened.await.unwrap().noting_in(folder.join("begun"))), deadly)
}

/// At whatever step it is killed: this host goes on at once, another one waits where it sees data.
#[tokio::test]
async fn what_this_host_left_is_copied_anew_at_once_and_by_another_an_hour_later() {
    let id = hour(2);
    let (source, _) = source(std::slice::from_ref(&id)).await;
    let mut left = 0;
    for step in 0.. {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        noting(&store, Faults::default(), ours.path()).await;
        // One step to open it.
        let at = Some((1 + step, When::Before, Act::Hang));
        let (target, faulty) =
            noting(&store, Faults { at, ..Faults::default() }, ours.path()).await;
        let one = items(&target, std::slice::from_ref(&id));
        let (from, task) = (Arc::clone(&source), task());
        let killed = tokio::select! {
            () = faulty.hung() => true,
            _ = bring(&from, one, 1, &task) => false,
        };
        if !killed {
            break;
        }
        // Those under way were dropped with it; what they had in use ends with their tasks.
        while target.is_live(&series("app"), &id) {
            tokio::task::yield_now().await;
        }
        let listed = target.look_at(&series("app"), &id).await;
        drop((target, faulty));
        let unfinished = matches!(listed, Ok(Some(listed)) if !listed.complete);
        let again = async |folder: &std::path::Path| {
            let (target, _) = noting(&store, Faults::default(), folder).await;
            let mut one = items(&target, std::slice::from_ref(&id));
            one[0].unfinished = unfinished;
            bring(&source, one, 1, &super::task()).await.remove(0).1
        };
        if unfinished {
            left += 1;
            let brought = again(theirs.path()).await;
            let Brought::TargetFailed(failure) = brought else { panic!("{step}: {brought:?}") };
            assert!(failure.hint.unwrap().contains("an hour later"), "{step}");
        }
        let brought = again(ours.path()).await;
        assert!(matches!(brought, Brought::Copied(_) | Brought::Present), "{step}: {brought:?}");
        let notes = std::fs::read_dir(ours.path().join("begun")).map_or(0, Iterator::count);
        if matches!(brought, Brought::Copied(_)) {
            assert_eq!(notes, 0, "{step}: nothing is left to be told apart");
        }
    }
    assert!(left >= 2, "it was never killed in between: {left}");
}
