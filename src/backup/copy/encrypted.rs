//! Tests of copies that encrypt, and of those that must not be.

use std::sync::Arc;

use age::x25519::Identity;
use futures_util::TryStreamExt as _;

use super::{
    tests::{backup, repository},
    *,
};
use crate::{
    codec::encrypt::tests::{keys, open},
    repository::{memory::MemoryStore, store::Limits},
    sys::clock::SystemClock,
};

/// Parts of 1 KiB, two of which make a volume.
const SMALL: Limits = Limits { part_bytes: 1 << 10, max_parts: 2, parallel_parts: 2 };
const INDEX: &[u8] = b"(compressed index)";
const FILE: &[u8] = b"(compressed file)";

/// A repository in memory that is encrypted so.
async fn sealed(to: &Recipients) -> (Repository, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new(SystemClock::new()).with_limits(SMALL));
    let opened = Repository::open("sealed".parse().unwrap(), store.clone(), true);
    (opened.await.unwrap().encrypted_to(to.clone()), store)
}

/// What is stored plain: three volumes and a bit.
fn data() -> Vec<u8> {
    (0..7_000u32).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A plain repository with a backup of [`data`] and an index.
async fn plain() -> (Repository, Manifest) {
    plain_with(INDEX.to_vec()).await
}

async fn plain_with(index: Vec<u8>) -> (Repository, Manifest) {
    let (other, _) = repository().await;
    let task = Task::new(SystemClock::new());
    let model = backup(&other, &BackupId::new(task.clock.now().wall, 1)).await;
    let (repository, _) = repository().await;
    let mut copy = repository.start_copy(&model.series, &model.id, "globals.sql.zst");
    let (sender, receiver) = mpsc::channel(2);
    let (bytes, sha256) = (Bytes::from(data()), hex(&Sha256::digest(data())));
    let length = bytes.len() as u64;
    sender.send(Sealed::Part { volume: 1, number: 1, bytes }).await.unwrap();
    sender.send(Sealed::VolumeEnd { volume: 1, bytes: length, sha256 }).await.unwrap();
    drop(sender);
    copy.store(receiver).await.unwrap();
    let index = Some(copy.put("index.json.zst", index).await.unwrap());
    let file = StoredFile {
        object: copy.put("pg_hba.conf.zst", FILE).await.unwrap(),
        path: Some("/etc/pg_hba.conf".to_owned()),
        plain_bytes: 1,
        plain_sha256: "0".repeat(64),
    };
    let files = vec![file];
    let make = |objects| Manifest { objects, index, files, ..model }.versioned();
    let manifest = copy.commit(make).await.unwrap();
    (repository, manifest)
}

fn carrying<'a>(
    source: &'a Repository,
    manifest: &'a Manifest,
    passage: Passage,
    task: &'a Task,
) -> Transfer<'a> {
    Transfer { source, manifest, passage, task }
}

/// The bytes of an object as they are stored.
async fn stored(repository: &Repository, of: &Manifest, name: &str) -> Vec<u8> {
    let read = repository.read(&of.series, &of.id, name, None).await.unwrap();
    read.try_collect::<Vec<_>>().await.unwrap().concat()
}

async fn joined(repository: &Repository, of: &Manifest) -> Vec<u8> {
    let mut whole = Vec::new();
    for object in &of.objects {
        let bytes = stored(repository, of, &object.name).await;
        assert_eq!(
            (bytes.len() as u64, hex(&Sha256::digest(&bytes))),
            (object.bytes, object.sha256.clone())
        );
        whole.extend(bytes);
    }
    whole
}

async fn copied(source: &Repository, target: &Repository, of: &Manifest) -> Manifest {
    let task = Task::new(SystemClock::new());
    copy_backup(source, target, &of.series, &of.id, &task).await.unwrap()
}

/// A plain backup, and what became of it in a repository that is encrypted to one key.
async fn encrypted() -> (Repository, Manifest, Recipients, Identity) {
    let (identity, to) = keys();
    let (source, manifest) = plain().await;
    let (target, _) = sealed(&to).await;
    let made = copied(&source, &target, &manifest).await;
    (target, made, to, identity)
}

