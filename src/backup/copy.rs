//! Brings one backup from a repository to another: whole, hashed on the way against the manifest,
//! manifest last. It is cut into the volumes that the target takes: those of the source may be
//! too large for it.
//!
//! What is plain is encrypted on the way where the target demands it. What is encrypted goes only to
//! a target with the very same recipients, byte for byte: there is no key here to make anything else
//! of it. So a copy never takes encryption away.
//!
//! A dump that could not be delivered to one of its repositories is healed with this, from one
//! that has it, in place of dumping again.

mod cutter;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    codec::{
        encrypt::{Encrypt, EncryptError},
        hex,
    },
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure, IntoFailure},
        manifest::{self, Manifest, StoredFile, StoredObject},
        recipients::{Passage, Recipients},
    },
    repository::{
        copy::Copy,
        layout,
        repo::Repository,
        store::{StoreError, StoreErrorKind},
    },
    sys::task::Task,
};

use self::cutter::Cutter;
use super::{
    beside::Intake,
    fanout,
    restore_notes::{self, About},
};

/// Why a backup was not copied. It says who is to blame: what a source cannot give may be had
/// elsewhere.
#[derive(Debug)]
pub enum CopyError {
    /// The source does not give the backup, or holds something else.
    Source(Failure),
    /// The target did not take it, or the task was cancelled.
    Target(Failure),
}

impl CopyError {
    fn doing(self, doing: String) -> Self {
        match self {
            Self::Source(failure) => Self::Source(Failure { doing, ..failure }),
            Self::Target(failure) => Self::Target(Failure { doing, ..failure }),
        }
    }
}

/// Copies one backup.
///
/// # Errors
/// When the source does not hold what its manifest says, either repository fails, or the task is
/// cancelled. Nothing is then left in the target.
pub async fn copy_backup(
    source: &Repository,
    target: &Repository,
    series: &Series,
    id: &BackupId,
    task: &Task,
) -> Result<Manifest, CopyError> {
    let doing = format!("copy {} {id} from {} to {}", series.subject, source.name(), target.name());
    let _held = source.hold(series, id);
    let cancelled =
        || CopyError::Target(Failure::new(Class::Interrupted, &doing, "the run was cancelled"));
    let manifest = tokio::select! {
        manifest = source.manifest(series, id) => manifest,
        () = task.cancel.cancelled() => return Err(cancelled()),
    };
    let manifest = manifest.map_err(|error| CopyError::Source(error.into_failure(&*doing)))?;
    let Some(stem) = manifest.objects.first().map(|object| object.name.clone()) else {
        let what = "the manifest names no object";
        return Err(CopyError::Source(Failure::new(Class::RepositoryDamaged, &doing, what)));
    };
    let Some(passage) = manifest.recipients.passage(target.recipients()) else {
        return Err(CopyError::Source(refusal(&manifest.recipients, target, doing)));
    };
    let stem = layout::plain_name(&stem, &manifest.recipients);
    let mut copy = target
        .start_copy_anew(series, id, stem)
        .map_err(|error| CopyError::Target(error.into_failure(&*doing)))?;
    let transferred = tokio::select! {
        transferred = transfer(source, &mut copy, &manifest, passage, task) => transferred,
        () = task.cancel.cancelled() => Err(cancelled()),
    };
    let transferred = match transferred {
        Ok(small) => marks(source, &mut copy, &manifest, &cancelled, task).await.map(|()| small),
        failed => failed,
    };
    let (index, files) = match transferred {
        Ok(small) => small,
        Err(error) => {
            fanout::abort(copy).await;
            return Err(error.doing(doing));
        }
    };
    let make = |objects: Vec<StoredObject>| {
        let names: Vec<String> = objects.iter().map(|object| object.name.clone()).collect();
        let major = manifest.tool.major().unwrap_or_default();
        let recipients = target.recipients().clone();
        let about = About {
            database: manifest.database.as_ref(),
            scope: manifest.selection.as_ref(),
            is_script: manifest.is_script(),
            has_statistics: manifest.tool.has_statistics(),
            volumes: &names,
            files: &files,
            tool_major: major,
            recipients: &recipients,
        };
        let restore = restore_notes::lines(&about);
        let codec = manifest::codec(&recipients);
        Manifest { codec, recipients, objects, index, files, restore, ..manifest }.versioned()
    };
    copy.commit(make).await.map_err(|error| CopyError::Target(error.into_failure(doing)))
}

