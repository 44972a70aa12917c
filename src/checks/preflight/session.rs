//! What the role's sessions are like: how many it may have, and in which language the server speaks to it.

use super::Row;
use crate::{
    checks::{Check, Found},
    domain::{failure::Class, finding::Severity, text},
    postgres::preflight::Facts,
};

/// Sessions that one dump has at one time: the one that exports the snapshot, pg_dump, and the one that
/// watches whom they hold up.
const NEEDED: i32 = 3;

/// pg_dump would be refused while our own sessions are there, each time anew.
pub(super) const CONNECTION_LIMIT: Row = Row {
    check: Check { name: "connection-limit", look: connection_limit },
    class: Class::Configuration,
    accept: None,
};

/// What pg_dump repeats of the server's messages is then not understood.
pub(super) const LANGUAGE: Row = Row {
    check: Check { name: "server-language", look: language },
    class: Class::Configuration,
    accept: None,
};

fn connection_limit(facts: &Facts) -> Vec<Found> {
    let role = text::pasted(&facts.role);
    let database = text::pasted(&facts.database);
    let limits = [
        (facts.role_limit, format!("role {}", facts.role), format!("ALTER ROLE {role}")),
        (
            facts.database_limit,
            format!("database {}", facts.database),
            format!("ALTER DATABASE {database}"),
        ),
    ];
    let fits = |limit: i32| facts.superuser || !(0..NEEDED).contains(&limit);
    let limits = limits.into_iter().filter(|(limit, ..)| limit.is_some_and(|limit| !fits(limit)));
    let found = limits.map(|(limit, whose, alter)| {
        let limit = limit.unwrap_or(0);
        let what = format!(
            "the CONNECTION LIMIT of {whose} is {limit}, and a dump takes {NEEDED} connections"
        );
        let hint = format!("as a superuser: {alter} CONNECTION LIMIT {}", NEEDED * 3);
        Found::new(Severity::Critical, what, hint)
    });
    found.collect()
}

fn language(facts: &Facts) -> Vec<Found> {
    let Some(language) = &facts.language else { return Vec::new() };
    let what = format!(
        "the server's messages come in another language (lc_messages is {language}): what pg_dump repeats of \
         them is not understood, and a failure may get the class tool-failed where another fits"
    );
    let role = text::pasted(&facts.role);
    let hint = format!("as a superuser: ALTER ROLE {role} SET lc_messages = 'C'");
    vec![Found::new(Severity::Info, what, hint)]
}
