//! A connection pooler between pgkeep and a cluster.

use std::{fs, path::Path, process::Child};

use super::{
    pgkeep::quote,
    postgres::{Cluster, KEEPER, SUPERUSER},
    process::{command, must, spawn},
    template::{Account, server_command},
    wait::{PATIENCE, eventually},
};

/// Where Debian puts it: not in the PATH of a plain user.
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// The port in the name of its socket.
const PORT: u16 = 6432;

/// A PgBouncer before a cluster; ended when dropped.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    child: Child,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    /// Whether there is one. Says so where not.
    pub(crate) fn is_installed() -> bool {
        let there = Path::new(PGBOUNCER).exists();
        if !there {
            eprintln!("SKIPPED: there is no {PGBOUNCER}; apt-get install pgbouncer");
        }
        there
    }

    /// Starts one on a socket of its own, with more lines in its configuration.
    pub(crate) fn start(cluster: &Cluster, lines: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("pgb.").tempdir_in("/tmp").unwrap();
        let (dir, host) = (folder.path().display(), cluster.socket_dir().display());
        let config = format!(
            "[databases]\n* = host={host} port={}\n[pgbouncer]\nlisten_addr =\n\
             listen_port = {PORT}\nunix_socket_dir = {dir}\nauth_type = trust\n\
             auth_file = {dir}/users\nlogfile = {dir}/log\n\
             ignore_startup_parameters = extra_float_digits\n{lines}\n",
            cluster.port()
        );
        fs::write(folder.path().join("ini"), config).unwrap();
        fs::write(
            folder.path().join("users"),
            format!("\"{SUPERUSER}\" \"\"\n\"{KEEPER}\" \"\"\n"),
        )
        .unwrap();
        if let Some(account) = Account::for_server() {
            account.own(folder.path());
        }
        let mut command = server_command(Path::new(PGBOUNCER));
        command.arg("-q").arg(folder.path().join("ini"));
        let child = spawn(&mut command);
        let socket = folder.path().join(format!(".s.PGSQL.{PORT}"));
        eventually("the socket of PgBouncer", PATIENCE, || socket.exists().then_some(()));
        Self { child, folder }
    }

    /// What a question of another client has for an answer.
    #[track_caller]
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = command("psql");
        psql.arg("-XqAt").arg("-h").arg(self.folder.path());
        psql.args(["-p", &PORT.to_string(), "-U", SUPERUSER, "-d", database, "-c", sql]);
        must(&mut psql).trim_end().to_owned()
    }

    /// `[server.main]` through it, as a role.
    pub(crate) fn server_as(&self, role: &str) -> String {
        let host = quote(self.folder.path().to_string_lossy());
        format!("[server.main]\nhost = {host}\nport = {PORT}\nuser = \"{role}\"")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- PgBouncer's log\n{log}");
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
