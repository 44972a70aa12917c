//! Which further options of pg_dump a job may be given, and why not the others.
//!
//! pg_dump has some sixty. Those in [`ALLOWED`] are passed on; those in [`REFUSED`] are answered
//! with a reason, and every other one is refused as unknown: it might leave rows out without a word.

/// What an option does to a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It leaves something out: the backup is no longer one of the whole database.
    LeavesOut,
    /// Everything is in it, in another form, or more is.
    Form,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// A whole number above 0.
    Number,
    /// A pattern as pg_dump has it.
    Pattern,
}

struct Allowed {
    name: &'static str,
    value: Value,
    kind: Kind,
    /// The first major version whose pg_dump has it; 11 is the oldest that is supported.
    since: u32,
}

const fn flag(name: &'static str, kind: Kind, since: u32) -> Allowed {
    Allowed { name, value: Value::None, kind, since }
}

/// From the release notes and src/bin/pg_dump/pg_dump.c of 11 to 19; 19 has those of 18.
const ALLOWED: &[Allowed] = &[
    flag("--inserts", Kind::Form, 11),
    flag("--column-inserts", Kind::Form, 11),
    Allowed { name: "--rows-per-insert", value: Value::Number, kind: Kind::Form, since: 12 },
    flag("--load-via-partition-root", Kind::Form, 11),
    flag("--quote-all-identifiers", Kind::Form, 11),
    flag("--disable-dollar-quoting", Kind::Form, 11),
    flag("--statistics", Kind::Form, 18),
    flag("--no-privileges", Kind::LeavesOut, 11),
    flag("--no-comments", Kind::LeavesOut, 11),
    flag("--no-security-labels", Kind::LeavesOut, 11),
    flag("--no-publications", Kind::LeavesOut, 11),
    flag("--no-subscriptions", Kind::LeavesOut, 11),
    flag("--no-toast-compression", Kind::LeavesOut, 14),
    flag("--no-unlogged-table-data", Kind::LeavesOut, 11),
    flag("--no-policies", Kind::LeavesOut, 18),
    Allowed { name: "--extension", value: Value::Pattern, kind: Kind::LeavesOut, since: 14 },
    Allowed {
        name: "--exclude-extension",
        value: Value::Pattern,
        kind: Kind::LeavesOut,
        since: 17,
    },
];

const IS_OURS: &str = "pgkeep streams the dump and sets it itself";
const IN_SERVER: &str = "where to connect to is said in [server.NAME]";
const IN_CONTENTS: &str = "write contents = \"schema\" or contents = \"data\"";
const IN_SELECTION: &str = "write the pattern in `schemas`, `exclude_schemas`, `tables`, `exclude_tables` or `exclude_table_data`";
const AT_RESTORE: &str = "an archive keeps it whatever is said here: give it to pg_restore";

/// Options that have an answer of their own, with and without a value.
const REFUSED: &[(&str, &str)] = &[
    ("--file", IS_OURS),
    ("--jobs", "several connections write a folder, not a stream"),
    ("--format", "write format = \"custom\" or format = \"plain\""),
    (
        "--compress",
        "write compression_level: pgkeep compresses, in parallel, what pg_dump writes plain",
    ),
    ("--no-sync", "pgkeep itself sees to it that what it stores is on the disk"),
    ("--snapshot", "pgkeep exports a snapshot of its own, whose time stands in the manifest"),
    ("--serializable-deferrable", "pgkeep exports a snapshot of its own, in which pg_dump reads"),
    ("--lock-wait-timeout", "write lock_wait_timeout"),
    ("--verbose", "what pg_dump says on its error output becomes a finding"),
    ("--strict-names", "it is always on: a pattern that matches nothing fails the backup"),
    ("--dbname", IN_SERVER),
    ("--host", IN_SERVER),
    ("--port", IN_SERVER),
    ("--username", IN_SERVER),
    ("--role", "a role that the other can change to may be `user` of [server.NAME] itself"),
    ("--password", "pgkeep never asks: write passfile or password_file in [server.NAME]"),
    ("--no-password", IS_OURS),
    ("--schema-only", IN_CONTENTS),
    ("--data-only", IN_CONTENTS),
    ("--no-schema", IN_CONTENTS),
    ("--no-data", IN_CONTENTS),
    ("--statistics-only", "statistics alone are no backup: write --statistics"),
    ("--no-statistics", "pg_dump leaves them out unless --statistics is written"),
    ("--sequence-data", "a backup with data has the values of sequences"),
    ("--section", "take the section out of a whole backup with pg_restore --section"),
    ("--schema", IN_SELECTION),
    ("--exclude-schema", IN_SELECTION),
    ("--table", IN_SELECTION),
    ("--exclude-table", IN_SELECTION),
    ("--exclude-table-data", IN_SELECTION),
    ("--table-and-children", IN_SELECTION),
    ("--exclude-table-and-children", IN_SELECTION),
    ("--exclude-table-data-and-children", IN_SELECTION),
    ("--filter", IN_SELECTION),
    ("--blobs", "write large_objects = true"),
    ("--no-blobs", "write large_objects = false"),
    ("--large-objects", "write large_objects = true"),
    ("--no-large-objects", "write large_objects = false"),
    (
        "--enable-row-security",
        "rows that the role may not see would be missing without a word: give the role BYPASSRLS",
    ),
    (
        "--include-foreign-data",
        "the rows are another server's, and a restore would write them there",
    ),
    ("--extra-float-digits", "numbers would be rounded"),
    ("--encoding", "the dump keeps the encoding of the database; a restore converts it"),
    ("--binary-upgrade", "what it writes is for pg_upgrade alone"),
    ("--restrict-key", "whoever knows the key beforehand can put commands into a plain dump"),
    ("--on-conflict-do-nothing", "a restore would pass over rows without a word"),
    ("--clean", "a restore would drop what is there: give it to pg_restore where that is meant"),
    ("--if-exists", "it belongs to --clean, and that to pg_restore"),
    ("--create", "the lines under `restore` in the manifest make the database"),
    ("--no-owner", AT_RESTORE),
    ("--no-tablespaces", AT_RESTORE),
    ("--no-table-access-method", AT_RESTORE),
    ("--superuser", AT_RESTORE),
    ("--disable-triggers", AT_RESTORE),
    ("--use-set-session-authorization", AT_RESTORE),
];

