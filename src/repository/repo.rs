//! A repository: backups in a store.
//!
//! The order of things is what makes it safe. A copy puts its data first and its manifest last;
//! removing goes the other way round. So at any moment, whatever has a manifest is whole.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream::BoxStream};
use jiff::Timestamp;

use super::{
    copy::Copy,
    layout,
    listing::{self, Entry, Listed, Listing, Within},
    marker,
    store::{Limits, Store, StoreError, StoreErrorKind, Swept},
};
use crate::domain::{
    backup::{BackupId, Series},
    failure::{Class, Failure, chain},
    manifest::{MANIFEST_NAME, Manifest, ManifestError},
    name::RepositoryName,
    recipients::Recipients,
};

/// The longest manifest that is read. One names at most some thousand volumes.
pub(super) const MANIFEST_MAX: u64 = 16 << 20;

/// A place that holds backups. Clones are the same repository.
#[derive(Debug, Clone)]
pub struct Repository {
    name: RepositoryName,
    id: Arc<str>,
    store: Arc<dyn Store>,
    recipients: Recipients,
}

/// What this process is writing: ids of repositories and folders in them. Of the whole process,
/// since a reload opens a repository anew while a run still writes through the old value.
static LIVE: Mutex<BTreeSet<(Arc<str>, String)>> = Mutex::new(BTreeSet::new());

/// Keeps a folder among those while it lives.
#[derive(Debug)]
pub(super) struct Live {
    key: (Arc<str>, String),
}

impl Live {
    fn new(repository: &Arc<str>, folder: String) -> Self {
        let key = (Arc::clone(repository), folder);
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Self { key }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ManifestProblem {
    /// There is none: the backup is not complete.
    #[error("there is no manifest")]
    Missing,
    /// It is damaged, of a newer format, or another backup's.
    #[error("the manifest was not accepted")]
    Invalid(#[source] ManifestError),
    /// The store did not give it.
    #[error("the manifest could not be read")]
    Store(#[source] StoreError),
}

impl ManifestProblem {
    /// The failure of an operation that was doing `doing`.
    pub fn into_failure(self, doing: impl Into<String>) -> Failure {
        match self {
            Self::Store(error) => error.into_failure(doing),
            Self::Invalid(error @ ManifestError::Newer { .. }) => {
                Failure::new(Class::RepositoryRefused, doing, error.to_string())
                    .hint("Use the version of pgkeep that wrote it, or a newer one.")
            }
            Self::Invalid(error) => Failure::new(Class::RepositoryDamaged, doing, chain(&error))
                .hint("The data may be whole: see docs/RESTORE.md on restoring by hand."),
            Self::Missing => Failure::new(Class::RepositoryDamaged, doing, self.to_string()),
        }
    }
}

impl Repository {
    /// Opens the repository in `store`; makes one where there is none and `create` says so.
    ///
    /// # Errors
    /// Refused: no repository there, or of a newer format. Damaged: its marker cannot be read.
    pub async fn open(
        name: RepositoryName,
        store: Arc<dyn Store>,
        create: bool,
    ) -> Result<Self, StoreError> {
        let id = marker::open(&store, create).await?.into();
        Ok(Self { name, id, store, recipients: Recipients::default() })
    }

    /// The same repository, in which whatever is written is encrypted to these.
    #[must_use]
    pub fn encrypted_to(self, recipients: Recipients) -> Self {
        Self { recipients, ..self }
    }

    /// Whom everything that is written here is encrypted to; none: it is not.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Its random id, the same under whatever name and from whatever host.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it lies, without secrets.
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// What its store can take.
    pub fn limits(&self) -> Limits {
        self.store.limits()
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Begins a copy of backup `id`, whose volumes are called `stem`, `stem.001`, …, or `stem.age`,
    /// `stem.age.001`, … where the repository has recipients. As long as the copy lives, sweeps by
    /// this process spare it.
    pub fn start_copy(&self, series: &Series, id: &BackupId, stem: &str) -> Copy {
        let live = Live::new(&self.id, layout::folder(series, id));
        let stem = layout::stored_name(stem, &self.recipients);
        let (store, recipients) = (Arc::clone(&self.store), self.recipients.clone());
        Copy::new(store, series.clone(), id.clone(), stem, recipients, live)
    }

    /// Whether this process is writing that backup.
    pub(super) fn is_live(&self, series: &Series, id: &BackupId) -> bool {
        let key = (Arc::clone(&self.id), layout::folder(series, id));
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }

    /// Lists backups, complete or not, and what is not ours. Memory is bounded by one backup.
    pub fn list(&self, within: &Within) -> BoxStream<'_, Result<Entry, StoreError>> {
        listing::list(&*self.store, within)
    }

    /// The same, collected.
    pub async fn listing(&self, within: &Within) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let mut entries = self.list(within);
        while let Some(entry) = entries.try_next().await? {
            listing.push(entry);
        }
        Ok(listing)
    }

    /// Lists one backup; `None` where nothing of it is there.
    pub async fn look_at(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Option<Listed>, StoreError> {
        let within = Within::Backup(series.clone(), id.clone());
        Ok(self.listing(&within).await?.backups.pop())
    }

    /// Reads a backup's manifest.
    pub async fn manifest(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Manifest, ManifestProblem> {
        let key = layout::manifest_key(series, id);
        let bytes = marker::read_small(&self.store, &key, MANIFEST_MAX).await;
        let bytes = bytes.map_err(ManifestProblem::Store)?.ok_or(ManifestProblem::Missing)?;
        Manifest::from_bytes(&bytes, series, id).map_err(ManifestProblem::Invalid)
    }

    /// Reads an object of a backup, or the given bytes of it.
    pub async fn read(
        &self,
        series: &Series,
        id: &BackupId,
        name: &str,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.store.get(&layout::object_key(series, id, name), range).await
    }

    /// Removes a backup: the manifest first, so that what is left after a break is garbage and no
    /// backup. Gives what it removed; `None` where nothing was there. Whether it may go is the
    /// caller's to know.
    pub async fn delete_backup(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Option<Listed>, StoreError> {
        if self.is_live(series, id) {
            let doing = format!("delete {}", layout::folder(series, id));
            return Err(StoreError::new(StoreErrorKind::Refused, doing, "it is being written"));
        }
        let Some(listed) = self.look_at(series, id).await? else { return Ok(None) };
        self.remove_objects(&listed).await?;
        Ok(Some(listed))
    }

    /// Removes unfinished uploads of processes that have ended, older than `min_age` at `now`.
    pub async fn sweep_uploads(
        &self,
        min_age: Duration,
        now: Timestamp,
    ) -> Result<Swept, StoreError> {
        self.store.sweep(min_age, now).await
    }

    /// Removes all objects of a backup, the manifest first.
    pub(super) async fn remove_objects(&self, listed: &Listed) -> Result<(), StoreError> {
        let names = || listed.objects.iter().map(|object| object.name.as_str());
        let manifest = names().filter(|name| *name == MANIFEST_NAME);
        for name in manifest.chain(names().filter(|name| *name != MANIFEST_NAME)) {
            self.store.delete(&layout::object_key(&listed.series, &listed.id, name)).await?;
        }
        Ok(())
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.store.place())
    }
}
