//! One process at a time on a state directory.
//!
//! The locks are the kernel's (flock): they go with the process that holds them, so that no stale lock
//! outlives a crash. There are two: one on the folder itself, which nobody can delete alone, and one on
//! a file in it, which older versions look at, and which says for people who holds it. Both are compared
//! with what the path leads to, when they are taken and while they are held.
//!
//! What can still go wrong: some network filesystems do not lock between hosts, and NFS takes no lock on
//! a folder: there the file's lock is all there is.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::files::{FileError, open_plain};

/// The lock file's name in the state directory.
pub const LOCK_NAME: &str = "lock";
/// Times that the file may be removed between opening and locking it.
const ATTEMPTS: u32 = 10;

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is in use by another pgkeep{}", dir.display(), holder(*pid))]
    Held { dir: PathBuf, pid: Option<u32> },
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
    dir: PathBuf,
    /// Open for as long as the lock is held, whether or not it can be locked.
    folder: File,
    file: File,
}

/// What became of a lock while it was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Still,
    /// Its file was gone, and was made anew.
    Again,
}

/// The state directory is not ours any more.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// It was removed, or another one was put in its place.
    #[error("{} was removed or replaced while it was in use", .0.display())]
    Replaced(PathBuf),
    /// Its lock file went, and cannot be had again.
    #[error("the lock of the state directory was removed while it was held")]
    Lock(#[source] LockError),
}

impl StateLock {
    /// Takes the lock on `dir`, or says who has it. Never waits.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let folder = File::open(dir).map_err(FileError::at("open", dir))?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let pid = open_plain(&dir.join(LOCK_NAME), false).ok();
                let pid = pid.and_then(|mut file| read_pid(&mut file));
                return Err(LockError::Held { dir: dir.to_owned(), pid });
            }
            // NFS locks only what is open for writing, which a folder never is.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let file = lock_file(dir)?;
        Ok(Self { dir: dir.to_owned(), folder, file })
    }

    /// Looks whether what is locked is still what the path leads to, and makes the lock's file anew where
    /// it has gone.
    ///
    /// # Errors
    /// Where the folder is another one by now, or somebody else holds the file's lock.
    pub fn check(&mut self) -> Result<Held, LostError> {
        if !is_at(&self.folder, &self.dir) {
            return Err(LostError::Replaced(self.dir.clone()));
        }
        if is_at(&self.file, &self.dir.join(LOCK_NAME)) {
            return Ok(Held::Still);
        }
        self.file = lock_file(&self.dir).map_err(LostError::Lock)?;
        Ok(Held::Again)
    }
}

/// Locks the file of that name, which is the one that stays there: it may be removed between opening
/// and locking.
fn lock_file(dir: &Path) -> Result<File, LockError> {
    let path = dir.join(LOCK_NAME);
    for _ in 0..ATTEMPTS {
        let mut file = open_plain(&path, true).map_err(FileError::at("open", &path))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {
                write_pid(&mut file).map_err(FileError::at("write", &path))?;
                return Ok(file);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => {
                return Err(FileError::at("lock", &path)(error).into());
            }
        }
    }
    let what = "it is removed again and again";
    Err(FileError::at("lock", &path)(io::Error::other(what)).into())
}

/// Whether an open file is the one that the path leads to. Where that cannot be looked at, it is not
/// known to be another.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
        (Err(_), _) => true,
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
        assert_eq!(error.to_string(), "cannot open /nonexistent");
    }

    #[test]
    fn a_lock_that_is_deleted_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_NAME);
        let mut first = StateLock::acquire(dir.path()).unwrap();
        assert_eq!(first.check().unwrap(), Held::Still);
        for replace in [false, true] {
            fs::remove_file(&path).unwrap();
            if replace {
                fs::write(&path, "").unwrap();
            }
            let error = StateLock::acquire(dir.path()).unwrap_err();
            assert!(matches!(error, LockError::Held { .. }), "{error}");
            assert_eq!(first.check().unwrap(), Held::Again);
            let error = StateLock::acquire(dir.path()).unwrap_err();
            let us = Some(std::process::id());
            assert!(matches!(error, LockError::Held { pid, .. } if pid == us), "{error}");
        }
        // Somebody else, on a file system that locks no folders, was faster.
        fs::remove_file(&path).unwrap();
        let theirs = File::create(&path).unwrap();
        theirs.try_lock().unwrap();
        assert!(matches!(first.check().unwrap_err(), LostError::Lock(LockError::Held { .. })));
    }

    #[test]
    fn a_folder_in_the_place_of_the_one_that_is_locked_is_another() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("state");
        fs::create_dir(&dir).unwrap();
        let mut lock = StateLock::acquire(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(lock.check().unwrap_err(), LostError::Replaced(_)));
        fs::create_dir(&dir).unwrap();
        assert!(matches!(lock.check().unwrap_err(), LostError::Replaced(_)));
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join(LOCK_NAME)).unwrap();
        assert!(matches!(StateLock::acquire(dir.path()).unwrap_err(), LockError::File(_)));
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
    }
}
