//! `databases.sql`: every database of the server, empty, as pg_dump makes it: with owner, encoding,
//! locale, tablespace and connection limit, its settings, those of roles in it, its comment and grants.
//! It fits behind the globals, and before the restore of each database into the one of its name.
//!
//! The statements are pg_dump's own. For each database it writes an archive without any schema, which
//! takes no lock on tables; pg_restore then makes SQL of the entries that are about the database itself.
//!
//! What can still go wrong: a database that allows no connections cannot be dumped. It is named.

use std::path::Path;

use crate::{
    codec::{plain::PlainProof, proof::Proof as _},
    domain::{
        failure::{Class, Failure, chain},
        manifest::LeftOut,
        pattern,
    },
    postgres::{
        catalog::Database,
        command::{self, Definitions},
        spec::ChildEnv,
    },
    sys::{
        files,
        process::{Exit, run_captured},
        task::Task,
    },
};

use super::super::{dump::Source, stderr};

/// The object's name, where it is not encrypted.
pub(super) const NAME: &str = "databases.sql.zst";
/// The text of one database's definition, and the list of an archive without schemas, have some
/// thousand bytes.
const TEXT_MAX: usize = 1 << 20;
/// Longest text of all databases together: some thousand of them.
pub(super) const SQL_MAX: usize = 2 << 20;
/// How often the time of an answer pg_dump may take: it reads the whole catalogue of the database.
const ANSWERS: u32 = 2;
/// Those that `initdb` makes: a new server has them.
const MADE_BY_INITDB: [&str; 2] = ["postgres", "template1"];
const TEMPLATE0: &str = "template0";
/// The entries of an archive that are about the database itself, by their description in
/// `pg_restore --list`.
const ENTRIES: [&str; 5] = [
    "DATABASE - ",
    "DATABASE PROPERTIES - ",
    "ACL - DATABASE ",
    "COMMENT - DATABASE ",
    "SECURITY LABEL - DATABASE ",
];
const HEAD: &str = "-- Every database of the server, empty; roles and tablespaces come from globals.sql.\n\
    -- Run it with psql, as a superuser, on a server that was made anew, and with\n\
    -- PGOPTIONS='-c default_transaction_read_only=off': a database may be read-only by its settings.\n";
/// Away from the database before.
const BEFORE_EACH: &str = "\n\\connect postgres\n\n";

/// The SQL for the databases, and what is not in it.
pub(super) async fn sql(
    source: &Source<'_>,
    env: &ChildEnv,
    databases: &[Database],
    task: &Task,
) -> Result<(Vec<u8>, Vec<LeftOut>), Failure> {
    let mut text = HEAD.as_bytes().to_vec();
    let mut left_out = Vec::new();
    for database in databases {
        let name = database.name.as_str();
        if name == TEMPLATE0 || pattern::is_managed(name) {
            continue;
        }
        let made = if database.connectable {
            task.progress.set_stage(format!("read how database {name} is made"));
            one(source, env, name, task).await
        } else {
            Err("it does not allow connections (datallowconn)".to_owned())
        };
        if task.cancel.is_cancelled() {
            let what = "the run was cancelled";
            return Err(Failure::new(Class::Interrupted, "dump globals", what));
        }
        match made {
            Ok(sql) if text.len() + sql.len() > SQL_MAX => {
                let reason = format!("{NAME} would be longer than {SQL_MAX} bytes");
                left_out.push(LeftOut { what: format!("how database {name} is made"), reason });
            }
            Ok(sql) => {
                task.progress.add_bytes(sql.len() as u64);
                text.extend_from_slice(BEFORE_EACH.as_bytes());
                text.extend_from_slice(&sql);
            }
            Err(reason) => {
                left_out.push(LeftOut { what: format!("how database {name} is made"), reason });
            }
        }
    }
    Ok((text, left_out))
}

/// The SQL for one database, or why there is none.
async fn one(
    source: &Source<'_>,
    env: &ChildEnv,
    name: &str,
    task: &Task,
) -> Result<Vec<u8>, String> {
    let archive = source.scratch.join("definition.dump");
    let made = describe(source, env, (name, &archive), task).await;
    // Passwords of user mappings are in there: it does not lie about until the run ends.
    if let Err(error) = tokio::fs::remove_file(&archive).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(format!("{} cannot be removed: {error}", archive.display()));
    }
    made
}

