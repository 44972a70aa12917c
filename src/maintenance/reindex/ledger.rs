//! The builds that this host has under way, in the state directory: one small file per build,
//! written before it starts, removed once nothing of it is left.
//!
//! It is what tells our own debris from everybody else's after a crash. What can still go wrong: the
//! state directory is lost. Debris is then reported and left to a person.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    domain::index::Build,
    sys::files::{self, FileError},
};

/// The folder in the state directory.
const FOLDER: &str = "index-builds";
/// Ends the name of a record.
const SUFFIX: &str = ".json";
/// More than a record holds, in bytes: ten for each index of a table.
const FILE_MAX: u64 = 1 << 20;

/// What the log has of a record that cannot be understood.
const DAMAGED: &str = "a record of a build is damaged and was set aside";

/// The records.
#[derive(Debug, Clone)]
pub struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// That of a state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER) }
    }

    /// The builds in a database. A record that cannot be understood proves nothing and is set aside.
    ///
    /// # Errors
    /// When the folder or a record cannot be read.
    pub fn of(&self, system_id: u64, database: u32) -> Result<Vec<Build>, FileError> {
        let prefix = format!("{system_id}-{database}-");
        let mut builds = Vec::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(builds),
            entries => entries.map_err(FileError::at("list", &self.folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(FileError::at("list", &self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            // Temporary files are another job's that is writing just now, or a crash's: harmless.
            if !files::is_temporary(&name) && name.starts_with(&prefix) && name.ends_with(SUFFIX) {
                // Another job may have forgotten it just now.
                let read = |bytes: &[u8]| serde_json::from_slice(bytes);
                builds.extend(files::read_json(&path, FILE_MAX, DAMAGED, read)?);
            }
        }
        Ok(builds)
    }

    /// Writes a build down; on return it survives a crash.
    ///
    /// # Errors
    /// When it cannot be written: the build must not start.
    pub fn write(&self, build: &Build) -> Result<(), FileError> {
        files::create_private_dir_all(&self.folder)?;
        let bytes = serde_json::to_vec(build)
            .map_err(|error| FileError::at("write", &self.folder)(error.into()))?;
        files::write_atomic(&self.path(build), &bytes, 0o600)
    }

    /// Forgets a build.
    ///
    /// # Errors
    /// When the record cannot be removed.
    pub fn remove(&self, build: &Build) -> Result<(), FileError> {
        remove(&self.path(build))
    }

    fn path(&self, build: &Build) -> PathBuf {
        let Build { system_id, database, index, .. } = build;
        self.folder.join(format!("{system_id}-{database}-{index}{SUFFIX}"))
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FileError::at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn build(database: u32, index: u32) -> Build {
        Build {
            system_id: u64::MAX,
            database,
            table: 3,
            index,
            schema: "we\"ird/..".to_owned(),
            name: "🐘".to_owned(),
            known: BTreeSet::from([index, 9]),
            started_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn records_are_kept_by_database_and_forgotten_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        assert_eq!(ledger.of(u64::MAX, 5).unwrap(), []);
        let (a, b, other) = (build(5, 1), build(5, 2), build(55, 1));
        for build in [&a, &b, &other] {
            ledger.write(build).unwrap();
        }
        ledger.write(&a).unwrap();
        let mut found = ledger.of(u64::MAX, 5).unwrap();
        found.sort_by_key(|build| build.index);
        assert_eq!(found, [a.clone(), b.clone()]);
        assert_eq!(ledger.of(1, 5).unwrap(), []);
        ledger.remove(&a).unwrap();
        ledger.remove(&a).unwrap();
        assert_eq!(ledger.of(u64::MAX, 5).unwrap(), [b]);
        assert_eq!(ledger.of(u64::MAX, 55).unwrap(), [other]);
    }

    #[test]
    fn what_cannot_be_understood_is_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        let whole = build(5, 1);
        ledger.write(&whole).unwrap();
        let folder = dir.path().join(FOLDER);
        let damaged = folder.join(format!("{}-5-2.json", u64::MAX));
        let in_its_place = folder.join(format!("{}-5-3.json", u64::MAX));
        std::fs::create_dir(&in_its_place).unwrap();
        let temporary = folder.join(".x.json.0123.pgkeep-tmp");
        std::fs::write(&damaged, "{").unwrap();
        std::fs::write(&temporary, "{").unwrap();
        assert_eq!(ledger.of(u64::MAX, 5).unwrap(), [whole]);
        for path in [damaged, in_its_place] {
            assert!(!path.exists());
            assert!(std::path::PathBuf::from(format!("{}.corrupt", path.display())).exists());
        }
        assert!(temporary.exists(), "somebody may be writing it");
    }
}
