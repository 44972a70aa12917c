//! `databases.sql`: every database of the server, empty, as pg_dump makes it: with owner, encoding,
//! locale, tablespace and connection limit, its settings, those of roles in it, its comment and grants.
//! It fits behind the globals, and before the restore of each database into the one of its name.
//!
//! The statements are pg_dump's own. For each database it writes an archive without any schema, which
//! takes no lock on tables; pg_restore then makes SQL of the entries that are about the database itself.
//!
//! What can still go wrong: a database that allows no connections cannot be dumped. It is named, and so is
//! one that the role may not connect to, and one that the job does not mean, whatever is wrong with it.
//! Whatever else goes wrong fails the globals, and is tried again.

use std::{path::Path, sync::Arc};

use crate::{
    codec::{plain::PlainProof, proof::Proof as _},
    domain::{
        failure::{Class, Failure},
        manifest::LeftOut,
        pattern::{self, Access},
    },
    postgres::{
        catalog::Database,
        command::{self},
        spec::ChildEnv,
    },
    sys::{
        files,
        process::{Exit, RunError, run_captured},
        task::Task,
    },
};

use super::super::{plan::DumpPlan, stderr};

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

/// How the databases are made.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) sql: Vec<u8>,
    /// Databases that the role may not read, or that allow no connections.
    pub(super) left_out: Vec<LeftOut>,
    /// Whether one was left out that is too long.
    pub(super) is_cut: bool,
}

/// The SQL for the databases.
///
/// # Errors
/// Whatever keeps one from being described but a right that the role lacks: what a backup is without,
/// it must not be without unseen. Database-gone where one was dropped or renamed since `databases` was
/// read.
pub(super) async fn sql(
    plan: &DumpPlan<'_>,
    env: &ChildEnv,
    databases: &[Database],
    task: &Task,
) -> Result<Definitions, Failure> {
    let mut made = Definitions { sql: HEAD.as_bytes().to_vec(), ..Definitions::default() };
    for database in databases {
        let name = database.name.as_str();
        if name == TEMPLATE0 || pattern::is_managed(name) {
            continue;
        }
        let mut leave = |reason: String| {
            made.left_out.push(LeftOut { what: format!("how database {name} is made"), reason });
        };
        let task = &task.doing(format!("read how database {name} is made"));
        if let Some(reason) = undumpable(database) {
            leave(reason.to_owned());
            continue;
        }
        task.progress.set_stage(task.phrase());
        match one(plan, env, name, task).await {
            Ok(None) => {
                leave(format!("it takes more than {TEXT_MAX} bytes"));
                made.is_cut = true;
            }
            Ok(Some(sql)) if made.sql.len() + sql.len() > SQL_MAX => {
                leave(format!("{NAME} would be longer than {SQL_MAX} bytes"));
                made.is_cut = true;
            }
            Ok(Some(sql)) => {
                task.progress.add_bytes(sql.len() as u64);
                made.sql.extend_from_slice(BEFORE_EACH.as_bytes());
                made.sql.extend_from_slice(&sql);
            }
            Err(failure) if may_lack(plan.patterns.mean(name), failure.class) => {
                leave(failure.what);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(made)
}

/// Why pg_dump cannot tell how a database is made.
fn undumpable(database: &Database) -> Option<&'static str> {
    match database.access {
        Access::Closed => Some("it does not allow connections (datallowconn)"),
        Access::HalfDropped => Some("it is half dropped: DROP DATABASE was interrupted"),
        Access::Unnameable => Some("its name is not UTF-8"),
        // Seen with 15 to 18: the lines up to its \\connect, then an error.
        Access::Open if database.name.as_str().contains(['\n', '\r']) => {
            Some("its name holds the end of a line, which pg_restore writes into no script")
        }
        Access::Open => None,
    }
}

/// Whether the globals are backed up without a database that failed so.
const fn may_lack(is_meant: bool, class: Class) -> bool {
    match class {
        // The role came into another database: what keeps it out of this one is a rule.
        Class::Privilege | Class::Authentication => true,
        // Nothing of the database's own: another look at the server, or another attempt, may help.
        Class::DatabaseGone | Class::Interrupted | Class::Space | Class::State => false,
        // The job does not dump it: what is wrong with it stops nothing.
        _ => !is_meant,
    }
}

/// The SQL for one database; none where it is longer than [`TEXT_MAX`].
async fn one(
    plan: &DumpPlan<'_>,
    env: &ChildEnv,
    name: &str,
    task: &Task,
) -> Result<Option<Vec<u8>>, Failure> {
    let archive = plan.scratch.join("definition.dump");
    let made = describe(plan, env, name, &archive, task).await;
    // Passwords of user mappings are in there: it does not lie about until the run ends.
    match tokio::fs::remove_file(&archive).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("{} cannot be removed: {error}", archive.display());
            Err(task.failure(Class::State, what))
        }
        _ => made,
    }
}

