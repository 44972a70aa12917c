//! The real binary: a home with its configuration, commands that run to their end, and the daemon
//! as a child process.
//!
//! The daemon listens on port 0 and writes the address that it got into
//! `<runtime_dir>/http.addr`; it is ready when `/readyz` answers 200.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

use super::{
    http::{self, Metrics},
    postgres::{Cluster, KEEPER, SUPERUSER},
    process::{Output, code_of, command, run_within, spawn, wait_for},
    wait::{PATIENCE, eventually},
};

/// Longer than any command of a test takes on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_mins(2);

/// A home of pgkeep. What the builder methods add is written at once; [`Pgkeep::rewrite`] changes
/// it under a running daemon.
#[derive(Debug)]
pub(crate) struct Pgkeep {
    home: TempDir,
    config: String,
    env: Vec<(String, String)>,
    daemons: AtomicU32,
}

/// `"text"` as TOML writes it: JSON's strings are basic strings of TOML.
pub(crate) fn quote(text: impl AsRef<str>) -> String {
    serde_json::to_string(text.as_ref()).unwrap()
}

/// `["a", "b"]` as TOML writes it.
fn list(items: &[&str]) -> String {
    let items: Vec<String> = items.iter().map(quote).collect();
    format!("[{}]", items.join(", "))
}

impl Pgkeep {
    /// A home with a `[daemon]` section: state, runtime folder and a free port.
    pub(crate) fn new() -> Self {
        Self::with_daemon("")
    }

    /// As [`Pgkeep::new`], with more lines in the `[daemon]` section.
    pub(crate) fn with_daemon(lines: &str) -> Self {
        // Short: the control socket lies below, and its path may have 107 bytes.
        let home = tempfile::Builder::new().prefix("pgk.").tempdir_in("/tmp").unwrap();
        let mut new =
            Self { home, config: String::new(), env: Vec::new(), daemons: AtomicU32::new(0) };
        for dir in [new.state_dir(), new.runtime_dir()] {
            fs::create_dir(dir).unwrap();
        }
        new.config = format!(
            "[daemon]\nstate_dir = {}\nruntime_dir = {}\nlisten = \"127.0.0.1:0\"\n{lines}\n",
            quote(new.state_dir().to_string_lossy()),
            quote(new.runtime_dir().to_string_lossy()),
        );
        new.rewrite(&new.config);
        new
    }

    /// What waits for the limits that no option changes waits a fifth of the time (`sys::time_limits`).
    pub(crate) fn hasty(self) -> Self {
        self.env("PGKEEP_TEST_HASTE", "5")
    }

    /// Adds a section, as it stands in a file.
    pub(crate) fn toml(mut self, section: &str) -> Self {
        write!(self.config, "\n{section}\n").unwrap();
        self.rewrite(&self.config);
        self
    }

    /// Adds `[server.NAME]` for a cluster, through its socket, as the role of packaging/sql; with more
    /// lines. Before PostgreSQL 17 VACUUM and REINDEX of what others own take a superuser.
    pub(crate) fn server_with(self, name: &str, cluster: &Cluster, lines: &str) -> Self {
        let host = quote(cluster.socket_dir().to_string_lossy());
        let port = cluster.port();
        let mut lines = lines.to_owned();
        if !lines.contains("maintenance_user") {
            write!(lines, "\nmaintenance_user = \"{SUPERUSER}\"").unwrap();
        }
        self.toml(&format!(
            "[server.{name}]\nhost = {host}\nport = {port}\nuser = \"{KEEPER}\"\n{lines}"
        ))
    }

    /// Adds `[server.NAME]` with the programs of the cluster's own version.
    pub(crate) fn server(self, name: &str, cluster: &Cluster) -> Self {
        let bin_dir = quote(cluster.bin_dir().to_string_lossy());
        self.server_with(name, cluster, &format!("bin_dir = {bin_dir}"))
    }

    /// Adds a local repository in [`Pgkeep::repository_dir`], an empty folder; with more lines.
    pub(crate) fn local_with(self, name: &str, lines: &str) -> Self {
        fs::create_dir_all(self.repository_dir(name)).unwrap();
        let path = quote(self.repository_dir(name).to_string_lossy());
        self.toml(&format!("[repository.{name}]\nkind = \"local\"\npath = {path}\n{lines}"))
    }

