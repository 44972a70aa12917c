//! Which repository this host knows under a name: a file with an id in the state directory.
//!
//! What is there and is no id still says that there was a repository: none is made anew, and the one that
//! is found is remembered in its place.

use super::door::Door;
use crate::{
    domain::failure::chain,
    repository::store::{StoreError, StoreErrorKind},
    sys::files::{self, FileError},
};

/// Length of an id, in hexadecimal digits.
const ID_DIGITS: usize = 32;
/// More than a remembered id has, in bytes.
const MEMORY_MAX: u64 = 256;

/// What this host remembers of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It has never stored anything there.
    Never,
    Id(String),
    /// There was one, and what is remembered is no id.
    Damaged,
}

impl Door {
    pub(super) fn known(&self) -> Result<Known, StoreError> {
        match files::read_limited(&self.memory, MEMORY_MAX) {
            Ok(bytes) => {
                let id = String::from_utf8_lossy(&bytes).trim().to_owned();
                let is_id = id.len() == ID_DIGITS && id.bytes().all(|it| it.is_ascii_hexdigit());
                Ok(if is_id { Known::Id(id) } else { Known::Damaged })
            }
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(Known::Never),
            Err(error) if files::is_damage(&error) => Ok(Known::Damaged),
            Err(error) => Err(self.memory_error(&error)),
        }
    }

    /// Sets a memory aside that is none, and takes the repository that is there for the one that was
    /// known.
    pub(super) fn remember_anew(&self, id: &str) -> Result<(), StoreError> {
        let aside = files::set_aside(&self.memory).map_err(|error| self.memory_error(&error))?;
        let (repository, aside) = (&self.name, aside.display());
        tracing::warn!(
            %repository, id, %aside,
            hint = "look for trouble with the disk; the file can be removed",
            "what was remembered of the repository is no id and was set aside; it goes on with the \
             one that is there"
        );
        self.remember(id)
    }

    pub(super) fn remember(&self, id: &str) -> Result<(), StoreError> {
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
    use std::{fs, sync::Arc};

    use super::super::tests::handle;
    use crate::{repository::memory::MemoryStore, sys::clock::SystemClock};

    type Damage = (&'static str, fn(&std::path::Path));

    /// Nothing that lies in the place of the memory stops the jobs of its repository, and nothing makes
    /// a new one where there was one.
    #[tokio::test]
    async fn a_damaged_memory_is_set_aside_and_the_repository_goes_on() {
        let damage: [Damage; 7] = [
            ("33 zero bytes", |path| fs::write(path, [0; 33]).unwrap()),
            ("another text", |path| fs::write(path, "z".repeat(32) + "\n").unwrap()),
            ("cut", |path| fs::write(path, "0f1e2d3c").unwrap()),
            ("empty", |path| fs::write(path, "").unwrap()),
            ("not UTF-8", |path| fs::write(path, [0xff; 32]).unwrap()),
            ("long", |path| fs::write(path, "a".repeat(100_000)).unwrap()),
            ("a folder", |path| fs::create_dir_all(path.join("x")).unwrap()),
        ];
        for (what, damage) in damage {
            let dir = tempfile::tempdir().unwrap();
            let memory = dir.path().join("repositories/local");
            let store = Arc::new(MemoryStore::new(SystemClock::new()));
            let id = handle(&store, &memory).open().await.unwrap().id().to_owned();
            fs::remove_file(&memory).unwrap();
            damage(&memory);
            let known = handle(&store, &memory);
            assert!(known.is_known(), "{what}");
            assert!(known.open_existing().await.unwrap().is_some(), "{what}");
            assert!(known.store().await.unwrap().1, "{what}");

            let empty = Arc::new(MemoryStore::new(SystemClock::new()));
            let unmounted = handle(&empty, &memory);
            let error = unmounted.open().await.unwrap_err();
            assert!(error.what.contains("gone"), "{what}: {error}");
            assert!(empty.keys().is_empty(), "{what}");

            assert_eq!(known.open().await.unwrap().id(), id, "{what}");
            assert_eq!(fs::read_to_string(&memory).unwrap(), format!("{id}\n"), "{what}");
            assert!(memory.with_file_name("local.corrupt").exists(), "{what}: it is kept");
        }
    }
}
