//! What the error output of PostgreSQL's client programs means.
//!
//! Success is never decided here: it is exit status, structure and length. This only finds the
//! class of a failure. What was said in spite of success is [`Said`].

mod said;

pub use self::said::{Judged, Said};
use crate::{
    domain::failure::{Class, Failure},
    postgres::FOREIGN_HINT,
    sys::{
        process::{End, Exit, SpawnError},
        task::Task,
    },
};

/// Longest text that goes from a program's error output into a failure, in bytes.
const QUOTE_MAX: usize = 600;

const LOCK_HINT: &str = "somebody held a stronger lock for longer than lock_wait_timeout";

const LIMIT_HINT: &str = "all connections that the role, the database or the server may have are in use: \
    ALTER ROLE … or ALTER DATABASE … CONNECTION LIMIT, or max_connections; pgkeep takes 3 for each database \
    that is dumped at one time";

const ANSWERED_HINT: &str = "the server answered, and refused the connection for what it says there; it may say \
    so in its own language (lc_messages)";

/// What replay has to do cannot wait for ever; what it waits for, and how long, is set on the standby.
pub(super) const CONFLICT_HINT: &str = "replay on the standby cancelled it: set hot_standby_feedback = on \
    there (rows then stay on the primary for the dump), or raise max_standby_streaming_delay \
    (max_standby_archive_delay where WAL comes from an archive); pg_stat_database_conflicts there has the sort";

/// Messages with their class and hint. Programs run with `LC_MESSAGES=C`, so that the texts are
/// those of src/bin/pg_dump and src/interfaces/libpq in PostgreSQL's source. The server's own messages
/// are in English for a superuser and for a role that role.sql has made; else they may be in another
/// language, which a check tells, and fall through to `tool-failed` but for locks.
const KNOWN: &[(&str, Class, &str)] = &[
    // In a message of the server: postgres_fdw's, with what the foreign server said behind it. libpq's own begin
    // otherwise.
    ("ERROR:  could not connect to server \"", Class::Sql, FOREIGN_HINT),
    ("due to conflict with recovery", Class::Standby, CONFLICT_HINT),
    (
        "password authentication failed",
        Class::Authentication,
        "check the password: passfile, password_file or ~/.pgpass",
    ),
    (
        "no pg_hba.conf entry",
        Class::Authentication,
        "add a line for this role and host to pg_hba.conf",
    ),
    (
        "pg_hba.conf rejects connection",
        Class::Authentication,
        "a line with `reject` in pg_hba.conf keeps this role out",
    ),
    (
        "fe_sendauth: no password supplied",
        Class::Authentication,
        "give the password: passfile or password_file",
    ),
    (
        "peer authentication failed",
        Class::Authentication,
        "map the service's user in pg_ident.conf, or use a password",
    ),
    (
        "row-level security policy",
        Class::Privilege,
        "give the role BYPASSRLS: with policies it cannot see every row",
    ),
    (
        "permission denied for large object",
        Class::Privilege,
        "pg_read_all_data covers large objects from PostgreSQL 19 on alone: GRANT SELECT ON LARGE OBJECT … to the role, or connect as a superuser",
    ),
    (
        "permission denied",
        Class::Privilege,
        "grant the role pg_read_all_data (14+), or SELECT on what is named",
    ),
    ("canceling statement due to lock timeout", Class::Lock, LOCK_HINT),
    (
        "could not obtain lock on relation",
        Class::Lock,
        "somebody queued for an exclusive lock during the dump",
    ),
    (
        "aborting because of server version mismatch",
        Class::ToolVersion,
        "install the client programs of the server's major version, or set bin_dir",
    ),
    (
        "No space left on device",
        Class::Space,
        "the file system that it writes to is full: that of state_dir, or the server's",
    ),
    (
        "were found for pattern",
        Class::Configuration,
        "a pattern of the selection matches nothing in this database",
    ),
    // miscinit.c, InitializeSessionUserId; postinit.c, CheckMyDatabase and InitPostgres; proc.c, InitProcess
    ("too many connections for ", Class::Connection, LIMIT_HINT),
    ("connection slots are reserved", Class::Connection, LIMIT_HINT),
    ("too many clients already", Class::Connection, LIMIT_HINT),
    ("the database system is shutting down", Class::Connection, "the server was stopped"),
    (
        "terminating connection due to administrator command",
        Class::Connection,
        "the server was stopped, or the backend was terminated",
    ),
    (
        "server closed the connection unexpectedly",
        Class::Connection,
        "look at the server's log: it stopped or crashed",
    ),
    (
        "could not connect to server",
        Class::Connection,
        "is the server running, and are host and port right?",
    ),
    (
        "connection to server",
        Class::Connection,
        "is the server running, and are host and port right?",
    ),
];

