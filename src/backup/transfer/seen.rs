//! What was seen in a target at some time: kept in a file on this host, so that what a retention
//! removes there is not brought again and again.
//!
//! It is a convenience and no truth: where it is lost, what was removed is brought once more. It holds
//! only what the source still has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::survey::Stock;
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure},
        transfer::{Holdings, Stocked},
    },
    sys::files,
};

/// The longest file that is read: an id takes some 30 bytes, so that this is a million backups.
const FILE_MAX: u64 = 32 << 20;

/// What was seen in one repository.
#[derive(Debug, Default)]
pub struct Seen {
    path: PathBuf,
    stored: Stored,
    changed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    /// The repository's id: another one under the same name has been seen by nobody.
    repository: String,
    /// Backups by the path of their series.
    seen: BTreeMap<String, BTreeSet<BackupId>>,
}

impl Seen {
    /// What was remembered of the repository with that id.
    ///
    /// # Errors
    /// Where the file is there and cannot be read. One that is no such file is set aside, which is an
    /// error once.
    pub fn load(path: &Path, repository: &str) -> Result<Self, Failure> {
        let fail = |error: &(dyn std::error::Error + 'static)| {
            let doing = format!("read {}", path.display());
            Failure::from_error(Class::State, doing, error)
        };
        let damaged = |failure: Failure| match files::set_aside(path) {
            Ok(aside) => {
                let what = format!("{}; set aside as {}", failure.what, aside.display());
                Failure { what, ..failure }
            }
            Err(_) => failure,
        };
        let stored = match files::read_limited(path, FILE_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(fail(&error)))?,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Stored::default(),
            Err(error) if files::is_damage(&error) => return Err(damaged(fail(&error))),
            Err(error) => return Err(fail(&error)),
        };
        Ok(Self { stored, ..Self::empty(path, repository) }.of(repository))
    }

    /// Nothing was seen yet.
    pub fn empty(path: &Path, repository: &str) -> Self {
        let stored = Stored { repository: repository.to_owned(), ..Stored::default() };
        Self { path: path.to_owned(), stored, changed: false }
    }

    fn of(self, repository: &str) -> Self {
        if self.stored.repository == repository {
            return self;
        }
        Self::empty(&self.path, repository)
    }

    /// Forgets what the source does not have any more, and tells each series what was seen of it.
    pub fn tell(&mut self, stock: &Stock, holdings: &mut BTreeMap<Arc<Series>, Holdings>) {
        let mut known = std::mem::take(&mut self.stored.seen);
        for (series, Stocked { ids, .. }) in stock {
            let Some(mut seen) = known.remove(&series.path()) else { continue };
            let before = seen.len();
            seen.retain(|id| ids.binary_search(id).is_ok());
            self.changed |= seen.len() < before;
            holdings.entry(Arc::clone(series)).or_default().seen.clone_from(&seen);
            self.stored.seen.insert(series.path(), seen);
        }
        self.changed |= !known.is_empty();
    }

    /// It is there.
    pub fn add(&mut self, series: &Series, id: &BackupId) {
        let path = series.path();
        let ids = self.stored.seen.entry(path).or_default();
        self.changed |= ids.insert(id.clone());
    }

    /// It was there and was lost: until it is there again, it counts as never seen. Else what a run
    /// that breaks off did not bring back would look like removed ones to the next, behind a newer
    /// one that it did bring.
    pub fn forget(&mut self, series: &Series, id: &BackupId) {
        let Some(ids) = self.stored.seen.get_mut(&series.path()) else { return };
        self.changed |= ids.remove(id);
    }

    /// Writes down what has changed.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&mut self) -> Result<(), Failure> {
        if !self.changed {
            return Ok(());
        }
        let fail = |error: &(dyn std::error::Error + 'static)| {
            let doing = format!("write {}", self.path.display());
            Failure::from_error(Class::State, doing, error)
        };
        let bytes = serde_json::to_vec(&self.stored).map_err(|error| fail(&error))?;
        let folder = self.path.parent().unwrap_or(&self.path);
        files::create_private_dir_all(folder)
            .and_then(|()| files::write_atomic(&self.path, &bytes, 0o600))
            .map_err(|error| fail(&error))?;
        self.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Arc<Series> {
        Arc::new(Series::from_path(&format!("main/7/{name}/all")).unwrap())
    }

    fn id(second: u32) -> BackupId {
        format!("20261121T0215{second:02}Z-k3f9q2x7").parse().unwrap()
    }

    fn stock<const N: usize>(ids: [BackupId; N]) -> Stock {
        Stock::from([(series("app"), Stocked { ids: ids.into(), ..Stocked::default() })])
    }

    #[test]
    fn what_was_seen_is_remembered_of_one_repository_while_the_source_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copied/nightly/offsite");
        let mut seen = Seen::load(&path, "one").unwrap();
        for second in [1, 2, 3] {
            seen.add(&series("app"), &id(second));
        }
        seen.add(&series("gone"), &id(1));
        seen.save().unwrap();
        let stock = stock([id(2), id(3), id(4)]);
        let told = |repository: &str| {
            let mut holdings = BTreeMap::new();
            let mut seen = Seen::load(&path, repository).unwrap();
            seen.tell(&stock, &mut holdings);
            (seen, holdings.remove(&series("app")).unwrap_or_default().seen)
        };
        let (mut seen, of_app) = told("one");
        assert_eq!(of_app, BTreeSet::from([id(2), id(3)]));
        assert!(told("another").1.is_empty());
        seen.save().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("gone") && !text.contains(id(1).as_str()), "{text}");
        std::fs::write(&path, "{").unwrap();
        let failure = Seen::load(&path, "one").unwrap_err();
        assert_eq!(failure.class, Class::State);
        assert!(failure.what.contains("offsite.corrupt"), "{failure}");
        assert!(path.with_file_name("offsite.corrupt").exists());
        std::fs::create_dir(&path).unwrap();
        assert!(Seen::load(&path, "one").unwrap_err().what.contains("offsite.1.corrupt"));
        Seen::load(&path, "one").unwrap();
    }

    #[test]
    fn what_was_lost_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("offsite");
        let mut seen = Seen::empty(&path, "one");
        for second in [1, 2] {
            seen.add(&series("app"), &id(second));
        }
        seen.save().unwrap();
        seen.forget(&series("app"), &id(1));
        seen.forget(&series("other"), &id(1));
        seen.save().unwrap();
        let stock = stock([id(1), id(2)]);
        let mut holdings = BTreeMap::new();
        Seen::load(&path, "one").unwrap().tell(&stock, &mut holdings);
        assert_eq!(holdings[&series("app")].seen, BTreeSet::from([id(2)]));
    }
}
