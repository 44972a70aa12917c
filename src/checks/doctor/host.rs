//! This host: what the daemon lives on.

use std::{net::SocketAddr, path::PathBuf};

use super::Line;
use crate::{
    checks::Check,
    domain::{
        finding::{CheckName, Found, Severity},
        name::JobName,
        text::shell_word,
    },
    sys::unit::Barrier,
};

/// What this host is looked at with.
#[derive(Debug)]
pub struct HostView {
    /// The state directory, and what is wrong with it.
    pub state_dir: (PathBuf, Result<(), StateTrouble>),
    pub daemon: Daemon,
    /// Where metrics are served, and whether that works: for a daemon that is up whether it can be
    /// reached, else whether it could listen. None where metrics are off.
    pub metrics: Option<(SocketAddr, Result<(), String>)>,
    /// The systemd unit of this configuration, where there is one.
    pub unit: Option<UnitView>,
    pub jobs: usize,
    /// Enabled jobs that nothing starts.
    pub untriggered: Vec<JobName>,
}

/// What a unit keeps its daemon from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitView {
    pub name: String,
    /// What the daemon writes to and cannot: what it is (`repository local`), where it lies, and why.
    pub closed: Vec<(String, PathBuf, Barrier)>,
}

/// What is wrong with a state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateTrouble {
    /// It is not there yet; the daemon makes it.
    Missing,
    /// It belongs to somebody else than who asks.
    Foreign {
        /// Whose it is, by number.
        owner: u32,
    },
    /// It cannot be looked at, or written to.
    Unusable(String),
    /// Others than the owner may write to it.
    Exposed { mode: u32 },
}

/// Whether a daemon answers at the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    Up,
    Down,
    /// One is up, and does not let us in; or something is wrong with the socket.
    Closed(String),
}

/// What is looked at.
pub const LINES: &[&Line<HostView>] = &[&STATE, &UNIT, &DAEMON, &METRICS, &TRIGGERS];

const STATE: Line<HostView> = Line {
    label: "state",
    state: |view| Some(view.state_dir.0.display().to_string()),
    check: Check { name: CheckName("state-directory"), look: state },
};

const UNIT: Line<HostView> = Line {
    label: "unit",
    state: |view| {
        let unit = view.unit.as_ref()?;
        Some(format!("{} lets the daemon write where it has to", unit.name))
    },
    check: Check { name: CheckName("unit-paths"), look: unit },
};

const DAEMON: Line<HostView> = Line {
    label: "daemon",
    state: |view| {
        let state = match view.daemon {
            Daemon::Up => "it answers at its socket",
            Daemon::Down => "none is up",
            Daemon::Closed(_) => "its socket cannot be used",
        };
        Some(state.to_owned())
    },
    check: Check { name: CheckName("daemon-socket"), look: daemon },
};

const METRICS: Line<HostView> = Line {
    label: "metrics",
    state: |view| view.metrics.as_ref().map(|(address, _)| address.to_string()),
    check: Check { name: CheckName("metrics-address"), look: metrics },
};

const TRIGGERS: Line<HostView> = Line {
    label: "schedules",
    state: |view| {
        let started = view.jobs - view.untriggered.len().min(view.jobs);
        Some(format!("{started} of {} jobs start by themselves", view.jobs))
    },
    check: Check { name: CheckName("job-untriggered"), look: triggers },
};

fn state(view: &HostView) -> Vec<Found> {
    let (path, Err(trouble)) = (&view.state_dir.0, &view.state_dir.1) else { return Vec::new() };
    let path = path.display();
    vec![match trouble {
        StateTrouble::Missing => Found::new(
            Severity::Info,
            format!("{path} is not there yet"),
            "the daemon makes it, where its user may; packages make it for them",
        ),
        StateTrouble::Foreign { owner } => Found::new(
            Severity::Info,
            format!(
                "{path} belongs to user {owner}, and this is another one: rights were tried as this one"
            ),
            "run `pgkeep doctor` as the user that the daemon runs as",
        ),
        StateTrouble::Unusable(why) => Found::new(
            Severity::Critical,
            format!("{path} cannot be used: {why}"),
            "give it to the user that pgkeep runs as",
        ),
        StateTrouble::Exposed { mode } => Found::new(
            Severity::Critical,
            format!("others may write to {path} (mode {mode:03o})"),
            format!("chmod 700 {}", shell_word(&path.to_string())),
        ),
    }]
}

fn unit(view: &HostView) -> Vec<Found> {
    let Some(UnitView { name, closed }) = &view.unit else { return Vec::new() };
    let each = closed.iter().map(|(what, path, barrier)| {
        let path = path.display();
        let (why, hint) = match barrier {
            Barrier::Home(value) => (
                format!("ProtectHome={value} closes it, whoever owns it"),
                "choose a folder outside of /home, /root and /run/user; ReadWritePaths= opens nothing below ProtectHome=yes"
                    .to_owned(),
            ),
            Barrier::ReadOnly => (
                "it lies in no folder that ReadWritePaths= names".to_owned(),
                format!(
                    "systemctl edit {name}, with ReadWritePaths={path} under [Service]; then systemctl restart {name}"
                ),
            ),
        };
        let text = format!("{what}: a daemon of {name} cannot write to {path}: {why}");
        Found::new(Severity::Critical, text, hint)
    });
    each.collect()
}

fn daemon(view: &HostView) -> Vec<Found> {
    match &view.daemon {
        Daemon::Up => Vec::new(),
        Daemon::Down => vec![Found::new(
            Severity::Info,
            "no daemon of this configuration is up: nothing runs by itself",
            "systemctl enable --now pgkeep",
        )],
        Daemon::Closed(why) => {
            vec![Found::new(Severity::Warning, why, "run this as the daemon's user, or as root")]
        }
    }
}

fn metrics(view: &HostView) -> Vec<Found> {
    let Some((address, Err(why))) = &view.metrics else { return Vec::new() };
    let (what, hint) = match view.daemon {
        Daemon::Up => (
            format!("the daemon is up, and its metrics at {address} cannot be reached: {why}"),
            "Prometheus cannot either: look at the daemon's log and at firewalls",
        ),
        _ => (
            format!("a daemon could not listen on {address}: {why}"),
            "who has it? `ss -ltnp`; set another `listen`",
        ),
    };
    vec![Found::new(Severity::Warning, what, hint)]
}

fn triggers(view: &HostView) -> Vec<Found> {
    if view.untriggered.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = view.untriggered.iter().map(JobName::as_str).collect();
    vec![Found::new(
        Severity::Info,
        format!("these jobs run only when they are asked to: {}", names.join(", ")),
        "give them a `schedule`, or `after`; or leave them so, for `pgkeep run`",
    )]
}