/// Why an option is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    what: String,
    pub hint: String,
}

/// Reads one option as it is written on a command line: `--inserts`, `--rows-per-insert=100`.
///
/// # Errors
/// Where pg_dump is not to be given it.
pub fn parse(text: &str) -> Result<Kind, Refused> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let refused = |what: String, hint: &str| Refused { what, hint: hint.to_owned() };
    if let Some((_, hint)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(refused(format!("pg_dump is not given {name}"), hint));
    }
    let Some(known) = ALLOWED.iter().find(|allowed| allowed.name == name) else {
        let names: Vec<&str> = ALLOWED.iter().map(|allowed| allowed.name).collect();
        let hint = format!("write the long form of one of these: {}", names.join(", "));
        return Err(refused(format!("{text:?} is no option that pg_dump may be given"), &hint));
    };
    let fits = match (known.value, value) {
        (Value::None, None) => true,
        (Value::Number, Some(number)) => number.parse::<u32>().is_ok_and(|number| number > 0),
        (Value::Pattern, Some(pattern)) => !pattern.is_empty(),
        _ => false,
    };
    if fits {
        return Ok(known.kind);
    }
    let form = match known.value {
        Value::None => name.to_owned(),
        Value::Number => format!("{name}=100"),
        Value::Pattern => format!("{name}=PATTERN"),
    };
    Err(refused(format!("{text:?} is not as pg_dump has it"), &format!("write {form:?}")))
}

/// The first major version of pg_dump that has an option which [`parse`] took.
pub fn since(text: &str) -> u32 {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    ALLOWED.iter().find(|allowed| allowed.name == name).map_or(u32::MAX, |allowed| allowed.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_and_what_it_does() {
        for (text, kind, first) in [
            ("--inserts", Kind::Form, 11),
            ("--rows-per-insert=100", Kind::Form, 12),
            ("--statistics", Kind::Form, 18),
            ("--no-comments", Kind::LeavesOut, 11),
            ("--extension=postgis*", Kind::LeavesOut, 14),
            ("--exclude-extension=a=b", Kind::LeavesOut, 17),
        ] {
            assert_eq!((parse(text), since(text)), (Ok(kind), first), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_what_to_do() {
        for (text, hint) in [
            ("--file=/etc/passwd", "streams"),
            ("--file", "streams"),
            ("--enable-row-security", "BYPASSRLS"),
            ("--clean", "drop"),
            ("--compress=9", "compression_level"),
            ("--host=evil", "[server.NAME]"),
            ("--table=x", "tables"),
            ("--inserts=1", "--inserts"),
            ("--rows-per-insert=0", "=100"),
            ("--rows-per-insert", "=100"),
            ("--extension=", "PATTERN"),
            ("--no-such-thing", "--inserts"),
            ("-O", "long form"),
            ("--insert", "long form"),
            ("", "long form"),
            ("--inserts --clean", "long form"),
            ("app", "long form"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.hint.contains(hint), "{text}: {refused:?}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        for (name, hint) in REFUSED {
            assert!(name.starts_with("--") && !hint.is_empty());
            assert!(!ALLOWED.iter().any(|allowed| allowed.name == *name), "{name}");
        }
    }
}