    /// Adds a local repository that does not care how full the disk is.
    pub(crate) fn local(self, name: &str) -> Self {
        self.local_with(name, "min_free = \"1MiB\"")
    }

    /// Adds an S3 repository of path style; with more lines (`prefix`, limits).
    pub(crate) fn s3_with(
        self,
        name: &str,
        endpoint: &str,
        bucket: &str,
        (access_key, secret_key): (&str, &str),
        lines: &str,
    ) -> Self {
        let secret_file = self.home().join(format!("{name}.secret"));
        write_private(&secret_file, secret_key);
        self.toml(&format!(
            "[repository.{name}]\nkind = \"s3\"\nendpoint = {}\nbucket = {}\n\
             region = \"us-east-1\"\npath_style = true\naccess_key_id = {}\n\
             secret_access_key_file = {}\n{lines}",
            quote(endpoint),
            quote(bucket),
            quote(access_key),
            quote(secret_file.to_string_lossy()),
        ))
    }

    /// Adds a `dump` job that nothing starts but a test (its only time is a 29 February); with
    /// more lines.
    pub(crate) fn dump(
        self,
        name: &str,
        server: &str,
        databases: &[&str],
        repositories: &[&str],
        lines: &str,
    ) -> Self {
        let (databases, repositories) = (list(databases), list(repositories));
        self.toml(&format!(
            "[job.{name}]\nkind = \"dump\"\nserver = \"{server}\"\ndatabases = {databases}\n\
             schedule = \"0 0 29 2 *\"\nrepositories = {repositories}\n{lines}"
        ))
    }

