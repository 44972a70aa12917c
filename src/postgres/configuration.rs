//! The server's own configuration: its files, as far as the role may have the server read them, and
//! its settings, as far as the role may see them.
//!
//! What can still go wrong: a file that is included and sets nothing is only found by a role that
//! may read `pg_file_settings`. A setting that this session, its role or its database overrides shows
//! the value of the file only in the file.

use std::fmt::Write as _;

use tokio_postgres::Row;

use super::{
    PgError,
    column::{columns, get, only},
    queries::Queries,
};
use crate::domain::text;

/// Longest file that is read, in bytes. Configuration files have some ten thousand.
pub const FILE_MAX: usize = 1 << 20;
/// Most included files.
const INCLUDED_MAX: usize = 64;
/// `pg_hba_file_rules.file_name` and `pg_ident_file_mappings`.
const HAS_FILE_NAMES: u32 = 160_000;
/// The function that has the server read a file; a superuser may use it, and whom it is granted to.
pub const READ_FUNCTION: &str = "pg_read_binary_file(text, bigint, bigint, boolean)";

/// One row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    /// `setting`, in its unit.
    pub value: String,
    /// `unit`: `8kB`, `ms`.
    pub unit: Option<String>,
    /// `source`: `configuration file`, `command line`.
    pub source: String,
    /// The file and the line that set it, where the role may know.
    pub place: Option<(String, usize)>,
}

/// What a server says of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The files, each with the name under which people know it; the main one first.
    pub files: Vec<(String, String)>,
    /// What is not as PostgreSQL has it by itself.
    pub settings: Vec<Setting>,
    /// Whether the role sees all settings (`pg_read_all_settings`).
    pub sees_all: bool,
    pub may_read: bool,
    pub role: String,
}

/// Asks the session's server.
pub async fn configuration(ask: Queries<'_>, version_num: u32) -> Result<Configuration, PgError> {
    let sql = "SELECT current_user::text AS role, \
               pg_has_role('pg_read_all_settings', 'USAGE') AS sees_all, \
               has_function_privilege($1::text, 'EXECUTE') AS may_read";
    let row = ask.row(sql, &[&READ_FUNCTION]).await?;
    let settings = settings(ask).await?;
    let mut configuration = columns!(&row, Configuration {
        role, sees_all, may_read; settings: settings, files: Vec::new()
    });
    if configuration.sees_all {
        configuration.files = files(ask, version_num).await?;
    }
    Ok(configuration)
}

/// Our own sessions set some for themselves: of these the value that a reset would bring is shown, and
/// nothing of where it is from.
async fn settings(ask: Queries<'_>) -> Result<Vec<Setting>, PgError> {
    let sql = "SELECT name, unit, source, sourcefile, sourceline, \
               coalesce(CASE source WHEN 'session' THEN reset_val ELSE setting END, '') AS value \
               FROM pg_settings \
               WHERE context <> 'internal' AND CASE source \
               WHEN 'session' THEN reset_val IS DISTINCT FROM boot_val \
               ELSE source NOT IN ('default', 'client', 'user', 'database', 'database user') END \
               ORDER BY name COLLATE \"C\"";
    let setting = |row: &Row| {
        let line: Option<i32> = get(row, "sourceline")?;
        let line = line.and_then(|line| usize::try_from(line).ok());
        let place = get::<Option<String>>(row, "sourcefile")?.zip(line);
        Ok(columns!(row, Setting { name, value, unit, source; place: place }))
    };
    ask.list(sql, &[], setting).await
}

async fn files(ask: Queries<'_>, version_num: u32) -> Result<Vec<(String, String)>, PgError> {
    let sql = "SELECT current_setting('config_file') AS \"postgresql.conf\", \
               current_setting('hba_file') AS \"pg_hba.conf\", \
               current_setting('ident_file') AS \"pg_ident.conf\", \
               nullif(current_setting('hosts_file', true), '') AS \"pg_hosts.conf\", \
               current_setting('data_directory') || '/postgresql.auto.conf' \
                 AS \"postgresql.auto.conf\"";
    let row = ask.row(sql, &[]).await?;
    let mut files: Vec<(String, String)> = Vec::new();
    // pg_hosts.conf: PostgreSQL 19 and newer; what it says counts with ssl_sni = on.
    for column in row.columns() {
        let path: Option<String> = get(&row, column.name())?;
        files.extend(path.map(|path| (column.name().to_owned(), path)));
    }
    let mut included: Vec<String> = Vec::new();
    for (function, sql) in included_sql(version_num) {
        let allowed = format!("SELECT has_function_privilege('{function}', 'EXECUTE')");
        if ask.value(&allowed, &[]).await? {
            included
                .extend(ask.list(sql, &[], only::<Option<String>>).await?.into_iter().flatten());
        }
    }
    included.sort();
    included.dedup();
    included.retain(|path| !files.iter().any(|(_, known)| known == path));
    for (at, path) in included.into_iter().take(INCLUDED_MAX).enumerate() {
        let base = path.rsplit('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let base: String = base.chars().map(plain).take(64).collect();
        files.push((format!("included-{:02}-{base}", at + 1), path));
    }
    Ok(files)
}

/// Statements that give paths of files, each with the function that the role has to be allowed.
fn included_sql(version_num: u32) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        (
            "pg_show_all_settings()",
            "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL",
        ),
        (
            "pg_show_all_file_settings()",
            "SELECT DISTINCT sourcefile FROM pg_show_all_file_settings()",
        ),
    ];
    if version_num >= HAS_FILE_NAMES {
        all.push(("pg_hba_file_rules()", "SELECT DISTINCT file_name FROM pg_hba_file_rules()"));
        all.push((
            "pg_ident_file_mappings()",
            "SELECT DISTINCT file_name FROM pg_ident_file_mappings()",
        ));
    }
    all
}

