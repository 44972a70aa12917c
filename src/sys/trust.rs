//! Whether a file or a folder can only be changed by those who may change pgkeep itself.
//!
//! The configuration says which programs run, where backups go and who can read them: whoever may
//! write it is the daemon. The same holds for folders that programs are taken from, for the state
//! directory, and for a repository in a folder. A POSIX access list that lets a user or a group write
//! shows in the mode: its mask stands where the group's bits stand. What can still go wrong: access
//! lists of NFSv4 and of other servers are not looked at, nor what root may do beside them; and a file
//! system that has no owners shows whatever it was mounted with.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::domain::text::shell_word;

/// `chmod` bits of group and others.
const WRITE_GROUP_OTHERS: u32 = 0o022;
const WRITE_OTHERS: u32 = 0o002;
const READ_OTHERS: u32 = 0o004;
const READ_GROUP_OTHERS: u32 = 0o044;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

/// Why a file is not to be used.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error("{} may be written by others (mode {mode:04o})", path.display())]
    Writable { path: PathBuf, mode: u32, fix: &'static str },
    #[error("{} belongs to user id {owner}, neither root nor the user that pgkeep runs as", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} holds a secret and may be read by others (mode {mode:04o})", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("{} is not executable", path.display())]
    NotExecutable { path: PathBuf },
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    /// It is a folder, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

impl Untrusted {
    /// What a person can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Writable { path, fix, .. } => format!("run: chmod {fix} {}", word(path)),
            Self::Owner { path, .. } => format!("run: chown root {}", word(path)),
            Self::Readable { path, .. } => format!("run: chmod o-rwx {}", word(path)),
            Self::TooLarge { .. } => "name the right file".to_owned(),
            Self::NotAFile { .. } => "name a file".to_owned(),
            Self::NotExecutable { path } => format!("run: chmod +x {}", word(path)),
            Self::NotText { .. } => "save the file as UTF-8".to_owned(),
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path".to_owned()
            }
            Self::Unreadable { .. } => {
                "let the user that pgkeep runs as read the file and enter its folders".to_owned()
            }
        }
    }

    /// Whether it is about permissions rather than about reading.
    pub const fn is_permissions(&self) -> bool {
        matches!(self, Self::Writable { .. } | Self::Owner { .. } | Self::Readable { .. })
    }
}

/// A path as a shell reads it.
fn word(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

/// A file that was read.
#[derive(Debug)]
pub struct Contents {
    pub text: String,
    /// What the file system says of the very file that was read.
    pub metadata: Metadata,
}

/// Reads a regular file of at most `limit` bytes of UTF-8.
pub fn read(path: &Path, limit: u64) -> Result<Contents, Untrusted> {
    let unreadable = |source| Untrusted::Unreadable { path: path.to_owned(), source };
    // Asked before it is opened: opening a pipe without a writer would wait.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Untrusted::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(Untrusted::TooLarge { path: path.to_owned(), limit });
    }
    let text =
        String::from_utf8(bytes).map_err(|_| Untrusted::NotText { path: path.to_owned() })?;
    Ok(Contents { text, metadata })
}

/// Whether only root and the current user can change this very file or folder.
pub fn check_own(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    check_owner(path, metadata)?;
    check_mode(path, metadata)
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(Untrusted::Owner { path: path.to_owned(), owner });
    }
    Ok(())
}

fn check_mode(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    let mode = metadata.mode() & 0o7777;
    if mode & WRITE_GROUP_OTHERS != 0 {
        return Err(Untrusted::Writable { path: path.to_owned(), mode, fix: "go-w" });
    }
    Ok(())
}

