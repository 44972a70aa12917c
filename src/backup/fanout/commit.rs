//! The end of a fan-out: what is stored becomes a backup, in each repository for itself.

use futures_util::future::join_all;

use super::{Delivered, Stored, abort};
use crate::{
    codec::{encrypt, index},
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
        let index = if with_index {
            Some(index::encode(&self.streamed.structure, &self.streamed.frames))
        } else {
            None
        };
        let (index, make) = (&index, &make);
        let commits = self.copies.into_iter().map(|(name, copy)| {
            let doing = format!("{} to {name}", self.doing);
            async move {
                let result = match (copy, index) {
                    (Err(failure), _) => Err(failure),
                    (Ok(copy), Some(Err(error))) => {
                        abort(copy).await;
                        Err(Failure::from_error(Class::Internal, &doing, error))
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
    index: Option<&Vec<u8>>,
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
        Some(bytes) => match put_index(&mut copy, bytes.clone(), doing).await {
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

async fn put_index(copy: &mut Copy, plain: Vec<u8>, doing: &str) -> Result<StoredObject, Failure> {
    let bytes = encrypt::whole(plain, copy.recipients())
        .map_err(|error| Failure::from_error(Class::Encryption, doing, &error))?;
    copy.put(INDEX_NAME, bytes).await.map_err(|error| error.into_failure(doing))
}
