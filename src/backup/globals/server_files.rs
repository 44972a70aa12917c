//! How the server is configured: its files, and its settings in one text.
//!
//! The server reads the files itself where the role may have it do so. Else they are read here, where
//! the server is on this machine: reached through a Unix socket, and with a main file that says on each
//! line what the server says that it has from there. What nobody here may read is left out, and named:
//! the globals themselves are what matters, and are never lost for it.

use std::{io::Read as _, path::PathBuf};

use crate::{
    domain::{manifest::LeftOut, text},
    postgres::{
        PgError, Session,
        configuration::{self, Configuration, FILE_MAX, READ_FUNCTION},
    },
    sys::task::Task,
};

use super::super::{dump::Source, files::SmallFile};

/// The settings' object, where it is not encrypted.
const SETTINGS: &str = "settings.txt.zst";

/// Longest that all files together may be, in bytes: they are in memory while the globals are dumped.
pub(super) const FILES_MAX: usize = 2 << 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<SmallFile>,
    pub(super) left_out: Vec<LeftOut>,
    /// Statements after which nothing would be left out.
    pub(super) hint: Option<String>,
}

impl Found {
    fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.plain.len()).sum()
    }
}

/// Reads what can be read.
pub(super) async fn read(source: &Source<'_>, session: &Session, task: &Task) -> Found {
    let version = source.facts.version_num;
    match configuration::configuration(session, version, &task.cancel).await {
        Ok(configuration) => read_all(source, session, &configuration, task).await,
        Err(error) => {
            let what = "the configuration of the server".to_owned();
            Found {
                left_out: vec![LeftOut { what, reason: error.to_string() }],
                ..Found::default()
            }
        }
    }
}

async fn read_all(
    source: &Source<'_>,
    session: &Session,
    configuration: &Configuration,
    task: &Task,
) -> Found {
    let mut found = Found::default();
    let text = configuration::render(configuration, &source.facts.version);
    found.files.push(SmallFile { name: SETTINGS.to_owned(), path: None, plain: text.into_bytes() });
    if !configuration.sees_all {
        let what = "the configuration files of the server, and some of its settings".to_owned();
        let reason = "the role may not see where they lie".to_owned();
        found.left_out.push(LeftOut { what, reason });
        found.hint = Some(grants(configuration, session.dbname()));
        return found;
    }
    let is_here = is_here(session, configuration).await;
    for (name, path) in &configuration.files {
        let mut read = if configuration.may_read {
            from_server(session, path, task).await
        } else {
            Err("the role may not read it".to_owned())
        };
        if let (Err(reason), true) = (&read, is_here) {
            read = here(path.into())
                .await
                .map_err(|error| format!("{reason}, nor may pgkeep: {error}"));
        }
        match read {
            Ok(Some(plain))
                if plain.len() > FILE_MAX || found.bytes() + plain.len() > FILES_MAX =>
            {
                let reason =
                    format!("longer than {FILE_MAX} bytes, or all of them than {FILES_MAX}");
                found.left_out.push(LeftOut { what: format!("{name} ({path})"), reason });
            }
            Ok(Some(plain)) => {
                let (name, path) = (format!("{name}.zst"), Some(path.clone()));
                found.files.push(SmallFile { name, path, plain });
            }
            // Not every server has every file.
            Ok(None) => {}
            Err(reason) => {
                found.left_out.push(LeftOut { what: format!("{name} ({path})"), reason });
                found.hint = Some(grants(configuration, session.dbname()));
            }
        }
    }
    found
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

async fn from_server(
    session: &Session,
    path: &str,
    task: &Task,
) -> Result<Option<Vec<u8>>, String> {
    let read = configuration::read_file(session, path, &task.cancel).await;
    read.map_err(|error: PgError| error.to_string())
}

/// Whether the files of this machine are the server's.
async fn is_here(session: &Session, configuration: &Configuration) -> bool {
    if !session.endpoint().host.starts_with('/') {
        return false;
    }
    let Some((_, path)) = configuration.files.first() else { return false };
    let Ok(Some(text)) = here(path.into()).await else { return false };
    configuration::is_file_of(&text, path, &configuration.settings)
}

/// Reads a file of this machine: at most one byte more than is taken.
async fn here(path: PathBuf) -> Result<Option<Vec<u8>>, String> {
    let read = move || {
        let mut plain = Vec::new();
        std::fs::File::open(path)?.take(FILE_MAX as u64 + 1).read_to_end(&mut plain)?;
        Ok(plain)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(plain)) => Ok(Some(plain)),
        Ok(Err(error)) if std::io::Error::kind(&error) == std::io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
