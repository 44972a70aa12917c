use std::{os::unix::net::UnixDatagram, time::Duration};

use pgkeep::{
    daemon::systemd::{ServiceManager, Watchdog},
    sys::clock::Now,
};

use super::{CHILD, PATIENCE, child};

struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn address(&self) -> String {
        self.folder.path().join("notify").to_str().unwrap().to_owned()
    }

    fn heard(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn heard_nothing(&self) {
        self.socket.set_nonblocking(true).unwrap();
        assert!(self.socket.recv(&mut [0; 1]).is_err());
        self.socket.set_nonblocking(false).unwrap();
    }
}

#[test]
fn a_life_as_the_service_manager_hears_it() {
    let manager = Manager::new();
    let notifier = ServiceManager::to(&manager.address().into()).unwrap();
    notifier.ready("3 jobs");
    assert_eq!(manager.heard(), "READY=1\nSTATUS=3 jobs\n");
    notifier.reloading();
    let reloading = manager.heard();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(micros.parse::<u64>().unwrap() > 0, "both in one message");
    notifier.ready("reload failed:\nREADY=0");
    assert_eq!(manager.heard(), "READY=1\nSTATUS=reload failed: READY=0\n");
    notifier.status(&"x".repeat(10_000));
    assert!(manager.heard().len() < 300);
    notifier.extend_timeout(Duration::from_secs(90));
    assert_eq!(manager.heard(), "EXTEND_TIMEOUT_USEC=90000000\n");
    notifier.stopping("2 runs to end");
    assert_eq!(manager.heard(), "STOPPING=1\nSTATUS=2 runs to end\n");
    drop(manager);
    notifier.status("nobody hears it, and nothing breaks");
    ServiceManager::nobody().ready("");
}

#[test]
fn the_watchdog_is_pinged_by_ticks_at_their_own_pace() {
    let manager = Manager::new();
    let notifier = ServiceManager::to(&manager.address().into()).unwrap();
    let mut watchdog = Watchdog::new(Duration::from_mins(1));
    assert_eq!(watchdog.every(), Duration::from_secs(30));
    let wall = "2026-11-21T00:00:00Z".parse().unwrap();
    let mut tick = |second| {
        watchdog.tick(Now { wall, mono: Duration::from_secs(second) }, &notifier);
    };
    tick(0);
    assert_eq!(manager.heard(), "WATCHDOG=1\n");
    tick(5);
    manager.heard_nothing();
    tick(15);
    assert_eq!(manager.heard(), "WATCHDOG=1\n");
    tick(600);
    assert_eq!(manager.heard(), "WATCHDOG=1\n");
    manager.heard_nothing();
}

#[test]
fn the_address_and_the_watchdog_are_taken_from_the_environment() {
    let manager = Manager::new();
    let address = manager.address();
    let variables = [("NOTIFY_SOCKET", address.as_str()), ("WATCHDOG_USEC", "20000000")];
    let mut child = child("telemetry::notify::child_that_is_a_service", &variables);
    assert_eq!(manager.heard(), "READY=1\nSTATUS=up\n");
    assert_eq!(manager.heard(), "WATCHDOG=1\n");
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "started by the_address_and_the_watchdog_are_taken_from_the_environment"]
fn child_that_is_a_service() {
    assert!(std::env::var_os(CHILD).is_some(), "not to be run by hand");
    let notifier = ServiceManager::from_env();
    notifier.ready("up");
    let mut watchdog = Watchdog::from_env().unwrap();
    assert_eq!(watchdog.every(), Duration::from_secs(10));
    let wall = "2026-11-21T00:00:00Z".parse().unwrap();
    watchdog.tick(Now { wall, mono: Duration::ZERO }, &notifier);
}

#[test]
fn an_abstract_address_is_reached() {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
    let name = format!("pgkeep-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    ServiceManager::to(&format!("@{name}").into()).unwrap().status("x");
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"STATUS=x\n");
}
