//! Children that outlive a crash of pgkeep, and how the next start ends them.
//!
//! `PR_SET_PDEATHSIG` is not used: it follows the thread that spawned the child, not the process,
//! and kills children when that thread ends. Instead each group leader is recorded in a folder of
//! the state directory, with its start time and the boot's id, and the record goes when the child
//! is reaped. A process id that another program has got since is never signalled: its start time
//! differs. A group whose leader is gone is left alone; systemd's `KillMode=control-group` has it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::sys::files::{self, FileError, read_limited, set_aside};

/// A record is far smaller, in bytes.
const RECORD_MAX: u64 = 64 * 1024;
/// How often a group is looked at while it ends: it is not our child, nobody tells us.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One group of processes, as recorded for the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRecord {
    /// The group's id, which is its leader's process id.
    pub pgid: i32,
    /// Field 22 of `/proc/PID/stat` (proc(5)): clock ticks between boot and the leader's start.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`: start times of another boot mean nothing.
    pub boot_id: String,
    pub program: String,
}

impl ChildRecord {
    /// Describes a running group leader; `None` where `/proc` does not tell.
    pub(super) fn of(leader: Pid, program: &Path) -> Option<Self> {
        let pgid = leader.as_raw_nonzero().get();
        let start_time = Leader::look(pgid)?.start_time;
        let program = program.display().to_string();
        Some(Self { pgid, start_time, boot_id: boot_id()?, program })
    }

    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.json", self.pgid))
    }

    /// Writes the record. After a crash of the machine it means nothing.
    pub(super) fn write(&self, dir: &Path) -> Result<PathBuf, FileError> {
        files::create_private_dir_all(dir)?;
        let path = self.path(dir);
        let bytes = serde_json::to_vec(self)
            .map_err(std::io::Error::other)
            .map_err(FileError::at("write", &path))?;
        files::replace(&path, &bytes)?;
        Ok(path)
    }

    fn pid(&self) -> Option<Pid> {
        // Group 0 would be our own, and 1 is init's.
        Pid::from_raw(self.pgid).filter(|_| self.pgid > 1)
    }

    /// Whether the recorded leader still runs.
    pub fn is_alive(&self) -> bool {
        boot_id().is_some_and(|now| now == self.boot_id)
            && Leader::look(self.pgid).is_some_and(|leader| {
                leader.start_time == self.start_time && leader.pgrp == self.pgid && !leader.zombie
            })
    }

    /// Ends the group: SIGTERM, SIGKILL after `grace`. Says whether the leader is gone. Blocks.
    fn end(&self, grace: Duration) -> bool {
        let Some(pid) = self.pid() else { return true };
        for signal in [Signal::TERM, Signal::KILL] {
            if !self.is_alive() {
                return true;
            }
            // It may have ended since we looked.
            kill_process_group(pid, signal).ok();
            let looks = grace.as_millis() / LOOK_AGAIN.as_millis() + 1;
            for _ in 0..looks {
                if !self.is_alive() {
                    break;
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        // Members that ignored SIGTERM after their leader ended are not in reach any more.
        !self.is_alive()
    }
}

/// What `/proc/PID/stat` says of a group leader.
struct Leader {
    zombie: bool,
    pgrp: i32,
    start_time: u64,
}

impl Leader {
    fn look(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): field 2 is the name in parentheses and may contain anything.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        let pgrp = fields.nth(1)?.parse().ok()?;
        let start_time = fields.nth(16)?.parse().ok()?;
        Some(Self { zombie: matches!(state, "Z" | "X"), pgrp, start_time })
    }
}

fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned())
}

/// Ends what an earlier process recorded in `dir` and left running, and empties the folder. Gives
/// the groups that were still alive. Blocks up to twice `grace` for each: call it at start, under
/// the lock of the state directory.
pub fn reap_leftovers(dir: &Path, grace: Duration) -> Result<Vec<ChildRecord>, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("list", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(FileError::at("list", dir))?.path();
        let record = read_limited(&path, RECORD_MAX)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<ChildRecord>(&bytes).ok());
        if let Some(record) = record
            && record.is_alive()
        {
            if !record.end(grace) {
                tracing::error!(
                    pgid = record.pgid,
                    program = record.program,
                    "a program of an earlier run does not end; its record is kept"
                );
                found.push(record);
                continue;
            }
            found.push(record);
        }
        match fs::remove_file(&path) {
            // Not ours, and it keeps nothing from starting.
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
                let aside = set_aside(&path)?;
                let (path, aside) = (path.display(), aside.display());
                tracing::warn!(%path, %aside, "a folder lay among the records of programs");
            }
            removed => removed.map_err(FileError::at("remove", &path))?,
        }
    }
    Ok(found)
}
