//! Brings one backup from a repository to another: whole, hashed on the way against the manifest,
//! manifest last. It is cut into the volumes that the target takes: those of the source may be
//! too large for it.
//!
//! A dump that could not be delivered to one of its repositories is healed with this, from one
//! that has it: never by dumping again.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{
    codec::{hex, sealed::Sealed},
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure},
        manifest::{Manifest, StoredObject},
    },
    repository::{
        copy::Copy,
        repo::Repository,
        store::{Limits, StoreError, StoreErrorKind},
    },
    sys::task::Task,
};

use super::{fanout, restore_notes};

/// What the reader says where the target's end of the channel is closed.
const GAVE_UP: &str = "the target gave up";

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
) -> Result<Manifest, Failure> {
    let doing = format!("copy {} {id} from {} to {}", series.subject, source.name(), target.name());
    let manifest =
        source.manifest(series, id).await.map_err(|error| error.into_failure(&*doing))?;
    let Some(stem) = manifest.objects.first().map(|object| object.name.clone()) else {
        return Err(Failure::new(Class::RepositoryDamaged, &doing, "the manifest names no object"));
    };
    let mut copy = target.start_copy(series, id, &stem);
    let transferred = tokio::select! {
        transferred = transfer(source, &mut copy, &manifest, target, task) => transferred,
        () = task.cancel.cancelled() => Err(Failure::new(Class::Interrupted, &doing, "the run was cancelled")),
    };
    let index = match transferred {
        Ok(index) => index,
        Err(failure) => {
            fanout::abort(copy).await;
            return Err(Failure { doing, ..failure });
        }
    };
    let make = |objects: Vec<StoredObject>| {
        let names: Vec<String> = objects.iter().map(|object| object.name.clone()).collect();
        let major = manifest.tool.major().unwrap_or_default();
        let restore = restore_notes::lines(manifest.database.as_ref(), &names, major);
        Manifest { objects, index, restore, ..manifest }
    };
    copy.commit(make).await.map_err(|error| error.into_failure(doing))
}

async fn transfer(
    source: &Repository,
    copy: &mut Copy,
    manifest: &Manifest,
    target: &Repository,
    task: &Task,
) -> Result<Option<StoredObject>, Failure> {
    let fail = |error: StoreError| error.into_failure(String::new());
    let (sender, receiver) = mpsc::channel(1);
    let mut cutter = Cutter::new(sender, target.limits());
    let read = async move {
        for object in &manifest.objects {
            read_volume(source, manifest, object, &mut cutter, task).await?;
        }
        cutter.finish().await
    };
    let (read, stored) = tokio::join!(read, copy.store(receiver));
    match (read, stored) {
        (Ok(()), Ok(())) => {}
        // The one that failed by itself is the cause; the other only saw the channel close.
        (Err(failure), _) if failure.what != GAVE_UP => return Err(failure),
        (_, Err(error)) => return Err(fail(error)),
        (Err(failure), Ok(())) => return Err(failure),
    }
    match &manifest.index {
        None => Ok(None),
        Some(index) => {
            let bytes = read_index(source, manifest, index).await.map_err(fail)?;
            Ok(Some(copy.put(&index.name, bytes).await.map_err(fail)?))
        }
    }
}

async fn read_index(
    source: &Repository,
    manifest: &Manifest,
    index: &StoredObject,
) -> Result<Vec<u8>, StoreError> {
    let mut stream = source.read(&manifest.series, &manifest.id, &index.name, None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await.transpose()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > index.bytes {
            break;
        }
    }
    if bytes.len() as u64 == index.bytes && hex(&Sha256::digest(&bytes)) == index.sha256 {
        return Ok(bytes);
    }
    let what = format!("{} in {} is not what was stored", index.name, source.name());
    Err(StoreError::new(StoreErrorKind::Damaged, "read", what))
}

async fn read_volume(
    source: &Repository,
    manifest: &Manifest,
    object: &StoredObject,
    cutter: &mut Cutter,
    task: &Task,
) -> Result<(), Failure> {
    let fail = |error: StoreError| error.into_failure(String::new());
    let mut stream =
        source.read(&manifest.series, &manifest.id, &object.name, None).await.map_err(fail)?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    while let Some(chunk) = stream.next().await.transpose().map_err(fail)? {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        task.progress.add_bytes(chunk.len() as u64);
        cutter.write(chunk).await?;
    }
    if bytes != object.bytes || hex(&hash.finalize()) != object.sha256 {
        let what = format!("{} in {} is not what was stored", object.name, source.name());
        return Err(fail(StoreError::new(StoreErrorKind::Damaged, "read", what)));
    }
    Ok(())
}

/// Cuts the volumes, joined together, into the target's own parts and volumes.
///
/// Part and volume are ended late, when more is known to come, so that neither is ever empty.
struct Cutter {
    sender: mpsc::Sender<Sealed>,
    limits: Limits,
    part: BytesMut,
    volume: u32,
    number: u32,
    bytes: u64,
    hash: Sha256,
}

impl Cutter {
    fn new(sender: mpsc::Sender<Sealed>, limits: Limits) -> Self {
        let part = BytesMut::with_capacity(limits.part_bytes);
        Self { sender, limits, part, volume: 1, number: 0, bytes: 0, hash: Sha256::new() }
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<(), Failure> {
        let part_bytes = self.limits.part_bytes;
        while !chunk.is_empty() {
            if self.part.len() == part_bytes {
                self.end_part().await?;
                if self.number == self.limits.max_parts {
                    self.end_volume().await?;
                }
            }
            let piece = chunk.split_to(chunk.len().min(part_bytes - self.part.len()));
            self.part.extend_from_slice(&piece);
        }
        Ok(())
    }

    async fn end_part(&mut self) -> Result<(), Failure> {
        let next = BytesMut::with_capacity(self.limits.part_bytes);
        let bytes = std::mem::replace(&mut self.part, next).freeze();
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.number += 1;
        self.send(Sealed::Part { volume: self.volume, number: self.number, bytes }).await
    }

    async fn end_volume(&mut self) -> Result<(), Failure> {
        let sha256 = hex(&std::mem::take(&mut self.hash).finalize());
        let (volume, bytes) = (self.volume, self.bytes);
        (self.volume, self.number, self.bytes) = (volume + 1, 0, 0);
        self.send(Sealed::VolumeEnd { volume, bytes, sha256 }).await
    }

    /// Ends the last volume. Dropped without it, the copy is known to be cut off.
    async fn finish(mut self) -> Result<(), Failure> {
        if !self.part.is_empty() {
            self.end_part().await?;
        }
        self.end_volume().await
    }

    async fn send(&self, message: Sealed) -> Result<(), Failure> {
        let gone = |_| Failure::new(Class::RepositoryUnavailable, "", GAVE_UP);
        self.sender.send(message).await.map_err(gone)
    }
}
