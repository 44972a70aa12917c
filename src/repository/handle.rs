//! A configured repository that is opened when it is first needed, so that building a
//! configuration does no network I/O and a repository that is down keeps nothing else from
//! running.
//!
//! Which repository a name stands for is remembered on this host. A filesystem that is not mounted
//! looks like an empty folder, in which a new repository could be made: under a name that is known,
//! it is refused, and so is another repository in its place. What lies there is looked at each time
//! that it is asked for: a filesystem may go away under a daemon that has used it before.
//!
//! Whoever asks while an opening is under way waits for that one, and takes what comes of it: no queue
//! forms before a repository that does not answer. Each waits no longer than it wants to, and an opening
//! that nobody waits for any more is given up.

mod door;
mod known;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

use self::{door::Door, known::Known};
use super::{
    ask::{ANSWER_TIMEOUT, within},
    pace::Pace,
    repo::Repository,
    store::{Limits, Store, StoreError, StoreErrorKind},
};
use crate::{
    codec::encrypt,
    domain::{name::RepositoryName, recipients::Recipients},
};

/// Makes the store. Called again after a failure.
pub type Opener =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Store>, StoreError>> + Send + Sync>;

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

type Opening = BoxFuture<'static, Result<Arc<Repository>, StoreError>>;

/// One `[repository.NAME]`.
pub struct Handle {
    door: Door,
    elsewhere: Option<Elsewhere>,
    limits: Limits,
    folder: Option<PathBuf>,
    /// The openings under way, for reading and for writing.
    under_way: [Mutex<Option<WeakShared<Opening>>>; 2],
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("name", &self.door.name).finish_non_exhaustive()
    }
}

impl Handle {
    /// A repository that `opener` makes the store of, with those limits. `memory` is a file of its
    /// own in the state directory.
    pub fn new(name: RepositoryName, opener: Opener, limits: Limits, memory: PathBuf) -> Self {
        let door = Door {
            name,
            opener,
            recipients: Recipients::default(),
            pace: None,
            answer_timeout: ANSWER_TIMEOUT,
            memory,
            stores: Arc::default(),
        };
        Self { door, elsewhere: None, limits, folder: None, under_way: Default::default() }
    }

    /// The same, with everything that is written encrypted to these.
    #[must_use]
    pub fn encrypted_to(self, recipients: Recipients) -> Self {
        Self { door: Door { recipients, ..self.door }, ..self }
    }

