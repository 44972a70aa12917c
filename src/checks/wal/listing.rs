//! Looking through an archive, wherever it lies.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{bucket, directory};
use crate::{
    domain::{
        failure::Failure,
        wal::{History, Inventory, SegmentName, Timeline},
    },
    repository::{
        handle::{Handle, Place},
        store::Store,
    },
    sys::task::Task,
};

/// A history is a line per promotion; a file that is longer is none.
pub(super) const HISTORY_MAX: u64 = 1 << 20;

/// Where an archive lies.
#[derive(Debug, Clone)]
pub enum Archive {
    /// A folder, with all folders in it.
    Folder(PathBuf),
    /// A prefix of a bucket, at the service of a repository.
    Bucket(Arc<Handle>, Place),
}

/// From where a listing that comes later can go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The key of a segment: everything up to it was seen.
    pub key: String,
    /// That segment.
    pub segment: SegmentName,
}

/// Why an archive was not listed.
#[derive(Debug)]
pub enum ListError {
    /// The user that pgkeep runs as may not read it, or it is not there: a finding.
    Unreadable {
        /// What cannot be read.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Anything else.
    Failed(Failure),
}

/// What a listing brought.
#[derive(Debug)]
pub struct Listed {
    /// What was seen, this time and before.
    pub seen: Inventory,
    /// From where the next one can go on.
    pub resume: Option<Resume>,
}

impl Archive {
    /// Its place for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Bucket(handle, Place { bucket: Some(bucket), prefix }) => {
                format!("{bucket}/{prefix} (at the service of repository {})", handle.name())
            }
            Self::Bucket(handle, Place { bucket: None, prefix }) => {
                format!("{prefix} (in the bucket of repository {})", handle.name())
            }
        }
    }

    /// Looks through all of it, or goes on from `resume`: what `seen` has behind it is seen anew.
    /// The next can go on in `head`, the server's timeline.
    ///
    /// # Errors
    /// See [`ListError`]; nothing is known of the archive then.
    pub async fn list(
        &self,
        seen: Inventory,
        resume: Option<&Resume>,
        head: Timeline,
        task: &Task,
    ) -> Result<Listed, ListError> {
        match self {
            Self::Folder(path) => directory::list(path, seen, task).await,
            Self::Bucket(..) => {
                bucket::list(self.store(task).await?, seen, resume, head, task).await
            }
        }
    }

    /// Whether a segment is there now. Cheap where `resume` says from where on.
    ///
    /// # Errors
    /// As [`Archive::list`].
    pub async fn holds(
        &self,
        segment: SegmentName,
        resume: Option<&Resume>,
        task: &Task,
    ) -> Result<bool, ListError> {
        match self {
            Self::Folder(path) => directory::holds(path, segment, task).await,
            Self::Bucket(..) => bucket::holds(self.store(task).await?, segment, resume, task).await,
        }
    }

    async fn store(&self, task: &Task) -> Result<Arc<dyn Store>, ListError> {
        match self {
            Self::Folder(_) => Err(bucket::failed("no bucket")),
            Self::Bucket(handle, place) => bucket::cancellable(handle.elsewhere(place), task).await,
        }
    }
}

/// What a history file says; none where it cannot be read as one. `name` tells how it is compressed.
pub(super) fn read_history(name: &str, bytes: &[u8]) -> Option<History> {
    let plain = if name.rsplit('.').next() == Some("zst") {
        let room = usize::try_from(HISTORY_MAX).ok()?;
        zstd::bulk::decompress(bytes, room).ok()?
    } else {
        bytes.to_vec()
    };
    History::parse(std::str::from_utf8(&plain).ok()?).ok()
}