async fn describe(
    plan: &DumpPlan<'_>,
    env: &ChildEnv,
    name: &str,
    archive: &Path,
    task: &Task,
) -> Result<Option<Vec<u8>>, Failure> {
    let major = plan.tools.version.major;
    let list = plan.scratch.join("definition.list");
    let dump = command::Definitions {
        database: name,
        lock_wait: plan.lock_wait,
        keepalives: plan.server.spec().keepalives,
        file: archive,
    };
    let run = |command: Vec<String>| async move { run(plan, env, &command, task).await };
    run(dump.command(&plan.tools.program("pg_dump")?, major)).await?;
    let pg_restore = plan.tools.program("pg_restore")?;
    let entries = run(command::list_entries(&pg_restore, archive)).await?;
    if entries.stdout.len() >= TEXT_MAX {
        return Ok(None);
    }
    let wanted: Vec<&[u8]> =
        entries.stdout.split(|byte| *byte == b'\n').filter(|line| is_wanted(line)).collect();
    files::replace(&list, &wanted.join(&b'\n')).map_err(|error| {
        let full = error.source.kind() == std::io::ErrorKind::StorageFull;
        Failure::from_error(if full { Class::Space } else { Class::State }, task, &error)
    })?;
    let exit = run(command::definitions_to_sql(&pg_restore, archive, &list)).await?;
    if exit.stdout.len() >= TEXT_MAX {
        return Ok(None);
    }
    let mut proof = Box::new(PlainProof::of_database());
    let proven = proof.feed(&exit.stdout, &mut Vec::new()).and_then(|()| proof.finish());
    proven.map_err(|error| Failure::from_error(Class::ArchiveInvalid, task, &error))?;
    if MADE_BY_INITDB.contains(&name) {
        return without_create(&exit.stdout, name)
            .map(Some)
            .map_err(|what| task.failure(Class::ArchiveInvalid, what));
    }
    Ok(Some(exit.stdout.clone()))
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
    plan: &DumpPlan<'_>,
    env: &ChildEnv,
    command: &[String],
    task: &Task,
) -> Result<Arc<Exit>, Failure> {
    let child = plan.child(command, env);
    let limit = super::limit(plan.server.spec().answer_timeout, ANSWERS);
    let exit = run_captured(child, TEXT_MAX, limit, &task.cancel).await;
    let exit = exit.map_err(|error| match error {
        RunError::Spawn(error) => stderr::spawn_failure(task, &error),
        RunError::TimedOut { .. } => Failure::from_error(Class::Stalled, task, &error),
        RunError::Cancelled => task.cancelled(),
    })?;
    if !exit.success() {
        return Err(stderr::exit_failure(task, &exit));
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
    fn a_database_that_the_job_does_not_mean_stops_nothing() {
        for (class, meant, not_meant) in [
            (Class::Privilege, true, true),
            (Class::Authentication, true, true),
            (Class::Connection, false, true),
            (Class::ToolFailed, false, true),
            (Class::DatabaseGone, false, false),
            (Class::Interrupted, false, false),
            (Class::State, false, false),
        ] {
            assert_eq!((may_lack(true, class), may_lack(false, class)), (meant, not_meant));
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
