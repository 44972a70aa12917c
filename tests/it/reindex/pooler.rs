//! Through a connection pooler nothing is rebuilt.

use std::{fs, path::Path, process::Child};

use pgkeep::domain::failure::Class;

use super::{DB, Pgkeep, indexes, job, run, shop};
use crate::harness::{
    pgkeep::quote,
    postgres::{Cluster, SUPERUSER},
    process::spawn,
    template::{Account, server_command},
    wait::{PATIENCE, eventually},
};

/// Where Debian puts it: not in the PATH of a plain user.
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// The port in the name of its socket.
const PORT: u16 = 6432;

/// A PgBouncer before a cluster; ended when dropped.
struct PgBouncer {
    child: Child,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    fn start(cluster: &Cluster, lines: &str) -> Self {
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
        fs::write(folder.path().join("users"), format!("\"{SUPERUSER}\" \"\"\n")).unwrap();
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

    fn server(&self) -> String {
        let host = quote(self.folder.path().to_string_lossy());
        format!("[server.main]\nhost = {host}\nport = {PORT}\nuser = \"{SUPERUSER}\"")
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

#[test]
fn reindex_refuses_a_connection_pooler() {
    if !Path::new(PGBOUNCER).exists() {
        eprintln!("SKIPPED: there is no {PGBOUNCER}; apt-get install pgbouncer");
        return;
    }
    let cluster = shop();
    let before = indexes(&cluster, DB);
    let pools = [
        "pool_mode = transaction",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = transaction\nmin_pool_size = 5\nserver_round_robin = 1",
        "pool_mode = statement",
    ];
    for pool in pools {
        eprintln!("{pool}");
        let pooler = PgBouncer::start(&cluster, pool);
        let home = Pgkeep::new()
            .toml(&pooler.server())
            .toml(&job("rx", "indexes = [\"public.items_id\"]"));
        let ran = run(&home, "rx", 1);
        let failures: Vec<_> = ran.report.failures().collect();
        let [failure] = failures.as_slice() else { panic!("{pool}: {ran:#?}") };
        assert_eq!(failure.class, Class::Configuration, "{pool}: {failure:?}");
        let hint = failure.hint.as_ref().unwrap();
        assert!(format!("{} {hint}", failure.what).contains("pooler"), "{pool}: {failure:?}");
        assert!(hint.contains("the server itself"), "{pool}: {failure:?}");
    }
    assert_eq!(indexes(&cluster, DB), before);
}