/// Has the server read a file: at most one byte more than [`FILE_MAX`]; none where there is none.
pub async fn read_file(ask: Queries<'_>, path: &str) -> Result<Option<Vec<u8>>, PgError> {
    let sql = format!("SELECT pg_read_binary_file($1::text, 0, {}, true)", FILE_MAX + 1);
    ask.value(&sql, &[&path]).await
}

/// Whether text is the file that the settings say they are from: on each line that set one, its name
/// stands first. Another server's file of the same path is not mistaken for it.
pub fn is_file_of(text: &[u8], path: &str, settings: &[Setting]) -> bool {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut of_it = settings.iter().filter_map(|setting| {
        let (file, line) = setting.place.as_ref()?;
        (file == path).then_some((&setting.name, *line))
    });
    let stands = |(name, line): (&String, usize)| {
        let line = line.checked_sub(1).and_then(|at| lines.get(at));
        line.is_some_and(|line| {
            let word = line.trim_start().split(|c: char| c.is_whitespace() || c == '=').next();
            word.is_some_and(|word| word.eq_ignore_ascii_case(name))
        })
    };
    of_it.next().is_some_and(|first| stands(first) && of_it.all(stands))
}

/// The settings as a configuration file has them, with where they are from.
pub fn render(configuration: &Configuration, version: &str) -> String {
    let mut text = format!(
        "# Settings of PostgreSQL {version} that differ from its own defaults, as role {} saw them.\n\
         # Numbers are in the unit behind them. What the server was started with on its command\n\
         # line, and what ALTER SYSTEM set, is among them.\n",
        text::line(&configuration.role)
    );
    if !configuration.sees_all {
        text.push_str("# Some are missing: the role is not a member of pg_read_all_settings.\n");
    }
    for setting in &configuration.settings {
        let source = match (&setting.place, setting.source.as_str()) {
            (Some((file, line)), _) => format!("{}:{line}", text::line(file)),
            (None, "session") => "not known".to_owned(),
            (None, source) => source.to_owned(),
        };
        let unit = setting.unit.as_deref().map(|unit| format!("{unit}, ")).unwrap_or_default();
        let value = quoted(&setting.value);
        // Writing to a string does not fail.
        writeln!(text, "{} = {value}  # {unit}{source}", setting.name).ok();
    }
    text
}

/// As guc-file.l reads it back.
fn quoted(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
    format!("'{value}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str, line: usize) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            unit: None,
            source: "configuration file".to_owned(),
            place: Some(("/etc/postgresql.conf".to_owned(), line)),
        }
    }

    #[test]
    fn settings_are_written_as_the_server_reads_them() {
        let mut memory = setting("work_mem", "8192", 2);
        memory.unit = Some("kB".to_owned());
        let mut command = setting("archive_command", "cp \"%p\" '/a\\b'\nx", 3);
        (command.place, command.source) = (None, "command line".to_owned());
        let settings = vec![memory, command];
        let configuration =
            Configuration { settings, role: "a\nb".to_owned(), ..Configuration::default() };
        let text = render(&configuration, "15.18");
        assert!(
            text.contains("as role a\\nb saw them") && text.contains("Some are missing"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "work_mem = '8192'  # kB, /etc/postgresql.conf:2\n\
             archive_command = 'cp \"%p\" ''/a\\\\b''\\nx'  # command line\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_file_is_taken_only_where_it_says_what_the_server_says() {
        let settings = [setting("work_mem", "1", 2), setting("port", "5432", 4)];
        let is = |text: &str| is_file_of(text.as_bytes(), "/etc/postgresql.conf", &settings);
        assert!(is("# x\n Work_Mem=1MB\n\nport 5432\n"));
        for other in [
            "",
            "work_mem = 1\n\n\nport = 1",
            "# x\nwork_mem = 1\n",
            "# x\nwork_memo = 1\n\nport = 1\n",
        ] {
            assert!(!is(other), "{other:?}");
        }
        let text = b"# x\nwork_mem = 1\n\nport = 1\n";
        assert!(!is_file_of(text, "/elsewhere", &settings), "nothing is said of that file");
    }
}
