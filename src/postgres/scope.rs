//! A [`Scope`] as pg_dump's arguments, and the questions to the server that pg_dump does not ask:
//! it takes a pattern that excludes everything, or that another one excludes, for what was meant.
//!
//! Patterns are pg_dump's own, with everything but `*` and `?` in double quotes. The schemas of the
//! system are always left out: for pg_dump, `*.*` has the catalogue in it.
//!
//! What can still go wrong: a table that is excluded by a pattern which matches none is in the
//! backup. Nothing is missing there, so that it is not held against it.

use tokio_util::sync::CancellationToken;

use crate::domain::{
    failure::{Class, Failure},
    pattern::Glob,
    relation::RelationPattern,
    scope::{Contents, Format, Scope, options},
};

use super::{PgError, Session, catalog::get};

/// The schemas that are the server's own.
const SYSTEM: [&str; 2] = ["\"pg_\"*", "\"information_schema\""];
/// pg_dump's `--large-objects` was `--blobs` until then.
const HAS_LARGE_OBJECTS: u32 = 16;

/// How a dump is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form<'a> {
    /// Archive or SQL.
    pub format: Format,
    /// Further options of pg_dump that leave nothing out.
    pub options: &'a [String],
}

/// The arguments that make a `pg_dump` of major version `major` dump the scope.
pub fn arguments(scope: &Scope, major: u32) -> Vec<String> {
    let mut line = Vec::new();
    match scope.contents {
        Contents::All => {}
        Contents::Schema => line.push("--schema-only".to_owned()),
        Contents::Data => line.push("--data-only".to_owned()),
    }
    let globs = |option: &'static str, list: &[Glob]| -> Vec<String> {
        list.iter().map(|glob| format!("--{option}={}", glob.client_pattern())).collect()
    };
    let pairs = |option: &'static str, list: &[RelationPattern]| -> Vec<String> {
        list.iter().map(|pattern| format!("--{option}={}", client_pattern(pattern))).collect()
    };
    let selects = !scope.schemas.is_empty() || !scope.tables.is_empty();
    if selects || !scope.options.is_empty() {
        line.push("--strict-names".to_owned());
    }
    line.extend(globs("schema", &scope.schemas));
    line.extend(globs("exclude-schema", &scope.exclude_schemas));
    if !scope.schemas.is_empty() {
        line.extend(SYSTEM.map(|schema| format!("--exclude-schema={schema}")));
    }
    line.extend(pairs("table", &scope.tables));
    line.extend(pairs("exclude-table", &scope.exclude_tables));
    if !scope.tables.is_empty() {
        line.extend(SYSTEM.map(|schema| format!("--exclude-table={schema}.*")));
    }
    line.extend(pairs("exclude-table-data", &scope.exclude_table_data));
    line.extend(scope.large_objects.map(|wanted| {
        let what = if major < HAS_LARGE_OBJECTS { "blobs" } else { "large-objects" };
        format!("--{}{what}", if wanted { "" } else { "no-" })
    }));
    line.extend_from_slice(&scope.options);
    line
}

/// The pattern of a table for pg_dump: `"shop"."order"?`.
fn client_pattern(pattern: &RelationPattern) -> String {
    let (schema, name) = pattern.halves();
    format!("{}.{}", schema.client_pattern(), name.client_pattern())
}

/// Refuses what a pg_dump of that major version cannot do.
///
/// # Errors
/// Names the option, and the version that has it.
pub fn check_version(
    scope: &Scope,
    form: Form<'_>,
    major: u32,
    doing: &str,
) -> Result<(), Failure> {
    let too_new = scope.options.iter().chain(form.options).find(|it| options::since(it) > major);
    let Some(option) = too_new else { return Ok(()) };
    let since = options::since(option);
    let what = format!("pg_dump {major} does not have {option}: it came with PostgreSQL {since}");
    Err(Failure::new(Class::ToolVersion, doing, what).hint(format!(
        "take it out of extra_options, or set bin_dir to the programs of PostgreSQL {since}"
    )))
}

/// Asks the session's database whether every pattern that selects something finds something there
/// which no other one excludes. `encoding` is the database's.
///
/// # Errors
/// Where one does not, or its characters do not reach pg_dump as they are.
pub async fn check_matches(
    session: &Session,
    scope: &Scope,
    encoding: &str,
    doing: &str,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    check_characters(scope, encoding, doing)?;
    let fail = |error: PgError| error.into_failure(doing);
    let excluded: Vec<String> = scope.exclude_schemas.iter().map(Glob::like).collect();
    for glob in &scope.schemas {
        let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname::text COLLATE \"C\" LIKE $1 \
                   AND NOT nspname::text COLLATE \"C\" LIKE ANY ($2::text[]) \
                   AND nspname !~ '^pg_' AND nspname <> 'information_schema')";
        let row = session.query_one(sql, &[&glob.like(), &excluded], cancel).await.map_err(fail)?;
        if !get::<bool>(&row, 0).map_err(fail)? {
            return Err(no_match("schema", "schemas", glob, session.dbname(), doing));
        }
    }
    let halves = |pattern: &RelationPattern| {
        let (schema, name) = pattern.halves();
        (schema.like(), name.like())
    };
    let (schemas, names): (Vec<String>, Vec<String>) =
        scope.exclude_tables.iter().map(halves).unzip();
    for pattern in &scope.tables {
        // The relations that pg_dump's --table looks at (expand_table_name_patterns).
        let sql = "SELECT EXISTS (SELECT FROM pg_class AS c \
                   JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                   WHERE c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p') \
                   AND n.nspname::text COLLATE \"C\" LIKE $1 \
                   AND c.relname::text COLLATE \"C\" LIKE $2 \
                   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                   AND NOT EXISTS (SELECT FROM unnest($3::text[], $4::text[]) AS x (s, t) \
                   WHERE n.nspname::text COLLATE \"C\" LIKE x.s \
                   AND c.relname::text COLLATE \"C\" LIKE x.t))";
        let (schema, name) = halves(pattern);
        let row = session
            .query_one(sql, &[&schema, &name, &schemas, &names], cancel)
            .await
            .map_err(fail)?;
        if !get::<bool>(&row, 0).map_err(fail)? {
            return Err(no_match("table", "tables", pattern, session.dbname(), doing));
        }
    }
    Ok(())
}