#[tokio::test]
async fn what_is_plain_is_encrypted_on_the_way() {
    let (source, manifest) = plain().await;
    let (identity, to) = keys();
    let (target, store) = sealed(&to).await;
    let made = copied(&source, &target, &manifest).await;
    let names: Vec<_> = made.objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names[..2], ["globals.sql.zst.age", "globals.sql.zst.age.001"]);
    assert_eq!(names.len(), 4);
    assert!(open(&joined(&target, &made).await, &identity).unwrap() == data());
    let index = made.index.as_ref().unwrap();
    assert_eq!(index.name, "index.json.zst.age");
    let bytes = stored(&target, &made, &index.name).await;
    assert_eq!(hex(&Sha256::digest(&bytes)), index.sha256);
    assert_eq!(open(&bytes, &identity).unwrap(), INDEX);
    let file = &made.files[0];
    assert_eq!(file.object.name, "pg_hba.conf.zst.age");
    let bytes = stored(&target, &made, &file.object.name).await;
    assert_eq!(hex(&Sha256::digest(&bytes)), file.object.sha256);
    assert_eq!(open(&bytes, &identity).unwrap(), FILE);
    let object = manifest.files[0].object.clone();
    assert_eq!(StoredFile { object, ..file.clone() }, manifest.files[0]);
    // What is said of the plain bytes stays; the rest says what lies there.
    assert_eq!((&made.plain, &made.snapshot), (&manifest.plain, &manifest.snapshot));
    assert_eq!((made.format_version, &made.recipients), (3, &to));
    assert_eq!(made.codec, ["zstd", "age"]);
    assert!(made.restore.join("\n").contains("globals.sql.zst.age.003 | age -d -i KEYFILE | zstd"));
    assert_eq!(target.manifest(&made.series, &made.id).await.unwrap(), made);
    // Nothing of it lies there as it was.
    for key in store.keys().iter().filter(|key| key.contains(".zst")) {
        let bytes = store.lose(key).unwrap();
        let pieces = [&data()[..64], INDEX, FILE];
        assert!(!pieces.iter().any(|plain| bytes.windows(plain.len()).any(|it| it == *plain)));
    }
}

#[tokio::test]
async fn an_index_that_is_large_is_brought_in_parts() {
    let large: Vec<u8> = (0..251u8).cycle().take(3 << 20).collect();
    let (source, manifest) = plain_with(large.clone()).await;
    let (identity, to) = keys();
    let store = Arc::new(MemoryStore::new(SystemClock::new()));
    let target = Repository::open("wide".parse().unwrap(), store.clone(), true).await.unwrap();
    let target = target.encrypted_to(to);
    let made = copied(&source, &target, &manifest).await;
    let index = made.index.as_ref().unwrap();
    let bytes = stored(&target, &made, &index.name).await;
    assert_eq!(
        (bytes.len() as u64, hex(&Sha256::digest(&bytes))),
        (index.bytes, index.sha256.clone())
    );
    assert!(open(&bytes, &identity).unwrap() == large);
    // What is not what the manifest says is not brought.
    let (plain, _) = repository().await;
    let mut lying = manifest.clone();
    lying.index.as_mut().unwrap().sha256 = "0".repeat(64);
    let mut copy = plain.start_copy(&manifest.series, &manifest.id, "globals.sql.zst");
    let object = manifest.index.as_ref().unwrap();
    let object = StoredObject { sha256: "0".repeat(64), ..object.clone() };
    let task = Task::new(SystemClock::new());
    let brought =
        carrying(&source, &lying, Passage::AsTheyAre, &task).beside(&mut copy, &object).await;
    let Err(CopyError::Source(failure)) = brought else { panic!("it was taken") };
    assert_eq!(failure.class, Class::RepositoryDamaged, "{failure}");
    fanout::abort(copy).await;
}

