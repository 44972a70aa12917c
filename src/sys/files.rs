//! Files that survive a crash, and folders that nobody else can read.
//!
//! What can still go wrong: a filesystem that lies about fsync, and another process of the same
//! user. A temporary file left by a crash is recognised by [`is_temporary`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno};

/// Ends the name of a file that is being written.
const TEMPORARY_SUFFIX: &str = ".pgkeep-tmp";

/// What could not be done with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    /// What was being done: `write`, `read`, `create`.
    pub doing: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// A closure for `map_err`.
    pub fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { doing, path, source }
    }
}

/// Writes a file so that after a crash either the old or the new content is there, whole: a hidden
/// temporary file in the same folder, fsync, rename, fsync of the folder. `mode` holds whatever the
/// umask is.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = parent(path);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let temporary = dir.join(format!(
        ".{}.{}{TEMPORARY_SUFFIX}",
        name.unwrap_or_default(),
        random_name().map_err(FileError::at("name a temporary file for", path))?
    ));
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| rename(&temporary, path).map_err(FileError::at("replace", path)));
    if written.is_err() {
        // Nothing more can be done about a temporary file that cannot be removed either.
        drop(fs::remove_file(&temporary));
    }
    written?;
    fsync_dir(dir)
}

#[expect(clippy::disallowed_methods, reason = "this is the place with fsync round it")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Writes a file of ours that need not survive a crash of the machine; what stood there is not opened.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::at("replace", path)(error));
        }
        _ => {}
    }
    write_new(path, bytes, 0o600)
}

/// Creates a file that must not exist yet, with exactly `mode`, writes it and syncs it.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(FileError::at("write", path))
}

/// Opens a plain file of our own for reading and writing, and makes it, with mode 0600, where it is
/// missing and `create`. What stands there instead is not touched: a link is not followed, a pipe not
/// waited for.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::InvalidInput`] where something else than a file is there.
pub fn open_plain(path: &Path, create: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    let opened =
        options.read(true).write(true).create(create).mode(0o600).custom_flags(flags).open(path);
    let other = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(other("it is no plain file")),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(other("it is a symbolic link"))
        }
        Err(error) => Err(error),
    }
}

/// Creates a file in `dir` that only we can open and that has no name any more: it is gone as soon
/// as it is closed, or the process dies. It is open for reading and writing.
pub fn create_unnamed(dir: &Path) -> Result<File, FileError> {
    let name = random_name().map_err(FileError::at("name a temporary file in", dir))?;
    let path = dir.join(format!(".{name}{TEMPORARY_SUFFIX}"));
    let create = || {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    };
    create().map_err(FileError::at("create a temporary file in", dir))
}

/// Whether a file name is one of a file that [`write_atomic`] was writing when it was killed.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX)
}

/// Sixteen random hexadecimal digits, for names that must not be guessed or used twice.
pub fn random_name() -> io::Result<String> {
    Ok(format!("{:016x}", getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?))
}

/// Makes the entries of a folder durable.
pub fn fsync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync", path))
}

/// Creates a folder and those above it that are missing, each with mode 0700 and made durable.
/// A folder that exists stays as it is.
pub fn create_private_dir_all(path: &Path) -> Result<(), FileError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(FileError { doing: "create", path: path.to_owned(), source });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(FileError { doing: "look at", path: path.to_owned(), source }),
    }
    let above = parent(path);
    create_private_dir_all(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => fsync_dir(above),
        // Somebody else was faster; what counts is that it is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(FileError { doing: "create", path: path.to_owned(), source }),
    }
}

/// Ends the name of what was set aside.
const DAMAGED: &str = "corrupt";
/// Files of one name that are set aside, at most; the last is overwritten then.
const DAMAGED_MAX: u32 = 10;

/// Sets aside, beside its place, what cannot be what belongs there; gives where it is now. Nothing that a
/// person might still want to look at is lost.
pub fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut aside = path.with_file_name(format!("{name}.{DAMAGED}"));
    for number in 1..DAMAGED_MAX {
        if fs::symlink_metadata(&aside).is_err() {
            break;
        }
        aside = path.with_file_name(format!("{name}.{number}.{DAMAGED}"));
    }
    rename(path, &aside).map_err(FileError::at("set aside", path))?;
    fsync_dir(parent(path))?;
    Ok(aside)
}

/// Whether a file could not be read for what lies there (too long, a folder), and not for want of
/// rights or for trouble with the disk.
pub fn is_damage(error: &FileError) -> bool {
    matches!(error.source.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::IsADirectory)
}

/// Reads a JSON file of ours of at most `max` bytes; none where there is none, and where it is damaged: it is
/// set aside then, and the log has `damaged`.
pub fn read_json<T>(
    path: &Path,
    max: u64,
    damaged: &'static str,
    parse: impl FnOnce(&[u8]) -> serde_json::Result<T>,
) -> Result<Option<T>, FileError> {
    let why: Box<dyn std::error::Error> = match read_limited(path, max) {
        Ok(bytes) => match parse(&bytes) {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error.into(),
        },
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_damage(&error) => error.source.into(),
        Err(error) => return Err(error),
    };
    let aside = set_aside(path)?;
    let (path, aside) = (path.display(), aside.display());
    tracing::warn!(%path, %aside, error = %why, "{damaged}");
    Ok(None)
}

/// Reads a whole file of at most `max` bytes; a larger one is an error, not a cut.
pub fn read_limited(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
            let what = format!("it is larger than {max} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(bytes)
    };
    read().map_err(FileError::at("read", path))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn an_atomic_write_replaces_the_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_path_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "").unwrap();
        let error = write_atomic(&path, b"bytes", 0o600).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot replace {}", path.display()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let missing = dir.path().join("no/such/folder/file");
        assert!(write_atomic(&missing, b"", 0o600).is_err());
    }

    #[test]
    fn private_folders_are_private_and_a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_private_dir_all(&deep).unwrap();
        create_private_dir_all(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&dir.path().join("a")), 0o700);
        fs::write(deep.join("file"), "").unwrap();
        let error = create_private_dir_all(&deep.join("file")).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_file_above_the_limit_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert_eq!(read_limited(&path, 4).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn an_unnamed_file_can_be_read_back_and_is_nowhere() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mut file = create_unnamed(dir.path()).unwrap();
        file.write_all(b"bytes").unwrap();
        let mut back = [0; 5];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"bytes");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(create_unnamed(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for create in [true, false] {
            let error = open_plain(&link, create).unwrap_err();
            assert_eq!(error.to_string(), "it is a symbolic link");
        }
        assert!(write_new(&link, b"ours", 0o600).is_err());
        write_atomic(&link, b"ours", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert!(open_plain(dir.path(), false).is_err());
        assert!(open_plain(&dir.path().join("new"), false).is_err());
        open_plain(&dir.path().join("new"), true).unwrap();
        assert_eq!(mode(&dir.path().join("new")), 0o600);
    }

    #[test]
    fn temporary_names_are_recognised() {
        assert!(is_temporary(".manifest.json.0123456789abcdef.pgkeep-tmp"));
        assert!(!is_temporary("manifest.json") && !is_temporary(".hidden"));
    }
}
