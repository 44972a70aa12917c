//! A repository: backups in a store.
//!
//! The order of things is what makes it safe. A copy puts its data first and its manifest last;
//! removing goes the other way round. So at any moment, whatever has a manifest is whole.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;

use super::{
    ask::{ANSWER_TIMEOUT, within},
    begun_copies::Begun,
    copy::Copy,
    identity_marker,
    in_use::{self, InUse, Use},
    layout,
    listing::{self, Entry, Listed, Listing, Within},
    store::{Limits, Store, StoreError, StoreErrorKind, Swept},
};
use crate::domain::{
    backup::{BackupId, Series},
    failure::{Class, Failure, IntoFailure, chain},
    manifest::{MANIFEST_NAME, ManifestError},
    name::RepositoryName,
    recipients::Recipients,
};

/// A place that holds backups. Clones are the same repository.
#[derive(Debug, Clone)]
pub struct Repository {
    name: RepositoryName,
    id: Arc<str>,
    store: Arc<dyn Store>,
    recipients: Recipients,
    begun: Begun,
    answer_timeout: Duration,
    /// Who reads a manifest that is longer than they are.
    long_manifests: Arc<tokio::sync::Mutex<()>>,
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
    #[error("the manifest could not be read")]
    Store(#[source] StoreError),
}

impl IntoFailure for ManifestProblem {
    /// The failure of an operation that was doing `doing`.
    fn into_failure(self, doing: impl Into<String>) -> Failure {
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
        let id = identity_marker::open(&store, create).await?.into();
        let (recipients, begun) = (Recipients::default(), Begun::default());
        let (answer_timeout, long_manifests) = (ANSWER_TIMEOUT, Arc::default());
        Ok(Self { name, id, store, recipients, begun, answer_timeout, long_manifests })
    }

    /// The same repository, in which whatever is written is encrypted to these.
    #[must_use]
    pub fn encrypted_to(self, recipients: Recipients) -> Self {
        Self { recipients, ..self }
    }

    /// The same repository, with so long for each question that others wait for.
    #[must_use]
    pub fn answering_within(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    /// The same repository; which copies this host begins in it is noted in `folder`.
    #[must_use]
    pub fn noting_in(self, folder: PathBuf) -> Self {
        Self { begun: Begun::within(folder), ..self }
    }

    /// Whether an earlier process of this host has begun to write that backup here and did not end it:
    /// what lies there without a manifest is nobody's.
    pub fn was_left(&self, series: &Series, id: &BackupId) -> bool {
        self.begun.note(series, id).is_there() && !self.is_live(series, id)
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

    pub(super) fn long_manifests(&self) -> &tokio::sync::Mutex<()> {
        &self.long_manifests
    }

    /// The result of a question to this repository; after its `answer_timeout`, why there is none.
    ///
    /// # Errors
    /// The question's own, and that it took too long.
    pub async fn in_time<T>(
        &self,
        doing: &str,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.answer_timeout, doing, || self.store.trouble(), question).await
    }

    /// Begins a copy of a new backup `id`, whose volumes are called `stem`, `stem.001`, …, or `stem.age`,
    /// `stem.age.001`, … where the repository has recipients. As long as the copy lives, this process
    /// neither sweeps nor deletes it.
    pub fn start_copy(&self, series: &Series, id: &BackupId, stem: &str) -> Copy {
        let folder = layout::folder(series, id);
        self.copy(series, id, stem, InUse::new(&self.id, folder, Use::Writing))
    }

    /// The same of a backup of which something may lie there: names are used again.
    ///
    /// # Errors
    /// While this process removes what lies there: it would remove the new objects of the same name.
    pub fn start_copy_anew(
        &self,
        series: &Series,
        id: &BackupId,
        stem: &str,
    ) -> Result<Copy, StoreError> {
        let folder = layout::folder(series, id);
        let doing = format!("write {folder}");
        let bars = |other| other == Use::Removing;
        InUse::unless(&self.id, folder, Use::Writing, bars)
            .map(|using| self.copy(series, id, stem, using))
            .map_err(|other| StoreError::new(StoreErrorKind::Spared, doing, other.words()))
    }

    fn copy(&self, series: &Series, id: &BackupId, stem: &str, using: InUse) -> Copy {
        let stem = layout::stored_name(stem, &self.recipients);
        let (store, recipients) = (Arc::clone(&self.store), self.recipients.clone());
        let note = self.begun.note(series, id);
        Copy::new(store, (series.clone(), id.clone(), note), stem, recipients, using)
    }

    /// Keeps this process from deleting the backup while the answer lives. It says nothing to other
    /// hosts: what they delete is found missing.
    pub fn hold(&self, series: &Series, id: &BackupId) -> InUse {
        InUse::new(&self.id, layout::folder(series, id), Use::Reading)
    }

    /// Whether this process is writing that backup.
    pub fn is_live(&self, series: &Series, id: &BackupId) -> bool {
        self.in_use(series, id) == Some(Use::Writing)
    }

    /// Whether this process is removing that backup.
    pub fn is_going(&self, series: &Series, id: &BackupId) -> bool {
        self.in_use(series, id) == Some(Use::Removing)
    }

    fn in_use(&self, series: &Series, id: &BackupId) -> Option<Use> {
        in_use::of(&self.id, layout::folder(series, id))
    }

    /// Keeps this process from using a folder while it is removed.
    ///
    /// # Errors
    /// When it is in use.
    pub(super) fn removal(&self, series: &Series, id: &BackupId) -> Result<InUse, &'static str> {
        let folder = layout::folder(series, id);
        InUse::unless(&self.id, folder, Use::Removing, |_| true).map_err(Use::words)
    }

