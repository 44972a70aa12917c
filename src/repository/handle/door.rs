//! One opening of a repository: its store is made, and what lies there is held against what this host
//! knows.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Opener, known::Known};
use crate::{
    codec::encrypt,
    domain::{failure::chain, name::RepositoryName, recipients::Recipients},
    repository::{
        pace::{Pace, Paced},
        repo::Repository,
        store::{Store, StoreError, StoreErrorKind},
    },
};

/// All that an opening needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) name: RepositoryName,
    pub(super) opener: Opener,
    pub(super) recipients: Recipients,
    /// How fast bytes may go to it.
    pub(super) pace: Option<Arc<Pace>>,
    pub(super) answer_timeout: Duration,
    pub(super) memory: PathBuf,
    pub(super) stores: Arc<Mutex<Stores>>,
}

#[derive(Default)]
pub(super) struct Stores {
    /// In which a repository was found.
    pub(super) opened: Option<Arc<dyn Store>>,
    /// That is, or was last, being opened.
    pub(super) asked: Option<Arc<dyn Store>>,
}

impl Door {
    pub(super) fn stores(&self) -> std::sync::MutexGuard<'_, Stores> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store that is being opened fails with, while it is asked again.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.stores().asked.as_ref()?.trouble()
    }

    pub(super) async fn open(self, create: bool) -> Result<Arc<Repository>, StoreError> {
        let known = self.known()?;
        let opened = self.stores().opened.clone();
        let store = match opened {
            Some(store) => store,
            None => self.paced((self.opener)().await?),
        };
        self.stores().asked = Some(Arc::clone(&store));
        let name = self.name.clone();
        let may_create = create && known == Known::Never;
        let found = Repository::open(name, Arc::clone(&store), may_create).await;
        let repository = self.is_ours(found, &known)?;
        match known {
            Known::Never if create => self.remember(repository.id())?,
            Known::Damaged if create => self.remember_anew(repository.id())?,
            _ => {}
        }
        self.stores().opened = Some(store);
        let repository =
            repository.encrypted_to(self.recipients.clone()).answering_within(self.answer_timeout);
        Ok(Arc::new(repository.noting_in(self.memory.with_extension("begun"))))
    }

    /// Holds what was found against what this host knows of it.
    pub(super) fn is_ours(
        &self,
        found: Result<Repository, StoreError>,
        known: &Known,
    ) -> Result<Repository, StoreError> {
        match (found, known) {
            (Ok(repository), Known::Id(id)) if repository.id() != id => {
                Err(self.stranger(repository.id(), id))
            }
            (Err(error), Known::Id(_) | Known::Damaged)
                if error.kind == StoreErrorKind::NotFound =>
            {
                Err(self.gone(&error))
            }
            (found, _) => found,
        }
    }

    fn paced(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match &self.pace {
            Some(pace) => Arc::new(Paced::new(store, Arc::clone(pace))),
            None => store,
        }
    }

    pub(super) fn doing(&self) -> String {
        format!("open repository {}", self.name)
    }

    pub(super) fn unusable(&self, error: &encrypt::EncryptError) -> StoreError {
        let what = format!("it is to be encrypted, and that does not work: {}", chain(error));
        StoreError::new(StoreErrorKind::Encryption, self.doing(), what)
            .hint("look at `encrypt_to`; nothing is written until it works")
    }

    fn gone(&self, error: &StoreError) -> StoreError {
        let what = format!("it was here before and is gone: {}", error.what);
        StoreError::new(StoreErrorKind::Refused, self.doing(), what).hint(format!(
            "is its filesystem mounted? To begin a new repository under this name, remove {}",
            self.memory.display()
        ))
    }

    fn stranger(&self, found: &str, known: &str) -> StoreError {
        let what = format!("another repository lies there ({found} instead of {known})");
        StoreError::new(StoreErrorKind::Refused, self.doing(), what).hint(format!(
            "look at its path or bucket. To go on with the other one, remove {}",
            self.memory.display()
        ))
    }
}
