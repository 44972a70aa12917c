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

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    codec::{
        hex,
        parts::{Cutter, Sealed},
    },
    domain::{
        backup::{BackupId, Series},
        failure::{Class, During as _, Failure},
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

use super::{fanout, restore_notes};

/// Why a backup was not copied. It says who is to blame: what a source cannot give may be had
/// elsewhere.
#[derive(Debug)]
pub enum CopyError {
    /// The source does not give the backup, or holds something else.
    Source(Failure),
    /// The target did not take it, or the task was cancelled.
    Target(Failure),
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
    let (subject, from, to) = (&series.subject, source.name(), target.name());
    let task = &task.doing(format!("copy {subject} {id} from {from} to {to}"));
    let _held = source.hold(series, id);
    let manifest = task.unless_cancelled(source.manifest(series, id)).await;
    let manifest = manifest.map_err(CopyError::Target)?.during(task).map_err(CopyError::Source)?;
    let Some(first) = manifest.objects.first() else {
        let what = "the manifest names no object";
        return Err(CopyError::Source(task.failure(Class::RepositoryDamaged, what)));
    };
    let Some(passage) = manifest.recipients.passage(target.recipients()) else {
        return Err(CopyError::Source(refusal(&manifest.recipients, target, task)));
    };
    let stem = layout::plain_name(&first.name, &manifest.recipients);
    let copy = target.start_copy_anew(series, id, stem).during(task);
    let mut copy = copy.map_err(CopyError::Target)?;
    let transfer = Transfer { source, manifest: &manifest, passage, task };
    let brought = task.unless_cancelled(transfer.run(&mut copy)).await;
    let (index, files) = match brought.unwrap_or_else(|failure| Err(CopyError::Target(failure))) {
        Ok(beside) => beside,
        Err(error) => {
            fanout::abort(copy).await;
            return Err(error);
        }
    };
    let make = |objects: Vec<StoredObject>| {
        let recipients = target.recipients().clone();
        let codec = manifest::codec(&recipients);
        let manifest =
            Manifest { codec, recipients, objects, index, files, ..manifest }.versioned();
        Manifest { restore: restore_notes::lines(&manifest), ..manifest }
    };
    copy.commit(make).await.during(task).map_err(CopyError::Target)
}

/// What is encrypted does not go there. Nobody is at fault but the configuration; for whoever has
/// another source, this one is none.
fn refusal(encrypted_to: &Recipients, target: &Repository, task: &Task) -> Failure {
    let demanded = match target.recipients() {
        nobody if nobody.is_empty() => "plain".to_owned(),
        others => format!("encrypted to {others}"),
    };
    let name = target.name();
    let what =
        format!("the backup is encrypted to {encrypted_to}, and {name} is for what is {demanded}");
    task.failure(Class::Encryption, what).hint(
        "give both repositories the same `encrypt_to`, or copy from one that holds it in plain; \
         pgkeep has no key to decrypt it",
    )
}

/// A backup on its way into a copy.
struct Transfer<'a> {
    source: &'a Repository,
    manifest: &'a Manifest,
    passage: Passage,
    task: &'a Task,
}

