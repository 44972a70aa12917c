//! Folders of programs in which pg_dump misbehaves, for `bin_dir`. All others are the real ones.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::wait::{PATIENCE, eventually};

const FAKE_PG_DUMP: &str = include_str!("../../tools/fake_pg_dump.sh");

/// How pg_dump misbehaves. `--version` answers as the real one does, but for [`Fake::TooOld`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fake {
    /// Exit 0, not a byte.
    Silent,
    /// Exit 0 after the first half.
    Truncated,
    /// Exit 1 after everything.
    FailsAfterAll,
    /// Exit 1 with a message, not a byte.
    FailsAtOnce,
    /// As [`Fake::FailsAtOnce`] the first time, the real one from then on.
    FailsOnce,
    /// Killed after the first half.
    Killed,
    /// Stops after the first half until [`FakeBin::release`]: a dump in progress, or one that
    /// hangs for ever. Ends at TERM.
    Gated,
    /// As [`Fake::Gated`], but takes no TERM.
    Deaf,
    /// The real pg_dump, connected and in the middle of its work, is not read from after the first
    /// 64 KiB until [`FakeBin::release`].
    Midway,
    /// Not a byte until [`FakeBin::release`], then the real one: as if it were reading a large
    /// catalogue.
    Late,
    /// The real dump, then 20 MB on standard error.
    FloodsStderr,
    /// Says that it is version 9.6.
    TooOld,
    /// There is no pg_dump in the folder.
    Missing,
}

impl Fake {
    const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Truncated => "truncated",
            Self::FailsAfterAll => "fails-after-all",
            Self::FailsAtOnce => "fails-at-once",
            Self::FailsOnce => "fails-once",
            Self::Killed => "killed",
            Self::Gated => "gated",
            Self::Deaf => "deaf",
            Self::Midway => "midway",
            Self::Late => "late",
            Self::FloodsStderr => "floods-stderr",
            Self::TooOld => "too-old",
            Self::Missing => "missing",
        }
    }
}

/// Such a folder; gone when dropped, which also lets a stopped dump go on.
#[derive(Debug)]
pub(crate) struct FakeBin {
    folder: TempDir,
}

/// Makes such a folder beside the real programs of `real_bin_dir`.
pub(crate) fn fake_bin_dir(kind: Fake, real_bin_dir: &Path) -> FakeBin {
    let folder = tempfile::Builder::new().prefix("pgk-bin.").tempdir().unwrap();
    let path = folder.path();
    for entry in fs::read_dir(real_bin_dir).unwrap().flatten() {
        if entry.file_name() != "pg_dump" {
            symlink(entry.path(), path.join(entry.file_name())).unwrap();
        }
    }
    fs::write(path.join("kind"), format!("{}\n", kind.name())).unwrap();
    fs::write(path.join("real"), format!("{}\n", real_bin_dir.display())).unwrap();
    if kind != Fake::Missing {
        let program = path.join("pg_dump");
        fs::write(&program, FAKE_PG_DUMP).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    FakeBin { folder }
}

impl FakeBin {
    /// The folder, for `bin_dir`.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// How many dumps were asked for.
    pub(crate) fn starts(&self) -> usize {
        let text = fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default();
        text.lines().count()
    }

    /// Process ids of the dumps that were asked for, in their order.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.path().join("starts")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits until a dump has written its first half and stands still.
    pub(crate) fn wait_stopped(&self) {
        let mark = self.folder.path().join("stopped");
        eventually("a dump that stands in the middle", PATIENCE, || mark.exists().then_some(()));
    }

    /// Lets every dump that stands still go on, and all later ones through.
    pub(crate) fn release(&self) {
        fs::write(self.folder.path().join("release"), "").unwrap();
    }
}

impl Drop for FakeBin {
    fn drop(&mut self) {
        self.release();
    }
}
