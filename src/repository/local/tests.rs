//! What only a local store has: files, modes, full and read-only filesystems, processes that die.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use futures_util::TryStreamExt;

use super::*;
use crate::sys::clock::{Clock, SystemClock};

const MIB: u64 = 1 << 20;

fn store_at(path: &Path, min_free: u64) -> LocalStore {
    LocalStore::new(LocalOptions { path: path.to_owned(), min_free, others_may_write: false })
}

async fn keys(store: &LocalStore) -> Vec<String> {
    store.list("").map_ok(|meta| meta.key).try_collect().await.unwrap()
}

/// Everything below a folder, hidden or not.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "mount needs no supervision")]
fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A filesystem of its own.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let options = format!("size={size},mode=0700");
        if !run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", path]) {
            eprintln!(
                "SKIPPED: cannot mount a tmpfs here; full and read-only disks are not tested"
            );
            return None;
        }
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn free(&self) -> u64 {
        let facts = rustix::fs::statvfs(self.path()).unwrap();
        facts.f_bavail * facts.f_frsize
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        assert!(run("umount", &["-l", self.path().to_str().unwrap()]), "umount");
    }
}

#[tokio::test]
async fn only_the_owner_may_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path(), 0);
    store.put_new("a/b/put", Bytes::from_static(b"x")).await.unwrap();
    let upload = store.begin("a/c/upload").await.unwrap();
    upload.part(1, Bytes::from_static(b"y")).await.unwrap();
    upload.commit().await.unwrap();
    let paths = tree(folder.path());
    assert_eq!(paths.len(), 5, "{paths:?}");
    for path in paths {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[tokio::test]
async fn nothing_stays_of_what_was_given_up_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path(), 0);
    let aborted = store.begin("a/b/c/one").await.unwrap();
    aborted.part(1, Bytes::from_static(b"x")).await.unwrap();
    assert!(!tree(folder.path()).is_empty());
    aborted.abort().await.unwrap();
    drop(store.begin("a/b/d/two").await.unwrap());
    store.put_new("e/f/three", Bytes::from_static(b"x")).await.unwrap();
    store.put_new("e/f/three", Bytes::from_static(b"other")).await.unwrap_err();
    store.delete("e/f/three").await.unwrap();
    assert_eq!(tree(folder.path()), Vec::<PathBuf>::new());
    assert!(folder.path().is_dir());
}

#[tokio::test]
async fn a_missing_root_is_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not-mounted");
    let store = store_at(&path, 0);
    let answers = [
        store.put_new("a", Bytes::new()).await.map(drop),
        store.begin("a").await.map(drop),
        store.head("a").await.map(drop),
        store.get("a", None).await.map(drop),
        store.list("").try_collect::<Vec<_>>().await.map(drop),
        store.list("a").try_collect::<Vec<_>>().await.map(drop),
        store.delete("a").await,
        store.sweep(Duration::ZERO, Timestamp::MAX).await.map(drop),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{index}: {error}");
        assert!(error.hint.is_some(), "{index}: {error}");
    }
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_not_an_object_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    fs::write(folder.path().join(".hidden"), "x").unwrap();
    fs::write(folder.path().join("two words"), "x").unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file-link")).unwrap();
    let store = store_at(folder.path(), 0);
    store.put_new("real", Bytes::new()).await.unwrap();
    assert_eq!(keys(&store).await, ["real"]);
    assert!(store.get("file-link", None).await.is_err());
    assert_eq!(store.head("file-link").await.unwrap(), None);
}

/// Followed by writes and not by listings, it would take backups that nobody finds again.
#[tokio::test]
async fn a_folder_that_is_a_link_is_refused_by_all_and_a_root_may_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    symlink(elsewhere.path(), &root).unwrap();
    let store = store_at(&root, 0);
    store.put_new("main/7/app/all/x/manifest.json", Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(keys(&store).await, ["main/7/app/all/x/manifest.json"]);
    // A person moves the series to another disk.
    let (there, moved) = (elsewhere.path().join("main/7/app/all"), folder.path().join("all"));
    assert!(run("mv", &[there.to_str().unwrap(), moved.to_str().unwrap()]));
    symlink(&moved, &there).unwrap();
    let before = tree(&moved);
    let (old, new) = ("main/7/app/all/x/manifest.json", "main/7/app/all/y/manifest.json");
    let answers = [
        store.put_new(new, Bytes::new()).await.map(drop),
        store.begin(new).await.map(drop),
        store.head(old).await.map(drop),
        store.get(old, None).await.map(drop),
        store.delete(old).await,
        store.list("main/7/app/all").try_collect::<Vec<_>>().await.map(drop),
        store.list("main/7/app/all/x").try_collect::<Vec<_>>().await.map(drop),
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{index}: {error}");
        assert!(error.what.contains("symbolic link"), "{index}: {error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("mount --bind")), "{index}");
    }
    assert_eq!(keys(&store).await, Vec::<String>::new());
    assert_eq!(tree(&moved), before);
}

#[tokio::test]
async fn a_folder_longer_than_what_is_held_at_once_is_listed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected: Vec<String> = (0..1234).map(|n| format!("x{n}")).collect();
    for name in &expected {
        fs::write(folder.path().join(name), "").unwrap();
    }
    for name in ["x5-", "x5.d", "x77"] {
        fs::create_dir_all(folder.path().join(format!("{name}/deep"))).ok();
    }
    fs::create_dir(folder.path().join("x100d")).unwrap();
    fs::write(folder.path().join("x100d/z"), "").unwrap();
    expected.push("x100d/z".to_owned());
    expected.sort();
    assert_eq!(keys(&store_at(folder.path(), 0)).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn putting_survives_others_removing_the_folder() {
    // Where syncing is free they meet more often.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = Arc::new(store_at(folder.path(), 0));
    let work = (0..2).map(|worker| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for round in 0..2000 {
                let key = format!("a/b/c/{worker}-{round}");
                store.put_new(&key, Bytes::from_static(b"x")).await.unwrap();
                store.delete(&key).await.unwrap();
            }
        })
    });
    futures_util::future::try_join_all(work).await.unwrap();
    assert_eq!(tree(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_objects_are_synced_on_the_way_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path(), 0);
    let upload = store.begin("long").await.unwrap();
    let part = |number: u32| Bytes::from(vec![u8::try_from(number).unwrap(); PART_BYTES]);
    for number in 1..=11 {
        upload.part(number, part(number)).await.unwrap();
    }
    upload.part(3, part(103)).await.unwrap();
    let meta = upload.commit().await.unwrap();
    assert_eq!(meta.bytes, 11 * PART_BYTES as u64);
    let bytes = fs::read(folder.path().join("long")).unwrap();
    for (number, there) in (1..).zip(bytes.chunks(PART_BYTES)) {
        assert!(there == part(if number == 3 { 103 } else { number }), "part {number}");
    }
}

