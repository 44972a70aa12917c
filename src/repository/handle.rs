//! A configured repository that is opened when it is first needed, so that building a
//! configuration does no network I/O and a repository that is down keeps nothing else from
//! running.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    repo::Repository,
    store::{Store, StoreError, StoreErrorKind},
};
use crate::domain::name::RepositoryName;

/// Makes the store. Called again after a failure.
pub type Opener =
    Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Store>, StoreError>> + Send + Sync>;

/// One `[repository.NAME]`.
pub struct Handle {
    name: RepositoryName,
    opener: Opener,
    opened: Mutex<Option<Arc<Repository>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Handle {
    /// A repository that `opener` makes the store of.
    pub fn new(name: RepositoryName, opener: Opener) -> Self {
        Self { name, opener, opened: Mutex::default() }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// The repository; made where there is none yet. For whoever is about to write.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, or what lies there is no repository of ours.
    pub async fn open(&self) -> Result<Arc<Repository>, StoreError> {
        self.get(true).await
    }

    /// The repository, or none where nothing has been stored yet. For whoever only reads.
    ///
    /// # Errors
    /// As [`Handle::open`].
    pub async fn open_existing(&self) -> Result<Option<Arc<Repository>>, StoreError> {
        match self.get(false).await {
            Ok(repository) => Ok(Some(repository)),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, create: bool) -> Result<Arc<Repository>, StoreError> {
        let mut opened = self.opened.lock().await;
        if let Some(repository) = &*opened {
            return Ok(repository.clone());
        }
        let store = (self.opener)().await?;
        let repository = Arc::new(Repository::open(self.name.clone(), store, create).await?);
        *opened = Some(repository.clone());
        Ok(repository)
    }
}
