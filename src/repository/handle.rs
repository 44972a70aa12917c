//! A configured repository that is opened when it is first needed, so that building a
//! configuration does no network I/O and a repository that is down keeps nothing else from
//! running.
//!
//! Which repository a name stands for is remembered on this host. A filesystem that is not mounted
//! looks like an empty folder, in which a new repository could be made: under a name that is known,
//! it is refused, and so is another repository in its place. What lies there is looked at each time
//! that it is asked for: a filesystem may go away under a daemon that has used it before.

use std::{fmt, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::{
    pace::{Pace, Paced},
    repo::Repository,
    store::{Limits, Store, StoreError, StoreErrorKind},
};
use crate::{
    codec::encrypt,
    domain::{failure::chain, name::RepositoryName, recipients::Recipients},
    sys::files::{self, FileError},
};

/// More than a remembered id has, in bytes.
const MEMORY_MAX: u64 = 256;

/// Makes the store. Called again after a failure.
pub type Opener =
    Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Store>, StoreError>> + Send + Sync>;

/// A place beside a repository, at the same service: another prefix, another bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The bucket; none: that of the repository.
    pub bucket: Option<String>,
    /// What the keys begin with. The prefix of the repository plays no part.
    pub prefix: String,
}

/// Makes a store of a place beside the repository. It is for reading: what lies there is not ours.
pub type Elsewhere =
    Box<dyn Fn(&Place) -> BoxFuture<'static, Result<Arc<dyn Store>, StoreError>> + Send + Sync>;

/// One `[repository.NAME]`.
pub struct Handle {
    name: RepositoryName,
    opener: Opener,
    elsewhere: Option<Elsewhere>,
    limits: Limits,
    recipients: Recipients,
    /// How fast bytes may go to it.
    pace: Option<Arc<Pace>>,
    /// The file that remembers the repository's id.
    memory: PathBuf,
    /// The store, once a repository was found in it.
    opened: Mutex<Option<Arc<dyn Store>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Handle {
    /// A repository that `opener` makes the store of, with those limits. `memory` is a file of its
    /// own in the state directory.
    pub fn new(name: RepositoryName, opener: Opener, limits: Limits, memory: PathBuf) -> Self {
        Self {
            name,
            opener,
            elsewhere: None,
            limits,
            recipients: Recipients::default(),
            pace: None,
            memory,
            opened: Mutex::default(),
        }
    }

    /// The same, with everything that is written encrypted to these.
    #[must_use]
    pub fn encrypted_to(self, recipients: Recipients) -> Self {
        Self { recipients, ..self }
    }

    /// The same, with a limit on what goes to it per second.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        Self { pace: Some(Arc::new(pace)), ..self }
    }

    /// Whom everything that is written is encrypted to; none: it is not.
    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// The same repository, whose service can be asked for other places.
    #[must_use]
    pub fn with_elsewhere(mut self, elsewhere: Elsewhere) -> Self {
        self.elsewhere = Some(elsewhere);
        self
    }

