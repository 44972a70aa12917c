//! A server that answers.

use jiff::SignedDuration;

use super::{Line, SKEW_MAX, skew};
use crate::{
    checks::{Check, login, preflight::some},
    domain::{
        finding::{CheckName, Found, Severity},
        name::DatabaseName,
        protection::Protection,
        scope::Coverage,
    },
    postgres::{catalog::ServerFacts, notice::Notice, preflight::Service},
};

/// What a server is looked at with.
#[derive(Debug)]
pub struct ServerView {
    pub facts: ServerFacts,
    pub clock_ahead: SignedDuration,
    /// The major version and the folder of the client programs that fit; none where none do, which is
    /// said elsewhere.
    pub programs: Option<(u32, String)>,
    /// Databases that no job backs up whole; none where no job backs up any of this server.
    pub protection: Option<Protection>,
    /// Databases that jobs choose and the service keeps to itself.
    pub kept_by_service: Vec<DatabaseName>,
    pub service: Option<Service>,
    /// What it said when the role logged in.
    pub said: Vec<Notice>,
}

/// What is looked at.
pub const LINES: &[&Line<ServerView>] = &[&LOGIN, &PROGRAMS, &CLOCK, &UNPROTECTED, &SERVICE];

const LOGIN: Line<ServerView> = Line {
    label: "login",
    state: |view| {
        let is_warned = !login::login(&view.said).is_empty();
        is_warned.then(|| "the role is let in, with a warning".to_owned())
    },
    check: Check { name: login::LOGIN.name, look: |view| login::login(&view.said) },
};

/// A pg_dump is newer than the server.
pub const TOOL_VERSION: CheckName = CheckName("tool-version");

const PROGRAMS: Line<ServerView> = Line {
    label: "programs",
    state: |view| {
        let (major, dir) = view.programs.as_ref()?;
        Some(format!("pg_dump {major} in {dir}"))
    },
    check: Check { name: TOOL_VERSION, look: programs },
};

const CLOCK: Line<ServerView> = Line {
    label: "clock",
    state: |view| Some(skew(view.clock_ahead)),
    check: Check { name: CheckName("server-clock"), look: clock },
};

const UNPROTECTED: Line<ServerView> = Line {
    label: "protection",
    state: |view| {
        let found = view.protection.as_ref()?;
        if !found.none.is_empty() {
            return Some("not all".to_owned());
        }
        let all = "every database has a job, or is excluded by one".to_owned();
        let in_part = some(found.in_part.iter().map(|it| it.database.as_str()));
        Some(if in_part.is_empty() { all } else { format!("{all}; only in part: {in_part}") })
    },
    check: Check { name: CheckName("databases-unprotected"), look: unprotected },
};

const SERVICE: Line<ServerView> = Line {
    label: "service",
    state: |view| Some(view.service?.name.to_owned()),
    check: Check { name: CheckName("managed-database"), look: kept_by_service },
};

fn programs(view: &ServerView) -> Vec<Found> {
    let server = view.facts.major();
    let newer = view.programs.iter().filter(|(major, _)| *major > server);
    let found = newer.map(|(major, _)| {
        Found::new(
            Severity::Warning,
            format!(
                "PostgreSQL {server} is dumped with the pg_dump of {major}: restoring needs {major}"
            ),
            format!("install the client programs of PostgreSQL {server}, or set bin_dir"),
        )
    });
    found.collect()
}

fn clock(view: &ServerView) -> Vec<Found> {
    if view.clock_ahead.abs() <= SKEW_MAX {
        return Vec::new();
    }
    vec![Found::new(
        Severity::Warning,
        format!("the server's clock is {}", skew(view.clock_ahead)),
        "the age of a backup counts from the server's clock, and schedules go by this host's: check the \
         time service of both",
    )]
}

fn unprotected(view: &ServerView) -> Vec<Found> {
    let Some(found) = &view.protection else { return Vec::new() };
    let none: Vec<&str> = found.none.iter().map(DatabaseName::as_str).collect();
    let only = found.in_part.iter().filter(|it| it.coverage == Coverage::Only);
    let only: Vec<&str> = only.map(|it| it.database.as_str()).collect();
    let mut said = Vec::new();
    if !none.is_empty() {
        said.push(Found::new(
            Severity::Warning,
            format!("no job backs up {}", some(none)),
            "include them in `databases` of a job, or name them in its `exclude`",
        ));
    }
    if !only.is_empty() {
        said.push(Found::new(
            Severity::Warning,
            format!("jobs back up only what they name of {}", some(only)),
            "let another job back up all of them, or name them in its `exclude`",
        ));
    }
    said
}

fn kept_by_service(view: &ServerView) -> Vec<Found> {
    let (Some(service), false) = (view.service, view.kept_by_service.is_empty()) else {
        return Vec::new();
    };
    let names: Vec<_> =
        view.kept_by_service.iter().map(|name| format!("{:?}", name.as_str())).collect();
    let names = names.join(", ");
    vec![Found::new(
        Severity::Warning,
        format!("{} keeps {names} to itself, and a job chooses it", service.name),
        format!("exclude = [{names}] in the job"),
    )]
}
