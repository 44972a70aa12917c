//! Password files: the user's, read as libpq reads them, and those that hand a password to a child,
//! which are in no folder.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use crate::{
    domain::{failure::chain, text::shell_word},
    sys::files::read_limited,
};

use super::params::SpecError;

/// More than any password file holds, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// Permission bits of group and others: libpq ignores a file that has any of them.
const NOT_PRIVATE: u32 = 0o077;

/// What a password is looked up for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The host as configured, or its address, or `localhost` for the default socket.
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// Looks a password up in a file. `None`: no line matches.
///
/// # Errors
/// Where the file cannot be read, is no plain file, or can be read by others.
pub fn lookup(path: &Path, wanted: Wanted<'_>) -> Result<Option<SecretString>, SpecError> {
    check(path)?;
    let bytes = read_limited(path, FILE_MAX).map_err(|error| SpecError::new(chain(&error)))?;
    Ok(find(&String::from_utf8_lossy(&bytes), wanted))
}

fn check(path: &Path) -> Result<(), SpecError> {
    let meta = fs::metadata(path).map_err(|error| {
        SpecError::new(format!("cannot look at the password file {}: {error}", path.display()))
    })?;
    if !meta.is_file() {
        let what = format!("the password file {} is not a plain file", path.display());
        return Err(SpecError::new(what));
    }
    if meta.mode() & NOT_PRIVATE != 0 {
        let what = format!("the password file {} can be read by others", path.display());
        return Err(SpecError::new(what)
            .hint(format!("run: chmod 0600 {}", shell_word(&path.display().to_string()))));
    }
    Ok(())
}

fn find(text: &str, wanted: Wanted<'_>) -> Option<SecretString> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for value in [wanted.host, &port, wanted.dbname, wanted.user] {
            rest = match_field(rest, value)?;
        }
        let password = unescape(rest.trim_end_matches(['\r', '\n']));
        (!password.is_empty()).then(|| SecretString::from(password))
    })
}

/// Matches one field and gives what follows its colon.
fn match_field<'a>(line: &'a str, value: &str) -> Option<&'a str> {
    let end = field_end(line)?;
    let (field, rest) = (&line[..end], &line[end + 1..]);
    (field == "*" || unescape(field) == value).then_some(rest)
}

/// Where the first colon is that no backslash precedes.
fn field_end(line: &str) -> Option<usize> {
    let mut escaped = false;
    line.bytes().position(|byte| {
        let ends = byte == b':' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            other => plain.push(other),
        }
    }
    plain
}

/// Where a child finds [`text`], which it has as its standard input: libpq wants a plain file of mode
/// 0600, and opens this one anew for each connection. It is of no folder, and gone with the child.
pub const CHILDS: &str = "/proc/self/fd/0";

/// A password file with the password for any host, database and role.
///
/// # Errors
/// Where the password has a line break.
pub fn text(password: &SecretString) -> Result<SecretSlice<u8>, SpecError> {
    let plain = password.expose_secret();
    if plain.contains(['\n', '\r', '\0']) {
        let what = "the password has a line break, which a password file cannot hold";
        return Err(SpecError::new(what));
    }
    let escaped = plain.replace('\\', r"\\").replace(':', r"\:");
    Ok(format!("*:*:*:*:{escaped}\n").into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    const WANTED: Wanted<'_> = Wanted { host: "db", port: 5432, dbname: "app", user: "me" };

    fn found(text: &str, wanted: Wanted<'_>) -> Option<String> {
        find(text, wanted).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let text = "# db:5432:app:me:no\nother:*:*:*:no\ndb:5432:*:me:yes\n*:*:*:*:late\n";
        assert_eq!(found(text, WANTED), Some("yes".to_owned()));
        assert_eq!(found(text, Wanted { port: 1, ..WANTED }), Some("late".to_owned()));
        assert_eq!(found("db:5432:app:me", WANTED), None);
        assert_eq!(found("db:5432:app:me:\n*:*:*:*:x", WANTED), Some("x".to_owned()));
    }

    #[test]
    fn escapes_are_undone() {
        let wanted = Wanted { host: "::1", dbname: r"a\b", ..WANTED };
        assert_eq!(found(r"\:\:1:*:a\\b:me:p\:w\\x:y", wanted), Some(r"p:w\x:y".to_owned()));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        fs::write(&path, "*:*:*:*:x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = lookup(&path, WANTED).unwrap_err();
        assert!(error.hint.unwrap().starts_with("run: chmod 0600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(lookup(&path, WANTED).unwrap().is_some());
        assert!(lookup(dir.path(), WANTED).is_err());
    }

    proptest! {
        #[test]
        fn our_own_file_is_read_back(password in "[^\0\r\n]{1,30}") {
            let file = text(&SecretString::from(password.clone())).unwrap();
            let file = String::from_utf8(file.expose_secret().to_vec()).unwrap();
            prop_assert_eq!(found(&file, WANTED), Some(password));
            prop_assert!(text(&SecretString::from("a\nb")).is_err());
        }
    }
}
