//! A store in a folder of a mounted filesystem.
//!
//! An object is written under a hidden name in its own folder, synced, and given its real name in
//! one step that never replaces anything; then every folder up to the root is synced. Whoever reads
//! sees whole objects or none, also after a power cut. `min_free` is held while writing, since the
//! filesystem may be the one that the database writes its WAL to.
//!
//! What can still go wrong: an unmounted filesystem looks like an empty folder (the repository's
//! marker, missing, tells); uploads that run at once may overshoot `min_free` by one part each; on a
//! filesystem without `flock` leftovers of killed processes are never swept.
//!
//! Symbolic links below the root are neither listed nor followed: where a folder is one, whatever
//! would go through it is refused. The root itself may be one.

mod files;
mod options;
mod read;
mod upload;
mod walk;

#[cfg(test)]
mod tests;

use std::{fs, io, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

pub use self::options::KIND;
use self::{
    files::{Root, blocking, long, meta_of},
    upload::LocalUpload,
};
use super::store::{Limits, ObjectMeta, Store, StoreError, StoreErrorKind, Swept, Upload};
use super::survey::Survey;

/// Length of a part. Nothing on a filesystem asks for a certain length; this is what S3 stores get,
/// so that one stream serves both.
const PART_BYTES: usize = 8 << 20;
/// What a folder can take: a file has no parts of its own.
const LIMITS: Limits = Limits { part_bytes: PART_BYTES, max_parts: u32::MAX, parallel_parts: 1 };

/// How a [`LocalStore`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOptions {
    /// The root; an absolute path of a folder that exists.
    pub path: PathBuf,
    /// Bytes that every write leaves free on the filesystem (as unprivileged users see it).
    pub min_free: u64,
    /// Whether the root may belong to, and be written by, somebody else: a network filesystem shows whoever
    /// its server maps all users to.
    pub others_may_write: bool,
}

/// A store in a folder.
#[derive(Debug)]
pub struct LocalStore {
    root: Arc<Root>,
}

impl LocalStore {
    /// A store; touches nothing yet.
    pub fn new(options: LocalOptions) -> Self {
        Self { root: Arc::new(Root::new(options)) }
    }
}

#[async_trait]
impl Store for LocalStore {
    fn place(&self) -> String {
        self.root.path.display().to_string()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<ObjectMeta, StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.to_owned());
        blocking(&self.root, &format!("write {key}"), move || put_new(&root, &key, &bytes)).await
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Upload>, StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.to_owned());
        let doing = format!("write {key}");
        let begin = {
            let doing = doing.clone();
            move || LocalUpload::begin(&root, doing, key)
        };
        Ok(Box::new(blocking(&self.root, &doing, begin).await?))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.to_owned());
        blocking(&self.root, &format!("look up {key}"), move || head(&root, &key)).await
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.to_owned());
        let doing = format!("read {key}");
        let reads = doing.clone();
        blocking(&self.root, &doing, move || read::open(&root, reads, &key, range)).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectMeta, StoreError>> {
        walk::list(Arc::clone(&self.root), prefix)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.to_owned());
        blocking(&self.root, &format!("delete {key}"), move || delete(&root, &key)).await
    }

    async fn sweep(&self, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
        let root = Arc::clone(&self.root);
        let doing = format!("sweep {}", self.place());
        long(&self.root, &doing, move || walk::sweep(&root, min_age, now)).await
    }

    async fn survey(&self, _scratch: &str) -> Result<Survey, StoreError> {
        let root = Arc::clone(&self.root);
        blocking(&self.root, &format!("look at {}", self.place()), move || {
            let free = root.free()?;
            Ok(Survey { space: Some((free, root.min_free)), ..Survey::default() })
        })
        .await
    }
}

fn put_new(root: &Arc<Root>, key: &str, bytes: &Bytes) -> Result<ObjectMeta, StoreError> {
    let path = root.path_of(key)?;
    let mut temp = root.new_temp(&path)?;
    root.check_space(&temp.file, bytes.len())?;
    let written = io::Write::write_all(&mut &*temp.file, bytes).and_then(|()| temp.file.sync_all());
    written.map_err(|error| root.error(&error))?;
    match temp.publish(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            drop(temp);
            return same_again(root, key, bytes);
        }
        Err(error) => return Err(root.error(&error)),
    }
    if let Err(error) = root.sync_folders(&path) {
        // It may be gone after a crash: nobody is to find it until then.
        drop(std::fs::remove_file(&path));
        return Err(root.error(&error));
    }
    files::forget_pages(&temp.file, 0, None);
    let facts = temp.file.metadata().map_err(|error| root.error(&error))?;
    Ok(meta_of(key, &facts))
}

/// The key is taken: settles whether by the same bytes, which an attempt before this one may have
/// left unsynced.
fn same_again(root: &Root, key: &str, bytes: &Bytes) -> Result<ObjectMeta, StoreError> {
    let path = root.path_of(key)?;
    let compare = || -> io::Result<Option<fs::Metadata>> {
        let file = files::open_to_read(&path)?;
        let facts = file.metadata()?;
        if !facts.is_file() || facts.len() != bytes.len() as u64 {
            return Ok(None);
        }
        let mut there = Vec::with_capacity(bytes.len());
        io::Read::read_to_end(&mut &file, &mut there)?;
        if there != *bytes {
            return Ok(None);
        }
        file.sync_all()?;
        root.sync_folders(&path)?;
        Ok(Some(facts))
    };
    match compare().map_err(|error| root.error(&error))? {
        Some(facts) => Ok(meta_of(key, &facts)),
        None => Err(files::taken()),
    }
}

fn head(root: &Root, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
    let path = root.path_of(key)?;
    match fs::symlink_metadata(&path) {
        Ok(facts) if facts.is_file() => Ok(Some(meta_of(key, &facts))),
        Ok(_) => Ok(None),
        Err(error) => match root.error(&error) {
            error if error.kind == StoreErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
    }
}

/// Removes the file and syncs its folder: the manifest must be gone for good before the data that
/// it names goes.
fn delete(root: &Root, key: &str) -> Result<(), StoreError> {
    let path = root.path_of(key)?;
    root.check_trusted()?;
    let removed = match fs::remove_file(&path) {
        Ok(()) => root.sync_folder_of(&path),
        // A folder of that name is not an object.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(()),
        Err(error) => Err(error),
    };
    match removed.map_err(|error| root.error(&error)) {
        Err(error) if error.kind != StoreErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    root.remove_empty_folders(&path);
    Ok(())
}
