//! Our environment as libpq sees it, and `pg_service.conf` ("The Connection Service File").

use std::{collections::BTreeMap, path::PathBuf};

use crate::sys::{files::read_limited, host};

use super::params::{Params, SpecError};

/// Where packages keep the system's service file when `PGSYSCONFDIR` does not say: Debian, Red Hat,
/// a build of one's own.
const SYSTEM_FOLDERS: [&str; 4] =
    ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc", "/etc"];
/// More than any service file holds, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Environment variables and the user, taken once, so that rules over them are testable.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    user: Option<String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values may be secrets.
        f.debug_struct("Environment").field("names", &self.variables.keys()).finish_non_exhaustive()
    }
}

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::new(std::env::vars_os().filter_map(text), user_name())
    }

    /// One that is made up.
    pub fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        user: Option<String>,
    ) -> Self {
        Self { variables: variables.into_iter().collect(), user }
    }

    /// A variable; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The name of the user that we run as.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref().or_else(|| self.get("USER"))
    }

    /// A file in the home folder.
    pub fn in_home(&self, name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(self.get("HOME")?).join(name))
    }

    /// What the service file says of `name`. The user's file goes before the system's.
    pub fn service(&self, name: &str) -> Result<Params, SpecError> {
        let system = match self.get("PGSYSCONFDIR") {
            Some(folder) => vec![PathBuf::from(folder)],
            None => SYSTEM_FOLDERS.map(PathBuf::from).to_vec(),
        };
        let own = match self.get("PGSERVICEFILE") {
            Some(file) => Some(PathBuf::from(file)),
            None => self.in_home(".pg_service.conf").filter(|file| file.exists()),
        };
        let system = system.into_iter().map(|folder| folder.join("pg_service.conf"));
        let files: Vec<PathBuf> =
            own.into_iter().chain(system.filter(|file| file.exists())).collect();
        for file in &files {
            let bytes = read_limited(file, FILE_MAX)
                .map_err(|error| SpecError::new(crate::domain::failure::chain(&error)))?;
            let text = String::from_utf8_lossy(&bytes);
            let in_file = |error: SpecError| SpecError {
                what: format!("{}: {}", file.display(), error.what),
                ..error
            };
            if let Some(params) = find_service(&text, name).map_err(in_file)? {
                return Ok(params);
            }
        }
        let looked = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        Err(SpecError::new(format!("there is no service {name:?} in a service file")).hint(
            match looked.as_slice() {
                [] => "there is no pg_service.conf: set PGSERVICEFILE or write one".to_owned(),
                _ => format!("add a section [{name}] to {}", looked.join(" or ")),
            },
        ))
    }
}

/// `parseServiceFile` of fe-connect.c.
fn find_service(text: &str, name: &str) -> Result<Option<Params>, SpecError> {
    let mut found: Option<Params> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(name) {
                found = Some(Params::default());
            }
            continue;
        }
        let Some(params) = &mut found else { continue };
        let at = |what: &str| SpecError::new(format!("line {}: {what}", number + 1));
        if line.starts_with("ldap") {
            return Err(at("looking a service up by LDAP is not supported"));
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| at("expected a line of the form key=value"))?;
        if key == "service" {
            return Err(at("a service cannot refer to another one"));
        }
        // The first of two lines counts, as in libpq.
        if params.get(key).is_none() {
            params.set(key, value).map_err(|error| at(&error.what))?;
        }
    }
    Ok(found)
}

/// The name of the effective user from /etc/passwd. Users of directory services have `USER`.
fn user_name() -> Option<String> {
    host::user_name(rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str =
        "# comment\n[a]\nhost=one\nport=1\nport=2\n\n[main]\nhost=db\nuser=x = y\n[b]\n";

    #[test]
    fn a_section_is_found() {
        let params = find_service(FILE, "main").unwrap().unwrap();
        assert_eq!((params.get("host"), params.get("user")), (Some("db"), Some("x = y")));
        let params = find_service(FILE, "a").unwrap().unwrap();
        assert_eq!(params.get("port"), Some("1"));
        assert_eq!(find_service(FILE, "none").unwrap(), None);
        let error = find_service("[a]\nhots=x\n", "a").unwrap_err();
        assert_eq!(
            error.what,
            "line 2: the connection string has a parameter that libpq does not know"
        );
    }

    #[test]
    fn the_users_file_goes_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        fs::write(&own, "[main]\nhost=own\n").unwrap();
        fs::write(dir.path().join("pg_service.conf"), FILE).unwrap();
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let env = Environment::new(
            [
                ("PGSERVICEFILE".to_owned(), text(&own)),
                ("PGSYSCONFDIR".to_owned(), text(dir.path())),
            ],
            None,
        );
        assert_eq!(env.service("main").unwrap().get("host"), Some("own"));
        assert_eq!(env.service("a").unwrap().get("host"), Some("one"));
        assert!(env.service("none").unwrap_err().hint.unwrap().contains("pg_service.conf"));
    }
}
