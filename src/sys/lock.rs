//! One process at a time on a state directory.
//!
//! The lock is the kernel's (flock): it goes with the process that holds it, so that no stale lock
//! outlives a crash. The pid in the file is only for people. What can still go wrong: some network
//! filesystems do not lock between hosts.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::files::FileError;

/// The lock file's name in the state directory.
pub const LOCK_NAME: &str = "lock";

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is in use by another pgkeep{}", dir.display(), holder(*pid))]
    Held {
        /// The state directory.
        dir: PathBuf,
        /// Who holds it, where it has said so.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The lock on a state directory, held until it is dropped. The file stays: removing it would race
/// with the next process.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StateLock {
    file: File,
}

impl StateLock {
    /// Takes the lock on `dir`, or says who has it. Never waits.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(FileError::at("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => {
                return Err(FileError::at("lock", &path)(error).into());
            }
        }
        write_pid(&mut file).map_err(FileError::at("write", &path))?;
        Ok(Self { file })
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // Closing the file releases the lock; an empty file says that nobody has it.
        drop(self.file.set_len(0));
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    file.flush()
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_and_gets_it_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(dir.path()).unwrap();
        let error = StateLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(&error, LockError::Held { pid, .. } if *pid == Some(std::process::id())));
        assert!(error.to_string().ends_with(&format!("(process {})", std::process::id())));
        drop(first);
        let _second = StateLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = StateLock::acquire(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/lock");
    }
}
