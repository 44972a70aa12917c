//! The end of a fan-out: what is stored becomes a backup, in each repository for itself.

use futures_util::future::join_all;

use super::{Delivered, Stored, abort, abort_all, scratch_class};
use crate::{
    backup::{
        beside::Intake,
        files::{self, SmallFile},
    },
    codec::{
        index::{self, IndexError},
        spool::Spooled,
        stream::Streamed,
    },
    domain::{
        failure::{Class, Failure, IntoFailure},
        manifest::{Manifest, StoredFile, StoredObject},
        recipients::Recipients,
        suspicion::Suspicion,
    },
    repository::{copy::Copy, store::StoreError},
    sys::task::Task,
};

/// The index's name in the folder of a backup, where it is not encrypted.
const INDEX_NAME: &str = "index.json.zst";
/// What is read of it at once.
const PIECE: usize = 256 << 10;

/// What lies in one repository.
#[derive(Debug)]
pub struct Placed {
    /// The volumes.
    pub volumes: Vec<StoredObject>,
    /// The index.
    pub index: Option<StoredObject>,
    /// The files beside them.
    pub files: Vec<StoredFile>,
    /// Whom all of it is encrypted to.
    pub recipients: Recipients,
}

/// What goes beside the index.
#[derive(Debug, Clone, Copy)]
struct Extras<'a> {
    files: &'a [SmallFile],
    suspicions: &'a [Suspicion],
}

impl Stored {
    /// Gives everything up that was stored: it is no backup after all.
    pub(in crate::backup) async fn abandon(self) {
        abort_all(self.copies).await;
    }

    /// Stores index and files, ends every upload, and writes the manifests: from then on the copies
    /// exist. `make` gets the names and digests of what lies in each.
    ///
    /// The repositories do so at the same time: one that hangs does not keep the others from having
    /// their copy. A task that is cancelled before aborts the copies.
    pub async fn commit(
        self,
        with_index: bool,
        files: &[SmallFile],
        task: &Task,
        make: impl Fn(Placed) -> Manifest,
    ) -> Vec<Delivered> {
        let index = if with_index { Some(encode(self.streamed, &self.doing).await) } else { None };
        let (index, make) = (&index, &make);
        let extras = Extras { files, suspicions: &self.suspicions };
        let commits = self.copies.into_iter().map(|(name, copy)| {
            let doing = format!("{} to {name}", self.doing);
            async move {
                let _waits = task.progress.waits_for(format!("repository {name}"));
                let result = match (copy, index) {
                    (Err(failure), _) => Err(failure),
                    (Ok(copy), Some(Err(failure))) => {
                        abort(copy).await;
                        Err(Failure { doing: doing.clone(), ..failure.clone() })
                    }
                    (Ok(copy), index) => {
                        let bytes = index.as_ref().and_then(|index| index.as_ref().ok());
                        commit_one(copy, (bytes, extras), &doing, task, make).await
                    }
                };
                (name, result)
            }
        });
        join_all(commits).await
    }
}

async fn commit_one(
    mut copy: Copy,
    (index, extras): (Option<&Spooled>, Extras<'_>),
    doing: &str,
    task: &Task,
    make: &impl Fn(Placed) -> Manifest,
) -> Result<Manifest, Failure> {
    let fail = |error: StoreError| error.into_failure(doing.to_owned());
    if task.cancel.is_cancelled() {
        abort(copy).await;
        return Err(Failure::new(Class::Interrupted, doing, "the run was cancelled"));
    }
    let stored = match index {
        None => None,
        Some(index) => match Box::pin(put_index(&mut copy, index, doing)).await {
            Ok(stored) => Some(stored),
            Err(failure) => {
                abort(copy).await;
                return Err(failure);
            }
        },
    };
    let files = match files::put(&mut copy, extras.files, doing).await {
        Ok(files) => files,
        Err(failure) => {
            abort(copy).await;
            return Err(failure);
        }
    };
    if let Err(error) = copy.mark_suspicious(extras.suspicions).await {
        abort(copy).await;
        return Err(fail(error));
    }
    let recipients = copy.recipients().clone();
    let placed = |volumes| Placed { volumes, index: stored, files, recipients };
    copy.commit(|volumes| make(placed(volumes))).await.map_err(fail)
}

/// The index of what went by. Of a million entries it takes seconds: not on the async workers.
async fn encode(streamed: Streamed, doing: &str) -> Result<Spooled, Failure> {
    let encoded =
        tokio::task::spawn_blocking(move || index::encode(&streamed.structure, &streamed.frames));
    let encoded =
        encoded.await.map_err(|error| Failure::from_error(Class::Internal, doing, &error));
    encoded?.map_err(|error| {
        let class = match &error {
            IndexError::Scratch(source) => scratch_class(source.kind()),
            _ => Class::Internal,
        };
        Failure::from_error(class, doing, &error)
    })
}

async fn put_index(copy: &mut Copy, index: &Spooled, doing: &str) -> Result<StoredObject, Failure> {
    let recipients = copy.recipients().clone();
    let mut intake = Intake::new(copy, INDEX_NAME, &recipients, doing)?;
    let mut at = 0;
    while at < index.len() {
        let index = index.clone();
        let piece = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let count = index.read_at(&mut piece, at)?;
            piece.truncate(count);
            std::io::Result::Ok(piece)
        });
        let piece =
            piece.await.map_err(|error| Failure::from_error(Class::Internal, doing, &error))?;
        let piece = piece.map_err(|error| Failure::from_error(Class::State, doing, &error))?;
        at += piece.len() as u64;
        intake.write(&piece).await?;
    }
    intake.finish().await
}