fn no_match(
    what: &str,
    key: &str,
    pattern: &dyn std::fmt::Display,
    database: &str,
    doing: &str,
) -> Failure {
    let what = format!(
        "{key} has {pattern:?}, and no {what} of database {database} matches it that is not excluded",
        pattern = pattern.to_string()
    );
    Failure::new(Class::Configuration, doing, what).hint(
        "look at the name, case and all; leave databases that do not have it out with `exclude`",
    )
}

/// pg_dump reads patterns in the encoding of the database, and has them here in UTF-8.
fn check_characters(scope: &Scope, encoding: &str, doing: &str) -> Result<(), Failure> {
    if matches!(encoding, "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let line = arguments(scope, HAS_LARGE_OBJECTS);
    let Some(argument) = line.iter().find(|argument| !argument.is_ascii()) else { return Ok(()) };
    let what =
        format!("the database is in {encoding}: pg_dump would take {argument} for another name");
    Err(Failure::new(Class::Configuration, doing, what)
        .hint("write ? in place of each character outside of ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn patterns_are_pg_dumps_own() {
        for (ours, theirs) in [
            ("shop.orders", "\"shop\".\"orders\""),
            ("shop.order?", "\"shop\".\"order\"?"),
            ("*.*", "*.*"),
            ("a b.c*", "\"a b\".\"c\"*"),
            (r"my\.schema.t", "\"my.schema\".\"t\""),
            (r"x.a\*b", "\"x\".\"a*b\""),
            ("x.\"q\"", "\"x\".\"\"\"q\"\"\""),
            (r"x.*$\\(|)", "\"x\".*\"$\\(|)\""),
        ] {
            assert_eq!(client_pattern(&ours.parse().unwrap()), theirs, "{ours}");
        }
    }

    #[test]
    fn a_scope_becomes_arguments() {
        assert_eq!(arguments(&Scope::default(), 15), [""; 0]);
        let scope = Scope {
            contents: Contents::Data,
            tables: list(&["shop.*"]),
            exclude_tables: list(&["*.log"]),
            large_objects: Some(true),
            ..Scope::default()
        };
        let line = arguments(&scope, 15).join(" ");
        assert_eq!(
            line,
            "--data-only --strict-names --table=\"shop\".* --exclude-table=*.\"log\" \
             --exclude-table=\"pg_\"*.* --exclude-table=\"information_schema\".* --blobs"
        );
        assert!(arguments(&scope, 16).contains(&"--large-objects".to_owned()));
        let scope = Scope {
            schemas: list(&["*"]),
            exclude_schemas: list(&["log"]),
            exclude_table_data: list(&["a.b"]),
            ..Scope::default()
        };
        assert_eq!(
            arguments(&scope, 15).join(" "),
            "--strict-names --schema=* --exclude-schema=\"log\" --exclude-schema=\"pg_\"* \
             --exclude-schema=\"information_schema\" --exclude-table-data=\"a\".\"b\""
        );
    }

    #[test]
    fn what_pg_dump_does_not_have_yet_is_refused_with_its_version() {
        let scope = Scope { options: vec!["--extension=x".to_owned()], ..Scope::default() };
        check_version(&scope, Form::default(), 14, "x").unwrap();
        let refused = check_version(&scope, Form::default(), 13, "x").unwrap_err();
        assert!(refused.what.contains("came with PostgreSQL 14"), "{refused}");
        assert_eq!(refused.class, Class::ToolVersion);
        let form = Form { options: &["--statistics".to_owned()], ..Form::default() };
        check_version(&Scope::default(), form, 17, "x").unwrap_err();
        check_version(&Scope::default(), form, 18, "x").unwrap();
    }

    #[test]
    fn characters_that_would_become_others_are_refused() {
        let scope = Scope { exclude_tables: list(&["public.né"]), ..Scope::default() };
        check_characters(&scope, "UTF8", "x").unwrap();
        check_characters(&Scope::default(), "LATIN1", "x").unwrap();
        let refused = check_characters(&scope, "LATIN1", "x").unwrap_err();
        assert!(refused.what.contains("né") && refused.hint.is_some(), "{refused}");
    }
}
