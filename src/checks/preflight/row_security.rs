//! Row-level security that holds for the role.

use super::{counted, for_each, some, whole};
use crate::{
    domain::{
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::{Facts, Ident},
};

/// pg_dump sets `row_security = off` and fails at the first table whose policies hold for it.
pub(super) fn row_security(facts: &Facts) -> Vec<Found> {
    let tables = &facts.row_security;
    if tables.is_empty() {
        return Vec::new();
    }
    let role = text::pasted(&facts.role);
    let what = format!(
        "row-level security hides rows of {} of database {} from role {role}: {}",
        counted(tables.len() as u64, "table", "tables"),
        facts.database,
        some(tables.iter().map(|it| &it.ident))
    );
    // Security that does not hold for owners would not have been found with one.
    let forced: Vec<_> = tables.iter().filter(|it| it.owned).map(|it| &it.ident).collect();
    let service = facts.service.map_or_else(String::new, |service| {
        format!(" Where {} refuses that, dump as the owner of the tables.", service.name)
    });
    let owners = if forced.is_empty() {
        String::new()
    } else {
        format!(
            " It is forced on owners as well: an owner may end that, in database {}: {}",
            facts.database,
            no_force(&facts.role, &forced)
        )
    };
    let hint = format!("as a superuser: ALTER ROLE {role} BYPASSRLS;{service}{owners}");
    vec![Found::new(Severity::Critical, what, hint)]
}

/// The statements that end it for a role that owns the tables, or is a member of their owner.
fn no_force(role: &str, tables: &[&Ident]) -> String {
    const END: &str = " NO FORCE ROW LEVEL SECURITY";
    if let Some(tables) = whole(tables) {
        let each = tables.iter().map(|table| format!("ALTER TABLE {table}{END};"));
        return each.collect::<Vec<_>>().join(" ");
    }
    let rows = format!(
        "pg_class WHERE relforcerowsecurity AND pg_has_role({}::regrole, relowner, 'USAGE')",
        text::sql_literal(role)
    );
    for_each(["ALTER TABLE ", "%s", END], "oid::regclass", &rows)
}
