//! The options that say what of a database is dumped.

use crate::{
    config::{Diagnostics, Located, Options, class},
    domain::scope::{
        Contents, Scope,
        options::{self as allowed, Kind},
    },
};

use super::super::options;

const CONTENTS: [(&str, Contents); 3] =
    [("all", Contents::All), ("schema", Contents::Schema), ("data", Contents::Data)];

/// What was read.
pub(super) struct Selection {
    /// What is dumped.
    pub(super) scope: Scope,
    /// Further options of pg_dump that leave nothing out.
    pub(super) form_options: Vec<String>,
}

/// Reads the selection; nothing is said where everything is dumped.
pub(super) fn read(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Selection> {
    let contents = match o.given("contents") {
        Some(_) => o.one_of("contents", &CONTENTS, d)?.value,
        None => Contents::All,
    };
    // pg_dump takes no notice of schemas where tables are selected.
    o.at_most_one(&["tables", "schemas"], d);
    o.at_most_one(&["tables", "exclude_schemas"], d);
    let schemas = options::globs(o, "schemas", &[], d);
    let exclude_schemas = options::globs(o, "exclude_schemas", &[], d);
    let tables = options::relations(o, "tables", &[], d);
    let exclude_tables = options::relations(o, "exclude_tables", &[], d);
    let exclude_table_data = options::relations(o, "exclude_table_data", &[], d);
    let large_objects = large_objects(o, contents, d);
    let (lossy, form_options) = extra_options(o, d)?;
    for key in ["schemas", "tables"] {
        not_empty(o, key, d);
    }
    let scope = Scope {
        contents,
        schemas: schemas?,
        exclude_schemas: exclude_schemas?,
        tables: tables?,
        exclude_tables: exclude_tables?,
        exclude_table_data: exclude_table_data?,
        large_objects,
        options: lossy,
    };
    let no_schema = scope.exclude_schemas.iter().any(|it| it.as_str() == "*");
    let no_table = scope.exclude_tables.iter().any(|it| it.to_string() == "*.*");
    for (key, nothing) in [("exclude_schemas", no_schema), ("exclude_tables", no_table)] {
        if let Some(span) = o.given(key).filter(|_| nothing) {
            d.error(&span, format!("`{key}` leaves nothing")).hint("name what is to be left out");
        }
    }
    Some(Selection { scope: scope.canonical(), form_options })
}

/// An empty list is not the same as none: it may be one that somebody forgot to fill.
fn not_empty(o: &mut Options<'_>, key: &'static str, d: &mut Diagnostics) {
    let Some(span) = o.given(key) else { return };
    let mut quiet = Diagnostics::default();
    let list = o.take::<Vec<Located<String>>>(key, &mut quiet);
    if list.is_some_and(|list| list.value.is_empty()) {
        d.error(&span, format!("`{key}` names none")).hint("leave the key out for all");
    }
}

fn large_objects(o: &mut Options<'_>, contents: Contents, d: &mut Diagnostics) -> Option<bool> {
    let wanted = o.take::<bool>("large_objects", d)?;
    if wanted.value && contents == Contents::Schema {
        d.error(&wanted.span, "large objects are data, and contents = \"schema\" has none")
            .class(class::CONFLICT)
            .hint("leave large_objects out");
        return None;
    }
    Some(wanted.value)
}

/// The options that leave something out, and those that do not.
fn extra_options(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<(Vec<String>, Vec<String>)> {
    let (mut lossy, mut form) = (Vec::new(), Vec::new());
    if o.given("extra_options").is_none() {
        return Some((lossy, form));
    }
    let mut whole = true;
    for option in o.take::<Vec<Located<String>>>("extra_options", d)?.value {
        match allowed::parse(&option.value) {
            Ok(Kind::LeavesOut) => lossy.push(option.value),
            Ok(Kind::Form) => form.push(option.value),
            Err(refused) => {
                d.error(&option.span, format!("`extra_options`: {refused}")).hint(refused.hint);
                whole = false;
            }
        }
    }
    whole.then_some((lossy, form))
}
