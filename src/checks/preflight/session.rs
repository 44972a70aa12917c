//! What the role's sessions are like: how many it may have, in which language the server speaks to it, and whether
//! it may export the snapshot that pg_dump reads in.

use std::cmp::Ordering;

use super::by_a_superuser;
use crate::{
    domain::{
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::Facts,
};

/// What a limit is better raised to: three workers, each with the session that exports the snapshot, pg_dump, and
/// the session that watches whom they hold up.
const BETTER: i32 = 9;

/// pg_dump would be refused while our own session is there, each time anew. Where there is room for these two alone,
/// nobody watches.
pub(super) fn connection_limit(facts: &Facts) -> Vec<Found> {
    let role = text::pasted(&facts.role);
    let database = text::pasted(&facts.database);
    let limits = [
        (facts.role_limit, true, format!("role {}", facts.role), format!("ALTER ROLE {role}")),
        (
            facts.database_limit,
            facts.is_maintenance,
            format!("database {}", facts.database),
            format!("ALTER DATABASE {database}"),
        ),
    ];
    let found = limits.into_iter().filter_map(|(limit, watches, whose, alter)| {
        let limit = limit.filter(|limit| !facts.superuser && *limit >= 0)?;
        let (severity, why) = match limit.cmp(&Facts::CONNECTIONS) {
            Ordering::Less => {
                (Severity::Critical, format!("a dump takes {} connections", Facts::CONNECTIONS))
            }
            Ordering::Equal if watches => {
                (Severity::Info, "none is left to watch who waits behind a dump".to_owned())
            }
            Ordering::Equal | Ordering::Greater => return None,
        };
        let what = format!("the CONNECTION LIMIT of {whose} is {limit}, and {why}");
        let hint = format!("as a superuser: {alter} CONNECTION LIMIT {BETTER}");
        Some(Found::new(severity, what, hint))
    });
    found.collect()
}

/// What pg_dump repeats of the server's messages is then not understood.
pub(super) fn language(facts: &Facts) -> Vec<Found> {
    let Some(language) = &facts.language else { return Vec::new() };
    let what = format!(
        "the server's messages come in another language (lc_messages is {language}): what pg_dump repeats of \
         them is not understood, and a failure may get the class tool-failed where another fits"
    );
    let role = text::pasted(&facts.role);
    let hint = format!("as a superuser: ALTER ROLE {role} SET lc_messages = 'C'");
    vec![Found::new(Severity::Info, what, hint)]
}

/// Everybody may call it, unless somebody took it from PUBLIC.
pub(super) fn export(facts: &Facts) -> Vec<Found> {
    if !facts.lacks_export {
        return Vec::new();
    }
    let what =
        format!("role {} may not export a snapshot in database {}", facts.role, facts.database);
    let role = text::pasted(&facts.role);
    let grant = format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO {role};");
    vec![Found::new(Severity::Critical, what, by_a_superuser(facts, &grant))]
}
