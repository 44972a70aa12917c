//! `[daemon]`: what holds for the process as a whole.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use jiff::tz::TimeZone;
use tracing::Level;

use super::{
    diagnostic::{Diagnostics, Located, class},
    section::Options,
};
use crate::domain::{owner::Adoption, units::ByteSize};

/// Where the control socket lies unless the configuration says otherwise.
pub const RUNTIME_DIR: &str = "/run/pgkeep";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What `[daemon]` says.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    /// Where metrics are served; `None` with `"off"`.
    pub listen: Option<SocketAddr>,
    pub timezone: TimeZone,
    /// Memory that all runs together may use for buffers.
    pub memory_budget: ByteSize,
    pub max_running: u32,
    pub max_running_per_server: u32,
    pub log_format: LogFormat,
    pub log_level: Level,
    /// Time that children have between TERM and KILL.
    pub grace: Duration,
    /// The environment file, which was read already.
    pub env_file: Option<PathBuf>,
    /// The CPU priority of children, 0 to 19; Linux derives their I/O priority from it.
    pub nice: i32,
    /// Runs whose journal is kept, for each job.
    pub history: u32,
    pub adopt: Vec<Adoption>,
}

/// Less does not hold the buffers of a single dump.
const MEMORY_BUDGET_MIN: ByteSize = ByteSize::mib(32);
/// More is a mistake.
const MEMORY_BUDGET_MAX: ByteSize = ByteSize::gib(1024);

impl Daemon {
    /// Reads the table; defaults stand in docs/CONFIG.md.
    pub(super) fn read(mut o: Options<'_>, d: &mut Diagnostics) -> Self {
        let mut folder = |key, default: &str| {
            o.absolute_path(key, d).map_or_else(|| default.into(), |path| path.value)
        };
        let state_dir = folder("state_dir", "/var/lib/pgkeep");
        let runtime_dir = folder("runtime_dir", RUNTIME_DIR);
        let budget = MEMORY_BUDGET_MIN..=MEMORY_BUDGET_MAX;
        let grace = Duration::ZERO..=Duration::from_hours(1);
        let daemon = Self {
            state_dir,
            runtime_dir,
            listen: listen(&mut o, d),
            timezone: o.take("timezone", d).map_or_else(system_zone, |zone| zone.value),
            memory_budget: o.take_in_or("memory_budget", budget, ByteSize::mib(256), d),
            max_running: o.take_in_or("max_running", 1..=1000, 4, d),
            max_running_per_server: o.take_in_or("max_running_per_server", 1..=1000, 2, d),
            log_format: log_format(&mut o, d),
            log_level: log_level(&mut o, d),
            grace: o.take_in_or("grace", grace, Duration::from_secs(30), d),
            env_file: o.absolute_path("env_file", d).map(|path| path.value),
            nice: o.take_in_or("nice", 0..=19, 10, d),
            history: o.take_in_or("history", 1..=100_000, 100, d),
            adopt: adopt(&mut o, d),
        };
        o.finish(d);
        daemon
    }
}

/// The machine's time zone, or UTC where it names none, as in most containers.
fn system_zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

fn listen(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<SocketAddr> {
    /// Only this machine: what is served has no password.
    const DEFAULT: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9479);
    if o.given("listen").is_none() {
        return Some(DEFAULT);
    }
    let text = o.take::<String>("listen", d)?;
    if text.value == "off" {
        return None;
    }
    let address = text.value.parse().ok();
    if address.is_none() {
        d.error(&text.span, "`listen` is not an address")
            .class(class::VALUE)
            .hint("write an IP address and a port: \"127.0.0.1:9479\", \"[::1]:9479\"; or \"off\"");
    }
    address
}

fn adopt(o: &mut Options<'_>, d: &mut Diagnostics) -> Vec<Adoption> {
    let entries = o.take::<Vec<Located<String>>>("adopt", d).map_or_else(Vec::new, |it| it.value);
    let mut read = |entry: Located<String>| {
        let adoption = entry.value.parse().ok();
        if adoption.is_none() {
            d.error(&entry.span, "`adopt` lists machine ids, and this is none")
                .class(class::VALUE)
                .hint(
                    "32 lower-case hexadecimal digits, as in /etc/machine-id and in `pgkeep show`; \
                     behind them \" until TIME\" where a message says so",
                );
        }
        adoption
    };
    entries.into_iter().filter_map(&mut read).collect()
}

fn log_format(o: &mut Options<'_>, d: &mut Diagnostics) -> LogFormat {
    let choices = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    o.one_of("log_format", &choices, d).map_or(LogFormat::Text, |format| format.value)
}

fn log_level(o: &mut Options<'_>, d: &mut Diagnostics) -> Level {
    let choices = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    o.one_of("log_level", &choices, d).map_or(Level::INFO, |level| level.value)
}