    /// The same, with a limit on what goes to it per second.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        Self { door: Door { pace: Some(Arc::new(pace)), ..self.door }, ..self }
    }

    /// The same, with so long for each question that others wait for.
    #[must_use]
    pub fn answering_within(self, answer_timeout: Duration) -> Self {
        Self { door: Door { answer_timeout, ..self.door }, ..self }
    }

    /// How long it has for each question that others wait for.
    pub fn answer_timeout(&self) -> Duration {
        self.door.answer_timeout
    }

    /// The same, whose backups lie in a folder of this host.
    #[must_use]
    pub fn in_folder(self, folder: Option<PathBuf>) -> Self {
        Self { folder, ..self }
    }

    /// The folder of this host that its backups lie in; none: they lie elsewhere.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Whom everything that is written is encrypted to; none: it is not.
    pub fn recipients(&self) -> &Recipients {
        &self.door.recipients
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
            return Err(StoreError::new(StoreErrorKind::Refused, self.door.doing(), what));
        };
        open(place).await
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &RepositoryName {
        &self.door.name
    }

    /// Whether this host has ever stored something there, or cannot say.
    pub fn is_known(&self) -> bool {
        !matches!(self.door.known(), Ok(Known::Never))
    }

    /// What its store can take, known before it is opened.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The repository; made where there is none yet. For whoever is about to write: where that is
    /// to be encrypted, encrypting is tried first.
    ///
    /// # Errors
    /// When the store cannot be reached within `answer_timeout` or refuses, or what lies there is no
    /// repository of ours.
    pub async fn open(&self) -> Result<Arc<Repository>, StoreError> {
        let recipients = self.recipients();
        if !recipients.is_empty() {
            encrypt::prove(recipients).map_err(|error| self.door.unusable(&error))?;
        }
        self.get(true, self.answer_timeout()).await
    }

    /// The repository, or none where nothing has been stored yet. For whoever only reads.
    ///
    /// # Errors
    /// As [`Handle::open`].
    pub async fn open_existing(&self) -> Result<Option<Arc<Repository>>, StoreError> {
        match self.get(false, self.answer_timeout()).await {
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
        let door = &self.door;
        let known = door.known()?;
        let store = (door.opener)().await?;
        let store = store.without_repeats().unwrap_or(store);
        let found = Repository::open(door.name.clone(), Arc::clone(&store), false).await;
        match door.is_ours(found, &known) {
            Ok(_) => Ok((store, true)),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok((store, false)),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, create: bool, limit: Duration) -> Result<Arc<Repository>, StoreError> {
        let opening = self.opening(create);
        within(limit, &self.door.doing(), || self.door.trouble(), opening).await
    }

    /// The opening that is under way, or a new one.
    fn opening(&self, create: bool) -> Shared<Opening> {
        let slot = &self.under_way[usize::from(create)];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = slot.as_ref().and_then(WeakShared::upgrade) {
            return opening;
        }
        let opening = self.door.clone().open(create).boxed().shared();
        *slot = opening.downgrade();
        opening
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::{
        repository::{
            faulty::{Faults, Faulty},
            layout::MARKER_KEY,
            memory::MemoryStore,
            retry::{Retry, RetryPolicy},
        },
        sys::clock::{ManualClock, SystemClock},
    };

    pub(super) fn handle(store: &Arc<MemoryStore>, memory: &std::path::Path) -> Handle {
        let store = store.clone();
        let limits = store.limits();
        let opener: Opener = Arc::new(move || {
            let store: Arc<dyn Store> = store.clone();
            Box::pin(async move { Ok(store) })
        });
        Handle::new("local".parse().unwrap(), opener, limits, memory.to_owned())
    }

    #[test]
    fn a_repository_has_half_a_minute_unless_somebody_says_otherwise() {
        let (handle, _) = silent(std::path::Path::new("/nonexistent"));
        assert_eq!(handle.answer_timeout(), Duration::from_secs(30));
        let handle = handle.answering_within(Duration::from_secs(5));
        assert_eq!(handle.answer_timeout(), Duration::from_secs(5));
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
        let opened = handle.door.stores().opened.clone().unwrap();
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
    /// A handle whose store does not come, and how often it was asked for.
    fn silent(memory: &std::path::Path) -> (Handle, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = asked.clone();
        let opener: Opener = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        });
        let limits = MemoryStore::new(SystemClock::new()).limits();
        let handle = Handle::new("local".parse().unwrap(), opener, limits, memory.to_owned());
        (handle, asked)
    }

    #[tokio::test]
    async fn who_waits_for_a_repository_that_is_silent_waits_beside_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (handle, asked) = silent(&dir.path().join("local"));
        let (begun, each) = (tokio::time::Instant::now(), Duration::from_millis(200));
        for waited in join_all([(); 50].map(|()| handle.get(true, each))).await {
            let error = waited.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unavailable);
            assert!(error.what.contains("within 200ms"), "{error}");
        }
        assert!(begun.elapsed() < each * 20, "one after the other it is 50 times as long");
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one opening for all");
        handle.get(true, each).await.unwrap_err();
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one that nobody waits for is given up");
    }

    #[tokio::test]
    async fn who_gives_up_says_what_was_wrong_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let broken = || {
            let memory = Arc::new(MemoryStore::new(SystemClock::new()));
            Faulty::new(memory, Faults { before: 1.0, ..Faults::default() })
        };
        let opener: Opener = Arc::new(move || {
            let retry = Retry::new(broken(), RetryPolicy::new(Duration::from_mins(5)));
            Box::pin(async move { Ok(Arc::new(retry) as Arc<dyn Store>) })
        });
        let (limits, memory) = (broken().limits(), dir.path().join("local"));
        let handle = Handle::new("local".parse().unwrap(), opener, limits, memory);
        let error = handle.get(true, Duration::from_secs(1)).await.unwrap_err();
        let cause = broken().get(MARKER_KEY, None).await.err().unwrap();
        assert_eq!(error.kind, cause.kind);
        assert!(error.what.starts_with(&cause.what), "{error}");
        assert!(error.what.contains("given up after 1s"), "{error}");
    }
}
