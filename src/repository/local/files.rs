//! Files and folders below the root of a local store.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io,
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::{Advice, CWD, OFlags, RenameFlags};
use tokio::{sync::Semaphore, task::JoinError};

use super::LocalOptions;
use crate::{
    repository::{
        key,
        kinds::GIVE_UP_AFTER,
        store::{Doing as _, ObjectMeta, StoreError, StoreErrorKind},
    },
    sys::{
        trust::{self, Untrusted},
        unit::HOMES,
    },
};

/// What the names of unfinished files start with. No key has a segment that starts with a dot.
pub(super) const TEMP_PREFIX: &str = ".tmp-";
/// Attempts to make a file in a folder that others remove at the same time because it is empty.
const CREATE_ATTEMPTS: u32 = 32;
/// Only the owner reads backups.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Steps that may wait for a filesystem at once, each on a thread: one that hangs takes no more of them,
/// however often it is asked.
const STEPS_MAX: usize = 16;
/// How long one step may take.
pub(super) const STEP_LIMIT: Duration = GIVE_UP_AFTER;

/// Runs `work`, which blocks, where that does no harm; for a limited time.
pub(super) async fn blocking<T: Send + 'static>(
    root: &Root,
    doing: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let late = |_| Err(hangs(STEP_LIMIT).doing(doing));
    tokio::time::timeout(STEP_LIMIT, long(root, doing, work)).await.unwrap_or_else(late)
}

/// The same of work that takes as long as there are files.
pub(super) async fn long<T: Send + 'static>(
    root: &Root,
    doing: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let turn = Arc::clone(&root.steps).acquire_owned().await;
    let work = move || {
        // Given back at the end of the work, also where nobody waits for that any more.
        let _turn = turn;
        work()
    };
    let lost = |error: JoinError| Err(StoreError::bare(StoreErrorKind::Refused, error.to_string()));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(lost).doing(doing)
}

/// A filesystem that does not answer.
pub(super) fn hangs(limit: Duration) -> StoreError {
    let what = format!("the filesystem did not answer within {} s", limit.as_secs());
    StoreError::bare(StoreErrorKind::Slow, what)
        .hint("is it a network filesystem that is away, or a disk that fails?")
}

/// The folder that everything lies in.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) min_free: u64,
    others_may_write: bool,
    steps: Arc<Semaphore>,
}

impl Root {
    pub(super) fn new(options: LocalOptions) -> Self {
        let LocalOptions { path, min_free, others_may_write } = options;
        Self { path, min_free, others_may_write, steps: Arc::new(Semaphore::new(STEPS_MAX)) }
    }

