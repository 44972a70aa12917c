//! Tables and sequences that the role may not read.

use std::collections::BTreeSet;

use super::{by_a_superuser, counted, for_each, in_turn, listed, some};
use crate::{
    domain::{
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::{Facts, Kind, ReadAll, Relation},
};

/// `pg_read_all_data` came with PostgreSQL 14.
const HAS_READ_ALL: u32 = 140_000;

/// `GRANT … WITH INHERIT TRUE` came with PostgreSQL 16.
const GRANTS_INHERIT: u32 = 160_000;

/// pg_dump fails at the first of them.
pub(super) fn unreadable(facts: &Facts) -> Vec<Found> {
    if facts.unreadable.is_empty() {
        return Vec::new();
    }
    let of = |kind| facts.unreadable.iter().filter(move |it| it.kind == kind);
    let (tables, sequences) = (of(Kind::Table).count(), of(Kind::Sequence).count());
    let counts = [(tables, "table", "tables"), (sequences, "sequence", "sequences")];
    let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
    let counts: Vec<_> =
        counts.map(|(count, one, many)| counted(count as u64, one, many)).collect();
    let what = format!(
        "role {} may not read {} of database {}: {}",
        facts.role,
        counts.join(" and "),
        facts.database,
        some(facts.unreadable.iter().map(|it| &it.ident))
    );
    vec![Found::new(Severity::Critical, what, by_a_superuser(facts, &grants(facts)))]
}

/// The statements that mend it: for each relation where they are few, else for whole schemas. Where
/// these are many as well, or have names that cannot be pasted, psql finds in the catalogue what else
/// is closed to the role.
fn grants(facts: &Facts) -> String {
    let role = &text::pasted(&facts.role);
    let schemas = |of: fn(&Relation) -> bool| -> BTreeSet<&str> {
        facts.unreadable.iter().filter(|it| of(it)).map(|it| it.schema_ident.as_str()).collect()
    };
    let mut statements = Vec::new();
    let usage = schemas(|it| it.lacks_usage);
    if !usage.is_empty() {
        let statement = match listed(usage) {
            Some(names) => format!("GRANT USAGE ON SCHEMA {names} TO {role};"),
            None => all_schemas(&facts.role),
        };
        statements.push(statement);
    }
    for kind in [Kind::Table, Kind::Sequence] {
        let lacking: Vec<_> =
            facts.unreadable.iter().filter(|it| it.lacks_select && it.kind == kind).collect();
        if lacking.is_empty() {
            continue;
        }
        let one = if kind == Kind::Table { "TABLE" } else { "SEQUENCE" };
        let within = || listed(lacking.iter().map(|it| &it.schema_ident).collect::<BTreeSet<_>>());
        statements.push(if let Some(names) = listed(lacking.iter().map(|it| &it.ident)) {
            format!("GRANT SELECT ON {one} {names} TO {role};")
        } else if let Some(schemas) = within() {
            format!("GRANT SELECT ON ALL {one}S IN SCHEMA {schemas} TO {role};")
        } else {
            all_relations(&facts.role, kind, one)
        });
    }
    let statements = in_turn(&statements);
    if facts.version_num >= HAS_READ_ALL {
        format!("{statements} {}", read_all(facts))
    } else {
        format!("{statements} For all that will be, too: packaging/sql/database.sql")
    }
}

/// The statement that gives the role the rights of `pg_read_all_data`. One that is a member and does not
/// inherit gets nothing by a plain GRANT; since 16 each membership says for itself whether it is inherited.
pub(super) fn read_all(facts: &Facts) -> String {
    let role = text::pasted(&facts.role);
    let (why, statement) = match facts.read_all {
        ReadAll::None | ReadAll::Held => ("", format!("GRANT pg_read_all_data TO {role};")),
        ReadAll::NotInherited => (
            " (it is a member of pg_read_all_data, and does not inherit)",
            if facts.version_num >= GRANTS_INHERIT {
                format!("GRANT pg_read_all_data TO {role} WITH INHERIT TRUE;")
            } else {
                format!("ALTER ROLE {role} INHERIT;")
            },
        ),
    };
    format!("Or, for all that there is and will be{why}: {statement}")
}

fn all_schemas(role: &str) -> String {
    let rows = format!(
        "pg_namespace WHERE nspname !~ '^pg_' AND NOT has_schema_privilege({}::regrole, oid, 'USAGE')",
        text::sql_literal(role)
    );
    let to = format!(" TO {}", text::pasted(role));
    for_each(["GRANT USAGE ON SCHEMA ", "%I", &to], "nspname", &rows)
}

/// From 16384 on (`FirstNormalObjectId`) they are not the server's own.
fn all_relations(role: &str, kind: Kind, one: &str) -> String {
    let sort = if kind == Kind::Table { "'r', 'p'" } else { "'S'" };
    let rows = format!(
        "pg_class WHERE relkind IN ({sort}) AND relpersistence <> 't' AND oid >= 16384 \
         AND NOT has_table_privilege({}::regrole, oid, 'SELECT')",
        text::sql_literal(role)
    );
    let grant = format!("GRANT SELECT ON {one} ");
    let to = format!(" TO {}", text::pasted(role));
    for_each([&grant, "%s", &to], "oid::regclass", &rows)
}