#[tokio::test]
async fn what_is_encrypted_arrives_as_it_is_where_the_recipients_are_the_same() {
    let (source, manifest, to, _) = encrypted().await;
    let (target, _) = sealed(&to).await;
    let made = copied(&source, &target, &manifest).await;
    assert_eq!(made, manifest);
    assert!(joined(&target, &made).await == joined(&source, &manifest).await);
    let index = &manifest.index.as_ref().unwrap().name;
    assert_eq!(stored(&target, &made, index).await, stored(&source, &manifest, index).await);
}

#[tokio::test]
async fn what_is_encrypted_goes_nowhere_else() {
    let (source, manifest, to, _) = encrypted().await;
    let (_, stranger) = keys();
    let both: Recipients = to.iter().chain(stranger.iter()).map(str::to_owned).collect();
    for other in [Recipients::default(), stranger, both] {
        let (target, store) = sealed(&other).await;
        let before = store.keys();
        let task = Task::new(SystemClock::new());
        let error = copy_backup(&source, &target, &manifest.series, &manifest.id, &task).await;
        let CopyError::Source(failure) = error.unwrap_err() else { panic!("the target failed") };
        assert_eq!(failure.class, Class::Encryption, "{failure}");
        assert!(failure.what.contains(&to.to_string()), "{failure}");
        assert!(failure.hint.unwrap().contains("encrypt_to"));
        assert_eq!((store.keys(), store.unfinished()), (before, 0));
    }
}

#[tokio::test]
async fn a_source_that_changes_under_way_leaves_nothing_encrypted_behind() {
    let (source, manifest) = plain().await;
    let wrong = Manifest {
        objects: vec![StoredObject { sha256: "0".repeat(64), ..manifest.objects[0].clone() }],
        ..manifest
    };
    let (_, to) = keys();
    let (target, store) = sealed(&to).await;
    let mut copy = target.start_copy(&wrong.series, &wrong.id, "globals.sql.zst");
    let task = Task::new(SystemClock::new());
    let error =
        carrying(&source, &wrong, Passage::Encrypt, &task).run(&mut copy).await.unwrap_err();
    assert!(matches!(error, CopyError::Source(_)), "{error:?}");
    fanout::abort(copy).await;
    assert!(store.keys().iter().all(|key| !key.contains(".zst")) && store.unfinished() == 0);
}

#[tokio::test]
async fn a_repository_with_recipients_takes_nothing_plain() {
    let (source, manifest) = plain().await;
    let (_, to) = keys();
    let (target, store) = sealed(&to).await;
    let mut copy = target.start_copy(&manifest.series, &manifest.id, "globals.sql.zst");
    let task = Task::new(SystemClock::new());
    let error = carrying(&source, &manifest, Passage::AsTheyAre, &task).run(&mut copy).await;
    let CopyError::Target(failure) = error.unwrap_err() else { panic!("the source failed") };
    assert!(failure.what.contains("is not encrypted"), "{failure}");
    let index = copy.put("index.json.zst", INDEX).await.unwrap_err();
    assert!(index.what.contains("is not encrypted"), "{index}");
    fanout::abort(copy).await;
    assert!(store.keys().iter().all(|key| !key.contains(".zst")));
}

/// A manifest that does not say to whom: what lies there could be mistaken for plain.
#[tokio::test]
async fn a_manifest_without_the_recipients_is_not_committed() {
    let (source, manifest) = plain().await;
    let (_, to) = keys();
    let (target, store) = sealed(&to).await;
    let mut copy = target.start_copy(&manifest.series, &manifest.id, "globals.sql.zst");
    let task = Task::new(SystemClock::new());
    let (index, files) =
        carrying(&source, &manifest, Passage::Encrypt, &task).run(&mut copy).await.unwrap();
    let lies = |objects| Manifest { objects, index, files, ..manifest.clone() };
    let error = copy.commit(lies).await.unwrap_err();
    assert!(error.what.contains("a defect in pgkeep"), "{error}");
    assert!(store.keys().iter().all(|key| !key.contains("globals")), "{:?}", store.keys());
}
