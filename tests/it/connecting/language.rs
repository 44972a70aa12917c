//! A server whose messages are in German: what fails has its class all the same.

use std::{
    io::Write as _,
    process::{Child, Stdio},
};

use crate::harness::{
    pgkeep::{Pgkeep, quote},
    postgres::{APP, Cluster, KEEPER, SUPERUSER},
    process::spawn,
    wait::{PATIENCE, eventually},
};

/// A session that holds a lock until it is dropped.
struct Locker(Child);

impl Locker {
    fn start(cluster: &Cluster, table: &str) -> Self {
        let mut psql = cluster.tool("psql");
        psql.args(["-XqAt", APP]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawn(&mut psql);
        let sql = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;\n");
        child.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND granted \
             AND mode = 'AccessExclusiveLock'"
        );
        eventually("the lock", PATIENCE, || (cluster.psql(APP, &held) == "1").then_some(()));
        Self(child)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

#[test]
fn a_lock_is_a_lock_whatever_the_servers_language() {
    let cluster = Cluster::builder().language("de").start();
    let said = cluster.try_psql("postgres", "SELECT 1 / 0").stderr;
    if !said.contains("FEHLER") {
        println!("SKIPPED: this PostgreSQL has no messages in German: {said}");
        return;
    }
    cluster.psql("postgres", "CREATE ROLE reader LOGIN BYPASSRLS IN ROLE pg_read_all_data");
    cluster.psql("postgres", "ALTER ROLE reader SET lo_compat_privileges = on");
    let locker = Locker::start(&cluster, "shop.orders");
    // The superuser asks for English itself, role.sql has set it for the second, the third has nothing.
    for (role, english) in [(SUPERUSER, true), (KEEPER, true), ("reader", false)] {
        let server = format!(
            "[server.main]\nhost = {}\nport = {}\nuser = {}\nbin_dir = {}",
            quote(cluster.socket_dir().to_string_lossy()),
            cluster.port(),
            quote(role),
            quote(cluster.bin_dir().to_string_lossy()),
        );
        let lines = "attempts = 1\nglobals = false\nlock_wait_timeout = \"1s\"";
        let home = Pgkeep::new().toml(&server).local("disk");
        let home = home.dump("nightly", "main", &[APP], &["disk"], lines);
        let ran = home.run(&["run", "nightly", "--json"]).expect_code(1);
        let report = &ran.json()["report"];
        let text = report.to_string();
        assert!(text.contains("\"class\":\"lock\""), "{role}: {report:#}");
        assert_eq!(text.contains("canceling statement"), english, "{role}: {text}");
        assert_eq!(text.contains("storniere Anfrage"), !english, "{role}: {text}");
    }
    drop(locker);
}
