//! Tables and sequences that the role may not read.

use std::collections::BTreeSet;

use super::{LISTED_MAX, Row, by_a_superuser, counted, some};
use crate::{
    checks::{Check, Found},
    domain::{failure::Class, finding::Severity},
    postgres::preflight::{Facts, Kind, Relation},
};

/// `pg_read_all_data` came with PostgreSQL 14.
const HAS_READ_ALL: u32 = 140_000;

/// pg_dump fails at the first of them.
pub(super) const UNREADABLE: Row = Row {
    check: Check { name: "unreadable-tables", look: unreadable },
    class: Class::Privilege,
    accept: None,
};

fn unreadable(facts: &Facts) -> Vec<Found> {
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

/// The statements that mend it: for each relation where they are few, else for whole schemas.
fn grants(facts: &Facts) -> String {
    let role = &facts.role;
    let schemas = |of: fn(&Relation) -> bool| -> BTreeSet<&str> {
        facts.unreadable.iter().filter(|it| of(it)).map(|it| it.schema_ident.as_str()).collect()
    };
    let mut statements = Vec::new();
    let usage = schemas(|it| it.lacks_usage);
    if !usage.is_empty() {
        statements.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", some(usage)));
    }
    let lacking = || facts.unreadable.iter().filter(|it| it.lacks_select);
    for (kind, one, all) in
        [(Kind::Table, "TABLE", "TABLES"), (Kind::Sequence, "SEQUENCE", "SEQUENCES")]
    {
        let names: Vec<_> = lacking().filter(|it| it.kind == kind).map(|it| &it.ident).collect();
        if names.is_empty() {
            continue;
        }
        statements.push(if names.len() <= LISTED_MAX {
            format!("GRANT SELECT ON {one} {} TO {role};", some(names))
        } else {
            let within = some(schemas(|it| it.lacks_select));
            format!("GRANT SELECT ON ALL {all} IN SCHEMA {within} TO {role};")
        });
    }
    let statements = statements.join(" ");
    if facts.version_num >= HAS_READ_ALL {
        format!(
            "{statements} Or, for all that there is and will be: GRANT pg_read_all_data TO {role};"
        )
    } else {
        format!("{statements} For all that will be, too: packaging/sql/database.sql")
    }
}
