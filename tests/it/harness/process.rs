//! Programs that the tests start: without the environment of whoever runs the tests, and never
//! waited for without a limit.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::wait::{PATIENCE, eventually};

/// What a program did.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// The exit code; `128 + signal` where a signal ended it, as shells have it.
    pub(crate) code: i32,
    /// All of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// All of its standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Itself, where the exit code is `code`; a panic with all that it said otherwise.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.text(),
            self.stderr
        );
        self
    }
}

/// A command that inherits nothing which could lead it to the tester's own servers and buckets.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let foreign = |name: &str| {
        ["PG", "AWS_", "PGKEEP_", "LC_"].iter().any(|prefix| name.starts_with(prefix))
            || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LANG", "LANGUAGE"]
                .contains(&name)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_none_or(foreign) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// Starts a command; `spawn` is what the lints keep for the program's own supervisor.
#[expect(clippy::disallowed_methods, reason = "the supervisor under test starts none of these")]
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Exit code of a status; `128 + signal` where a signal ended it.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits for a child with a limit; it is killed and the test fails where it does not end.
pub(crate) fn wait_for(child: &mut Child, what: &str, limit: Duration) -> ExitStatus {
    struct Reaper<'a>(&'a mut Child);
    impl Drop for Reaper<'_> {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let reaper = Reaper(child);
    eventually(what, limit, || reaper.0.try_wait().unwrap())
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    run_within(command, input, PATIENCE)
}

/// As [`run`], with a limit. Everything goes through files: no pipe can fill up.
pub(crate) fn run_within(command: &mut Command, input: &str, limit: Duration) -> Output {
    run_seen(command, input, limit, |_| {})
}

fn run_seen(
    command: &mut Command,
    input: &str,
    limit: Duration,
    seen: impl FnOnce(&Child),
) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let (stdin, stdout, stderr) =
        (dir.path().join("in"), dir.path().join("out"), dir.path().join("err"));
    fs::File::create(&stdin).unwrap().write_all(input.as_bytes()).unwrap();
    command
        .stdin(fs::File::open(&stdin).unwrap())
        .stdout(fs::File::create(&stdout).unwrap())
        .stderr(fs::File::create(&stderr).unwrap());
    let what = format!("the end of {command:?}");
    let mut child = spawn(command);
    seen(&child);
    let status = wait_for(&mut child, &what, limit);
    Output {
        code: code_of(status),
        stdout: fs::read(&stdout).unwrap(),
        stderr: String::from_utf8_lossy(&fs::read(&stderr).unwrap()).into_owned(),
    }
}

/// As [`run_within`], and the most memory that it had at once, in KiB, as far as looking at it every
/// few milliseconds shows.
pub(crate) fn run_measured(command: &mut Command, limit: Duration) -> (Output, u64) {
    let (stop, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Mutex::new(None::<u32>);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let pid = *started.lock().unwrap();
                if let Some(kib) = pid.and_then(peak_kib) {
                    peak.fetch_max(kib, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let output =
            run_seen(command, "", limit, |child| *started.lock().unwrap() = Some(child.id()));
        stop.store(true, Ordering::Relaxed);
        output
    });
    (output, peak.load(Ordering::Relaxed))
}

/// The most memory that a process had at once since its start, in KiB.
pub(crate) fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a command that has to succeed; its standard output.
#[track_caller]
pub(crate) fn must(command: &mut Command) -> String {
    run(command.stdin(Stdio::null()), "").expect_code(0).text()
}