    /// Sets a variable for everything that is started from now on.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where everything lies.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `state_dir` of the configuration.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.home().join("state")
    }

    /// `runtime_dir` of the configuration.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.home().join("run")
    }

    /// The folder of a local repository.
    pub(crate) fn repository_dir(&self, name: &str) -> PathBuf {
        self.home().join("repository").join(name)
    }

    /// The configuration's file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.home().join("pgkeep.toml")
    }

    /// The configuration as the builder made it.
    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// Puts another text in the configuration's file, whole at once.
    #[expect(clippy::disallowed_methods, reason = "nothing here has to survive a crash")]
    pub(crate) fn rewrite(&self, text: &str) {
        let new = self.home().join("pgkeep.toml.new");
        write_private(&new, text);
        fs::rename(new, self.config_path()).unwrap();
    }

    /// Runs a command to its end: `run(&["run", "nightly"])`.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run_within(&mut self.command(args), "", COMMAND_LIMIT)
    }

    /// The binary with `--config`, for those that want to start it in their own way.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_pgkeep"));
        command.env("HOME", self.home()).envs(self.env.iter().map(|(k, v)| (k, v)));
        command.args(args).arg("--config").arg(self.config_path());
        command
    }

    /// Starts the daemon; see [`Daemon::wait_ready`].
    pub(crate) fn daemon(&self) -> Daemon {
        let number = self.daemons.fetch_add(1, Ordering::Relaxed);
        let log_path = self.home().join(format!("daemon-{number}.log"));
        let log = fs::File::create(&log_path).unwrap();
        let address_path = self.runtime_dir().join("http.addr");
        // What an earlier daemon left behind after kill -9 is not this one's address.
        drop(fs::remove_file(&address_path));
        let mut command = self.command(&["daemon"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Signals of a test go to the daemon alone, as systemd's do.
        command.process_group(0);
        Daemon { child: spawn(&mut command), log_path, address_path, ended: None }
    }

    /// Starts the daemon and waits until it is ready.
    #[track_caller]
    pub(crate) fn ready_daemon(&self) -> Daemon {
        let mut daemon = self.daemon();
        daemon.wait_ready();
        daemon
    }
}

fn write_private(path: &Path, text: &str) {
    let mut options = fs::File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A daemon. Killed when dropped; its log is printed where the test fails.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log_path: PathBuf,
    address_path: PathBuf,
    ended: Option<i32>,
}

impl Daemon {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its descriptors, by their numbers: what each leads to.
    pub(crate) fn descriptors(&self) -> BTreeMap<usize, PathBuf> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let each = entries.filter_map(|entry| {
            let path = entry.unwrap().path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            // One that was just closed leads nowhere.
            Some((number, fs::read_link(&path).ok()?))
        });
        each.collect()
    }

    /// Lets it have so many descriptors, and no more.
    pub(crate) fn limit_descriptors(&self, most: usize) {
        let limit = Rlimit { current: Some(most as u64), ..getrlimit(Resource::Nofile) };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    /// The most memory that it ever had, in MiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// All that it logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log_path).unwrap()).into_owned()
    }

    /// Waits until `/readyz` answers 200; panics where the daemon ends instead.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        eventually("a daemon that is ready", PATIENCE, || {
            if let Some(code) = self.ended() {
                panic!("the daemon ended with exit code {code}:\n{}", self.log());
            }
            let address = self.address()?;
            matches!(http::get(&address, "/readyz"), Ok((200, _))).then_some(())
        });
    }

    /// Where it listens, once it does.
    pub(crate) fn address(&self) -> Option<String> {
        let text = fs::read_to_string(&self.address_path).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    }

    /// One page: status and body.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let address = self.address().expect("the daemon does not listen");
        http::get(&address, path).unwrap()
    }

    /// One scrape.
    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics");
        assert!(status == 200, "/metrics answers {status}: {body}");
        Metrics::parse(&body)
    }

    /// Waits until a line of the log holds `text`, and returns the line.
    #[track_caller]
    pub(crate) fn wait_log(&self, text: &str) -> String {
        eventually(&format!("{text:?} in the log"), PATIENCE, || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Sends a signal to the daemon alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks for a reload.
    pub(crate) fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks for an orderly end.
    pub(crate) fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it with no chance to clean up, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait_exit(), 128 + 9);
    }

    /// Its exit code, where it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap().map(code_of);
        }
        self.ended
    }

    /// Waits for its end: the exit code, `128 + signal` where a signal ended it.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> i32 {
        let code = match self.ended {
            Some(code) => code,
            None => code_of(wait_for(&mut self.child, "the end of the daemon", PATIENCE)),
        };
        self.ended = Some(code);
        code
    }

    /// Ends it in order, and holds that it did so without a fault.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.sigterm();
        let code = self.wait_exit();
        assert!(code == 0, "the daemon ended with exit code {code}:\n{}", self.log());
    }

    /// Panics where the log holds a WARN, an ERROR or a panic in a line that contains none of the
    /// `allowed` texts.
    #[track_caller]
    pub(crate) fn assert_log_clean(&self, allowed: &[&str]) {
        let bad = unlisted_trouble(&self.log(), allowed);
        assert!(bad.is_empty(), "the log is not clean:\n{}", bad.join("\n"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        if self.ended.is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The lines of a log, text or JSON, that tell of trouble and hold none of the `allowed` texts.
pub(crate) fn unlisted_trouble(log: &str, allowed: &[&str]) -> Vec<String> {
    let lines = log.lines().filter(|line| is_trouble(line));
    lines
        .filter(|line| !allowed.iter().any(|text| line.contains(text)))
        .map(str::to_owned)
        .collect()
}

fn is_trouble(line: &str) -> bool {
    let json: Option<serde_json::Value> = serde_json::from_str(line).ok();
    if let Some(level) = json.as_ref().and_then(|value| value.get("level")) {
        return level == "WARN" || level == "ERROR";
    }
    // Text: `[<4>]2026-11-21T02:15:00Z  WARN …`; the level is among the first words.
    line.contains("panicked at")
        || line.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR")
}

#[test]
fn trouble_is_found_in_text_and_in_json() {
    let log = "2026-11-21T02:15:00Z  INFO no WARN here, not at all\n\
               <4>2026-11-21T02:15:00Z  WARN pgkeep::daemon: one\n\
               {\"timestamp\":\"x\",\"level\":\"ERROR\",\"message\":\"two\"}\n\
               {\"timestamp\":\"x\",\"level\":\"INFO\",\"message\":\"ERROR\"}\n\
               thread 'main' panicked at src/main.rs:1:1:\n";
    assert_eq!(unlisted_trouble(log, &[]).len(), 3);
    assert_eq!(unlisted_trouble(log, &["daemon: one", "two"]).len(), 1);
    assert_eq!(unlisted_trouble(log, &["daemon: one", "two", "panicked"]).len(), 0);
}
