//! What the service manager is told: sd_notify(3).
//!
//! The address is read once from `NOTIFY_SOCKET`; without it every call does nothing. A message that
//! cannot be sent is logged at debug and forgotten: the service manager acts on what it does not
//! hear. The variables in [`NOT_FOR_CHILDREN`] must not reach child processes, whose messages would
//! be taken for ours; they cannot be removed from our own environment without unsafe code, so whoever
//! starts a child clears its environment.

use std::{
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;

use crate::{domain::text, sys::clock::Now};

/// Variables of the service manager's that are for this process alone.
pub const NOT_FOR_CHILDREN: [&str; 5] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"];
/// How long a message may wait for room in the service manager's queue.
const SEND_TIME: Duration = Duration::from_secs(1);
/// Characters of a status line.
const STATUS_MAX: usize = 200;

/// Speaks to the service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
}

impl ServiceManager {
    /// The service manager that started this process; nobody, where none did.
    pub fn from_env() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(address) if !address.is_empty() => Self::to(&address).unwrap_or_else(|error| {
                tracing::warn!(%error, ?address, "cannot reach the service manager");
                Self::nobody()
            }),
            _ => Self::nobody(),
        }
    }

    /// Whoever listens at `address`: a path, or `@` and an abstract name.
    pub fn to(address: &OsString) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let bytes = address.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(SEND_TIME))?;
        Ok(Self { socket: Some(socket) })
    }

    /// Every call does nothing.
    pub const fn nobody() -> Self {
        Self { socket: None }
    }

    /// Sends one message of several lines.
    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        let message = lines.join("\n") + "\n";
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }

    /// The start, or a reload, is done; `status` is for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// A reload begins. Both fields go in one message: with `Type=notify-reload` systemd takes a
    /// reload without the time for a protocol error.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "cannot read the monotonic clock"),
        }
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(&one_line(status))]);
    }

    /// The end begins.
    pub fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
    }

    /// Asks for `more` time from now to start, reload or stop, before systemd loses patience.
    pub fn extend_timeout(&self, more: Duration) {
        let micros = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

/// A line feed would begin another field of the message.
fn one_line(text: &str) -> String {
    text.chars().take(STATUS_MAX).map(|c| if text::is_unsafe(c) { ' ' } else { c }).collect()
}

/// Pings the service manager's watchdog as long as the planner ticks, and for no other reason.
#[derive(Debug)]
pub struct Watchdog {
    /// Half of what the service manager asks for, as sd_watchdog_enabled(3) recommends.
    every: Duration,
    last: Option<Duration>,
}

impl Watchdog {
    /// The watchdog that the service manager asks this process for, if it does.
    pub fn from_env() -> Option<Self> {
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(Self::new)
    }

    /// A watchdog that must be pinged at least once within `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { every: limit / 2, last: None }
    }

    /// How often [`Watchdog::tick`] must be called at least.
    pub const fn every(&self) -> Duration {
        self.every
    }

    /// The planner has ticked: pings, unless the last ping is a short while ago.
    pub fn tick(&mut self, now: Now, notifier: &ServiceManager) {
        // A quarter of the limit: ticks that come a little late still make two pings per limit.
        let due = self.last.is_none_or(|last| now.mono.saturating_sub(last) >= self.every / 2);
        if due {
            self.last = Some(now.mono);
            notifier.send(&[NotifyState::Watchdog]);
        }
    }
}
