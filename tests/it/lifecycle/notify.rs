//! What the service manager hears.

use std::{fs, os::unix::net::UnixDatagram, path::PathBuf};

use super::{Bench, NOWHERE, job};
use crate::harness::{
    client::Client,
    fakes::Fake,
    http,
    pgkeep::{Daemon, Pgkeep},
    wait::PATIENCE,
};

/// A service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn of(home: &Pgkeep) -> Self {
        let path = home.home().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// The next message.
    #[track_caller]
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the daemon says nothing");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message with that text, and those before it.
    #[track_caller]
    fn hear_until(&self, text: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let message = self.hear();
            if message.contains(text) {
                return (message, before);
            }
            before.push(message);
        }
    }
}

/// Starts a daemon with a manager; it is the manager that says when it is ready.
fn managed(home: Pgkeep, watchdog: &str) -> (Pgkeep, Manager, Daemon) {
    let manager = Manager::of(&home);
    let home =
        home.env("NOTIFY_SOCKET", manager.path.to_str().unwrap()).env("WATCHDOG_USEC", watchdog);
    let daemon = home.daemon();
    (home, manager, daemon)
}

#[test]
fn ready_is_said_once_sockets_listen_and_a_reload_is_announced() {
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", ""));
    let (home, manager, mut daemon) = managed(home, "120000000");
    let (ready, before) = manager.hear_until("READY=1");
    assert_eq!(ready, "READY=1\nSTATUS=1 job, none running\n");
    let silent = before.iter().all(|message| message == "WATCHDOG=1\n");
    assert!(silent, "before READY: {before:?}");
    // Not waited for: this is what READY says.
    let address = daemon.address().expect("READY before the listener's address is known");
    assert_eq!(http::get(&address, "/readyz").unwrap().0, 200);
    home.run(&["status"]).expect_code(0);

    let micros = |message: &str| -> u64 {
        let rest = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(message);
        rest.trim_end().parse().unwrap()
    };
    daemon.sighup();
    let first = micros(&manager.hear_until("RELOADING").0);
    assert!(first > 0);
    assert_eq!(manager.hear_until("READY=1").0, "READY=1\nSTATUS=1 job, none running\n");

    home.rewrite(&home.config().replace("29 2 *", "30 2 *"));
    daemon.sighup();
    let second = micros(&manager.hear_until("RELOADING").0);
    assert!(second > first, "{second} is not after {first}");
    let (ready, _) = manager.hear_until("READY=1");
    assert!(ready.contains("STATUS=1 job, none running; last reload refused: 1 error"), "{ready}");
    assert!(ready.contains("never due"), "{ready}");

    daemon.sigterm();
    assert!(manager.hear_until("STOPPING=1").0.starts_with("STOPPING=1\nSTATUS="));
    assert_eq!(daemon.wait_exit(), 0);
    manager.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut buffer) {
        let late = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!late.contains("READY"), "after STOPPING: {late}");
    }
    daemon.assert_log_clean(&["reload refused"]);
}

#[test]
fn the_watchdog_is_fed_however_short_its_limit_is() {
    let home = Pgkeep::new().toml(NOWHERE).local("disk").toml(&job("a", ""));
    // 1 s: shorter than the heartbeat's 5 s.
    let (_home, manager, mut daemon) = managed(home, "1000000");
    manager.hear_until("READY=1");
    // systemd would have killed it if one of these came later than the limit.
    manager.socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    for _ in 0..6 {
        manager.hear_until("WATCHDOG=1");
    }
    daemon.stop();
}

#[test]
fn a_run_is_shown_and_its_pg_dump_does_not_reach_the_manager() {
    let bench = Bench::new(Fake::Gated);
    let Bench { home, fake, cluster } = bench;
    let (home, manager, mut daemon) = managed(home, "120000000");
    manager.hear_until("READY=1");
    let client = Client::start(&home, &["run", "nightly"]);
    manager.hear_until("STATUS=running nightly");
    fake.wait_stopped();
    let environment = fs::read(format!("/proc/{}/environ", fake.pids()[0])).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let names: Vec<&str> =
        environment.split('\0').filter_map(|entry| Some(entry.split_once('=')?.0)).collect();
    assert!(names.contains(&"PATH"), "{names:?}");
    for foreign in pgkeep::daemon::systemd::NOT_FOR_CHILDREN {
        assert!(!names.contains(&foreign), "{foreign} reaches pg_dump");
    }
    assert!(!names.contains(&"PGPASSWORD"));
    fake.release();
    manager.hear_until("STATUS=1 job, none running");
    client.end().expect_code(0);
    daemon.stop();
    daemon.assert_log_clean(&[]);
    super::assert_restores(&home, &cluster, "disk");
}
