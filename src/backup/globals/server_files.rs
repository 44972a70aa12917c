//! How the server is configured: its files, and its settings in one text.
//!
//! The server reads the files itself where the role may have it do so. Else they are read here, where
//! the server is on this machine: reached through a Unix socket, and with a main file that says on each
//! line what the server says that it has from there. What nobody here may read is left out, and named:
//! the globals themselves are what matters, and are never lost for it. Whatever else goes wrong is an
//! error, and tried again.

use std::{
    io::{ErrorKind, Read as _},
    path::PathBuf,
};

use crate::{
    domain::{failure::Class, manifest::LeftOut, text},
    postgres::{
        PgError, Session,
        configuration::{self, Configuration, FILE_MAX, READ_FUNCTION},
    },
    sys::task::Task,
};

use super::super::{files::SmallFile, plan::DumpPlan};

/// The settings' object, where it is not encrypted.
const SETTINGS: &str = "settings.txt.zst";

/// Longest that all files together may be, in bytes: they are in memory while the globals are dumped.
pub(super) const FILES_MAX: usize = 2 << 20;

/// What lies beside the globals, and what could not be read of it.
#[derive(Debug, Default)]
pub(super) struct ServerFiles {
    pub(super) files: Vec<SmallFile>,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether something was left out that is too long.
    pub(super) is_cut: bool,
    /// Statements after which nothing would be left out.
    pub(super) hint: Option<String>,
}

impl ServerFiles {
    fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.plain.len()).sum()
    }
}

/// Reads what the role, or the user that pgkeep runs as, has a right to read.
///
/// # Errors
/// Whatever else keeps a file from being read.
pub(super) async fn read(
    plan: &DumpPlan<'_>,
    session: &Session,
    task: &Task,
) -> Result<ServerFiles, PgError> {
    let version = plan.facts.version_num;
    match configuration::configuration(session.queries(&task.cancel), version).await {
        Ok(configuration) => read_all(plan, session, &configuration, task).await,
        Err(error) if error.class() == Class::Privilege => {
            let what = "the configuration of the server".to_owned();
            let left_out = vec![LeftOut { what, reason: error.to_string() }];
            Ok(ServerFiles { left_out, ..ServerFiles::default() })
        }
        Err(error) => Err(error),
    }
}

async fn read_all(
    plan: &DumpPlan<'_>,
    session: &Session,
    configuration: &Configuration,
    task: &Task,
) -> Result<ServerFiles, PgError> {
    let mut found = ServerFiles::default();
    let text = configuration::render(configuration, &plan.facts.version);
    found.files.push(SmallFile { name: SETTINGS.to_owned(), path: None, plain: text.into_bytes() });
    if !configuration.sees_all {
        let what = "the configuration files of the server, and some of its settings".to_owned();
        let reason = "the role may not see where they lie".to_owned();
        found.left_out.push(LeftOut { what, reason });
        found.hint = Some(grants(configuration, session.dbname()));
        return Ok(found);
    }
    let is_here = is_here(session, configuration).await?;
    for (name, path) in &configuration.files {
        let what = || format!("{name} ({path})");
        let mut read = from_server(session, configuration, path, task).await?;
        if let (Err(reason), true) = (&read, is_here) {
            read = here(path).await?.map_err(|error| format!("{reason}, nor may pgkeep: {error}"));
        }
        match read {
            Ok(Some(bytes))
                if bytes.len() > FILE_MAX || found.bytes() + bytes.len() > FILES_MAX =>
            {
                let reason =
                    format!("longer than {FILE_MAX} bytes, or all of them than {FILES_MAX}");
                found.left_out.push(LeftOut { what: what(), reason });
                found.is_cut = true;
            }
            Ok(Some(bytes)) => {
                let (name, path) = (format!("{name}.zst"), Some(path.clone()));
                found.files.push(SmallFile { name, path, plain: bytes });
            }
            // Not every server has every file.
            Ok(None) => {}
            Err(reason) => {
                found.left_out.push(LeftOut { what: what(), reason });
                found.hint = Some(grants(configuration, session.dbname()));
            }
        }
    }
    Ok(found)
}

/// What a superuser has to run, and where.
fn grants(configuration: &Configuration, database: &str) -> String {
    let role = text::sql_ident(&configuration.role);
    format!(
        "as a superuser, in database {database}: GRANT pg_read_all_settings, pg_read_server_files TO \
         {role}; GRANT EXECUTE ON FUNCTION {READ_FUNCTION} TO {role}; (the role can then read every file \
         that the server can), or let the user of the service read the files on the same machine, or set \
         server_files = false"
    )
}

/// A file; none where there is none; why not where nobody may read it.
type May = Result<Option<Vec<u8>>, String>;

async fn from_server(
    session: &Session,
    configuration: &Configuration,
    path: &str,
    task: &Task,
) -> Result<May, PgError> {
    if !configuration.may_read {
        return Ok(Err("the role may not read it".to_owned()));
    }
    match configuration::read_file(session.queries(&task.cancel), path).await {
        Err(error) if error.class() == Class::Privilege => Ok(Err(error.to_string())),
        read => read.map(Ok),
    }
}

/// Whether the files of this machine are the server's.
async fn is_here(session: &Session, configuration: &Configuration) -> Result<bool, PgError> {
    if !session.endpoint().host.starts_with('/') {
        return Ok(false);
    }
    let Some((_, path)) = configuration.files.first() else { return Ok(false) };
    let Ok(Some(text)) = here(path).await? else { return Ok(false) };
    Ok(configuration::is_file_of(&text, path, &configuration.settings))
}

/// Reads a file of this machine: at most one byte more than is taken.
async fn here(path: &str) -> Result<May, PgError> {
    let file = PathBuf::from(path);
    let read = move || {
        let mut plain = Vec::new();
        std::fs::File::open(file)?.take(FILE_MAX as u64 + 1).read_to_end(&mut plain)?;
        Ok(plain)
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other);
    match read.and_then(|read| read) {
        Ok(plain) => Ok(Ok(Some(plain))),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(Ok(None)),
            ErrorKind::PermissionDenied => Ok(Err(error.to_string())),
            _ => Err(PgError::new(Class::State, format!("cannot read {path}: {error}"))),
        },
    }
}
