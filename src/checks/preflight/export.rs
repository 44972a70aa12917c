//! The function that exports the snapshot which pg_dump reads in.

use super::{Row, by_a_superuser};
use crate::{
    checks::Check,
    domain::{
        failure::Class,
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::Facts,
};

/// Everybody may call it, unless somebody took it from PUBLIC.
pub(super) const EXPORT: Row = Row {
    check: Check { name: "snapshot-export", look: export },
    class: Class::Privilege,
    accept: None,
};

fn export(facts: &Facts) -> Vec<Found> {
    if !facts.lacks_export {
        return Vec::new();
    }
    let what =
        format!("role {} may not export a snapshot in database {}", facts.role, facts.database);
    let role = text::pasted(&facts.role);
    let grant = format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO {role};");
    vec![Found::new(Severity::Critical, what, by_a_superuser(facts, &grant))]
}
