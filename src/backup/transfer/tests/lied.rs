//! Targets whose listings leave things out.

use futures_util::TryStreamExt as _;

use super::{
    super::survey::{Selection, holdings, stock},
    *,
};
use crate::{
    domain::{manifest::MANIFEST_NAME, pattern::DatabasePatterns},
    repository::lying::{Lies, Lying},
};

pub(super) fn selection() -> Selection {
    let patterns = DatabasePatterns { include: vec!["*".parse().unwrap()], exclude: vec![] };
    Selection { servers: vec!["main".parse().unwrap()], patterns, globals: true }
}

/// A target with that backup, written a day ago, by listings without what ends so.
async fn hiding(id: &BackupId, hidden: &str) -> (Arc<Repository>, Arc<MemoryStore>) {
    let (target, store) = target().await;
    backup_of(&target, &series("app"), id).await;
    for key in store.keys() {
        let bytes = store.lose(&key).unwrap();
        store.plant(&key, bytes, now() - HOUR * 24);
    }
    let lies = Lies { hidden: vec![hidden.to_owned()], ..Lies::default() };
    let lying = Lying::new(Arc::clone(&store) as Arc<dyn Store>, lies);
    (named("offsite", lying).await, store)
}

/// What the store has, and since when: what was removed and sent again is younger.
async fn objects(store: &MemoryStore) -> Vec<(String, Option<Timestamp>)> {
    store.list("").map_ok(|meta| (meta.key, meta.modified)).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_backup_whose_manifest_is_not_listed_is_there_and_not_removed() {
    let id = hour(24);
    let (source, _) = source(std::slice::from_ref(&id)).await;
    let (target, store) = hiding(&id, MANIFEST_NAME).await;
    let stock = stock(&source, &selection()).await.unwrap();
    let held = holdings(&target, &selection(), &stock, now()).await.unwrap();
    assert!(held[&series("app")].incomplete.contains(&id), "by the listing");
    let before = objects(&store).await;
    let mut queue = items(&target, std::slice::from_ref(&id));
    for unfinished in [true, false] {
        queue[0].unfinished = unfinished;
        let done = bring(&source, queue.clone(), 1, &task()).await;
        assert!(matches!(done[0].1, Brought::Present), "{done:?}");
        assert_eq!(objects(&store).await, before, "nothing was removed, not even to be sent again");
    }
}

/// A person who is told that nothing but the manifest is left deletes the folder.
#[tokio::test]
async fn nothing_is_called_damaged_since_its_data_is_not_listed() {
    let id = hour(24);
    let (source, _) = source(std::slice::from_ref(&id)).await;
    let stock = stock(&source, &selection()).await.unwrap();
    let (target, store) = hiding(&id, ".zst").await;
    let look = async || {
        let held = holdings(&target, &selection(), &stock, now()).await.unwrap();
        let held = held.get(&series("app")).cloned().unwrap_or_default();
        (held.complete.contains(&id), held.damaged.contains(&id))
    };
    assert_eq!(look().await, (true, false));
    store.lose(&layout::object_key(&series("app"), &id, "globals.sql.zst")).unwrap();
    assert_eq!(look().await, (false, true), "now it is");
    store.plant(&layout::manifest_key(&series("app"), &id), "{", now());
    assert_eq!(look().await, (false, true), "nor can it be read");
}
