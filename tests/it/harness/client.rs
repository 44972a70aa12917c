//! Commands that run in the background, while the test does something to them or beside them.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    pgkeep::Pgkeep,
    process::{Output, code_of, spawn, wait_for},
    wait::PATIENCE,
};

/// A command under way. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    folder: TempDir,
}

impl Client {
    /// Starts `pgkeep ARGS`.
    pub(crate) fn start(home: &Pgkeep, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut command: Command = home.command(args);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: spawn(&mut command), folder }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its standard error so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("err")).unwrap()).into_owned()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Output {
        let code = code_of(wait_for(&mut self.child, "the end of a command", PATIENCE));
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let stderr = String::from_utf8_lossy(&read("err")).into_owned();
        Output { code, stdout: read("out"), stderr }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
