//! `[server.NAME]`: one PostgreSQL cluster to connect to, as plain data.
//!
//! Either the connection is given key by key, or as `conninfo` in a form that libpq reads. What is
//! left out is libpq's own: `PG*` variables, the service file, `~/.pgpass`. Nothing is connected
//! to here, and conninfo is not taken apart: that is `postgres`'s.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    diagnostic::{Diagnostics, Located, Span, class},
    from_toml::text,
    secret::{report_exposed, report_untrusted},
    section::{Options, Section},
    trust,
    value::Value,
};
use crate::domain::name::ServerName;

/// How a connection is encrypted and the server proven: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted only if the server insists.
    Allow,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted; whoever the server is.
    Require,
    /// Encrypted, and its certificate comes from a known authority.
    VerifyCa,
    /// And it is the certificate of that host.
    VerifyFull,
}

impl SslMode {
    const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The mode as libpq writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// What a `[server.NAME]` says.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its name.
    pub name: ServerName,
    /// Where it stands.
    pub span: Span,
    /// A host name, an address, or a folder with the server's socket (it begins with `/`).
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The role.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// The file that it was read from.
    pub password_file: Option<PathBuf>,
    /// A file in the form of `~/.pgpass`.
    pub passfile: Option<PathBuf>,
    /// The role for maintenance, where it is another.
    pub maintenance_user: Option<String>,
    /// Its password.
    pub maintenance_password: Option<SecretString>,
    /// The file that it was read from.
    pub maintenance_password_file: Option<PathBuf>,
    /// The database to connect to for what concerns the whole cluster. `None` only where
    /// `conninfo` or `service` may name it.
    pub database: Option<String>,
    /// `sslmode`; `None` is libpq's default.
    pub sslmode: Option<SslMode>,
    /// The authorities that the server's certificate may come from.
    pub sslrootcert: Option<PathBuf>,
    /// The client's certificate.
    pub sslcert: Option<PathBuf>,
    /// Its key.
    pub sslkey: Option<PathBuf>,
    /// A service of libpq's service file.
    pub service: Option<String>,
    /// A connection string: `host=… user=…` or `postgresql://…`. It may hold a password.
    pub conninfo: Option<Located<SecretString>>,
    /// Where pg_dump and its like are; `None`: the matching installed version is found.
    pub bin_dir: Option<PathBuf>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a question to the catalogue may take.
    pub answer_timeout: Duration,
    /// `options` of libpq: `-c statement_timeout=0`.
    pub options: Option<String>,
}

/// The database that every cluster has.
const MAINTENANCE_DATABASE: &str = "postgres";
/// Keys that say what a connection string says too.
const IN_CONNINFO: [&str; 10] = [
    "host",
    "port",
    "user",
    "database",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "service",
    "options",
];

impl ServerConfig {
    /// Reads a section. `None` where it could not be read, which is reported.
    pub fn read(name: &ServerName, section: &Section, d: &mut Diagnostics) -> Option<Self> {
        let before = d.error_count();
        let mut o = section.options();
        for key in IN_CONNINFO {
            o.at_most_one(&["conninfo", key], d);
        }
        for key in ["password", "password_file", "password_credential"] {
            o.at_most_one(&[key, "passfile"], d);
        }
        let (sslcert, sslkey) = certificate(&mut o, d);
        let named_elsewhere = o.given("conninfo").is_some() || o.given("service").is_some();
        let database = o.take::<String>("database", d).map(|name| name.value);
        let timeout = || Duration::from_secs(1)..=Duration::from_hours(1);
        let (password, password_file) = o.secret_and_file("password", d).unzip();
        let (maintenance_password, maintenance_password_file) =
            maintenance_password(&mut o, d).unzip();
        let server = Self {
            name: name.clone(),
            span: section.span().clone(),
            host: host(&mut o, d),
            port: o.take_in("port", 1..=u16::MAX, d).map(|port| port.value),
            user: non_empty(&mut o, "user", d),
            password,
            password_file: password_file.flatten(),
            passfile: o.absolute_path("passfile", d).map(|path| path.value),
            maintenance_password,
            maintenance_password_file: maintenance_password_file.flatten(),
            maintenance_user: non_empty(&mut o, "maintenance_user", d),
            database: database
                .or_else(|| (!named_elsewhere).then(|| MAINTENANCE_DATABASE.to_owned())),
            sslmode: sslmode(&mut o, d),
            sslrootcert: o.absolute_path("sslrootcert", d).map(|path| path.value),
            sslcert,
            sslkey,
            service: non_empty(&mut o, "service", d),
            conninfo: conninfo(&mut o, d),
            bin_dir: bin_dir(&mut o, d),
            connect_timeout: o.take_in_or("connect_timeout", timeout(), Duration::from_secs(10), d),
            answer_timeout: o.take_in_or("answer_timeout", timeout(), Duration::from_mins(5), d),
            options: o.take("options", d).map(|options| options.value),
        };
        o.finish(d);
        (d.error_count() == before).then_some(server)
    }
}