    /// Lists backups, complete or not, and what is not ours. Memory is bounded by one backup.
    pub fn list(&self, within: &Within) -> BoxStream<'_, Result<Entry, StoreError>> {
        listing::list(&*self.store, within)
    }

    /// The same where others wait: an entry that takes longer than `answer_timeout` is an error.
    pub fn list_in_time(&self, within: &Within) -> BoxStream<'_, Result<Entry, StoreError>> {
        let doing: Arc<str> = format!("list repository {}", self.name).into();
        stream::try_unfold(self.list(within), move |mut entries| {
            let doing = Arc::clone(&doing);
            async move {
                let entry = self.in_time(&doing, entries.try_next()).await?;
                Ok(entry.map(|entry| (entry, entries)))
            }
        })
        .boxed()
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

    /// Removes a backup: the manifest first, whether or not a listing shows it, so that what is left
    /// after a break is garbage and no backup. Gives what it removed; `None` where nothing was there.
    /// Whether it may go is the caller's to know.
    ///
    /// # Errors
    /// Spared while this process writes or reads it ([`Repository::hold`]), and where it is there and
    /// the listing shows nothing of it; else the store's.
    pub async fn delete_backup(
        &self,
        series: &Series,
        id: &BackupId,
    ) -> Result<Option<Listed>, StoreError> {
        let spared = |what| {
            let doing = format!("delete {}", layout::folder(series, id));
            StoreError::new(StoreErrorKind::Spared, doing, what)
        };
        let _removal = self.removal(series, id).map_err(spared)?;
        let Some(listed) = self.look_at(series, id).await? else {
            if self.has_manifest(series, id).await? {
                return Err(spared("the store does not list what is there"));
            }
            return Ok(None);
        };
        self.store.delete(&layout::manifest_key(series, id)).await?;
        self.remove_data(&listed).await?;
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

    /// Removes all objects of a folder but the manifest, which has to be gone.
    pub(super) async fn remove_data(&self, listed: &Listed) -> Result<(), StoreError> {
        let names = listed.objects.iter().map(|object| object.name.as_str());
        for name in names.filter(|name| *name != MANIFEST_NAME) {
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
