//! The end of a fan-out: what is stored becomes a backup, in each repository for itself.

use futures_util::future::join_all;

use super::{Delivered, Stored, abort, abort_all, scratch_class};
use crate::{
    backup::files::{self, SmallFile},
    codec::{
        index::{self, IndexError},
        spool::Spooled,
        stream::Streamed,
    },
    domain::{
        failure::{Class, During, Failure},
        manifest::{Manifest, StoredFile, StoredObject},
        recipients::Recipients,
        suspicion::Suspicion,
    },
    repository::copy::Copy,
    sys::task::Task,
};

/// The index's name in the folder of a backup, where it is not encrypted.
const INDEX_NAME: &str = "index.json.zst";
/// What is read of it at once.
const PIECE: usize = 256 << 10;

/// What lies in one repository.
#[derive(Debug)]
pub struct Placed {
    pub volumes: Vec<StoredObject>,
    pub index: Option<StoredObject>,
    pub files: Vec<StoredFile>,
    pub recipients: Recipients,
}

/// What goes beside the volumes.
#[derive(Debug, Clone, Copy)]
struct Extras<'a> {
    /// None where there is none, or why it could not be made.
    index: Option<&'a Result<Spooled, Failure>>,
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
        let index = if with_index { Some(encode(self.streamed, task).await) } else { None };
        let (index, make) = (index.as_ref(), &make);
        let extras = Extras { index, files, suspicions: &self.suspicions };
        let commits = self.copies.into_iter().map(|(name, copy)| {
            let task = task.doing(format!("{} to {name}", task.phrase()));
            async move {
                let _waits = task.progress.waits_for(format!("repository {name}"));
                let result = match copy {
                    Ok(copy) => commit_one(copy, extras, &task, make).await,
                    Err(failure) => Err(failure),
                };
                (name, result)
            }
        });
        join_all(commits).await
    }
}

async fn commit_one(
    mut copy: Copy,
    extras: Extras<'_>,
    task: &Task,
    make: &impl Fn(Placed) -> Manifest,
) -> Result<Manifest, Failure> {
    let (index, files) = match extras.put(&mut copy, task).await {
        Ok(stored) => stored,
        Err(failure) => {
            abort(copy).await;
            return Err(failure);
        }
    };
    let recipients = copy.recipients().clone();
    let placed = |volumes| Placed { volumes, index, files, recipients };
    copy.commit(|volumes| make(placed(volumes))).await.during(task)
}

impl Extras<'_> {
    async fn put(
        self,
        copy: &mut Copy,
        task: &Task,
    ) -> Result<(Option<StoredObject>, Vec<StoredFile>), Failure> {
        task.check()?;
        let index = match self.index {
            None => None,
            Some(Err(failure)) => {
                return Err(Failure { doing: task.into(), ..failure.clone() });
            }
            Some(Ok(index)) => Some(Box::pin(put_index(copy, index, task)).await?),
        };
        let files = files::put(copy, self.files, task).await?;
        copy.mark_suspicious(self.suspicions).await.during(task)?;
        Ok((index, files))
    }
}

/// The index of what went by. Of a million entries it takes seconds: not on the async workers.
async fn encode(streamed: Streamed, task: &Task) -> Result<Spooled, Failure> {
    let encoded =
        tokio::task::spawn_blocking(move || index::encode(&streamed.structure, &streamed.frames));
    let encoded = encoded.await.map_err(|error| Failure::from_error(Class::Internal, task, &error));
    encoded?.map_err(|error| {
        let class = match &error {
            IndexError::Scratch(source) => scratch_class(source.kind()),
            _ => Class::Internal,
        };
        Failure::from_error(class, task, &error)
    })
}

async fn put_index(copy: &mut Copy, index: &Spooled, task: &Task) -> Result<StoredObject, Failure> {
    let recipients = copy.recipients().clone();
    let mut beside = copy.beside(INDEX_NAME, &recipients).during(task)?;
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
            piece.await.map_err(|error| Failure::from_error(Class::Internal, task, &error))?;
        let piece = piece.map_err(|error| Failure::from_error(Class::State, task, &error))?;
        at += piece.len() as u64;
        beside.write(&piece).await.during(task)?;
    }
    beside.finish().await.during(task)
}
