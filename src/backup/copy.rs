//! Brings one backup from a repository to another: whole, hashed on the way against the manifest,
//! manifest last.
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
        store::{StoreError, StoreErrorKind},
    },
    sys::task::Task,
};

use super::fanout;

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
    copy.commit(|volumes| Manifest { objects: volumes, index, ..manifest })
        .await
        .map_err(|error| error.into_failure(doing))
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
    let part_bytes = target.limits().part_bytes;
    let read = async {
        for (number, object) in (1..).zip(&manifest.objects) {
            read_volume(source, manifest, object, number, part_bytes, &sender, task).await?;
        }
        drop(sender);
        Ok(())
    };
    let (read, stored) = tokio::join!(read, copy.store(receiver));
    // A store that failed is why the reader could not go on.
    stored.map_err(fail)?;
    read?;
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
    volume: u32,
    part_bytes: usize,
    sender: &mpsc::Sender<Sealed>,
    task: &Task,
) -> Result<(), Failure> {
    let gone = || Failure::new(Class::RepositoryUnavailable, "", "the target gave up");
    let fail = |error: StoreError| error.into_failure(String::new());
    let mut stream =
        source.read(&manifest.series, &manifest.id, &object.name, None).await.map_err(fail)?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    let mut part = BytesMut::with_capacity(part_bytes);
    let mut number = 0;
    loop {
        let chunk: Option<Bytes> = stream.next().await.transpose().map_err(fail)?;
        let last = chunk.is_none();
        let mut chunk = chunk.unwrap_or_default();
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        task.progress.add_bytes(chunk.len() as u64);
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(part_bytes - part.len()));
            part.extend_from_slice(&piece);
            if part.len() == part_bytes {
                number += 1;
                let full = std::mem::replace(&mut part, BytesMut::with_capacity(part_bytes));
                let message = Sealed::Part { volume, number, bytes: full.freeze() };
                sender.send(message).await.map_err(|_| gone())?;
            }
        }
        if last {
            break;
        }
    }
    if !part.is_empty() {
        let message = Sealed::Part { volume, number: number + 1, bytes: part.freeze() };
        sender.send(message).await.map_err(|_| gone())?;
    }
    let sha256 = hex(&hash.finalize());
    if bytes != object.bytes || sha256 != object.sha256 {
        let what = format!("{} in {} is not what was stored", object.name, source.name());
        return Err(fail(StoreError::new(StoreErrorKind::Damaged, "read", what)));
    }
    sender.send(Sealed::VolumeEnd { volume, bytes, sha256 }).await.map_err(|_| gone())
}
