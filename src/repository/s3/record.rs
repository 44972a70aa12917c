//! Unfinished uploads, remembered on disk before their first part.
//!
//! A store keeps and bills the parts of an upload that nobody completes or aborts, some stores
//! cannot list such uploads, and one that lists them does not say whose they are. Each open
//! upload therefore has a small file here, locked (flock) by the process that drives it: the lock
//! ends with the upload or with the process, however it ends, so a file that can be locked is
//! nobody's. What can still go wrong: a crash between the store's answer and the file leaves an
//! upload that only the store knows; the folder on a file system without flock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sys::files::open_plain;

/// Above this age a temporary file is what a crash left; it lives for milliseconds.
const TEMPORARY_AGE: Duration = Duration::from_hours(1);

/// The folder, and whose uploads in it are ours.
#[derive(Debug, Clone)]
pub(super) struct Records {
    dir: PathBuf,
    endpoint: String,
    bucket: String,
    prefix: String,
}

/// One unfinished upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) endpoint: String,
    pub(super) bucket: String,
    pub(super) prefix: String,
    /// Relative to the prefix.
    pub(super) key: String,
    pub(super) upload_id: String,
    /// What the object carries as metadata once it is whole.
    pub(super) nonce: String,
    pub(super) started: Timestamp,
}

/// A record's file while we hold its lock.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) record: Record,
    path: PathBuf,
    /// Open for the sake of its lock.
    _lock: File,
}

/// What the folder holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Uploads that nobody drives any more, old enough.
    pub(super) stale: Vec<Held>,
    /// Ids of all the others.
    pub(super) live: Vec<String>,
}

impl Records {
    pub(super) fn new(dir: PathBuf, endpoint: String, bucket: String, prefix: String) -> Self {
        Self { dir, endpoint, bucket, prefix }
    }

    /// Remembers an upload. When this returns, it survives a crash.
    pub(super) async fn remember(
        &self,
        key: String,
        upload_id: String,
        nonce: String,
        started: Timestamp,
    ) -> io::Result<Held> {
        let Self { endpoint, bucket, prefix, .. } = self.clone();
        let record = Record { endpoint, bucket, prefix, key, upload_id, nonce, started };
        let dir = self.dir.clone();
        off_the_workers(move || write(&dir, record)).await
    }

    /// Looks the folder through for records of this place.
    pub(super) async fn find(&self, min_age: Duration, now: Timestamp) -> io::Result<Found> {
        let records = self.clone();
        off_the_workers(move || records.look_through(min_age, now)).await
    }

    fn look_through(&self, min_age: Duration, now: Timestamp) -> io::Result<Found> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => self.judge(path, min_age, now, &mut found)?,
                Some("tmp") => remove_forgotten(&path, now)?,
                _ => {}
            }
        }
        Ok(found)
    }

    fn judge(
        &self,
        path: PathBuf,
        min_age: Duration,
        now: Timestamp,
        found: &mut Found,
    ) -> io::Result<()> {
        let file = match open_plain(&path, false) {
            Ok(file) => file,
            // Its upload has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                tracing::warn!(path = %path.display(), "a folder, not the record of an upload; left alone");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Ok(record) = serde_json::from_reader::<_, Record>(&file) else {
            tracing::warn!(path = %path.display(), "not the record of an upload; left alone");
            return Ok(());
        };
        if (&record.endpoint, &record.bucket) != (&self.endpoint, &self.bucket) {
            return Ok(());
        }
        if record.prefix != self.prefix {
            // Another repository's, to sweep; a listing of the bucket's root has it all the same.
            found.live.push(record.upload_id);
            return Ok(());
        }
        if file.try_lock().is_ok() && is_older(record.started, min_age, now) {
            found.stale.push(Held { record, path, _lock: file });
        } else {
            found.live.push(record.upload_id);
        }
        Ok(())
    }
}

