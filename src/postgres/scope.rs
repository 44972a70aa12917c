//! A [`Scope`] as pg_dump's arguments, and the questions to the server that pg_dump does not ask:
//! it takes a pattern that excludes everything, or that another one excludes, for what was meant.
//!
//! Patterns are pg_dump's own, with everything but `*` and `?` in double quotes. The schemas of the
//! system are always left out: for pg_dump, `*.*` has the catalogue in it.
//!
//! A table and its children (partitions, and what inherits from it, at any depth) go together, as users
//! mean it: the parent alone has no row. pg_dump does that by options of its own from version 16 on; for
//! an older one the names of the children go into the command line.
//!
//! What can still go wrong: a table that is excluded by a pattern which matches none is in the
//! backup. Nothing is missing there, so that it is not held against it.

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use tokio_postgres::types::ToSql;

use crate::domain::{
    failure::Class,
    pattern::Glob,
    relation::{RelationName, RelationPattern},
    scope::{Contents, Format, Scope, options},
};

use super::{
    PgError,
    column::{columns, get},
    queries::Queries,
};

/// The schemas that are the server's own.
const SYSTEM: [&str; 2] = ["\"pg_\"*", "\"information_schema\""];
/// pg_dump has `--table-and-children` and its like since then.
const HAS_CHILDREN: u32 = 16;
/// More children than any server was seen with: their names are held, some hundred bytes each. How many a command
/// line holds is another limit, see [`LINE_MAX`].
const CHILDREN_MAX: usize = 200_000;
/// Rows of one answer: a session takes 16 MiB.
const PAGE: usize = 20_000;
/// Bytes of a command line that hold everywhere: Linux gives arguments and environment a quarter of
/// the stack, 2 MiB (execve(2)).
const LINE_MAX: usize = 1 << 20;
/// pg_dump's `--large-objects` was `--blobs` until then.
const HAS_LARGE_OBJECTS: u32 = 16;

/// How a dump is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form<'a> {
    pub format: Format,
    /// Further options of pg_dump that leave nothing out.
    pub options: &'a [String],
}

/// The arguments that make a `pg_dump` of major version `major` dump the scope. One that does not know
/// of children is to be given the scope as [`for_tool`] has it.
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
    let [table, exclude_table, exclude_data] = if major >= HAS_CHILDREN {
        ["table-and-children", "exclude-table-and-children", "exclude-table-data-and-children"]
    } else {
        ["table", "exclude-table", "exclude-table-data"]
    };
    line.extend(pairs(table, &scope.tables));
    line.extend(pairs(exclude_table, &scope.exclude_tables));
    if !scope.tables.is_empty() {
        line.extend(SYSTEM.map(|schema| format!("--exclude-table={schema}.*")));
    }
    line.extend(pairs(exclude_data, &scope.exclude_table_data));
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
pub fn check_version(scope: &Scope, form: Form<'_>, major: u32) -> Result<(), PgError> {
    let too_new = scope.options.iter().chain(form.options).find(|it| options::since(it) > major);
    let Some(option) = too_new else { return Ok(()) };
    let since = options::since(option);
    let what = format!("pg_dump {major} does not have {option}: it came with PostgreSQL {since}");
    Err(PgError::new(Class::ToolVersion, what).with_hint(format!(
        "take it out of extra_options, or set bin_dir to the programs of PostgreSQL {since}"
    )))
}

/// The scope with the names of all children of the tables that it names, as the session's database has
/// them.
///
/// # Errors
/// When the server does not answer, or there are too many.
pub async fn with_children(ask: Queries<'_>, scope: &Scope) -> Result<Scope, PgError> {
    let mut all = scope.clone();
    for list in [&mut all.tables, &mut all.exclude_tables, &mut all.exclude_table_data] {
        let children = children(ask, list).await?;
        list.extend(children.iter().map(RelationPattern::exact));
    }
    Ok(all)
}