#[tokio::test]
async fn parts_that_leave_a_gap_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let upload = store_at(folder.path(), 0).begin("a").await.unwrap();
    let full = Bytes::from(vec![1; PART_BYTES]);
    for number in [0, 2, u32::MAX] {
        let error = upload.part(number, full.clone()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{number}");
    }
    upload.part(1, Bytes::from_static(b"short")).await.unwrap();
    assert!(upload.part(2, full).await.is_err(), "only the last part may be short");
    assert!(upload.part(1, vec![1; PART_BYTES + 1].into()).await.is_err());
}

#[tokio::test]
async fn min_free_is_held_while_writing() {
    let Some(disk) = Tmpfs::mount(64 * MIB) else { return };
    let store = store_at(disk.path(), 39 * MIB);
    let upload = store.begin("a/volume").await.unwrap();
    let part = Bytes::from(vec![1; PART_BYTES]);
    let mut stored = 0;
    let error = loop {
        match upload.part(stored + 1, part.clone()).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(disk.free() >= 39 * MIB, "{} bytes are free", disk.free());
    };
    assert_eq!(error.kind, StoreErrorKind::Space, "{error}");
    assert!(error.hint.is_some());
    assert_eq!(stored, 3, "64 - 3 * 8 = 40");
    let small = store.put_new("a/small", vec![1; 2 << 20].into()).await.unwrap_err();
    assert_eq!(small.kind, StoreErrorKind::Space, "{small}");
    // What is small enough still goes, and what is given up gives its room back.
    store.put_new("a/manifest.json", Bytes::from_static(b"{}")).await.unwrap();
    upload.abort().await.unwrap();
    assert!(disk.free() > 62 * MIB);
    assert_eq!(keys(&store).await, ["a/manifest.json"]);
}

#[tokio::test]
async fn a_full_disk_is_a_question_of_space() {
    let Some(disk) = Tmpfs::mount(12 * MIB) else { return };
    let store = store_at(disk.path(), 0);
    let upload = store.begin("a/volume").await.unwrap();
    let part = Bytes::from(vec![1; PART_BYTES]);
    upload.part(1, part.clone()).await.unwrap();
    let error = upload.part(2, part.clone()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Space, "{error}");
    let error = store.put_new("b", vec![1; 10 << 20].into()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Space, "{error}");
    assert!(error.hint.is_some());
    drop(upload);
    assert_eq!(tree(disk.path()), Vec::<PathBuf>::new());
    // With room again it goes.
    store.put_new("b", vec![1; 10 << 20].into()).await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_is_refused_with_a_hint() {
    let Some(disk) = Tmpfs::mount(4 * MIB) else { return };
    let store = store_at(disk.path(), 0);
    store.put_new("a", Bytes::from_static(b"x")).await.unwrap();
    assert!(run("mount", &["-o", "remount,ro", disk.path().to_str().unwrap()]));
    let answers = [
        store.put_new("b", Bytes::new()).await.map(drop),
        store.begin("c/d").await.map(drop),
        store.delete("a").await,
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("writable")));
    }
    assert_eq!(keys(&store).await, ["a"]);
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
async fn a_child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("PGKEEP_TEST_KILL_ME") else { return };
    let upload = store_at(Path::new(&path), 0).begin("a/b/volume").await.unwrap();
    upload.part(1, Bytes::from_static(b"some bytes")).await.unwrap();
    println!("written");
    std::future::pending::<()>().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the child is this test")]
async fn leftovers_are_swept_once_their_process_is_dead() {
    use std::io::{BufRead, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path(), 0);
    let name = "repository::local::tests::a_child_that_writes_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("PGKEEP_TEST_KILL_ME", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let written = lines.map_while(Result::ok).any(|line| line.contains("written"));
    assert!(written, "the child did not come to write");

    let later = SystemClock::new().now().wall + Duration::from_hours(10);
    let hour = Duration::from_hours(1);
    let alive = store.sweep(hour, later).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(alive.uploads, 0, "another process is writing it");
    assert_eq!(keys(&store).await, Vec::<String>::new());
    let young = store.sweep(hour, SystemClock::new().now().wall).await.unwrap();
    assert_eq!(young.uploads, 0, "it is young");
    assert_eq!(tree(folder.path()).len(), 3);
    let swept = store.sweep(hour, later).await.unwrap();
    assert_eq!((swept.uploads, swept.bytes), (1, 10));
    assert_eq!(tree(folder.path()), Vec::<PathBuf>::new());
}
