//! Marks beside a manifest: that a backup is suspicious, and who has acknowledged it.
//!
//! A listing of names shows both, so that retention plans without a GET. The first is written before
//! the manifest and belongs to the copy as its index does; the second is added later, once, and
//! never replaced. Both are readable without a key, like the manifest: whoever may only read names and
//! manifests can tell a backup in doubt from another.
//!
//! What can still go wrong: a pgkeep that does not know the marks copies a backup without them, and
//! prunes as if there were none.

use bytes::Bytes;

use super::{
    copy::Copy,
    identity_marker::read_small,
    layout,
    listing::Listed,
    repo::Repository,
    store::{StoreError, StoreErrorKind},
};
use crate::domain::{
    backup::{BackupId, Series},
    manifest::{MANIFEST_NAME, Manifest},
    retention::Proof,
    suspicion::{ACKNOWLEDGED_NAME, Acknowledgement, MARK_NAME, Suspicion},
};

/// More than any acknowledgement has, in bytes.
const ACKNOWLEDGEMENT_MAX: u64 = 64 << 10;

impl Listed {
    fn has(&self, name: &str) -> bool {
        self.objects.iter().any(|object| object.name == name)
    }

    /// Whether anything is there but the manifest, marks and proofs.
    pub fn has_data(&self) -> bool {
        self.objects.iter().any(|object| {
            let name = object.name.as_str();
            ![MANIFEST_NAME, MARK_NAME, ACKNOWLEDGED_NAME].contains(&name)
                && Proof::from_name(name).is_none()
        })
    }

    /// Whether something seemed to be missing in it when it was made.
    pub fn was_suspicious(&self) -> bool {
        self.has(MARK_NAME)
    }

    /// Whether somebody has said that it is as it should be.
    pub fn is_acknowledged(&self) -> bool {
        self.has(ACKNOWLEDGED_NAME)
    }

    /// Whether it is in doubt: suspicious, and nobody has acknowledged it.
    pub fn is_suspicious(&self) -> bool {
        self.was_suspicious() && !self.is_acknowledged()
    }

    /// Whether it would be taken for a good one: its manifest tells of a doubt that nobody has acknowledged,
    /// and the mark is missing.
    pub fn has_lost_its_mark(&self, manifest: &Manifest) -> bool {
        !manifest.suspicions.is_empty() && !self.was_suspicious() && !self.is_acknowledged()
    }

    /// Whether a proof was added to it.
    pub fn proves(&self, proof: Proof) -> bool {
        self.objects.iter().any(|object| Proof::from_name(&object.name) == Some(proof))
    }
}

impl Copy {
    /// Marks the backup that is being written as suspicious; nothing is done where it is not.
    pub async fn mark_suspicious(&mut self, suspicions: &[Suspicion]) -> Result<(), StoreError> {
        if suspicions.is_empty() {
            return Ok(());
        }
        let bytes = json(suspicions, MARK_NAME)?;
        self.put_as(MARK_NAME, bytes).await.map(drop)
    }

    /// Takes over who acknowledged it where it is copied from.
    pub async fn mark_acknowledged(&mut self, by: &Acknowledgement) -> Result<(), StoreError> {
        let bytes = json(by, ACKNOWLEDGED_NAME)?;
        self.put_as(ACKNOWLEDGED_NAME, bytes).await.map(drop)
    }
}

impl Repository {
    /// Who has acknowledged a backup; `None` where nobody has.
    ///
    /// # Errors
    /// The store's; damaged, where what lies there is no acknowledgement.
    pub async fn acknowledgement(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Option<Acknowledgement>, StoreError> {
        let key = layout::object_key(series, id, ACKNOWLEDGED_NAME);
        let read = read_small(self.store(), &key, ACKNOWLEDGEMENT_MAX).await?;
        let Some(bytes) = read else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            StoreError::new(StoreErrorKind::Damaged, format!("read {key}"), error.to_string())
        })
    }

    /// Writes down who acknowledged a backup. Says whether that is news: what was said before
    /// stays as it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn acknowledge(
        &self,
        series: &Series,
        id: &BackupId,
        by: &Acknowledgement,
    ) -> Result<bool, StoreError> {
        let key = layout::object_key(series, id, ACKNOWLEDGED_NAME);
        match self.store().put_new(&key, json(by, ACKNOWLEDGED_NAME)?).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == StoreErrorKind::Exists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn json(value: &(impl serde::Serialize + ?Sized), name: &str) -> Result<Bytes, StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        StoreError::new(StoreErrorKind::Refused, format!("write {name}"), error.to_string())
    })?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
