//! Command lines of the client programs. They hold no secret: they go into the manifest as they
//! are, and everybody on the host can read them while the program runs.
//!
//! The database is always given as `dbname='…'`, since a bare name with `=` in it, or one that
//! begins like a URI, would be read as a connection string.

use std::{path::Path, time::Duration};

use super::{
    params::quote,
    scope::{self, Form},
    spec::Keepalives,
};
use crate::domain::scope::{Format, Scope};

/// A dump of one database, uncompressed, to standard output.
#[derive(Debug, Clone)]
pub struct Dump<'a> {
    pub database: &'a str,
    pub snapshot: Option<&'a str>,
    /// How long the dump waits for a table's lock before it fails. Whoever comes after it in the
    /// queue waits as long.
    pub lock_wait: Duration,
    pub scope: &'a Scope,
    pub form: Form<'a>,
    pub keepalives: Keepalives,
}

impl Dump<'_> {
    /// The command line for a `pg_dump` of major version `major`.
    pub fn command(&self, pg_dump: &Path, major: u32) -> Vec<String> {
        let format = match self.form.format {
            Format::Custom => "--format=custom",
            Format::Plain => "--format=plain",
        };
        let mut line = vec![
            pg_dump.display().to_string(),
            format.to_owned(),
            "--compress=0".to_owned(),
            "--no-password".to_owned(),
            format!("--lock-wait-timeout={}", self.lock_wait.as_millis()),
        ];
        line.extend(self.snapshot.map(|id| format!("--snapshot={id}")));
        line.extend(scope::arguments(self.scope, major));
        line.extend_from_slice(self.form.options);
        line.push(format!("--dbname={}", conninfo(self.database, self.keepalives, major)));
        line
    }
}

/// A dump of how one database is made, into a file: an archive without any schema, whose entry of the
/// database itself is what matters. It takes no lock on tables.
#[derive(Debug, Clone)]
pub struct Definitions<'a> {
    pub database: &'a str,
    pub lock_wait: Duration,
    pub keepalives: Keepalives,
    pub file: &'a Path,
}

impl Definitions<'_> {
    /// The command line for a `pg_dump` of major version `major`.
    pub fn command(&self, pg_dump: &Path, major: u32) -> Vec<String> {
        vec![
            pg_dump.display().to_string(),
            "--format=custom".to_owned(),
            "--compress=0".to_owned(),
            "--schema-only".to_owned(),
            "--exclude-schema=*".to_owned(),
            "--no-password".to_owned(),
            format!("--lock-wait-timeout={}", self.lock_wait.as_millis()),
            format!("--file={}", self.file.display()),
            format!("--dbname={}", conninfo(self.database, self.keepalives, major)),
        ]
    }
}

/// The command line that lists the entries of an archive, those of the database itself included.
pub fn list_entries(pg_restore: &Path, archive: &Path) -> Vec<String> {
    let words = [pg_restore.display().to_string(), "--list".to_owned(), "--create".to_owned()];
    words.into_iter().chain([archive.display().to_string()]).collect()
}

/// The command line that writes SQL of the database itself, and of the entries in `list`.
pub fn definitions_to_sql(pg_restore: &Path, archive: &Path, list: &Path) -> Vec<String> {
    vec![
        pg_restore.display().to_string(),
        "--create".to_owned(),
        format!("--use-list={}", list.display()),
        "--file=-".to_owned(),
        archive.display().to_string(),
    ]
}

/// A dump of what belongs to the whole cluster, as SQL, to standard output.
#[derive(Debug, Clone)]
pub struct Globals<'a> {
    pub database: &'a str,
    /// Whether to leave passwords out: needs no right on `pg_authid`.
    pub without_passwords: bool,
    pub lock_wait: Duration,
    pub keepalives: Keepalives,
}

impl Globals<'_> {
    /// The command line for a `pg_dumpall` of major version `major`.
    pub fn command(&self, pg_dumpall: &Path, major: u32) -> Vec<String> {
        let mut line = vec![
            pg_dumpall.display().to_string(),
            "--globals-only".to_owned(),
            "--no-password".to_owned(),
            format!("--lock-wait-timeout={}", self.lock_wait.as_millis()),
        ];
        if self.without_passwords {
            line.push("--no-role-passwords".to_owned());
        }
        // pg_dumpall takes everything from the connection string but the database.
        line.push(format!("--dbname={}", conninfo(self.database, self.keepalives, major)));
        line.push(format!("--database=dbname={}", quote(self.database)));
        line
    }
}

/// The name of the database and what the environment cannot carry.
fn conninfo(database: &str, keepalives: Keepalives, major: u32) -> String {
    let text = format!(
        "dbname={} keepalives_idle={} keepalives_interval={} keepalives_count={}",
        quote(database),
        keepalives.idle.as_secs().max(1),
        keepalives.interval.as_secs().max(1),
        keepalives.count
    );
    // libpq has it since 12.
    if major < 12 {
        return text;
    }
    format!("{text} tcp_user_timeout={}", keepalives.user_timeout.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::scope::Contents, postgres::params::Params};

    const KEEPALIVES: Keepalives = Keepalives {
        idle: Duration::from_secs(30),
        interval: Duration::from_secs(10),
        count: 3,
        user_timeout: Duration::from_mins(1),
    };

    #[test]
    fn a_hostile_name_stays_a_name() {
        for database in ["app", "host=evil", "postgres://evil/", r"it's \", "a b", "-h", "🐘"] {
            let dump = Dump {
                database,
                snapshot: Some("00000003-1"),
                lock_wait: Duration::from_mins(1),
                scope: &Scope::default(),
                form: Form::default(),
                keepalives: KEEPALIVES,
            };
            let line = dump.command(Path::new("/bin/pg_dump"), 15);
            let text = line.last().unwrap().strip_prefix("--dbname=").unwrap();
            let params = Params::parse(text).unwrap();
            assert_eq!(params.get("dbname"), Some(database));
            assert_eq!(params.get("host"), None);
            assert_eq!(params.get("tcp_user_timeout"), Some("60000"));
        }
    }

    #[test]
    fn options_are_as_asked() {
        let scope = Scope { contents: Contents::Schema, ..Scope::default() };
        let options = ["--inserts".to_owned()];
        let mut dump = Dump {
            database: "app",
            snapshot: None,
            lock_wait: Duration::from_millis(1500),
            scope: &scope,
            form: Form { format: Format::Custom, options: &options },
            keepalives: KEEPALIVES,
        };
        let line = dump.command(Path::new("/b/pg_dump"), 11).join(" ");
        assert_eq!(
            line,
            "/b/pg_dump --format=custom --compress=0 --no-password --lock-wait-timeout=1500 \
             --schema-only --inserts --dbname=dbname='app' keepalives_idle=30 \
             keepalives_interval=10 keepalives_count=3"
        );
        dump.form.format = Format::Plain;
        assert_eq!(dump.command(Path::new("x"), 11)[1], "--format=plain");
    }
}