/// Takes over what marks it as suspicious, and who has acknowledged it.
async fn marks(
    source: &Repository,
    copy: &mut Copy,
    manifest: &Manifest,
    cancelled: &impl Fn() -> CopyError,
    task: &Task,
) -> Result<(), CopyError> {
    if manifest.suspicions.is_empty() {
        return Ok(());
    }
    let taken = |error: StoreError| CopyError::Target(error.into_failure(String::new()));
    let given = |error: StoreError| CopyError::Source(error.into_failure(String::new()));
    let work = async {
        copy.mark_suspicious(&manifest.suspicions).await.map_err(taken)?;
        let read = source.acknowledgement(&manifest.series, &manifest.id).await;
        match read.map_err(given)? {
            Some(by) => copy.mark_acknowledged(&by).await.map_err(taken),
            None => Ok(()),
        }
    };
    tokio::select! {
        done = work => done,
        () = task.cancel.cancelled() => Err(cancelled()),
    }
}

/// What is encrypted does not go there. Nobody is at fault but the configuration; for whoever has
/// another source, this one is none.
fn refusal(encrypted_to: &Recipients, target: &Repository, doing: String) -> Failure {
    let demanded = match target.recipients() {
        nobody if nobody.is_empty() => "plain".to_owned(),
        others => format!("encrypted to {others}"),
    };
    let name = target.name();
    let what =
        format!("the backup is encrypted to {encrypted_to}, and {name} is for what is {demanded}");
    Failure::new(Class::Encryption, doing, what).hint(
        "give both repositories the same `encrypt_to`, or copy from one that holds it in plain; \
         pgkeep has no key to decrypt it",
    )
}

async fn transfer(
    source: &Repository,
    copy: &mut Copy,
    manifest: &Manifest,
    passage: Passage,
    task: &Task,
) -> Result<(Option<StoredObject>, Vec<StoredFile>), CopyError> {
    let taken = |error: StoreError| CopyError::Target(error.into_failure(String::new()));
    let (sender, receiver) = mpsc::channel(1);
    let encrypts =
        |error: EncryptError| CopyError::Target(Failure::from_error(Class::Encryption, "", &error));
    let encrypt = match passage {
        Passage::AsTheyAre => None,
        Passage::Encrypt => Some(Encrypt::new(copy.recipients()).map_err(encrypts)?),
    };
    let mut cutter = Cutter::new(sender, copy.limits(), encrypt);
    let read = async move {
        for object in &manifest.objects {
            read_volume(source, manifest, object, &mut cutter, task).await?;
        }
        cutter.finish().await
    };
    let (read, stored) = tokio::join!(read, copy.store(receiver));
    match (read, stored) {
        // To the target, the stream only broke off.
        (Err(error @ CopyError::Source(_)), _) => return Err(error),
        // A store that failed is why the reader could not go on.
        (_, Err(error)) => return Err(taken(error)),
        (read, Ok(())) => read?,
    }
    let index = match &manifest.index {
        None => None,
        Some(index) => Some(bring(source, copy, manifest, index, passage).await?),
    };
    let mut files = Vec::new();
    for file in &manifest.files {
        let object = bring(source, copy, manifest, &file.object, passage).await?;
        files.push(StoredFile { object, ..file.clone() });
    }
    Ok((index, files))
}