async fn describe(
    source: &Source<'_>,
    env: &ChildEnv,
    (name, archive): (&str, &Path),
    task: &Task,
) -> Result<Vec<u8>, String> {
    let major = source.tools.version.major;
    let list = source.scratch.join("definition.list");
    let program = |name: &str| source.tools.program(name).map_err(|failure| failure.to_string());
    let dump = Definitions {
        database: name,
        lock_wait: source.lock_wait,
        keepalives: source.server.spec().keepalives,
        file: archive,
    };
    run(source, env, &dump.command(&program("pg_dump")?, major), task).await?;
    let pg_restore = program("pg_restore")?;
    let entries = run(source, env, &command::list_entries(&pg_restore, archive), task).await?;
    let wanted: Vec<&[u8]> =
        entries.stdout.split(|byte| *byte == b'\n').filter(|line| is_wanted(line)).collect();
    files::replace(&list, &wanted.join(&b'\n')).map_err(|error| chain(&error))?;
    let line = command::definitions_to_sql(&pg_restore, archive, &list);
    let exit = run(source, env, &line, task).await?;
    let mut proof = Box::new(PlainProof::new());
    proof.feed(&exit.stdout, &mut Vec::new()).map_err(|error| error.to_string())?;
    proof.finish().map_err(|error| error.to_string())?;
    if MADE_BY_INITDB.contains(&name) {
        return without_create(&exit.stdout, name);
    }
    Ok(exit.stdout.clone())
}

/// `3363; 0 0 ACL - DATABASE app bob`
fn is_wanted(line: &[u8]) -> bool {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let Some(entry) = words.nth(3) else { return false };
    ENTRIES.iter().any(|wanted| entry.starts_with(wanted.as_bytes()))
}

/// A new server has the database: the statement that makes it becomes a comment.
fn without_create(sql: &[u8], name: &str) -> Result<Vec<u8>, String> {
    let create = format!("\nCREATE DATABASE {name} ").into_bytes();
    let at = sql.windows(create.len()).position(|it| it == create);
    let end = |at: usize| sql[at + 1..].iter().position(|byte| *byte == b'\n');
    match at.and_then(|at| Some((at + 1, at + 1 + end(at)?))) {
        Some((from, to)) if sql[..to].ends_with(b";") => {
            Ok([&sql[..from], b"-- ", &sql[from..]].concat())
        }
        _ => Err("its definition is not as pg_dump writes it".to_owned()),
    }
}

async fn run(
    source: &Source<'_>,
    env: &ChildEnv,
    command: &[String],
    task: &Task,
) -> Result<std::sync::Arc<Exit>, String> {
    let child = source.child(command, env);
    let limit = source.server.spec().answer_timeout * ANSWERS;
    let exit = run_captured(child, TEXT_MAX, limit, &task.cancel).await.map_err(|it| chain(&it))?;
    if !exit.success() {
        return Err(format!("{}: {}", exit.end, stderr::quote(&exit.stderr)));
    }
    if exit.stdout.len() >= TEXT_MAX {
        return Err(format!("it takes more than {TEXT_MAX} bytes"));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_database_is_taken() {
        for (line, wanted) in [
            ("3355; 1262 16385 DATABASE - app bob", true),
            ("3358; 0 0 DATABASE PROPERTIES - app bob", true),
            ("3363; 0 0 ACL - DATABASE app bob", true),
            ("3362; 0 0 COMMENT - DATABASE we\"ird/.. bob", true),
            ("3362; 0 0 SECURITY LABEL - DATABASE app bob", true),
            ("3362; 0 0 COMMENT - EXTENSION x ", false),
            ("3362; 0 0 ACL public TABLE - DATABASE app", false),
            ("; 1 2 ACL", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn what_a_new_server_has_is_not_made_again() {
        let sql = b"--\n\nCREATE DATABASE postgres WITH X = 'y';\n\n\nALTER DATABASE postgres OWNER TO a;\n";
        let text = without_create(sql, "postgres").unwrap();
        assert!(text.starts_with(b"--\n\n-- CREATE DATABASE postgres WITH X = 'y';\n\n\nALTER"));
        assert!(without_create(sql, "template1").is_err());
        assert!(without_create(b"\nCREATE DATABASE postgres X = '\n';\n", "postgres").is_err());
    }
}
