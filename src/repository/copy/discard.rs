//! What is left of a copy that failed is removed, but for what another copy of the same backup may need.

use std::time::Duration;

use super::Copy;
use crate::{
    domain::manifest::MANIFEST_NAME,
    repository::store::{StoreError, StoreErrorKind},
};

/// How long the removal of a copy that failed may take. A sweep finds the rest.
const DISCARD_LIMIT: Duration = Duration::from_mins(1);

/// What another has of the same backup.
#[derive(Debug, Default)]
struct Others {
    /// Its commit record: all that it names stays.
    has_manifest: bool,
    /// Keys of volumes, where it has one of them: what we touched beside them may be named by it.
    ours: Vec<String>,
}

impl Others {
    fn may_need(&self, key: &str) -> bool {
        self.has_manifest || (!self.ours.is_empty() && !self.ours.iter().any(|it| it == key))
    }
}

impl Copy {
    /// Looks for another's copy of the same backup, which was faster. What lies beside the volumes is
    /// the same in both, so that it is theirs as well, whoever put it there.
    async fn others(&self) -> Others {
        if self.touched.is_empty() {
            return Others::default();
        }
        if self.is_there(&self.key(MANIFEST_NAME)).await {
            return Others { has_manifest: true, ours: Vec::new() };
        }
        let volumes: Vec<String> = self.volumes.iter().map(|it| self.key(&it.name)).collect();
        for key in volumes.iter().filter(|key| !self.touched.contains(key)) {
            if self.is_there(key).await {
                return Others { has_manifest: false, ours: volumes };
            }
        }
        Others::default()
    }

    /// Where the store does not say, it may be.
    async fn is_there(&self, key: &str) -> bool {
        !matches!(self.store.head(key).await, Ok(None))
    }

    /// Aborts what is not committed and removes what is; goes on after an error and gives the
    /// first.
    pub(super) async fn discard(&mut self) -> Result<(), StoreError> {
        if self.keep {
            return Ok(());
        }
        let work = async {
            let mut first = Ok(());
            // No part may be under way when its upload is aborted.
            self.parts.shutdown().await;
            for upload in self.volumes.iter().map(|volume| &volume.upload).chain(&self.beside) {
                first = first.and(upload.abort().await);
            }
            let others = self.others().await;
            for key in self.touched.iter().filter(|key| !others.may_need(key)) {
                first = first.and(self.store.delete(key).await);
            }
            first
        };
        let done = tokio::time::timeout(DISCARD_LIMIT, work).await.unwrap_or_else(|_| {
            let what = format!("it was not removed within {} s", DISCARD_LIMIT.as_secs());
            Err(self.error(StoreErrorKind::Slow, what))
        });
        if done.is_ok() {
            self.note.remove().await;
        }
        done
    }
}