/// Whether only root and the current user can change what a folder holds, or put another folder in
/// its place: no folder above it may be written by everybody, unless it is sticky as `/tmp` is.
pub fn check_folder(path: &Path) -> Result<(), Untrusted> {
    let unreadable = |source| Untrusted::Unreadable { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(unreadable)?;
    check_own(path, &fs::metadata(&real).map_err(unreadable)?)?;
    check_parents(&real)
}

/// The same for a folder that data lies in. Root may work in a folder of another user, who could do
/// nothing there but what pgkeep does as that user: `sudo pgkeep doctor`.
pub fn check_storage(path: &Path) -> Result<(), Untrusted> {
    if !rustix::process::geteuid().is_root() {
        return check_folder(path);
    }
    let unreadable = |source| Untrusted::Unreadable { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(unreadable)?;
    check_mode(path, &fs::metadata(&real).map_err(unreadable)?)?;
    check_parents(&real)
}

fn check_parents(real: &Path) -> Result<(), Untrusted> {
    let unreadable = |source| Untrusted::Unreadable { path: real.to_owned(), source };
    for parent in real.ancestors().skip(1) {
        let mode = fs::metadata(parent).map_err(unreadable)?.mode() & 0o7777;
        if mode & WRITE_OTHERS != 0 && mode & STICKY == 0 {
            return Err(Untrusted::Writable { path: parent.to_owned(), mode, fix: "o-w" });
        }
    }
    Ok(())
}

/// Whether a file can be run, and only root and the current user can change it or put another one in
/// its place: by whatever folder leads to it, as it is written and with links resolved.
pub fn check_program(path: &Path) -> Result<(), Untrusted> {
    let unreadable = |source| Untrusted::Unreadable { path: path.to_owned(), source };
    let given = std::path::absolute(path).map_err(unreadable)?;
    let real = fs::canonicalize(path).map_err(unreadable)?;
    let metadata = fs::metadata(&real).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Untrusted::NotAFile { path: path.to_owned() });
    }
    check_own(&real, &metadata)?;
    check_ways(&given, &real, 1)?;
    if metadata.mode() & EXECUTE == 0 {
        return Err(Untrusted::NotExecutable { path: path.to_owned() });
    }
    Ok(())
}

/// The same for a folder that programs are taken from.
pub fn check_program_folder(path: &Path) -> Result<(), Untrusted> {
    let unreadable = |source| Untrusted::Unreadable { path: path.to_owned(), source };
    let given = std::path::absolute(path).map_err(unreadable)?;
    let real = fs::canonicalize(path).map_err(unreadable)?;
    check_ways(&given, &real, 0)
}

/// The folders that lead to a file (`skip` 1) or are one (0), as it is written and with links resolved.
fn check_ways(given: &Path, real: &Path, skip: usize) -> Result<(), Untrusted> {
    let ways = [given, real];
    for (above, folder) in ways.iter().flat_map(|it| it.ancestors().skip(skip).enumerate()) {
        let unreadable = |source| Untrusted::Unreadable { path: folder.to_owned(), source };
        let metadata = fs::metadata(folder).map_err(unreadable)?;
        // Further up, nobody can put another folder in the place of ours where it is sticky.
        if above > 0 && metadata.mode() & STICKY != 0 {
            check_owner(folder, &metadata)?;
        } else {
            check_own(folder, &metadata)?;
        }
    }
    Ok(())
}

