//! The end of a fan-out: what is stored becomes a backup, in each repository for itself.

use futures_util::future::join_all;

use super::{Delivered, Stored, abort, scratch_class};
use crate::{
    backup::beside::Intake,
    codec::{
        index::{self, IndexError},
        spool::Spooled,
        stream::Streamed,
    },
    domain::{
        failure::{Class, Failure},
        manifest::{Manifest, StoredObject},
        recipients::Recipients,
    },
    repository::{copy::Copy, store::StoreError},
    sys::task::Task,
};

/// The index's name in the folder of a backup, where it is not encrypted.
const INDEX_NAME: &str = "index.json.zst";
/// What is read of it at once.
const PIECE: usize = 256 << 10;

impl Stored {
    /// Stores the index, ends every upload, and writes the manifests: from then on the copies
    /// exist. `make` gets the names and digests of the volumes, the index, and the recipients.
    ///
    /// The repositories do so at the same time: one that hangs does not keep the others from having
    /// their copy. A task that is cancelled before aborts the copies.
    pub async fn commit(
        self,
        with_index: bool,
        task: &Task,
        make: impl Fn(Vec<StoredObject>, Option<StoredObject>, Recipients) -> Manifest,
    ) -> Vec<Delivered> {
        let index = if with_index { Some(encode(self.streamed, &self.doing).await) } else { None };
        let (index, make) = (&index, &make);
        let commits = self.copies.into_iter().map(|(name, copy)| {
            let doing = format!("{} to {name}", self.doing);
            async move {
                let result = match (copy, index) {
                    (Err(failure), _) => Err(failure),
                    (Ok(copy), Some(Err(failure))) => {
                        abort(copy).await;
                        Err(Failure { doing: doing.clone(), ..failure.clone() })
                    }
                    (Ok(copy), index) => {
                        let bytes = index.as_ref().and_then(|index| index.as_ref().ok());
                        commit_one(copy, bytes, &doing, task, make).await
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
    index: Option<&Spooled>,
    doing: &str,
    task: &Task,
    make: &impl Fn(Vec<StoredObject>, Option<StoredObject>, Recipients) -> Manifest,
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
    let recipients = copy.recipients().clone();
    copy.commit(|volumes| make(volumes, stored, recipients)).await.map_err(fail)
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