impl Held {
    /// Forgets the upload.
    pub(super) async fn forget(&self) -> io::Result<()> {
        let path = self.path.clone();
        off_the_workers(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }
}

/// Whether `since` lies at least `age` back.
pub(super) fn is_older(since: Timestamp, age: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(age)
        .is_ok_and(|age| since.saturating_add(age).is_ok_and(|then| then <= now))
}

async fn off_the_workers<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Writes one file so that it is whole or absent after a crash.
// To be replaced by sys::files once the lock can be taken there before the rename.
#[expect(clippy::disallowed_methods, reason = "the fsyncs stand round it")]
fn write(dir: &Path, record: Record) -> io::Result<Held> {
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!("{}.tmp", record.nonce));
    let path = dir.join(format!("{}.json", record.nonce));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        file.try_lock()?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    })();
    if let Err(error) = written {
        for path in [&temporary, &path] {
            drop(fs::remove_file(path));
        }
        return Err(error);
    }
    Ok(Held { record, path, _lock: file })
}

/// Removes what a crash left in the middle of [`write`].
fn remove_forgotten(path: &Path, now: Timestamp) -> io::Result<()> {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    let old = modified
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok())
        .is_some_and(|time| is_older(time, TEMPORARY_AGE, now));
    if !old {
        return Ok(());
    }
    match fs::remove_file(path) {
        // A folder is none of ours.
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AN_HOUR: Duration = Duration::from_hours(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn records(dir: &Path, bucket: &str) -> Records {
        Records::new(dir.into(), String::new(), bucket.into(), "p/".into())
    }

    async fn remember(records: &Records, id: &str) -> Held {
        let (key, nonce) = ("a/b".to_owned(), format!("n-{id}"));
        records.remember(key, id.into(), nonce, at(1_000)).await.expect("remembered")
    }

    #[tokio::test]
    async fn a_held_record_is_live_and_a_dropped_one_stale() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = records(dir.path(), "b");
        let held = remember(&ours, "one").await;
        drop(remember(&ours, "two").await);
        let found = ours.find(AN_HOUR, at(1_000 + 3_600)).await.expect("found");
        assert_eq!(found.live, ["one"]);
        assert_eq!(found.stale.len(), 1);
        assert_eq!(found.stale[0].record.upload_id, "two");
        drop(found);
        held.forget().await.expect("forgotten");
        held.forget().await.expect("forgetting twice is no error");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }

    #[tokio::test]
    async fn young_records_and_those_of_other_places_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(remember(&records(dir.path(), "b"), "young").await);
        drop(remember(&records(dir.path(), "other"), "foreign").await);
        let ours = records(dir.path(), "b");
        let found = ours.find(AN_HOUR, at(1_000 + 3_599)).await.expect("found");
        assert!(found.stale.is_empty());
        assert_eq!(found.live, ["young"]);
    }

    /// The root of a bucket lists the uploads below every prefix.
    #[tokio::test]
    async fn those_of_another_prefix_of_the_bucket_are_live() {
        let dir = tempfile::tempdir().expect("a folder");
        let there = Records::new(dir.path().into(), String::new(), "b".into(), "q/".into());
        drop(remember(&there, "elsewhere").await);
        let found = records(dir.path(), "b").find(AN_HOUR, Timestamp::MAX).await.expect("found");
        assert!(found.stale.is_empty());
        assert_eq!(found.live, ["elsewhere"]);
    }

    #[tokio::test]
    async fn what_is_no_record_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("torn.json"), "{").expect("written");
        fs::create_dir(dir.path().join("folder.json")).expect("a folder");
        fs::write(dir.path().join("fresh.tmp"), "").expect("written");
        let ours = records(dir.path(), "b");
        let found = ours.find(Duration::ZERO, at(0)).await.expect("found");
        assert!(found.stale.is_empty() && found.live.is_empty());
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 3);
        ours.find(Duration::ZERO, Timestamp::MAX).await.expect("found");
        assert!(!dir.path().join("fresh.tmp").exists(), "an old temporary file goes");
    }

    #[tokio::test]
    async fn a_missing_folder_holds_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let found = records(&dir.path().join("no"), "b").find(AN_HOUR, at(0)).await;
        assert!(found.expect("found").stale.is_empty());
    }
}
