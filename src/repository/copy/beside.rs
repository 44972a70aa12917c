//! Objects beside the volumes: the index.
//!
//! What is small is put whole. What is not arrives in parts, as a volume does, so that only one
//! part of it is in memory.
//!
//! What can still go wrong: two that write the same copy at once have a small index in common; of a
//! large one, the second finds another's there, and its copy fails.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Copy;
use crate::{
    codec::hex,
    domain::manifest::{MANIFEST_NAME, StoredObject},
    repository::{
        key, layout,
        store::{StoreError, StoreErrorKind, Upload},
    },
};

/// What is put whole, whatever the length of the store's parts.
const WHOLE_BYTES: usize = 1 << 20;

/// An object beside the volumes that is being written. Dropped, it is not there; the copy has to be
/// aborted then.
#[derive(Debug)]
pub struct Beside<'a> {
    copy: &'a mut Copy,
    name: String,
    pending: Vec<u8>,
    upload: Option<Arc<dyn Upload>>,
    parts: u32,
    bytes: u64,
    hash: Sha256,
}

impl Copy {
    /// Begins an object beside the volumes, to be written already encrypted where that is
    /// demanded. Where it is encrypted, `.age` is added to its name.
    pub fn beside(&mut self, name: &str) -> Beside<'_> {
        Beside {
            copy: self,
            name: name.to_owned(),
            pending: Vec::new(),
            upload: None,
            parts: 0,
            bytes: 0,
            hash: Sha256::new(),
        }
    }

    /// Stores a small object beside the volumes, as [`Copy::beside`] does.
    pub async fn put(
        &mut self,
        name: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<StoredObject, StoreError> {
        let bytes = bytes.into();
        self.check_form(&bytes)?;
        self.put_as(layout::stored_name(name, &self.recipients), bytes).await
    }

    /// Stores a small object under that very name, whatever is in it.
    pub(in crate::repository) async fn put_as(
        &mut self,
        name: impl Into<String>,
        bytes: Bytes,
    ) -> Result<StoredObject, StoreError> {
        let name = name.into();
        let key = self.key_beside(&name)?;
        self.note.write().await;
        // The same bytes may lie there as part of another's copy of the same backup: a success, and
        // all the same not ours to remove.
        if self.store.head(&key).await?.is_none() {
            self.touched.push(key.clone());
        }
        let object =
            StoredObject { name, bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
        if let Err(error) = self.store.put_new(&key, bytes).await {
            if self.touched.last() == Some(&key) {
                self.not_ours(&error);
            }
            return Err(error);
        }
        self.small.push(object.clone());
        Ok(object)
    }

    /// The name under which it is stored, and its key.
    fn name_beside(&self, name: &str) -> Result<(String, String), StoreError> {
        let name = layout::stored_name(name, &self.recipients);
        let key = self.key_beside(&name)?;
        Ok((name, key))
    }

    fn key_beside(&self, name: &str) -> Result<String, StoreError> {
        if name == MANIFEST_NAME || !key::is_segment(name) {
            let what = format!("{name:?} is not a name for an object beside the volumes");
            return Err(self.error(StoreErrorKind::Refused, what));
        }
        Ok(self.key(name))
    }
}

impl Beside<'_> {
    /// Takes the next bytes.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        let limits = self.copy.store.limits();
        let is_large = |pending: &Vec<u8>| pending.len() >= limits.part_bytes.max(WHOLE_BYTES);
        while !bytes.is_empty() {
            if self.upload.is_none() && is_large(&self.pending) {
                self.begin().await?;
            }
            if self.upload.is_some() && self.pending.len() >= limits.part_bytes {
                self.part(limits.part_bytes).await?;
                continue;
            }
            let room = if self.upload.is_some() { limits.part_bytes } else { usize::MAX };
            let room = room.min(limits.part_bytes.max(WHOLE_BYTES)) - self.pending.len();
            let (piece, rest) = bytes.split_at(bytes.len().min(room));
            self.pending.extend_from_slice(piece);
            bytes = rest;
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.copy.check_form(&self.pending)?;
        let (_, key) = self.copy.name_beside(&self.name)?;
        let upload: Arc<dyn Upload> = Arc::from(self.copy.store.begin(&key).await?);
        self.copy.beside.push(Arc::clone(&upload));
        self.upload = Some(upload);
        Ok(())
    }

    /// Stores the first `length` bytes of what is pending.
    async fn part(&mut self, length: usize) -> Result<(), StoreError> {
        let Some(upload) = self.upload.clone() else { return Ok(()) };
        if self.parts == self.copy.store.limits().max_parts {
            let what = format!("{} has more than {} parts", self.name, self.parts);
            return Err(self.copy.error(StoreErrorKind::Refused, what));
        }
        let rest = self.pending.split_off(length);
        let part = Bytes::from(std::mem::replace(&mut self.pending, rest));
        self.hash.update(&part);
        self.bytes += part.len() as u64;
        self.parts += 1;
        upload.part(self.parts, part).await
    }

    /// It is whole.
    pub async fn finish(mut self) -> Result<StoredObject, StoreError> {
        let Some(upload) = self.upload.clone() else {
            return self.copy.put(&self.name, self.pending).await;
        };
        let part_bytes = self.copy.store.limits().part_bytes;
        while !self.pending.is_empty() {
            self.part(part_bytes.min(self.pending.len())).await?;
        }
        let (name, key) = self.copy.name_beside(&self.name)?;
        let object = StoredObject { name, bytes: self.bytes, sha256: hex(&self.hash.finalize()) };
        self.copy.touched.push(key);
        match upload.commit().await {
            Ok(meta) => self.copy.compare(&object, Some(meta.bytes))?,
            Err(error) => {
                self.copy.not_ours(&error);
                return Err(error);
            }
        }
        self.copy.small.push(object.clone());
        Ok(object)
    }
}