/// Whether a file that was made for one secret is closed to others.
pub fn check_secret(path: &Path, metadata: &Metadata) -> Result<(), Untrusted> {
    let mode = metadata.mode() & 0o7777;
    if mode & (READ_OTHERS | WRITE_OTHERS) != 0 {
        return Err(Untrusted::Readable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Whether a file is too open to hold a secret among other things. As for PostgreSQL's
/// `ssl_key_file`: the group may read it only where it belongs to root, which is how packages hand
/// a file to a service's group.
pub fn is_exposed(metadata: &Metadata) -> bool {
    let closed = if metadata.uid() == 0 { READ_OTHERS } else { READ_GROUP_OTHERS };
    metadata.mode() & closed != 0
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_that_others_may_change_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        chmod(&root.path().join("a"), 0o755);
        chmod(&inner, 0o755);
        check_folder(&inner).unwrap();
        chmod(&inner, 0o775);
        assert!(matches!(check_folder(&inner), Err(Untrusted::Writable { mode: 0o775, .. })));
        chmod(&inner, 0o755);
        chmod(&root.path().join("a"), 0o777);
        let error = check_folder(&inner).unwrap_err();
        assert!(error.hint().ends_with("/a"), "{}", error.hint());
        chmod(&root.path().join("a"), 0o1777);
        check_folder(&inner).unwrap();
        let link = root.path().join("link");
        chmod(&inner, 0o777);
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        assert!(check_folder(&link).is_err(), "a link is followed");
    }

    #[test]
    fn a_folder_for_data_may_not_be_written_by_others() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        for (mode, trusted) in
            [(0o700, true), (0o755, true), (0o770, false), (0o702, false), (0o1777, false)]
        {
            chmod(&data, mode);
            assert_eq!(check_storage(&data).is_ok(), trusted, "{mode:o}");
            assert_eq!(check_folder(&data).is_ok(), trusted, "{mode:o}");
        }
        chmod(&data, 0o700);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&data, Some(65_534), None).unwrap();
            check_storage(&data).unwrap();
            assert!(matches!(check_folder(&data), Err(Untrusted::Owner { owner: 65_534, .. })));
        }
    }

    #[test]
    fn programs_that_others_may_change_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let (path, open) = (root.path().join("p"), root.path().join("open"));
        fs::write(&path, "#!/bin/sh\n").unwrap();
        chmod(&path, 0o644);
        assert!(matches!(check_program(&path), Err(Untrusted::NotExecutable { .. })));
        chmod(&path, 0o755);
        check_program(&path).unwrap();
        chmod(&path, 0o775);
        assert!(matches!(check_program(&path), Err(Untrusted::Writable { mode: 0o775, .. })));
        chmod(&path, 0o755);
        fs::create_dir(&open).unwrap();
        chmod(&open, 0o777);
        let link = open.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(check_program(&link).is_err(), "others may turn the link elsewhere");
        let (inner, bin) = (open.join("inner"), open.join("inner/bin"));
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("pg_dump");
        fs::copy(&path, &program).unwrap();
        for (folder, mode, trusted) in [
            (&open, 0o755, true),
            (&open, 0o777, false),
            // Not even a group of our own.
            (&open, 0o775, false),
            (&open, 0o1777, true),
            (&bin, 0o1777, false),
            (&bin, 0o775, false),
            (&inner, 0o775, false),
        ] {
            for closed in [&open, &inner, &bin] {
                chmod(closed, 0o755);
            }
            chmod(folder, mode);
            assert_eq!(check_program(&program).is_ok(), trusted, "{} {mode:o}", folder.display());
            assert_eq!(check_program_folder(&bin).is_ok(), trusted, "its folder, {mode:o}");
        }
        // A link in a safe folder does not make an exposed program safe.
        chmod(&inner, 0o755);
        chmod(&bin, 0o777);
        let safe = root.path().join("safe");
        fs::create_dir(&safe).unwrap();
        std::os::unix::fs::symlink(&program, safe.join("pg_dump")).unwrap();
        assert!(check_program(&safe.join("pg_dump")).is_err());
        assert!(matches!(check_program(root.path()), Err(Untrusted::NotAFile { .. })));
        assert!(matches!(check_program(&root.path().join("x")), Err(Untrusted::Unreadable { .. })));
    }

    #[test]
    fn only_small_text_files_are_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        assert!(matches!(read(&path, 4), Err(Untrusted::Unreadable { .. })));
        assert!(matches!(read(root.path(), 4), Err(Untrusted::NotAFile { .. })));
        fs::write(&path, "12345").unwrap();
        assert!(matches!(read(&path, 4), Err(Untrusted::TooLarge { .. })));
        assert_eq!(read(&path, 5).unwrap().text, "12345");
        fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read(&path, 4), Err(Untrusted::NotText { .. })));
    }
}
