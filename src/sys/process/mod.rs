//! Supervised child processes.
//!
//! Every child leads a process group of its own, so that it can be ended together with whatever it
//! started, and so that Ctrl-C reaches pgkeep first. A thread of its own spawns it, waits for it
//! and reaps it: no async worker blocks, no zombie stays, and the priority that the thread has
//! taken is the child's from its first instruction. The environment is cleared; stdin is null, or a
//! few bytes in memory, so that nobody waits for a child that does not read them; stderr is drained all the time into bounded memory. When the leader ends, the rest of its group
//! is killed before the leader is reaped: until then the group's id cannot be another's.
//!
//! I/O priority: Linux derives it from the nice value while none is set (ioprio_set(2): nice 19 is
//! the lowest best-effort level), so that `nice` covers both.
//!
//! What can still go wrong: a process that leaves the group (setsid) is out of reach, and one in
//! uninterruptible sleep ends when the kernel lets it.

mod record;
mod run;
mod settings;
mod supervise;
mod tail;

use std::{
    ffi::OsString,
    fmt,
    fs::{File, Permissions},
    io::{ErrorKind, Seek as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    process::Signal,
};
use secrecy::{ExposeSecret as _, SecretSlice};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::failure::NO_THREAD;

pub use record::{ChildRecord, reap_leftovers};
pub use run::{RunError, run_captured};
pub use settings::ChildSettings;
use supervise::{Group, supervise};

/// What is kept of a child's stderr, in bytes.
pub const STDERR_LIMIT: usize = 64 * 1024;
/// Where programs are looked for when our own environment does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    pub program: PathBuf,
    /// Its arguments, without its name. Never a secret: everybody can read them.
    pub args: Vec<OsString>,
    /// Its environment, besides `PATH`, `HOME`, `TZ` (ours) and `LC_MESSAGES=C`. Nothing else of
    /// our environment reaches it.
    pub env: Vec<(OsString, OsString)>,
    /// What it can read from its standard input; nothing where it is empty. It lies in memory, has no
    /// name that another program could open, and cannot be changed: fit for a secret.
    pub stdin: SecretSlice<u8>,
    /// Nice value, 0 to 19.
    pub nice: i32,
    /// The folder where it is recorded while it runs, for [`reap_leftovers`].
    pub record_in: Option<PathBuf>,
}

impl Spec {
    /// A program without arguments, at our own priority, not recorded.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let (args, env, stdin) = (Vec::new(), Vec::new(), Vec::new().into());
        Self { program: program.into(), args, env, stdin, nice: 0, record_in: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds variables.
    #[must_use]
    pub fn envs<K, V>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        self.env.extend(vars.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    fn command(&self, stdout: Stdout) -> std::io::Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().env("LC_MESSAGES", "C");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
        for name in ["HOME", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.process_group(0).stdin(self.stdin()?).stderr(Stdio::piped());
        command.stdout(match stdout {
            Stdout::Null => Stdio::null(),
            Stdout::Pipe | Stdout::Capture(_) => Stdio::piped(),
        });
        Ok(command)
    }

    fn stdin(&self) -> std::io::Result<Stdio> {
        let bytes = self.stdin.expose_secret();
        if bytes.is_empty() {
            return Ok(Stdio::null());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("stdin", flags)?);
        // As a file it can be opened through /proc: by our own user alone.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.rewind()?;
        fcntl_add_seals(
            &file,
            SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK,
        )?;
        Ok(file.into())
    }
}

/// Where a child's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// To the caller, as a file to read from ([`Child::take_stdout`]).
    Pipe,
    Null,
    /// Into [`Exit::stdout`], the first so many bytes; the rest is read and counted.
    Capture(usize),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
    /// It is gone, but how cannot be said.
    Unknown,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(number) => write!(f, "was killed by signal {number}"),
            Self::Unknown => f.write_str("ended in a way that is not known"),
        }
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// A process that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub end: End,
    /// What it wrote to stderr: beginning and end, at most [`STDERR_LIMIT`] bytes and a line that
    /// says how much is missing.
    pub stderr: String,
    pub stderr_left_out: u64,
    pub stdout: Vec<u8>,
    /// Bytes of stdout beyond the limit of the capture.
    pub stdout_left_out: u64,
}

impl Exit {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.end == End::Code(0)
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {}", program.display())]
pub struct SpawnError {
    pub program: PathBuf,
    #[source]
    pub source: std::io::Error,
}

/// A running child. Dropping it kills its group; the thread that watches it reaps it.
#[derive(Debug)]
pub struct Child {
    group: Arc<Group>,
    exit: watch::Receiver<Option<Arc<Exit>>>,
    stdout: Option<File>,
}

/// What [`Child::wait_or_cancel`] saw.
#[derive(Debug, Clone)]
pub enum Waited {
    Ended(Arc<Exit>),
    Cancelled(Arc<Exit>),
}

impl Child {
    /// Starts a child. If the returned future is dropped before it is ready, the child is killed.
    pub async fn spawn(spec: Spec, stdout: Stdout) -> Result<Self, SpawnError> {
        let error = |source| SpawnError { program: spec.program.clone(), source: scarce(source) };
        let (started, starting) = oneshot::channel();
        let program = spec.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let watched = spec.clone();
        thread::Builder::new()
            .name(program)
            .spawn(move || supervise(&watched, stdout, started))
            .map_err(error)?;
        let gone = |_| Err(std::io::Error::other("the thread that starts programs has ended"));
        starting.await.unwrap_or_else(gone).map_err(error)
    }

    /// The process id, which is the id of its group.
    pub fn pid(&self) -> i32 {
        self.group.pid.as_raw_nonzero().get()
    }

    /// The reading end of its standard output, once, where [`Stdout::Pipe`] was asked for. Nobody
    /// but the child's group holds the writing end: its end is the end of the file.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.stdout.take()
    }

    /// Waits until it has ended and is reaped. May be called again.
    pub async fn wait(&mut self) -> Arc<Exit> {
        let ended = self.exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or_else(|| {
            Arc::new(Exit {
                end: End::Unknown,
                stderr: String::new(),
                stderr_left_out: 0,
                stdout: Vec::new(),
                stdout_left_out: 0,
            })
        })
    }

    /// Ends it: SIGTERM to the group (pg_dump then cancels its query on the server), SIGKILL after
    /// `grace`; waits in either case.
    pub async fn terminate(&mut self, grace: Duration) -> Arc<Exit> {
        self.group.signal(Signal::TERM);
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        self.group.signal(Signal::KILL);
        self.wait().await
    }

    /// Waits until it has ended, or ends it when `cancel` is cancelled.
    pub async fn wait_or_cancel(&mut self, cancel: &CancellationToken, grace: Duration) -> Waited {
        let ended = tokio::select! {
            biased;
            exit = self.wait() => Some(exit),
            () = cancel.cancelled() => None,
        };
        match ended {
            Some(exit) => Waited::Ended(exit),
            None => Waited::Cancelled(self.terminate(grace).await),
        }
    }
}

/// Says of an error that it is the limit of threads and processes: the system only says "try again".
pub fn scarce(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => std::io::Error::other(format!("{NO_THREAD}: {error}")),
        _ => error,
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests;
