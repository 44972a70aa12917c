//! What this process is doing with backups: whoever removes one is alone with it.
//!
//! The register is the whole process's, since a reload opens a repository anew while a run still works with the
//! old value, and since jobs know nothing of each other. It says nothing to other hosts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Writing,
    Reading,
    Removing,
}

impl Use {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Writing => "it is being written",
            Self::Reading => "it is being read",
            Self::Removing => "it is being removed",
        }
    }
}

/// How many write a backup, read it and remove it.
#[derive(Debug, Default)]
struct Users {
    writing: u32,
    reading: u32,
    removing: u32,
}

impl Users {
    const fn of(&mut self, what: Use) -> &mut u32 {
        match what {
            Use::Writing => &mut self.writing,
            Use::Reading => &mut self.reading,
            Use::Removing => &mut self.removing,
        }
    }

    /// What is being done, of which the worst counts.
    const fn any(&self) -> Option<Use> {
        match self {
            Self { removing: 1.., .. } => Some(Use::Removing),
            Self { writing: 1.., .. } => Some(Use::Writing),
            Self { reading: 1.., .. } => Some(Use::Reading),
            _ => None,
        }
    }
}

/// An id of a repository and a folder in it.
type Place = (Arc<str>, String);

static IN_USE: Mutex<BTreeMap<Place, Users>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<Place, Users>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is being done with a folder.
pub(super) fn of(repository: &Arc<str>, folder: String) -> Option<Use> {
    all().get(&(Arc::clone(repository), folder))?.any()
}

/// One use of a backup, while this lives.
#[derive(Debug)]
#[must_use = "the backup may be deleted as soon as this is dropped"]
pub struct InUse {
    place: Place,
    what: Use,
}

impl InUse {
    pub(super) fn new(repository: &Arc<str>, folder: String, what: Use) -> Self {
        let place = (Arc::clone(repository), folder);
        *all().entry(place.clone()).or_default().of(what) += 1;
        Self { place, what }
    }

    /// The same, unless `bars` says that it must not be beside what is being done.
    pub(super) fn unless(
        repository: &Arc<str>,
        folder: String,
        what: Use,
        bars: impl FnOnce(Use) -> bool,
    ) -> Result<Self, Use> {
        let place = (Arc::clone(repository), folder);
        let mut all = all();
        if let Some(other) = all.get(&place).and_then(Users::any).filter(|other| bars(*other)) {
            return Err(other);
        }
        *all.entry(place.clone()).or_default().of(what) += 1;
        Ok(Self { place, what })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut all = all();
        let Some(users) = all.get_mut(&self.place) else { return };
        *users.of(self.what) = users.of(self.what).saturating_sub(1);
        if users.any().is_none() {
            all.remove(&self.place);
        }
    }
}