/// The class of a failed program and what to do, from its error output.
pub fn classify(stderr: &str) -> (Class, Option<&'static str>) {
    let gone = stderr.contains("database \"") && stderr.contains("does not exist");
    if gone {
        return (Class::DatabaseGone, Some("the database was dropped or renamed during the run"));
    }
    // pg_dump limits its wait for locks with a statement_timeout around LOCK TABLE, and with none
    // elsewhere. Up to 14 it writes the frame in small letters.
    let locking = stderr.contains("uery was: LOCK TABLE");
    if locking && stderr.contains("canceling statement due to statement timeout") {
        return (Class::Lock, Some(LOCK_HINT));
    }
    let known = KNOWN.iter().find(|(text, ..)| stderr.contains(text));
    match known {
        // libpq's own words, and behind them those of a server that is there.
        Some(("connection to server", class, _)) if answered(stderr) => {
            (*class, Some(ANSWERED_HINT))
        }
        Some((_, class, hint)) => (*class, Some(hint)),
        // Whether the role may read the tables was looked at before: what is left is the wait.
        None if locking && !is_english(stderr) => (Class::Lock, Some(LOCK_HINT)),
        None => (Class::ToolFailed, None),
    }
}

/// Whether a message is the server's: severity, colon and two spaces (fe-protocol3.c,
/// pqBuildErrorMessage3), in whatever language.
fn answered(stderr: &str) -> bool {
    let Some((_, said)) =
        stderr.split_once("\" failed: ").or_else(|| stderr.split_once(" failed: "))
    else {
        return false;
    };
    said.split_once(":  ").is_some_and(|(severity, _)| !severity.contains([' ', '\n']))
}

/// Whether the server's messages are in the language that [`KNOWN`] is in.
fn is_english(stderr: &str) -> bool {
    ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().any(|severity| stderr.contains(severity))
}

/// Why a program was not started: it is not there, unless the system has no process or memory left for it.
pub fn spawn_failure(task: &Task, error: &SpawnError) -> Failure {
    Failure::from_error(Class::ToolMissing, task, error)
}

