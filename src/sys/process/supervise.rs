//! The thread that spawns a child, watches it and reaps it.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, kill_process_group, setpriority_process, waitid,
    },
};
use tokio::sync::{oneshot, watch};

use super::{
    Child, ChildRecord, End, Exit, STDERR_LIMIT, Spec, Stdout,
    tail::{Drain, Kept},
};

/// What a stdout pipe is asked to hold; Linux's limit for the unprivileged (`fs.pipe-max-size`).
const PIPE_SIZE: usize = 1024 * 1024;

/// The group of a child, signalled only while its id is certainly its own.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) pid: Pid,
    reaped: Mutex<bool>,
}

impl Group {
    pub(super) fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            // A group whose members have all ended has nobody to signal.
            kill_process_group(self.pid, signal).ok();
        }
    }

    /// Waits for the leader, kills what is left of its group, and reaps it. Blocks.
    fn wait(&self, process: &mut std::process::Child) -> End {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(self.pid), options), Err(Errno::INTR)) {}
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        kill_process_group(self.pid, Signal::KILL).ok();
        let status = process.wait();
        *reaped = true;
        status.map_or(End::Unknown, End::from)
    }
}

pub(super) type Started = oneshot::Sender<std::io::Result<Child>>;

/// The life of a child, on a thread of its own.
pub(super) fn supervise(spec: &Spec, stdout: Stdout, started: Started) {
    if spec.nice != 0
        && let Err(error) = setpriority_process(None, spec.nice)
    {
        // On Linux this is the thread's own value; the child inherits it.
        tracing::warn!(nice = spec.nice, %error, "cannot lower the priority of a program");
    }
    let (mut process, group) = match start(spec, stdout) {
        Ok(started) => started,
        Err(error) => return drop(started.send(Err(error))),
    };
    let record = record_child(spec, group.pid);
    let pipes = Pipes::take(&mut process, stdout);
    let (sender, exit) = watch::channel(None);
    let (pipes, file) = match pipes {
        Ok(pipes) => pipes,
        Err(error) => {
            group.signal(Signal::KILL);
            group.wait(&mut process);
            forget(record);
            return drop(started.send(Err(error)));
        }
    };
    // A caller that has gone away gives the child back: dropping it kills the group.
    drop(started.send(Ok(Child { group: Arc::clone(&group), exit, stdout: file })));
    let end = group.wait(&mut process);
    forget(record);
    sender.send_replace(Some(Arc::new(pipes.into_exit(end))));
}

#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
fn start(spec: &Spec, stdout: Stdout) -> std::io::Result<(std::process::Child, Arc<Group>)> {
    // `Command` goes out of scope here: it would keep the ends of pipes that it was given.
    let mut process = spec.command(stdout)?.spawn()?;
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        return Ok((process, Arc::new(Group { pid, reaped: Mutex::new(false) })));
    }
    process.kill().and_then(|()| process.wait()).ok();
    Err(std::io::Error::other("the process has no usable id"))
}

fn record_child(spec: &Spec, pid: Pid) -> Option<PathBuf> {
    let dir = spec.record_in.as_deref()?;
    // A child that ended at once has no record, and needs none.
    let record = ChildRecord::of(pid, &spec.program)?;
    match record.write(dir) {
        Ok(path) => Some(path),
        Err(error) => {
            let error = crate::domain::failure::chain(&error);
            tracing::warn!(error, "cannot record a program; a crash would leave it running");
            None
        }
    }
}

fn forget(record: Option<PathBuf>) {
    if let Some(path) = record
        && let Err(error) = fs::remove_file(&path)
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the record of a program");
    }
}

/// The reading ends of a child's output.
struct Pipes {
    stderr: Option<Drain>,
    stdout: Option<Drain>,
}

impl Pipes {
    fn take(
        process: &mut std::process::Child,
        mode: Stdout,
    ) -> std::io::Result<(Self, Option<File>)> {
        let stderr = process.stderr.take();
        let stderr =
            stderr.map(|pipe| Drain::start(pipe, Kept::with_limit(STDERR_LIMIT), "stderr"));
        let mut pipes = Self { stderr: stderr.transpose()?, stdout: None };
        let mut file = None;
        match (mode, process.stdout.take()) {
            (Stdout::Pipe, Some(pipe)) => {
                // A bigger pipe saves switches; the default works as well.
                rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE).ok();
                file = Some(File::from(OwnedFd::from(pipe)));
            }
            (Stdout::Capture(limit), Some(pipe)) => {
                pipes.stdout = Some(Drain::start(pipe, Kept::first(limit), "stdout")?);
            }
            _ => {}
        }
        Ok((pipes, file))
    }

    fn into_exit(self, end: End) -> Exit {
        let (stderr, stderr_left_out) =
            self.stderr.map(|drain| drain.finish(Kept::take_text)).unwrap_or_default();
        let (stdout, _, stdout_left_out) =
            self.stdout.map(|drain| drain.finish(Kept::take)).unwrap_or_default();
        Exit { end, stderr, stderr_left_out, stdout, stdout_left_out }
    }
}