fn non_empty(o: &mut Options<'_>, key: &'static str, d: &mut Diagnostics) -> Option<String> {
    let text = o.take::<String>(key, d)?;
    if text.value.is_empty() {
        d.error(&text.span, format!("`{key}` is empty")).hint("leave the key out, or fill it in");
        return None;
    }
    Some(text.value)
}

/// A password without its role would be nobody's.
fn maintenance_password(
    o: &mut Options<'_>,
    d: &mut Diagnostics,
) -> Option<(SecretString, Option<PathBuf>)> {
    let forms =
        ["maintenance_password", "maintenance_password_file", "maintenance_password_credential"];
    if o.given("maintenance_user").is_none()
        && let Some(alone) = forms.into_iter().find_map(|key| o.given(key))
    {
        d.error(&alone, "a password for maintenance needs `maintenance_user` beside it")
            .class(class::MISSING)
            .hint("name the role, or leave both out: `user` does the maintenance then");
    }
    o.secret_and_file("maintenance_password", d)
}

fn host(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<String> {
    let span = o.given("host")?;
    let host = non_empty(o, "host", d)?;
    if host.contains(',') {
        d.error(&span, "`host` names several hosts").hint("several hosts go into `conninfo`");
        return None;
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && !name.contains(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        d.error(&span, "`host` holds a port").hint(format!("write host = {name:?}, port = {port}"));
        return None;
    }
    if host.contains("://") {
        d.error(&span, "`host` is a connection string").hint("put it into `conninfo`");
        return None;
    }
    Some(host)
}

fn sslmode(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<SslMode> {
    let choices = SslMode::ALL.map(|mode| (mode.as_str(), mode));
    o.one_of("sslmode", &choices, d).map(|mode| mode.value)
}

fn certificate(o: &mut Options<'_>, d: &mut Diagnostics) -> (Option<PathBuf>, Option<PathBuf>) {
    for (key, other) in [("sslcert", "sslkey"), ("sslkey", "sslcert")] {
        if let Some(span) = o.given(key)
            && o.given(other).is_none()
        {
            d.error(span, format!("`{key}` needs `{other}` beside it")).class(class::MISSING);
        }
    }
    let mut path = |key| o.absolute_path(key, d).map(|path| path.value);
    (path("sslcert"), path("sslkey"))
}

fn conninfo(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Located<SecretString>> {
    let item = &o.entry("conninfo")?.item;
    let value = text(item, "conninfo", "a string", d)?;
    if value.trim().is_empty() {
        d.error(&item.span, "`conninfo` is empty");
        return None;
    }
    if let Value::String(text) = &item.value
        && let Some(file) = text.exposed
        && holds_password(value)
    {
        report_exposed("password", file, &item.span, d);
        return None;
    }
    Some(Located { value: SecretString::from(value), span: item.span.clone() })
}

/// Whether a connection string has a password in it, in either form. Errs towards yes.
fn holds_password(conninfo: &str) -> bool {
    let words = conninfo.replace(char::is_whitespace, "");
    if words.contains("password=") {
        return true;
    }
    let Some((_, rest)) = words.split_once("://") else { return false };
    rest.split_once('@').is_some_and(|(user, _)| user.contains(':') && !user.contains('/'))
}

/// The folder of the programs: whoever may write there runs as the daemon.
fn bin_dir(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<PathBuf> {
    let path = o.absolute_path("bin_dir", d)?;
    if let Err(error) = trust::check_folder(&path.value) {
        report_untrusted(&error, &path.span, d);
        return None;
    }
    Some(path.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_connection_strings_are_seen() {
        for with in [
            "host=a password=b",
            "host=a password = 'b'",
            "postgres://u:p@h/d",
            "postgresql://h/d?password=x",
            "postgresql://u:p@h1,h2/d",
        ] {
            assert!(holds_password(with), "{with}");
        }
        for without in [
            "host=a user=b passfile=/x",
            "postgres://u@h:5432/d",
            "postgres://h:5432/d",
            "service=main",
        ] {
            assert!(!holds_password(without), "{without}");
        }
    }
}
