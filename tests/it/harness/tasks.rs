//! How many threads and programs there may be: a control group of the kernel's, as `TasksMax=` of a unit makes one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::process::command;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A group, empty at first. It goes when it is dropped, after what is in it.
#[derive(Debug)]
pub(crate) struct Tasks(PathBuf);

impl Tasks {
    /// One without a limit; none where the test is to be skipped, which it has said then.
    pub(crate) fn new() -> Option<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgkeep-test-{}-{number}", std::process::id());
        // Of the first version of control groups, and of the second.
        for root in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_ok() {
                if group.join("pids.max").exists() {
                    return Some(Self(group));
                }
                fs::remove_dir(&group).unwrap();
            }
        }
        eprintln!(
            "SKIPPED: no control group that counts processes can be made here (it takes root)"
        );
        None
    }

    /// It may have so many; none: as many as it likes.
    pub(crate) fn limit(&self, most: Option<usize>) {
        let most = most.map_or_else(|| "max".to_owned(), |most| most.to_string());
        fs::write(self.0.join("pids.max"), most).unwrap();
    }

    /// How many it has.
    pub(crate) fn count(&self) -> usize {
        let count = fs::read_to_string(self.0.join("pids.current")).unwrap();
        count.trim().parse().unwrap()
    }

    /// Takes a process with all of its threads.
    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// A command that runs in it from the start.
    pub(crate) fn within(&self, inner: &Command) -> Command {
        let mut outer = command("sh");
        outer.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        outer.arg(inner.get_program()).args(inner.get_args());
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // What was in it may be about to go.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
