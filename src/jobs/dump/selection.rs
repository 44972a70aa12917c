//! The options that say what of a database is dumped.

use crate::{
    config::{self, Diagnostics, Located, Options, class},
    domain::{
        finding::{CheckName, Finding, Severity},
        name::DatabaseName,
        pattern::{DatabasePatterns, Glob, Reason, Selection as Chosen},
        scope::{
            Contents, Own, Scope, Scopes,
            options::{self as allowed, Kind},
        },
        target::Target,
    },
};

use super::super::options;

const CONTENTS: [(&str, Contents); 3] =
    [("all", Contents::All), ("schema", Contents::Schema), ("data", Contents::Data)];

/// Options that select.
const KEYS: [&str; 8] = [
    "contents",
    "schemas",
    "exclude_schemas",
    "tables",
    "exclude_tables",
    "exclude_table_data",
    "large_objects",
    "extra_options",
];
/// pg_dump takes it for whole databases alone.
const STATISTICS: &str = "--statistics";
/// Tables below this key hold them for some databases alone.
const DATABASE: &str = "database";

/// What was read.
pub(super) struct Selection {
    pub(super) scopes: Scopes,
    /// Further options of pg_dump that leave nothing out.
    pub(super) form_options: Vec<String>,
}

/// Reads the selection, and those of single databases; nothing is said where everything is dumped.
pub(super) fn read(
    o: &mut Options<'_>,
    patterns: Option<&DatabasePatterns>,
    d: &mut Diagnostics,
) -> Option<Selection> {
    let general = one(o, d);
    let mut own = Vec::new();
    let mut whole = true;
    let tables = o.tables(DATABASE, d);
    for (name, section) in &tables {
        let mut options = section.options();
        let read = one(&mut options, d);
        options.finish(d);
        let pattern = options::pattern(name, d);
        if let (Some(pattern), Some(patterns)) = (&pattern, patterns) {
            whole &= is_dumped(name, pattern, patterns, d);
        }
        let Some(((scope, form), pattern)) = read.zip(pattern) else {
            whole = false;
            continue;
        };
        if let Some(option) = form.first() {
            let what = format!("{option} is about how a dump is written, not about what is in it");
            let span = section.options().given("extra_options");
            d.error(span, what).hint(format!("write it in [{}]", o.section()));
            whole = false;
        }
        own.push(Own { pattern, scope });
    }
    let (general, form_options) = general?;
    let is_data_or_schema = |own: &&Own| own.scope.contents != Contents::All;
    if let Some(own) = own.iter().find(is_data_or_schema)
        && form_options.iter().any(|it| it == STATISTICS)
    {
        let span = o.given("extra_options");
        let what = format!(
            "{STATISTICS} and contents = \"{}\" of database {:?} exclude each other: pg_dump refuses them",
            own.scope.contents.as_str(),
            own.pattern.as_str()
        );
        d.error(span, what).class(class::CONFLICT).hint("keep one of them");
        whole = false;
    }
    if let Some((first, _)) = tables.first().filter(|_| !general.is_whole()) {
        let key = KEYS.into_iter().find_map(|key| Some((key, o.given(key)?)));
        let (key, span) = key.unwrap_or((DATABASE, first.span.clone()));
        let path = format!("{}.{DATABASE}", o.section());
        d.error(span, format!("`{key}` and the tables of [{path}] exclude each other"))
            .class(class::CONFLICT)
            .related(&first.span, "the first of them is here")
            .hint(format!("write it in [{path}.\"*\"], which holds where no other does"));
        whole = false;
    }
    whole.then(|| Selection { scopes: Scopes::new(general, own), form_options })
}

/// Reports options for databases that the job never dumps, as far as its patterns tell.
fn is_dumped(
    name: &Located<String>,
    pattern: &Glob,
    patterns: &DatabasePatterns,
    d: &mut Diagnostics,
) -> bool {
    let any = |globs: &[Glob], name: &str| globs.iter().any(|glob| glob.matches(name));
    let named: Vec<String> = patterns.include.iter().filter_map(Glob::literal).collect();
    let (dumped, hint) = match pattern.literal() {
        Some(literal) if any(&patterns.exclude, &literal) => {
            (false, "`exclude` leaves it out".to_owned())
        }
        Some(literal) => {
            let hint = config::did_you_mean(&literal, named.iter().map(String::as_str))
                .unwrap_or_else(|| "add it to `databases`, or remove the table".to_owned());
            (any(&patterns.include, &literal), hint)
        }
        None => {
            let all_named = named.len() == patterns.include.len();
            let matches = named.iter().any(|name| pattern.matches(name));
            (!all_named || matches, "no name in `databases` matches it".to_owned())
        }
    };
    if !dumped {
        d.error(&name.span, format!("the job dumps no database {:?}", name.value))
            .class(class::REFERENCE)
            .hint(hint);
    }
    dumped
}

/// Options for databases that the run does not have: what they were to leave out may be in the
/// backup of another one, and nobody would know.
pub(super) fn unused(scopes: &Scopes, chosen: &Chosen, job: &str) -> Vec<Finding> {
    // Of a database that cannot be dumped now, that is said.
    let is_meant =
        |(_, reason): &&(_, Reason)| !matches!(reason, Reason::NotIncluded | Reason::Excluded);
    let closed = chosen.left_out.iter().filter(is_meant).map(|(name, _)| name);
    let names: Vec<&str> = chosen.chosen.iter().chain(closed).map(DatabaseName::as_str).collect();
    let unused = scopes.own().iter().filter(|own| !names.iter().any(|it| own.pattern.matches(it)));
    let finding = |own: &Own| {
        let pattern = own.pattern.as_str();
        let near = config::did_you_mean(pattern, names.iter().copied());
        let what =
            format!("{job} has options for database {pattern:?}, and dumps none of that name");
        let look = "look at `psql -l`, case and all; remove the table where it is gone";
        Finding::new(CheckName("selection-unused"), Severity::Warning, what)
            .hint(near.unwrap_or_else(|| look.to_owned()))
            .about(Target::object(pattern))
    };
    unused.map(finding).collect()
}

/// One selection, with the further options of pg_dump that leave nothing out.
fn one(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<(Scope, Vec<String>)> {
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
    if contents != Contents::All && form_options.iter().any(|it| it == STATISTICS) {
        let span = o.given("extra_options");
        let what = format!(
            "{STATISTICS} and contents = \"{}\" exclude each other: pg_dump refuses them",
            contents.as_str()
        );
        d.error(span, what).class(class::CONFLICT).hint("keep one of them");
        return None;
    }
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
    Some((scope.canonical(), form_options))
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
