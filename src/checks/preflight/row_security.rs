//! Row-level security that holds for the role.

use super::{Row, counted, some};
use crate::{
    checks::{Check, Found},
    domain::{failure::Class, finding::Severity},
    postgres::preflight::Facts,
};

/// pg_dump sets `row_security = off` and fails at the first table whose policies hold for it.
pub(super) const ROW_SECURITY: Row = Row {
    check: Check { name: "row-security", look: row_security },
    class: Class::Privilege,
    accept: None,
};

fn row_security(facts: &Facts) -> Vec<Found> {
    let tables = &facts.row_security;
    if tables.is_empty() {
        return Vec::new();
    }
    let role = &facts.role;
    let what = format!(
        "row-level security hides rows of {} of database {} from role {role}: {}",
        counted(tables.len() as u64, "table", "tables"),
        facts.database,
        some(tables.iter().map(|it| &it.ident))
    );
    // Security that does not hold for owners would not have been found with one.
    let forced: Vec<_> = tables.iter().filter(|it| it.owned).map(|it| &it.ident).collect();
    let forced = if forced.is_empty() {
        String::new()
    } else {
        let tables = some(forced);
        format!(
            " (it is forced on the owner as well, who may end that: \
             ALTER TABLE … NO FORCE ROW LEVEL SECURITY, for {tables})"
        )
    };
    let service = facts.service.map_or_else(String::new, |service| {
        format!(". Where {} refuses that, dump as the owner of the tables", service.name)
    });
    let hint = format!("as a superuser: ALTER ROLE {role} BYPASSRLS;{forced}{service}");
    vec![Found::new(Severity::Critical, what, hint)]
}