/// Why a program ended other than well.
pub fn exit_failure(task: &Task, exit: &Exit) -> Failure {
    let said = quote(&exit.stderr);
    let end = exit.end;
    let what = if said.is_empty() { end.to_string() } else { format!("{end}: {said}") };
    if let End::Signal(_) = end {
        let hint = "somebody killed it: look for the out-of-memory killer in the kernel's log";
        return task.failure(Class::ToolKilled, what).hint(hint);
    }
    let (class, hint) = classify(&exit.stderr);
    let failure = task.failure(class, what);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The part of the error output that says most: from the first line with `error:` or `FATAL`, else
/// the end; at most 600 bytes on one line.
pub fn quote(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_error = |line: &&str| line.contains("error:") || line.contains("FATAL");
    let from = lines.iter().position(is_error).unwrap_or(lines.len().saturating_sub(3));
    let mut text = lines[from..].join("; ");
    if text.len() > QUOTE_MAX {
        let end = (0..=QUOTE_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_messages_find_their_class() {
        // As pg_dump 15 printed them.
        let cases = [
            (
                "pg_dump: error: connection to server on socket \"/tmp/x/.s.PGSQL.5432\" failed: No such file or directory",
                Class::Connection,
            ),
            (
                "pg_dump: error: connection to server on socket \"/s\" failed: FATAL:  database \"gone\" does not exist",
                Class::DatabaseGone,
            ),
            (
                "pg_dump: error: query failed: ERROR:  permission denied for table secret",
                Class::Privilege,
            ),
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout",
                Class::Lock,
            ),
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\npg_dump: detail: Query was: LOCK TABLE shop.orders IN ACCESS SHARE MODE",
                Class::Lock,
            ),
            (
                "pg_dump: error: aborting because of server version mismatch\npg_dump: detail: server version: 16.1; pg_dump version: 15.18",
                Class::ToolVersion,
            ),
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\npg_dump: error: query was: LOCK TABLE shop.orders IN ACCESS SHARE MODE",
                Class::Lock,
            ),
            (
                "pg_dump: error: query failed: FEHLER:  storniere Anfrage wegen Zeitüberschreitung der Anfrage\npg_dump: detail: Query was: LOCK TABLE public.u IN ACCESS SHARE MODE",
                Class::Lock,
            ),
            (
                "pg_dump: error: query failed: ERROR:  relation \"public.u\" does not exist\npg_dump: detail: Query was: LOCK TABLE public.u IN ACCESS SHARE MODE",
                Class::ToolFailed,
            ),
            (
                "pg_dump: error: connection to server at \"127.0.0.1\", port 5432 failed: FATAL:  pg_hba.conf rejects connection for host \"127.0.0.1\", user \"pgkeep\", database \"app\", no encryption",
                Class::Authentication,
            ),
            ("pg_dump: error: out of memory", Class::ToolFailed),
            (
                "pg_dump: error: Dumping the contents of table \"remote\" failed: PQgetResult() failed.\npg_dump: detail: Error message from server: ERROR:  could not connect to server \"away\"\nDETAIL:  connection to server at \"127.0.0.1\", port 1 failed: Connection refused",
                Class::Sql,
            ),
            (
                "pg_dump: error: Dumping the contents of table \"big\" failed: PQgetResult() failed.\npg_dump: error: Error message from server: ERROR:  canceling statement due to conflict with recovery",
                Class::Standby,
            ),
        ];
        for (text, class) in cases {
            assert_eq!(classify(text).0, class, "{text}");
        }
    }

    #[test]
    fn what_a_foreign_server_refuses_is_not_our_own_login() {
        for said in [
            "password authentication failed for user \"far\"",
            "no pg_hba.conf entry for host \"10.0.0.1\", user \"far\", database \"x\", no encryption",
            "sorry, too many clients already",
            "too many connections for role \"far\"",
        ] {
            let text = format!(
                "pg_dump: error: Dumping the contents of table \"remote\" failed: PQgetResult() failed.\n\
                 pg_dump: detail: Error message from server: ERROR:  could not connect to server \"away\"\n\
                 DETAIL:  connection to server at \"10.0.0.2\", port 5432 failed: FATAL:  {said}"
            );
            assert_eq!(classify(&text), (Class::Sql, Some(FOREIGN_HINT)), "{said}");
        }
    }

    #[test]
    fn large_objects_have_a_hint_of_their_own() {
        let text = "pg_dump: error: could not open large object 1: ERROR:  permission denied for large object 1";
        let (class, hint) = classify(text);
        assert_eq!(class, Class::Privilege);
        assert!(hint.is_some_and(|hint| hint.contains("LARGE OBJECT")), "{hint:?}");
    }

    #[test]
    fn a_server_that_answers_is_not_asked_for() {
        let text = |said: &str| {
            format!(
                "pg_dump: error: connection to server on socket \"/s/.s.PGSQL.1\" failed: {said}"
            )
        };
        let cases = [
            ("FATAL:  too many connections for role \"pgkeep\"", "CONNECTION LIMIT"),
            ("FATAL:  too many connections for database \"app\"", "CONNECTION LIMIT"),
            ("FATAL:  sorry, too many clients already", "max_connections"),
            ("FATAL:  zu viele Verbindungen von Rolle »a«", "in its own language"),
            (
                "No such file or directory\n\tIs the server running locally?",
                "is the server running",
            ),
        ];
        for (said, part) in cases {
            let (class, hint) = classify(&text(said));
            assert!(class == Class::Connection && hint.unwrap().contains(part), "{said}: {hint:?}");
        }
    }

    #[test]
    fn quotes_are_short_and_begin_at_the_error() {
        let text = format!("pg_dump: last built-in OID\npg_dump: error: {}", "ä".repeat(1000));
        let quote = quote(&text);
        assert!(quote.starts_with("pg_dump: error:"), "{quote}");
        assert!(quote.len() <= QUOTE_MAX + '…'.len_utf8());
        assert_eq!(super::quote("a\nb\n\nc\nd"), "b; c; d");
    }
}
