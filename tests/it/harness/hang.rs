//! A filesystem that hangs, as a network filesystem does whose server has gone: calls below a folder do not come
//! back for as long as it does. `tests/tools/hang.c`, before the C library of pgkeep alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    pgkeep::Pgkeep,
    process::{command, must},
    wait::{PATIENCE, eventually},
};

/// Where it hangs, when it does.
#[derive(Debug)]
pub(crate) struct Hang {
    /// It hangs while this is there.
    flag: PathBuf,
    _folder: TempDir,
}

impl Hang {
    /// A home whose pgkeep will find `functions` (`open,stat,mkdir,unlink`) hanging below `below`.
    pub(crate) fn prepare(home: Pgkeep, below: &Path, functions: &str) -> (Self, Pgkeep) {
        let folder = tempfile::tempdir().unwrap();
        let (library, flag) = (folder.path().join("hang.so"), folder.path().join("flag"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/hang.c");
        let mut cc: Command = command("cc");
        must(cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let home = home
            .env("LD_PRELOAD", &text(&library))
            .env("PGKEEP_TEST_HANG", &text(below))
            .env("PGKEEP_TEST_HANG_WHILE", &text(&flag))
            .env("PGKEEP_TEST_HANG_IN", functions);
        (Self { flag, _folder: folder }, home)
    }

    /// From now on.
    pub(crate) fn begin(&self) {
        fs::write(&self.flag, "").unwrap();
    }

    /// Waits until a call hangs.
    pub(crate) fn wait_hung(&self) {
        let hung = self.flag.with_added_extension("hung");
        eventually("a call that hangs", PATIENCE, || hung.exists().then_some(()));
    }

    /// It answers again.
    pub(crate) fn end(&self) {
        drop(fs::remove_file(&self.flag));
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        self.end();
    }
}
