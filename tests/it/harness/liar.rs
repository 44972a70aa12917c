//! A folder of programs, for `bin_dir`, in which pg_dump does what it is told to by the next
//! [`Liar::set`]: one configuration serves for many sorts of harm.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::wait::{PATIENCE, eventually};

const LYING_PG_DUMP: &str = include_str!("../../tools/lying_pg_dump.sh");

/// What pg_dump does. Positions are in thousandths of the dump's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What it is asked for.
    None,
    /// The real dump, and this on standard error.
    Says(String),
    /// Exit 0, not a byte.
    Silent,
    /// Stops at a position, and exits so.
    Cut(u32, u8),
    /// Is killed at a position.
    Kill(u32),
    /// Exit 1 after the whole dump.
    Fail,
    /// The whole dump, and so many of its first bytes once more, at least one; exit 0.
    Append(u32),
    /// Bytes behind a position come twice: so many, at least one; exit 0.
    Repeat(u32, u32),
    /// Bytes behind a position are missing: so many, at least one; exit 0.
    Drop(u32, u32),
    /// One bit of the byte at that very offset is another; exit 0.
    Flip(u64, u8),
    /// Stops at a position and does not end until [`Liar::release`], or a signal.
    Hang(u32),
    /// Starts the real one after [`Liar::release`].
    Late,
    /// The real one, not read from after so many bytes until [`Liar::release`].
    Midway(u32),
}

impl Fault {
    fn line(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Says(_) => "says".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::Cut(at, code) => format!("cut {at} {code}"),
            Self::Kill(at) => format!("kill {at}"),
            Self::Fail => "fail".to_owned(),
            Self::Append(bytes) => format!("append {bytes}"),
            Self::Repeat(at, bytes) => format!("repeat {at} {bytes}"),
            Self::Drop(at, bytes) => format!("drop {at} {bytes}"),
            Self::Flip(at, bit) => format!("flip {at} {bit}"),
            Self::Hang(at) => format!("hang {at}"),
            Self::Late => "late".to_owned(),
            Self::Midway(bytes) => format!("midway {bytes}"),
        }
    }
}

/// Such a folder; gone when dropped, which also lets a stopped dump go on.
#[derive(Debug)]
pub(crate) struct Liar {
    folder: TempDir,
}

impl Liar {
    /// Makes such a folder beside the real programs; pg_dump behaves until told otherwise.
    pub(crate) fn new(real_bin_dir: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("pgk-bin.").tempdir().unwrap();
        let path = folder.path();
        for entry in fs::read_dir(real_bin_dir).unwrap().flatten() {
            if entry.file_name() != "pg_dump" {
                symlink(entry.path(), path.join(entry.file_name())).unwrap();
            }
        }
        fs::write(path.join("real"), format!("{}\n", real_bin_dir.display())).unwrap();
        let program = path.join("pg_dump");
        fs::write(&program, LYING_PG_DUMP).unwrap();
        for path in [path, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let liar = Self { folder };
        liar.set(&Fault::None);
        liar
    }

    /// The folder, for `bin_dir`.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the next dumps do.
    pub(crate) fn set(&self, fault: &Fault) {
        for left in ["stopped", "release"] {
            drop(fs::remove_file(self.file(left)));
        }
        if let Fault::Says(words) = fault {
            fs::write(self.file("words"), words).unwrap();
        }
        fs::write(self.file("fault"), format!("{}\n", fault.line())).unwrap();
    }

    /// Whether a dump stands still.
    pub(crate) fn is_stopped(&self) -> bool {
        self.file("stopped").exists()
    }

    /// Waits until a dump stands still.
    pub(crate) fn wait_stopped(&self) {
        eventually("a dump that stands still", PATIENCE, || self.is_stopped().then_some(()));
    }

    /// Lets dumps that stand still go on.
    pub(crate) fn release(&self) {
        fs::write(self.file("release"), "").unwrap();
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.release();
    }
}