/// The children of what the patterns match, at any depth, but for what they match themselves; in order.
async fn children(
    ask: Queries<'_>,
    patterns: &[RelationPattern],
) -> Result<Vec<RelationName>, PgError> {
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let (schemas, names): (Vec<String>, Vec<String>) = patterns.iter().map(likes).unzip();
    let sql = "WITH RECURSIVE matched (oid) AS (SELECT c.oid FROM pg_class AS c \
               JOIN pg_namespace AS n ON n.oid = c.relnamespace \
               JOIN unnest($1::text[], $2::text[]) AS x (s, t) \
               ON n.nspname::text COLLATE \"C\" LIKE x.s AND c.relname::text COLLATE \"C\" LIKE x.t \
               WHERE c.relkind IN ('r', 'f', 'p')), \
               kin (oid) AS (SELECT oid FROM matched \
               UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN kin ON i.inhparent = kin.oid) \
               SELECT n.nspname::text AS schema, c.relname::text AS name, kin.oid FROM kin \
               JOIN pg_class AS c ON c.oid = kin.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE kin.oid NOT IN (SELECT oid FROM matched) AND n.nspname !~ '^pg_' \
               AND kin.oid > $3 ORDER BY 3 LIMIT $4";
    let (mut found, mut after) = (Vec::new(), 0_u32);
    loop {
        let rows = ask.rows(sql, &[&schemas, &names, &after, &limit()]).await?;
        for row in &rows {
            found.push(columns!(row, RelationName { schema, name }));
            after = get(row, "oid")?;
        }
        if found.len() > CHILDREN_MAX {
            let what =
                format!("the tables that are named have more than {CHILDREN_MAX} partitions");
            return Err(PgError::new(Class::Configuration, what)
                .with_hint("select by schemas, or let fewer tables be named"));
        }
        if rows.len() < PAGE {
            found.sort_unstable();
            return Ok(found);
        }
    }
}

/// [`PAGE`] for `LIMIT`.
fn limit() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}

/// The scope that a pg_dump of that major version is to be given: with all children where it does not
/// know of them.
pub const fn for_tool<'a>(scope: &'a Scope, with_children: &'a Scope, major: u32) -> &'a Scope {
    if major >= HAS_CHILDREN { scope } else { with_children }
}

/// Refuses a command line that the system may not take.
///
/// # Errors
/// Where the names of partitions make it too long.
pub fn check_length(line: &[String], major: u32) -> Result<(), PgError> {
    let bytes: usize = line.iter().map(|word| word.len() + 1).sum();
    if bytes <= LINE_MAX {
        return Ok(());
    }
    let what = format!(
        "pg_dump {major} has to be given each partition by name, and that makes {bytes} bytes of \
         arguments"
    );
    Err(PgError::new(Class::Configuration, what).with_hint(format!(
        "set bin_dir to the programs of PostgreSQL {HAS_CHILDREN} or newer, or name partitions by a \
         pattern"
    )))
}

/// The patterns for schema and name as `LIKE` has them.
fn likes(pattern: &RelationPattern) -> (String, String) {
    let (schema, name) = pattern.halves();
    (schema.like(), name.like())
}

/// Asks the session's database whether every pattern that selects something finds something there
/// which no other one excludes, and whether what is selected is there with its partitions. `all` is
/// the scope with all children; `encoding` is the database's.
///
/// # Errors
/// Where one does not, or its characters do not reach pg_dump as they are.
pub async fn check_matches(
    ask: Queries<'_>,
    (scope, all, major): (&Scope, &Scope, u32),
    encoding: &str,
) -> Result<(), PgError> {
    check_characters(&arguments(for_tool(scope, all, major), major), encoding)?;
    if scope.has_data() && !scope.schemas.is_empty() {
        check_elsewhere(ask, all).await?;
    }
    let database = ask.session.dbname();
    let excluded: Vec<String> = scope.exclude_schemas.iter().map(Glob::like).collect();
    for glob in &scope.schemas {
        let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname::text COLLATE \"C\" LIKE $1 \
                   AND NOT nspname::text COLLATE \"C\" LIKE ANY ($2::text[]) \
                   AND nspname !~ '^pg_' AND nspname <> 'information_schema')";
        if !ask.value(sql, &[&glob.like(), &excluded]).await? {
            return Err(no_match("schema", "schemas", glob, database));
        }
    }
    let (schemas, names): (Vec<String>, Vec<String>) = all.exclude_tables.iter().map(likes).unzip();
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
        let (schema, name) = likes(pattern);
        if !ask.value(sql, &[&schema, &name, &schemas, &names]).await? {
            return Err(no_match("table", "tables", pattern, database));
        }
    }
    Ok(())
}