    /// Where `key` lies. A folder on the way that is a symbolic link is refused, as a listing does not
    /// follow it: what would be stored behind it, nobody would find again.
    pub(super) fn path_of(&self, key: &str) -> Result<PathBuf, StoreError> {
        key::check(key)?;
        let mut path = self.path.clone();
        let mut parts = key.split('/').peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            if parts.peek().is_some() && is_link(&path) {
                return Err(linked(&path));
            }
        }
        Ok(path)
    }

    /// What an error of the system means here.
    pub(super) fn error(&self, error: &io::Error) -> StoreError {
        use io::ErrorKind as Io;
        let new = |kind| StoreError::bare(kind, error.to_string());
        match error.kind() {
            Io::NotFound if !self.path.is_dir() => self.missing(),
            Io::NotFound => new(StoreErrorKind::NotFound),
            Io::AlreadyExists => new(StoreErrorKind::Exists),
            Io::StorageFull => new(StoreErrorKind::Space)
                .hint(format!("Free space or inodes on the filesystem of {}.", self.path.display())),
            Io::QuotaExceeded => new(StoreErrorKind::Space)
                .hint("Raise the quota of the user that pgkeep runs as, or remove old backups."),
            Io::FileTooLarge => new(StoreErrorKind::Space).hint(
                "The filesystem or a limit (LimitFSIZE= of the unit) does not take files this long.",
            ),
            Io::ReadOnlyFilesystem => new(StoreErrorKind::Refused).hint(format!(
                "Mount the filesystem of {} writable, and list the path in ReadWritePaths= of the unit.",
                self.path.display()
            )),
            Io::PermissionDenied => new(StoreErrorKind::Refused).hint(self.closed()),
            Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename | Io::InvalidInput => {
                new(StoreErrorKind::Refused)
            }
            _ => new(StoreErrorKind::Unavailable),
        }
    }

    /// What to do where the system refuses. Below the folders that `ProtectHome=` hides, the owner is
    /// not the cause: the daemon of the unit sees nothing there, and whoever asks by hand does.
    fn closed(&self) -> String {
        let path = self.path.display();
        if HOMES.iter().any(|folder| self.path.starts_with(folder)) {
            return format!(
                "ProtectHome= of the unit hides /home, /root and /run/user from the daemon, whoever owns {path}: \
                 choose a folder elsewhere. Without the unit: give the folder to the user that pgkeep runs as."
            );
        }
        format!("Give {path} and all below it to the user that pgkeep runs as.")
    }

    fn missing(&self) -> StoreError {
        let problem = if self.path.exists() { "is not a folder" } else { "is not there" };
        let what = format!("{} {problem}", self.path.display());
        StoreError::bare(StoreErrorKind::Refused, what)
            .hint("Mount its filesystem, or make the folder for the user that pgkeep runs as.")
    }

    /// Refuses where the root is not there.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.path.is_dir() { Ok(()) } else { Err(self.missing()) }
    }

    /// Refuses where the root is not there, or others may write to it: they could put another
    /// repository in its place, or take backups away.
    pub(super) fn check_trusted(&self) -> Result<(), StoreError> {
        self.check()?;
        if self.others_may_write {
            return Ok(());
        }
        trust::check_storage(&self.path).map_err(|error| {
            let hint = match &error {
                Untrusted::Owner { path, .. } => {
                    format!("give {} to the user that pgkeep runs as", path.display())
                }
                error => error.hint(),
            };
            let hint = format!(
                "{hint}; where the filesystem has no owners of its own, mount it for pgkeep alone, or set \
                 others_may_write = true"
            );
            StoreError::bare(StoreErrorKind::Refused, error.to_string()).hint(hint)
        })
    }

    /// Bytes that are free on the filesystem, as unprivileged users see it.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let facts = rustix::fs::statvfs(&self.path).map_err(|errno| self.error(&errno.into()))?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    /// Refuses to write `need` bytes to the filesystem of `file` where less than `min_free` would
    /// be left.
    pub(super) fn check_space(&self, file: &File, need: usize) -> Result<(), StoreError> {
        if self.min_free == 0 {
            return Ok(());
        }
        let facts = rustix::fs::fstatvfs(file).map_err(|errno| self.error(&errno.into()))?;
        let free = facts.f_bavail.saturating_mul(facts.f_frsize);
        if free >= self.min_free.saturating_add(need as u64) {
            return Ok(());
        }
        let what = format!(
            "{free} bytes are free; after the next {need} it would be less than min_free ({})",
            self.min_free
        );
        Err(StoreError::bare(StoreErrorKind::Space, what).hint(format!(
            "Free space on the filesystem of {}, or lower min_free of the repository.",
            self.path.display()
        )))
    }

    /// A hidden, locked file in the folder of `target`; makes the folders that are missing.
    pub(super) fn new_temp(self: &Arc<Self>, target: &Path) -> Result<Temp, StoreError> {
        self.check_trusted()?;
        let folder = target.parent().unwrap_or(&self.path);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..CREATE_ATTEMPTS {
            match create_locked(folder) {
                Ok(Some((path, file))) => {
                    let file = Arc::new(file);
                    return Ok(Temp { root: Arc::clone(self), path, file, unpublished: true });
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_folders(folder).map_err(|error| self.error(&error))?;
                    last = error;
                }
                Err(error) => return Err(self.error(&error)),
            }
        }
        // It was there each time we made it and gone each time we used it.
        let error = self.error(&last);
        Err(StoreError { kind: StoreErrorKind::Unavailable, ..error })
    }

    /// Makes the folders from the root (never the root itself) to `folder`. Whether they are still
    /// there afterwards is not said: others remove empty ones.
    fn make_folders(&self, folder: &Path) -> io::Result<()> {
        let mut path = self.path.clone();
        for part in folder.strip_prefix(&self.path).into_iter().flatten() {
            path.push(part);
            match DirBuilder::new().mode(FOLDER_MODE).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the names from the root down to `target` survive a crash. All of them: whoever made a
    /// folder may not have come to sync it. Syncing what is clean costs nothing.
    pub(super) fn sync_folders(&self, target: &Path) -> io::Result<()> {
        for folder in target.ancestors().skip(1) {
            File::open(folder)?.sync_all()?;
            if folder == self.path {
                break;
            }
        }
        Ok(())
    }

    /// Makes what was done to the folder of `target` survive a crash.
    pub(super) fn sync_folder_of(&self, target: &Path) -> io::Result<()> {
        match File::open(target.parent().unwrap_or(&self.path)) {
            Ok(folder) => folder.sync_all(),
            // Somebody removed the folder as well: so the file is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the folders above `target`, up to the root, as far as they are empty. That it does
    /// not work out is no error: an empty folder is not an object.
    pub(super) fn remove_empty_folders(&self, target: &Path) {
        for folder in target.ancestors().skip(1) {
            if folder == self.path || !folder.starts_with(&self.path) {
                return;
            }
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether a name is that of a symbolic link.
pub(super) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink())
}

pub(super) fn linked(path: &Path) -> StoreError {
    let what = format!("{} is a symbolic link, which is not followed", path.display());
    StoreError::bare(StoreErrorKind::Refused, what).hint(
        "move the folder back to its place, mount its filesystem there (mount --bind), or make a \
         repository of its own where it lies",
    )
}

/// A new hidden file that this process holds the lock of; `None` where a sweep was faster.
fn create_locked(folder: &Path) -> io::Result<Option<(PathBuf, File)>> {
    let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let path = folder.join(format!("{TEMP_PREFIX}{random:016x}"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE);
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        // Without locks a sweep spares everything: the upload is as safe.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    Ok((file.metadata()?.nlink() > 0).then_some((path, file)))
}

/// An unfinished file. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Temp {
    root: Arc<Root>,
    path: PathBuf,
    pub(super) file: Arc<File>,
    unpublished: bool,
}

impl Temp {
    /// Gives the file its real name, unless that is taken. Syncing is the caller's.
    pub(super) fn publish(&mut self, target: &Path) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => self.unpublished = false,
            // NFS and some FUSE filesystems do not know the flag; a hard link does the same.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::hard_link(&self.path, target)?;
                if fs::remove_file(&self.path).is_ok() {
                    self.unpublished = false;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Removes the file.
    pub(super) fn remove(mut self) -> io::Result<()> {
        self.remove_file()
    }

    fn remove_file(&mut self) -> io::Result<()> {
        if !self.unpublished {
            return Ok(());
        }
        let removed = match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        self.unpublished = removed.is_err();
        self.root.remove_empty_folders(&self.path);
        removed
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        drop(self.remove_file());
    }
}

/// Opens a file, not following a link.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let no_follow = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(no_follow).open(path)
}

/// Tells the kernel that these pages will not be read again, so that a backup does not push the
/// database's pages out of memory. Dirty pages stay: sync first. Only advice; it may fail.
pub(super) fn forget_pages(file: &File, offset: u64, length: Option<NonZeroU64>) {
    rustix::fs::fadvise(file, offset, length, Advice::DontNeed).ok();
}

/// The key is taken by other bytes.
pub(super) fn taken() -> StoreError {
    StoreError::bare(StoreErrorKind::Exists, "there is already an object of that name")
}

/// A file as a listing shows it.
pub(super) fn meta_of(key: &str, facts: &Metadata) -> ObjectMeta {
    ObjectMeta { key: key.to_owned(), bytes: facts.len(), modified: modified(facts) }
}

/// When the content of a file was last written.
pub(super) fn modified(facts: &Metadata) -> Option<Timestamp> {
    Timestamp::new(facts.mtime(), i32::try_from(facts.mtime_nsec()).ok()?).ok()
}