impl Transfer<'_> {
    /// Brings all that lies in the folder but the manifest. Gives the index and the files.
    async fn run(
        &self,
        copy: &mut Copy,
    ) -> Result<(Option<StoredObject>, Vec<StoredFile>), CopyError> {
        self.volumes(copy).await?;
        let index = match &self.manifest.index {
            None => None,
            Some(index) => Some(self.beside(copy, index).await?),
        };
        let mut files = Vec::new();
        for file in &self.manifest.files {
            let object = self.beside(copy, &file.object).await?;
            files.push(StoredFile { object, ..file.clone() });
        }
        self.marks(copy).await?;
        Ok((index, files))
    }

    /// The recipients that the bytes are encrypted to on the way.
    fn encrypt_to(&self, copy: &Copy) -> Recipients {
        match self.passage {
            Passage::AsTheyAre => Recipients::default(),
            Passage::Encrypt => copy.recipients().clone(),
        }
    }

    async fn volumes(&self, copy: &mut Copy) -> Result<(), CopyError> {
        let limits = copy.limits();
        let parts = Cutter::new(&self.encrypt_to(copy), limits.part_bytes, limits.max_parts);
        let parts = parts.during(self.task).map_err(CopyError::Target)?;
        let (sender, receiver) = mpsc::channel(1);
        let (read, stored) = tokio::join!(self.read(parts, sender), copy.store(receiver));
        match (read, stored) {
            // To the target, the stream only broke off.
            (Err(error @ CopyError::Source(_)), _) => Err(error),
            // A store that failed is why the reader could not go on.
            (_, Err(error)) => Err(error).during(self.task).map_err(CopyError::Target),
            (read, Ok(())) => read,
        }
    }

    /// Reads the volumes, joined together, into the parts and volumes of the target.
    async fn read(&self, mut parts: Cutter, sender: mpsc::Sender<Sealed>) -> Result<(), CopyError> {
        let gave_up = |_| {
            let what = "the target gave up";
            CopyError::Target(self.task.failure(Class::RepositoryUnavailable, what))
        };
        for object in &self.manifest.objects {
            let mut reading = self.reading(object).await?;
            while let Some(chunk) = reading.next().await? {
                self.task.progress.add_bytes(chunk.len() as u64);
                let mut bytes = &*chunk;
                loop {
                    let message = parts.push(&mut bytes).during(self.task);
                    let Some(message) = message.map_err(CopyError::Target)? else { break };
                    sender.send(message).await.map_err(gave_up)?;
                }
            }
        }
        for message in parts.finish().during(self.task).map_err(CopyError::Target)? {
            sender.send(message).await.map_err(gave_up)?;
        }
        Ok(())
    }

    /// Brings what lies beside the volumes, the index or a file. Piece by piece: an index may be larger
    /// than what memory is for.
    async fn beside(
        &self,
        copy: &mut Copy,
        object: &StoredObject,
    ) -> Result<StoredObject, CopyError> {
        let name = layout::plain_name(&object.name, &self.manifest.recipients);
        let to = self.encrypt_to(copy);
        let mut beside = copy.beside(name, &to).during(self.task).map_err(CopyError::Target)?;
        let mut reading = self.reading(object).await?;
        while let Some(chunk) = reading.next().await? {
            beside.write(&chunk).await.during(self.task).map_err(CopyError::Target)?;
        }
        beside.finish().await.during(self.task).map_err(CopyError::Target)
    }

    /// Takes over what marks it as suspicious, and who has acknowledged it.
    async fn marks(&self, copy: &mut Copy) -> Result<(), CopyError> {
        let Manifest { series, id, suspicions, .. } = self.manifest;
        if suspicions.is_empty() {
            return Ok(());
        }
        let marked = copy.mark_suspicious(suspicions).await;
        marked.during(self.task).map_err(CopyError::Target)?;
        let by = self.source.acknowledgement(series, id).await;
        match by.during(self.task).map_err(CopyError::Source)? {
            Some(by) => {
                copy.mark_acknowledged(&by).await.during(self.task).map_err(CopyError::Target)
            }
            None => Ok(()),
        }
    }

    async fn reading<'b>(&'b self, object: &'b StoredObject) -> Result<Reading<'b>, CopyError> {
        let Manifest { series, id, .. } = self.manifest;
        let stream = self.source.read(series, id, &object.name, None).await;
        let stream = stream.during(self.task).map_err(CopyError::Source)?;
        Ok(Reading { transfer: self, object, stream, hash: Sha256::new(), bytes: 0 })
    }
}

/// An object of the source on its way: at its end it is known to be what was stored.
struct Reading<'a> {
    transfer: &'a Transfer<'a>,
    object: &'a StoredObject,
    stream: BoxStream<'static, Result<Bytes, StoreError>>,
    hash: Sha256,
    bytes: u64,
}

impl Reading<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        let Transfer { source, task, .. } = *self.transfer;
        let chunk = self.stream.next().await.transpose();
        let chunk = chunk.during(task).map_err(CopyError::Source)?;
        if let Some(chunk) = &chunk {
            self.hash.update(chunk);
            self.bytes += chunk.len() as u64;
        }
        let StoredObject { name, bytes, sha256 } = self.object;
        let is_whole = || self.bytes == *bytes && hex(&self.hash.clone().finalize()) == *sha256;
        if self.bytes > *bytes || chunk.is_none() && !is_whole() {
            let what = format!("{name} in {} is not what was stored", source.name());
            let error = StoreError::new(StoreErrorKind::Damaged, "read", what);
            return Err(error).during(task).map_err(CopyError::Source);
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod encrypted;
#[cfg(test)]
pub(crate) mod marked;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        domain::{
            backup::Subject,
            manifest::{Owner, Plain, Snapshot, Tool, Totals},
            suspicion::Suspicion,
        },
        repository::{memory::MemoryStore, store::Store},
        sys::clock::SystemClock,
    };
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

    /// Of globals that have nothing in them.
    pub(crate) fn manifest(series: &Series, id: &BackupId) -> Manifest {
        let at = id.time();
        let (text, wal) = (|text: &str| text.to_owned(), || "0/1".to_owned());
        Manifest {
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
            objects: vec![],
            index: None,
            files: vec![],
            totals: Totals::default(),
            suspicions: vec![],
            restore: vec![],
        }
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
        let manifest =
            |objects| Manifest { objects, suspicions: suspicions.to_vec(), ..manifest(series, id) };
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
