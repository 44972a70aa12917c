//! A real PostgreSQL server per test: a copy of a seeded template, on a Unix socket in a short
//! folder of its own, without fsync, under an unprivileged account where the tests run as root.
//!
//! What can still go wrong: with `tcp()` another process may take the port between the moment it
//! was found free and the server's start; the start then fails and another port is tried.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    process::{Output, command, must, run, spawn, wait_for},
    template::{Account, copy_to, server_command},
    wait::{PATIENCE, eventually},
};

/// The bootstrap superuser; no password is needed on the socket.
pub(crate) const SUPERUSER: &str = "postgres";
/// The role that pgkeep connects as, made by packaging/sql/role.sql; no password either.
pub(crate) const KEEPER: &str = "pgkeep";
/// The superuser's password over TCP.
pub(crate) const PASSWORD: &str = "it is postgres";
/// The seeded database of ordinary name.
pub(crate) const APP: &str = "app";
/// The seeded database of hostile name.
pub(crate) const HOSTILE: &str = "we\"ird/.. 🐘";
/// Every cluster has this one: it names the socket, and the folder is the cluster's own.
const SOCKET_PORT: u16 = 5432;

/// Folders with the programs of one PostgreSQL version each, the newest first:
/// `PGKEEP_TEST_PG_BINS` (separated by colons, in its own order), else those of Debian's and of
/// the PGDG's packages.
pub(crate) fn installed() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("PGKEEP_TEST_PG_BINS") {
        return std::env::split_paths(&list).filter(|dir| !dir.as_os_str().is_empty()).collect();
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (root, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(Ok(major)) = name.strip_prefix(prefix).map(str::parse) else { continue };
            let bin = entry.path().join("bin");
            if bin.join("postgres").exists() && bin.join("pg_dump").exists() {
                found.push((major, bin));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    bin_dir: Option<PathBuf>,
    settings: Vec<(String, String)>,
    tcp: bool,
    seeded: bool,
    language: Option<String>,
}

impl Builder {
    /// The version: one of [`installed`]. The default is its first.
    pub(crate) fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// A server setting for every start.
    pub(crate) fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Listens on a free port of 127.0.0.1 as well, where a password is asked for.
    pub(crate) fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// The language of its messages, where its package has them: `de`. What is set in a session counts.
    pub(crate) fn language(mut self, language: &str) -> Self {
        self.language = Some(language.to_owned());
        self
    }

    /// Without the sample databases.
    pub(crate) fn empty(mut self) -> Self {
        self.seeded = false;
        self
    }

    /// Makes and starts it.
    pub(crate) fn start(self) -> Cluster {
        let bin_dir = self.bin_dir.clone().unwrap_or_else(|| {
            installed().into_iter().next().expect("no PostgreSQL found: see docs/TESTING.md")
        });
        let mut cluster = Cluster::folder(&bin_dir);
        copy_to(&bin_dir, self.seeded, &cluster.data_dir());
        cluster.settings = self.settings;
        cluster.tcp = self.tcp;
        cluster.language = self.language;
        cluster.start_again();
        cluster
    }
}

/// A running server and its data directory; both are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    bin_dir: PathBuf,
    settings: Vec<(String, String)>,
    tcp: bool,
    language: Option<String>,
    tcp_port: Option<u16>,
    server: Option<Child>,
    home: TempDir,
}

impl Cluster {
    /// A seeded cluster of the newest version.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// Something other than the plain seeded cluster.
    pub(crate) fn builder() -> Builder {
        Builder { bin_dir: None, settings: Vec::new(), tcp: false, seeded: true, language: None }
    }

    /// A cluster from nothing, with a system identifier of its own; slower than a copy.
    pub(crate) fn initdb(bin_dir: &Path) -> Self {
        let mut cluster = Self::folder(bin_dir);
        must(
            server_command(&bin_dir.join("initdb"))
                .args(["--username", SUPERUSER, "--encoding=UTF8", "--locale=C.UTF-8"])
                // Small segments make a small template; nothing here writes much.
                .args(["--wal-segsize=1", "--auth-local=trust", "--auth-host=scram-sha-256"])
                .args(["--no-sync", "--pgdata"])
                .arg(cluster.data_dir()),
        );
        cluster.start_again();
        cluster
    }

    /// A streaming standby of this cluster, with more settings.
    pub(crate) fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let mut standby = Self::folder(&self.bin_dir);
        must(
            server_command(&self.bin_dir.join("pg_basebackup"))
                .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"])
                .args(["--no-sync", "--username", SUPERUSER, "--host"])
                .arg(self.socket_dir())
                .args(["--port", &self.port().to_string(), "--pgdata"])
                .arg(standby.data_dir()),
        );
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        standby.settings = settings.iter().map(owned).collect();
        standby.start_again();
        standby
    }

    fn folder(bin_dir: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("pgk.").tempdir_in(super::place()).unwrap();
        if let Some(account) = Account::for_server() {
            account.own(home.path());
        }
        Self {
            bin_dir: bin_dir.to_owned(),
            settings: Vec::new(),
            tcp: false,
            language: None,
            tcp_port: None,
            server: None,
            home,
        }
    }

    /// The folder of the programs of its version.
    pub(crate) fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The folder of its socket: what `host` is in a configuration.
    pub(crate) fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    /// The port that names the socket.
    pub(crate) fn port(&self) -> u16 {
        self.tcp_port.unwrap_or(SOCKET_PORT)
    }

    /// The port on 127.0.0.1, where it listens there; it may be another after each start.
    pub(crate) fn tcp_port(&self) -> Option<u16> {
        self.tcp_port
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// All that the server logged so far.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.home.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// `15`
    pub(crate) fn major(&self) -> u32 {
        let text = fs::read_to_string(self.data_dir().join("PG_VERSION")).unwrap();
        text.trim().parse().unwrap()
    }

    /// One of its version's programs, set to connect to it as superuser.
    pub(crate) fn tool(&self, program: &str) -> Command {
        let mut command = command(self.bin_dir.join(program));
        command
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", SUPERUSER);
        command
    }

    /// Runs SQL (or psql's own commands) and returns what it printed: rows in lines, columns
    /// separated by `|`. Panics where a statement fails.
    #[track_caller]
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let output = self.try_psql(database, sql);
        let head: String = sql.chars().take(500).collect();
        assert!(output.code == 0, "psql on {database}: {}\n{head}", output.stderr);
        output.text().trim_end_matches('\n').to_owned()
    }

    /// As [`Cluster::psql`], for statements that are to fail.
    pub(crate) fn try_psql(&self, database: &str, sql: &str) -> Output {
        // The installed psql of the version may be missing from a build without clients.
        let mut psql = self.tool("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database)]);
        run(&mut psql, sql)
    }

    /// Creates a database from `template0` with encoding and locale of `like`.
    pub(crate) fn create_like(&self, name: &str, like: &str) {
        let literal = |text: &str| text.replace('\'', "''");
        self.psql(
            "postgres",
            &format!(
                "SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L \
                 LC_CTYPE %L', '{}', pg_encoding_to_char(encoding), datcollate, datctype) \
                 FROM pg_database WHERE datname = '{}' \\gexec",
                literal(name),
                literal(like)
            ),
        );
    }

    /// Starts it where it is stopped, and waits until it takes connections.
    pub(crate) fn start_again(&mut self) {
        assert!(self.server.is_none(), "the server is running");
        for attempt in 1.. {
            self.tcp_port = self.tcp.then(free_port);
            if self.try_start() {
                return;
            }
            assert!(self.tcp && attempt < 5, "PostgreSQL does not start:\n{}", self.log());
        }
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .unwrap();
        let mut postgres = server_command(&self.bin_dir.join("postgres"));
        postgres.arg("-D").arg(self.data_dir()).arg("-k").arg(self.socket_dir());
        if let Some(language) = &self.language {
            // gettext's variable, which holds for any locale but C.
            postgres.env("LANGUAGE", language).arg("-c").arg("lc_messages=C.UTF-8");
        }
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        let port = self.port().to_string();
        let settings = [
            ("listen_addresses", listen),
            ("port", &port),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "40"),
            ("autovacuum", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in settings.into_iter().chain(own) {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);

        // A child of the test, in its process group: whoever kills the test takes it along.
        let mut server = spawn(&mut postgres);
        let status = self.data_dir().join("postmaster.pid");
        let pid = server.id().to_string();
        let up = eventually("the start of PostgreSQL", PATIENCE, || {
            if server.try_wait().unwrap().is_some() {
                return Some(false);
            }
            // Line 1 is the pid, line 8 the state: what pg_ctl reads (miscadmin.h, LOCK_FILE_LINE_*).
            let text = fs::read_to_string(&status).ok()?;
            let mut lines = text.lines();
            let state = |text: &str| ["ready", "standby"].contains(&text.trim());
            (lines.next() == Some(&pid) && lines.nth(6).is_some_and(state)).then_some(true)
        });
        if up {
            self.server = Some(server);
        }
        up
    }

    /// Stops it in the mode `fast`: sessions are ended, all is written.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Stops it in the mode `immediate`, as a crash does: the next start recovers.
    pub(crate) fn stop_immediate(&mut self) {
        self.end(Signal::QUIT);
    }

    /// Whether it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.server.is_none()
    }

    /// Stops and starts it.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    fn end(&mut self, signal: Signal) {
        let mut server = self.server.take().expect("the server is stopped");
        let pid = Pid::from_child(&server);
        kill_process(pid, signal).unwrap();
        wait_for(&mut server, "the end of PostgreSQL", PATIENCE);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the end of PostgreSQL's log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), Signal::QUIT).ok();
            drop(server.wait());
        }
    }
}

/// A connection string of one database, whatever its name: psql takes a bare name with `=` in it
/// for a connection string.
pub(crate) fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A port of 127.0.0.1 that nobody has right now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