/// Refuses schemas of which a table has partitions elsewhere: their rows would be missing, and the table
/// is there. A schema that is excluded by name is meant to be left out. What inherits from a table without being a
/// partition is a table of its own, and often lies elsewhere on purpose.
async fn check_elsewhere(ask: Queries<'_>, all: &Scope) -> Result<(), PgError> {
    let sql = "WITH RECURSIVE kin (parent, oid) AS (SELECT inhparent, inhrelid FROM pg_inherits \
               UNION SELECT kin.parent, i.inhrelid FROM pg_inherits AS i JOIN kin ON i.inhparent = kin.oid) \
               SELECT p.nspname::text AS parent_schema, pc.relname::text AS parent, \
               n.nspname::text AS schema, c.relname::text AS name, c.oid, pc.oid AS parent_oid FROM kin \
               JOIN pg_class AS c ON c.oid = kin.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace \
               JOIN pg_class AS pc ON pc.oid = kin.parent JOIN pg_namespace AS p ON p.oid = pc.relnamespace \
               WHERE c.relkind = 'r' AND c.relispartition AND n.oid <> p.oid AND n.nspname !~ '^pg_' \
               AND p.nspname::text COLLATE \"C\" LIKE ANY ($1::text[]) \
               AND NOT n.nspname::text COLLATE \"C\" LIKE ANY ($1::text[]) \
               AND NOT n.nspname::text COLLATE \"C\" LIKE ANY ($2::text[]) \
               AND (c.oid, pc.oid) > ($3, $4) ORDER BY 5, 6 LIMIT $5";
    let (schemas, excluded): (Vec<_>, Vec<_>) = (
        all.schemas.iter().map(Glob::like).collect(),
        all.exclude_schemas.iter().map(Glob::like).collect(),
    );
    let meant = Meant::of(all);
    let mut after = (0_u32, 0_u32);
    loop {
        let values: [&(dyn ToSql + Sync); 5] = [&schemas, &excluded, &after.0, &after.1, &limit()];
        let rows = ask.rows(sql, &values).await?;
        for row in &rows {
            let child = columns!(row, RelationName { schema, name });
            let (schema, name) = (get(row, "parent_schema")?, get(row, "parent")?);
            let parent = RelationName { schema, name };
            if !meant.has(&child) && all.takes_data(&parent.schema, &parent.name) {
                return Err(elsewhere(&parent, &child));
            }
            after = (get(row, "oid")?, get(row, "parent_oid")?);
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}

fn elsewhere(parent: &RelationName, child: &RelationName) -> PgError {
    let what = format!(
        "`schemas` selects {parent}, and its partition {child} is in another schema: its rows would be missing"
    );
    PgError::new(Class::Configuration, what).with_hint(
        "add the schema to `schemas`, or to `exclude_schemas` where its partitions are to be left out",
    )
}

/// Tables that are left out by name, or their rows. With the children of what is named there may be as many patterns
/// as there are tables: names are looked up, and not tried one by one.
struct Meant<'a> {
    names: HashSet<RelationName>,
    patterns: Vec<&'a RelationPattern>,
}

impl<'a> Meant<'a> {
    fn of(scope: &'a Scope) -> Self {
        let all = scope.exclude_tables.iter().chain(&scope.exclude_table_data);
        let patterns = all.clone().filter(|it| it.literal().is_none()).collect();
        Self { names: all.filter_map(RelationPattern::literal).collect(), patterns }
    }

    fn has(&self, relation: &RelationName) -> bool {
        self.names.contains(relation) || self.patterns.iter().any(|it| it.matches(relation))
    }
}

fn no_match(what: &str, key: &str, pattern: &dyn std::fmt::Display, database: &str) -> PgError {
    let what = format!(
        "{key} has {pattern:?}, and no {what} of database {database} matches it that is not excluded",
        pattern = pattern.to_string()
    );
    PgError::new(Class::Configuration, what).with_hint(
        "look at the name, case and all; leave databases that do not have it out with `exclude`",
    )
}

/// pg_dump reads patterns in the encoding of the database, and has them here in UTF-8.
fn check_characters(line: &[String], encoding: &str) -> Result<(), PgError> {
    if matches!(encoding, "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let Some(argument) = line.iter().find(|argument| !argument.is_ascii()) else { return Ok(()) };
    let what =
        format!("the database is in {encoding}: pg_dump would take {argument} for another name");
    Err(PgError::new(Class::Configuration, what)
        .with_hint("write ? in place of each character outside of ASCII"))
}
