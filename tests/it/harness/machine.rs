//! A machine that systemd has booted, for the long tests: Debian of this release in a container of
//! systemd-nspawn, with PostgreSQL, from the root that `tests/run.sh --long` makes in `target/systemd`.
//!
//! What is written there is gone with the machine: its root is an overlay. It has a network of its
//! own without a way out. What can still go wrong: limits of cgroups may have no effect in a container.

use std::{
    fs,
    path::Path,
    process::Child,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    long_tests,
    process::{Output, command, run_within, spawn, wait_for},
    wait::eventually,
};

/// A boot takes seconds; a busy machine makes a minute of it.
const BOOT: Duration = Duration::from_mins(3);
/// Longer than any script of a test takes.
const SCRIPT: Duration = Duration::from_mins(3);

/// Machines of this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A machine that is up.
#[derive(Debug)]
pub(crate) struct Machine {
    nspawn: Child,
}

impl Machine {
    /// Boots one, in a long test; none where the test is to be skipped, which it has said then. The
    /// repository lies at `/src`, the program at `/opt/pgkeep`.
    pub(crate) fn boot() -> Option<Self> {
        if !long_tests() {
            return None;
        }
        let source = env!("CARGO_MANIFEST_DIR");
        let root = Path::new(source).join("target/systemd/root");
        if !root.join("etc/os-release").exists() {
            eprintln!(
                "SKIPPED: no {}; `sh tests/run.sh --long` makes it, as root on Debian",
                root.display()
            );
            return None;
        }
        let mut nspawn = command("systemd-nspawn");
        nspawn.args([
            "--boot",
            "--volatile=overlay",
            "--register=no",
            "--keep-unit",
            "--private-network",
        ]);
        nspawn.args(["--console=pipe", "--quiet", "--directory"]).arg(&root);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        nspawn.arg(format!("--machine=pgkeep-test-{}-{number}", std::process::id()));
        nspawn.arg(format!("--bind-ro={source}:/src"));
        nspawn.arg(format!("--bind-ro={}:/opt/pgkeep", env!("CARGO_BIN_EXE_pgkeep")));
        nspawn.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut machine = Self { nspawn: spawn(&mut nspawn) };
        eventually("the end of the boot", BOOT, || {
            assert!(machine.nspawn.try_wait().unwrap().is_none(), "systemd-nspawn ended");
            machine.init()?;
            let units =
                "multi-user.target \"$(ls /etc/postgresql | sed 's/.*/postgresql@&-main/')\"";
            let up = machine.sh(&format!("systemctl is-active --quiet {units}")).code == 0;
            up.then_some(())
        });
        Some(machine)
    }

    /// The machine's first process. Until it is there, another one of systemd-nspawn is in its place.
    fn init(&self) -> Option<String> {
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        Some(fs::read_to_string(&children).ok()?.split_whitespace().next()?.to_owned())
    }

    /// Runs a script as root, outside of every unit.
    pub(crate) fn sh(&self, script: &str) -> Output {
        let init = self.init().expect("the machine is up");
        let mut enter = command("nsenter");
        enter.args(["-m", "-u", "-i", "-n", "-p", "-C", "-t", &init, "--"]);
        enter.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LANG=C.UTF-8",
        ]);
        run_within(enter.args(["sh", "-ec", script]), "", SCRIPT)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It shuts the machine down; SIGKILL would leave it running.
        if let Some(pid) = i32::try_from(self.nspawn.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).ok();
        }
        if std::thread::panicking() {
            drop(self.nspawn.wait());
        } else {
            wait_for(&mut self.nspawn, "the end of the machine", BOOT);
        }
    }
}