    /// Whether its service has other places.
    pub fn has_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// The store of another place at the same service, for reading. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the service's options cannot be used, or the repository has no such neighbours.
    pub async fn elsewhere(&self, place: &Place) -> Result<Arc<dyn Store>, StoreError> {
        let Some(open) = &self.elsewhere else {
            let what = "this kind of repository has no places beside it";
            return Err(StoreError::new(StoreErrorKind::Refused, self.doing(), what));
        };
        open(place).await
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Whether this host has ever stored something there, or cannot say.
    pub fn is_known(&self) -> bool {
        !matches!(self.known(), Ok(None))
    }

    /// What its store can take, known before it is opened.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The repository; made where there is none yet. For whoever is about to write: where that is
    /// to be encrypted, encrypting is tried first.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, or what lies there is no repository of ours.
    pub async fn open(&self) -> Result<Arc<Repository>, StoreError> {
        if !self.recipients.is_empty() {
            encrypt::prove(&self.recipients).map_err(|error| self.unusable(&error))?;
        }
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

    /// The store, without repeats, and whether there is a repository in it: for a close look. Makes none.
    ///
    /// # Errors
    /// As [`Handle::open`]: where nothing may be written, nothing is to be tried either.
    pub async fn store(&self) -> Result<(Arc<dyn Store>, bool), StoreError> {
        let known = self.known()?;
        let store = (self.opener)().await?;
        let store = store.without_repeats().unwrap_or(store);
        let found = Repository::open(self.name.clone(), Arc::clone(&store), false).await;
        match (found, &known) {
            (Ok(repository), Some(id)) if repository.id() != id => {
                Err(self.stranger(repository.id(), id))
            }
            (Ok(_), _) => Ok((store, true)),
            (Err(error), Some(_)) if error.kind == StoreErrorKind::NotFound => {
                Err(self.gone(&error))
            }
            (Err(error), None) if error.kind == StoreErrorKind::NotFound => Ok((store, false)),
            (Err(error), _) => Err(error),
        }
    }

    async fn get(&self, create: bool) -> Result<Arc<Repository>, StoreError> {
        let mut opened = self.opened.lock().await;
        let known = self.known()?;
        let store = match &*opened {
            Some(store) => Arc::clone(store),
            None => self.paced((self.opener)().await?),
        };
        let name = self.name.clone();
        let found = Repository::open(name, Arc::clone(&store), create && known.is_none()).await;
        let repository = match (found, &known) {
            (Ok(repository), Some(id)) if repository.id() != id => {
                return Err(self.stranger(repository.id(), id));
            }
            (Ok(repository), _) => Arc::new(repository.encrypted_to(self.recipients.clone())),
            (Err(error), Some(_)) if error.kind == StoreErrorKind::NotFound => {
                return Err(self.gone(&error));
            }
            (Err(error), _) => return Err(error),
        };
        if known.is_none() && create {
            self.remember(repository.id())?;
        }
        *opened = Some(store);
        Ok(repository)
    }

    fn paced(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match &self.pace {
            Some(pace) => Arc::new(Paced::new(store, Arc::clone(pace))),
            None => store,
        }
    }

    fn doing(&self) -> String {
        format!("open repository {}", self.name)
    }

    fn unusable(&self, error: &encrypt::EncryptError) -> StoreError {
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

    fn known(&self) -> Result<Option<String>, StoreError> {
        match files::read_limited(&self.memory, MEMORY_MAX) {
            Ok(bytes) => {
                let id = String::from_utf8_lossy(&bytes).trim().to_owned();
                // An empty file remembers nothing.
                Ok((!id.is_empty()).then_some(id))
            }
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.memory_error(&error)),
        }
    }

    fn remember(&self, id: &str) -> Result<(), StoreError> {
        let folder = self.memory.parent().unwrap_or(&self.memory);
        files::create_private_dir_all(folder)
            .and_then(|()| files::write_atomic(&self.memory, format!("{id}\n").as_bytes(), 0o600))
            .map_err(|error| self.memory_error(&error))
    }

    fn memory_error(&self, error: &FileError) -> StoreError {
        StoreError::new(StoreErrorKind::Refused, self.doing(), chain(error))
            .hint("the state directory must be readable and writable for pgkeep's user")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        repository::memory::MemoryStore,
        sys::clock::{ManualClock, SystemClock},
    };

    fn handle(store: &Arc<MemoryStore>, memory: &std::path::Path) -> Handle {
        let store = store.clone();
        let limits = store.limits();
        let opener: Opener = Box::new(move || {
            let store: Arc<dyn Store> = store.clone();
            Box::pin(async move { Ok(store) })
        });
        Handle::new("local".parse().unwrap(), opener, limits, memory.to_owned())
    }

    #[tokio::test]
    async fn nothing_is_opened_for_writing_that_cannot_be_encrypted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        let wrong: Recipients = ["age1nobody".to_owned()].into_iter().collect();
        let handle = handle(&store, &dir.path().join("local")).encrypted_to(wrong);
        let error = handle.open().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Encryption);
        assert!(error.what.contains("does not work"), "{error}");
        assert!(store.keys().is_empty());
        assert!(handle.open_existing().await.unwrap().is_none(), "reading needs no key");
    }

    #[tokio::test]
    async fn all_that_is_written_goes_at_the_pace() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        // The marker of a new repository takes the line for about a millisecond.
        let pace = Pace::new(100_000, clock.clone());
        let handle = handle(&store, &dir.path().join("local")).at_pace(pace);
        handle.open().await.unwrap();
        let opened = handle.opened.lock().await.clone().unwrap();
        let mut second = opened.put_new("b/second", bytes::Bytes::from_static(b"x"));
        assert!(futures_util::poll!(&mut second).is_pending(), "it does not wait");
        clock.advance(std::time::Duration::from_secs(1));
        second.await.unwrap();
        assert!(store.keys().iter().any(|key| key == "b/second"));
    }

    #[tokio::test]
    async fn a_known_repository_is_never_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("repositories/local");
        let store = Arc::new(MemoryStore::new(SystemClock::new()));
        assert!(handle(&store, &memory).open_existing().await.unwrap().is_none());
        let id = handle(&store, &memory).open().await.unwrap().id().to_owned();
        let again = handle(&store, &memory).open().await.unwrap();
        assert_eq!(again.id(), id);

        let unmounted = Arc::new(MemoryStore::new(SystemClock::new()));
        let error = handle(&unmounted, &memory).open().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused);
        assert!(error.what.contains("gone"), "{error}");
        assert!(unmounted.keys().is_empty());

        let other = Arc::new(MemoryStore::new(SystemClock::new()));
        handle(&other, &dir.path().join("repositories/other")).open().await.unwrap();
        let error = handle(&other, &memory).open().await.unwrap_err();
        assert!(error.what.contains("another repository"), "{error}");
    }
}