/// Brings what lies beside the volumes, the index or a file. Piece by piece: an index may be larger
/// than what memory is for.
async fn bring(
    source: &Repository,
    copy: &mut Copy,
    manifest: &Manifest,
    object: &StoredObject,
    passage: Passage,
) -> Result<StoredObject, CopyError> {
    let given = |error: StoreError| CopyError::Source(error.into_failure(String::new()));
    let encrypt_to = match passage {
        Passage::AsTheyAre => Recipients::default(),
        Passage::Encrypt => copy.recipients().clone(),
    };
    let name = layout::plain_name(&object.name, &manifest.recipients);
    let mut intake = Intake::new(copy, name, &encrypt_to, "").map_err(CopyError::Target)?;
    let stream = source.read(&manifest.series, &manifest.id, &object.name, None).await;
    let mut stream = stream.map_err(given)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    while let Some(chunk) = stream.next().await.transpose().map_err(given)? {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        if bytes > object.bytes {
            break;
        }
        intake.write(&chunk).await.map_err(CopyError::Target)?;
    }
    if bytes != object.bytes || hex(&hash.finalize()) != object.sha256 {
        let what = format!("{} in {} is not what was stored", object.name, source.name());
        return Err(given(StoreError::new(StoreErrorKind::Damaged, "read", what)));
    }
    intake.finish().await.map_err(CopyError::Target)
}

async fn read_volume(
    source: &Repository,
    manifest: &Manifest,
    object: &StoredObject,
    cutter: &mut Cutter,
    task: &Task,
) -> Result<(), CopyError> {
    let fail = |error: StoreError| CopyError::Source(error.into_failure(String::new()));
    let mut stream =
        source.read(&manifest.series, &manifest.id, &object.name, None).await.map_err(fail)?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    while let Some(chunk) = stream.next().await.transpose().map_err(fail)? {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        task.progress.add_bytes(chunk.len() as u64);
        cutter.write(&chunk).await?;
    }
    if bytes != object.bytes || hex(&hash.finalize()) != object.sha256 {
        let what = format!("{} in {} is not what was stored", object.name, source.name());
        return Err(fail(StoreError::new(StoreErrorKind::Damaged, "read", what)));
    }
    Ok(())
}

