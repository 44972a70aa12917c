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
    codec::{
        encrypt::EncryptError,
        hex,
        parts::{Cutter, Sealed},
    },
    domain::{
        failure::chain,
        manifest::{MANIFEST_NAME, StoredObject},
        recipients::Recipients,
    },
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
    parts: Cutter,
    object: Object<'a>,
}

#[derive(Debug)]
struct Object<'a> {
    copy: &'a mut Copy,
    name: String,
    /// Parts that are not stored: those that come may be few enough to be put whole.
    held: Vec<Bytes>,
    upload: Option<Arc<dyn Upload>>,
    stored: u32,
}

impl Copy {
    /// Begins an object beside the volumes, encrypted to these recipients; to none: as it comes, which
    /// has to be encrypted already where that is demanded. Where it is encrypted, `.age` is added to its
    /// name.
    pub fn beside(&mut self, name: &str, to: &Recipients) -> Result<Beside<'_>, StoreError> {
        let parts = Cutter::new(to, self.store.limits().part_bytes, u32::MAX);
        let parts = parts.map_err(|error| self.encrypting(&error))?;
        let (name, held) = (name.to_owned(), Vec::new());
        Ok(Beside { parts, object: Object { copy: self, name, held, upload: None, stored: 0 } })
    }

    fn encrypting(&self, error: &EncryptError) -> StoreError {
        self.error(StoreErrorKind::Encryption, chain(error))
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
        loop {
            let message = self.parts.push(&mut bytes);
            match message.map_err(|error| self.object.copy.encrypting(&error))? {
                // More is known to come.
                Some(Sealed::Part { bytes, .. }) => self.object.held.push(bytes),
                Some(Sealed::VolumeEnd { .. }) => {}
                None => return Ok(()),
            }
            if self.object.upload.is_some() || self.object.held_bytes() >= WHOLE_BYTES {
                self.object.store().await?;
            }
        }
    }

    /// It is whole.
    pub async fn finish(self) -> Result<StoredObject, StoreError> {
        let Self { parts, mut object } = self;
        let last = parts.finish().map_err(|error| object.copy.encrypting(&error))?;
        let mut end = (0, String::new());
        for message in last {
            match message {
                Sealed::Part { bytes, .. } => object.held.push(bytes),
                Sealed::VolumeEnd { bytes, sha256, .. } => end = (bytes, sha256),
            }
        }
        let is_small = object.held.len() < 2 || object.held_bytes() <= WHOLE_BYTES;
        if object.upload.is_none() && is_small {
            let whole = match object.held.as_slice() {
                [one] => one.clone(),
                several => Bytes::from(several.concat()),
            };
            return object.copy.put(&object.name, whole).await;
        }
        object.commit(end).await
    }
}

impl Object<'_> {
    fn held_bytes(&self) -> usize {
        self.held.iter().map(Bytes::len).sum()
    }

    /// Stores the parts that are held.
    async fn store(&mut self) -> Result<Arc<dyn Upload>, StoreError> {
        let upload = match &self.upload {
            Some(upload) => Arc::clone(upload),
            None => self.begin().await?,
        };
        for part in std::mem::take(&mut self.held) {
            if self.stored == self.copy.store.limits().max_parts {
                let what = format!("{} has more than {} parts", self.name, self.stored);
                return Err(self.copy.error(StoreErrorKind::Refused, what));
            }
            self.stored += 1;
            upload.part(self.stored, part).await?;
        }
        Ok(upload)
    }

    async fn begin(&mut self) -> Result<Arc<dyn Upload>, StoreError> {
        let first = self.held.first();
        first.map_or(Ok(()), |first| self.copy.check_form(first))?;
        let (_, key) = self.copy.name_beside(&self.name)?;
        let upload: Arc<dyn Upload> = Arc::from(self.copy.store.begin(&key).await?);
        self.copy.beside.push(Arc::clone(&upload));
        self.upload = Some(Arc::clone(&upload));
        Ok(upload)
    }

    async fn commit(mut self, (bytes, sha256): (u64, String)) -> Result<StoredObject, StoreError> {
        let upload = self.store().await?;
        let (name, key) = self.copy.name_beside(&self.name)?;
        let object = StoredObject { name, bytes, sha256 };
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