#[cfg(test)]
mod encrypted;
#[cfg(test)]
pub(crate) mod marked;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        codec::sealed::Sealed,
        domain::{
            backup::Subject,
            manifest::{Owner, Plain, Snapshot, Tool, Totals},
            suspicion::Suspicion,
        },
        repository::{memory::MemoryStore, store::Store},
        sys::clock::SystemClock,
    };
    use bytes::Bytes;
    use std::sync::Arc;

    pub(crate) fn series() -> Series {
        Series {
            server: "main".parse().unwrap(),
            system_id: 7_300_000_000_000_000_000,
            subject: Subject::Globals,
            contents: "all".to_owned(),
        }
    }

    /// A repository in memory.
    pub(crate) async fn repository() -> (Repository, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        let name = "local".parse().unwrap();
        let opened = Repository::open(name, Arc::clone(&store) as Arc<dyn Store>, true);
        (opened.await.unwrap(), store)
    }

    /// Puts a whole backup of a few bytes there.
    pub(crate) async fn backup(repository: &Repository, id: &BackupId) -> Manifest {
        backup_of(repository, &series(), id).await
    }

    /// The same, of another series.
    pub(crate) async fn backup_of(
        repository: &Repository,
        series: &Series,
        id: &BackupId,
    ) -> Manifest {
        try_backup(repository, series, id, &[], std::future::ready(())).await.unwrap()
    }

    /// The same, in doubt or not, in a repository that may fail; `meanwhile` happens between its data
    /// and its manifest.
    pub(crate) async fn try_backup(
        repository: &Repository,
        series: &Series,
        id: &BackupId,
        suspicions: &[Suspicion],
        meanwhile: impl Future<Output = ()>,
    ) -> Result<Manifest, StoreError> {
        let (sender, receiver) = mpsc::channel(2);
        let bytes = Bytes::from_static(b"bytes");
        let (length, sha256) = (bytes.len() as u64, hex(&Sha256::digest(&bytes)));
        sender.send(Sealed::Part { volume: 1, number: 1, bytes }).await.unwrap();
        sender.send(Sealed::VolumeEnd { volume: 1, bytes: length, sha256 }).await.unwrap();
        drop(sender);
        let mut copy = repository.start_copy(series, id, "globals.sql.zst");
        copy.store(receiver).await?;
        copy.mark_suspicious(suspicions).await?;
        meanwhile.await;
        let at = id.time();
        let (text, wal) = (|text: &str| text.to_owned(), || "0/1".to_owned());
        let manifest = |objects| Manifest {
            format_version: 1,
            id: id.clone(),
            series: series.clone(),
            owner: Owner { machine_id: "0".repeat(32), host: text("db1") },
            pgkeep_version: text("0.1.0"),
            server_version: text("15.18"),
            server_version_num: 150_018,
            tool: Tool { name: text("pg_dumpall"), version: text("15.18"), command: vec![] },
            selection: None,
            database: None,
            snapshot: Snapshot {
                at,
                lsn_before: wal(),
                lsn_after: wal(),
                timeline: None,
                standby: false,
            },
            started_at: at,
            finished_at: at,
            left_out: vec![],
            plain: Plain { format: text("sql"), bytes: 1, sha256: "0".repeat(64) },
            codec: vec![text("zstd")],
            recipients: Recipients::default(),
            objects,
            index: None,
            files: vec![],
            totals: Totals::default(),
            suspicions: suspicions.to_vec(),
            restore: vec![],
        };
        copy.commit(manifest).await
    }

    #[tokio::test]
    async fn a_source_that_has_lost_or_changed_it_is_to_blame_and_nothing_is_left() {
        let task = Task::new(SystemClock::new());
        let id = BackupId::new(task.clock.now().wall, 1);
        let object = format!("{}/{id}/globals.sql.zst", series().path());
        let manifest = format!("{}/{id}/manifest.json", series().path());
        for (lost, planted) in [(&manifest, None), (&object, None), (&object, Some("other"))] {
            let (source, store) = repository().await;
            backup(&source, &id).await;
            store.lose(lost).unwrap();
            if let Some(other) = planted {
                store.plant(lost, other.as_bytes(), id.time());
            }
            let (target, kept) = repository().await;
            let before = kept.keys();
            let error = copy_backup(&source, &target, &series(), &id, &task).await.unwrap_err();
            let CopyError::Source(failure) = error else { panic!("{error:?}") };
            assert_eq!(failure.class, Class::RepositoryDamaged, "{failure}");
            assert!(!failure.what.contains("broke off"), "{failure}");
            assert_eq!((kept.keys(), kept.unfinished()), (before, 0));
        }
    }

    #[tokio::test]
    async fn a_target_that_has_it_already_and_a_cancelled_task_are_not_the_sources_fault() {
        let task = Task::new(SystemClock::new());
        let id = BackupId::new(task.clock.now().wall, 1);
        let ((source, _), (target, store)) = (repository().await, repository().await);
        backup(&source, &id).await;
        copy_backup(&source, &target, &series(), &id, &task).await.unwrap();
        store.lose(&format!("{}/{id}/globals.sql.zst", series().path())).unwrap();
        store.plant(&format!("{}/{id}/globals.sql.zst", series().path()), "x", id.time());
        let error = copy_backup(&source, &target, &series(), &id, &task).await.unwrap_err();
        assert!(matches!(&error, CopyError::Target(_)), "{error:?}");
        task.cancel.cancel();
        let (target, _) = repository().await;
        let error = copy_backup(&source, &target, &series(), &id, &task).await.unwrap_err();
        let CopyError::Target(failure) = error else { panic!("{error:?}") };
        assert_eq!(failure.class, Class::Interrupted);
    }
}
