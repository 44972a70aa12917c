//! What goes wrong between us and a server, sorted into classes, with a hint.
//!
//! The server's codes decide, and rustls's own errors. tokio-postgres keeps the kind of its errors to itself:
//! where there is neither, its text decides, which [`says`] alone reads. Refusals of a login that have one
//! code in common are told apart by the server's text.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use crate::domain::failure::{Class, Failure, IntoFailure};

use super::{
    guard::Excess,
    params::SpecError,
    spec::{ConnSpec, Endpoint},
    tls::Roots,
};

/// Why something with a server could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PgError {
    #[error("cancelled")]
    Cancelled,
    #[error("{what}")]
    Failed {
        class: Class,
        what: String,
        hint: Option<String>,
        /// The server's code, where the server said it.
        sqlstate: Option<String>,
    },
}

impl IntoFailure for PgError {
    fn into_failure(self, doing: impl Into<String>) -> Failure {
        let class = self.class();
        let failure = Failure::new(class, doing, self.to_string());
        match self {
            Self::Failed { hint: Some(hint), .. } => failure.hint(hint),
            _ => failure,
        }
    }
}

impl PgError {
    /// One that did not come from a server.
    pub fn new(class: Class, what: impl Into<String>) -> Self {
        Self::Failed { class, what: what.into(), hint: None, sqlstate: None }
    }

    pub(super) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// pg_dump and its backend wait for each other.
    pub fn stalled(waits: std::time::Duration) -> Self {
        let waits = crate::domain::units::format_duration(waits);
        let what = format!(
            "the server has waited for pg_dump for {waits}, and pg_dump has written nothing: what lies between \
             them does not pass on what they say"
        );
        Self::new(Class::Stalled, what).with_hint(
            "look at proxies, balancers and firewalls between pgkeep and the server; answer_timeout sets the limit",
        )
    }

    /// Whether it was stopped on purpose.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// The class; being cancelled is an interruption.
    pub fn class(&self) -> Class {
        match self {
            Self::Cancelled => Class::Interrupted,
            Self::Failed { class, .. } => *class,
        }
    }

    /// The server's code, where the server said it.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Cancelled => None,
            Self::Failed { sqlstate, .. } => sqlstate.as_deref(),
        }
    }

    /// An error of an established session.
    pub(super) fn of_statement(error: &tokio_postgres::Error) -> Self {
        let what = describe(error);
        let Some(db) = error.as_db_error() else {
            if let Some(excess) = inside::<Excess>(error) {
                return Self::new(Class::Connection, what).with_hint(excess.hint);
            }
            let ours = ["serializing", "deserializing", "invalid column", "parameters but got"];
            let class = match ours.iter().any(|part| says(error, part)) {
                true => Class::Internal,
                false if says(error, "number of rows") => Class::Sql,
                false => Class::Connection,
            };
            return Self::new(class, what);
        };
        let code = db.code();
        // Our own connection ends with FATAL. An ERROR of that class is about another one, to a foreign
        // server that the statement led to.
        let is_foreign = code.code().starts_with("08")
            && db.parsed_severity() == Some(tokio_postgres::error::Severity::Error);
        if is_foreign {
            let hint = Some(FOREIGN_HINT.to_owned());
            let sqlstate = Some(code.code().to_owned());
            return Self::Failed { class: Class::Sql, what, hint, sqlstate };
        }
        let class = class_of(code);
        let hint = db.hint().map(str::to_owned).or_else(|| hint_for(code).map(str::to_owned));
        Self::Failed { class, what, hint, sqlstate: Some(code.code().to_owned()) }
    }

    /// An error of an attempt to connect.
    pub(super) fn of_connect(
        error: &tokio_postgres::Error,
        at: &Endpoint,
        spec: &ConnSpec,
    ) -> Self {
        let user = spec.user.as_str();
        let what = format!("connection to {at} failed: {}", describe(error));
        if let Some(db) = error.as_db_error() {
            let class = class_of(db.code());
            let hint = connect_hint(db.code(), db.message(), user)
                .or_else(|| hint_for(db.code()).map(str::to_owned));
            let sqlstate = Some(db.code().code().to_owned());
            return Self::Failed { class, what, hint, sqlstate };
        }
        let refused = ["authentication error", "invalid configuration"];
        let is_login = refused.iter().any(|part| says(error, part));
        let class = if is_login { Class::Authentication } else { Class::Connection };
        let hint = if says(error, "password missing") {
            Some("the server asks for a password: give one by password_file, passfile or ~/.pgpass")
        } else if is_login {
            None
        } else if let Some(excess) = inside::<Excess>(error) {
            Some(excess.hint)
        } else if says(error, "server does not support TLS") {
            Some(if spec.tls.roots == Roots::System {
                "the server has no TLS: set ssl = on there, or leave sslrootcert out and use sslmode=prefer"
            } else {
                "the server has no TLS: set ssl = on there, or use sslmode=prefer"
            })
        } else {
            inside(error).and_then(|error| tls_hint(error, spec.tls.roots == Roots::System))
        };
        let failed = Self::new(class, what);
        hint.map_or(failed.clone(), |hint| failed.with_hint(hint))
    }

    /// An error of the connection itself, before anything was said on it.
    pub(super) fn of_dial(error: &std::io::Error, at: &Endpoint) -> Self {
        let what = format!("connection to {at} failed: {error}");
        let failed = |hint: &str| Self::new(Class::Connection, what.as_str()).with_hint(hint);
        match error.kind() {
            std::io::ErrorKind::NotFound if at.is_socket() => failed(
                "no server listens on that socket: is PostgreSQL running, and are host (a \
                 folder) and port right?",
            ),
            std::io::ErrorKind::ConnectionRefused => failed(
                "no server listens there: is PostgreSQL running, and do port and \
                 listen_addresses fit?",
            ),
            std::io::ErrorKind::PermissionDenied => failed(
                "the user that pgkeep runs as may not use the socket (unix_socket_permissions, \
                 or its folder)",
            ),
            _ => Self::new(Class::Connection, what),
        }
    }
}

impl From<SpecError> for PgError {
    fn from(error: SpecError) -> Self {
        Self::Failed {
            class: Class::Configuration,
            what: error.what,
            hint: error.hint,
            sqlstate: None,
        }
    }
}

/// What helps where a statement wanted data of a foreign table.
pub const FOREIGN_HINT: &str = "a foreign server that the statement led to (a foreign table, or a partition that is \
    one) does not answer: is it running, and are its options and user mapping right?";

/// The text without "db error", with detail: tokio-postgres keeps these apart.
fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return crate::domain::failure::chain(error);
    };
    match db.detail() {
        Some(detail) => format!("{}: {} ({detail})", db.severity(), db.message()),
        None => format!("{}: {}", db.severity(), db.message()),
    }
}

/// What a layer of ours or of rustls said, which comes wrapped into an error of I/O.
fn inside<E: std::error::Error + 'static>(error: &tokio_postgres::Error) -> Option<&E> {
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.downcast_ref()
}

/// Whether tokio-postgres's own words have this part.
fn says(error: &tokio_postgres::Error, part: &str) -> bool {
    crate::domain::failure::chain(error).contains(part)
}

/// Appendix A of the PostgreSQL manual.
fn class_of(code: &SqlState) -> Class {
    match code.code() {
        "42501" => Class::Privilege,
        // invalid_catalog_name, database_dropped
        "3D000" | "57P04" => Class::DatabaseGone,
        // serialization_failure: our own transactions get it from replay on a standby alone.
        "40001" => Class::Standby,
        // lock_not_available, deadlock_detected
        "55P03" | "40P01" => Class::Lock,
        // disk_full
        "53100" => Class::Space,
        // invalid_sql_statement_name, duplicate_prepared_statement: what our session has prepared
        // is in another backend, and so there is a pooler in between.
        "26000" | "42P05" => Class::Configuration,
        // too_many_connections; admin_shutdown, crash_shutdown, cannot_connect_now, idle timeout
        "53300" | "57P01" | "57P02" | "57P03" | "57P05" => Class::Connection,
        code if code.starts_with("28") => Class::Authentication,
        code if code.starts_with("08") => Class::Connection,
        _ => Class::Sql,
    }
}

fn hint_for(code: &SqlState) -> Option<&'static str> {
    match code.code() {
        "42501" => Some(
            "grant the role what it lacks: CONNECT on the database, or for dumps pg_read_all_data (14+); \
             packaging/sql/role.sql grants all of it",
        ),
        "3D000" => Some("the database does not exist on this server: was it renamed or dropped?"),
        "53300" => Some(
            "all connections are in use: max_connections of the server, or the CONNECTION LIMIT of the \
             role or of the database, as the message says",
        ),
        "57P03" => Some(
            "the server is starting, stopping or recovering: wait until it accepts connections",
        ),
        "57P01" | "57P02" => Some("the server ended the session: was it restarted?"),
        "55P03" => Some("another session holds the lock: look at pg_locks and pg_stat_activity"),
        "40001" => Some(
            "replay on the standby cancelled it: set hot_standby_feedback, or raise \
             max_standby_streaming_delay there",
        ),
        "53100" => Some("the server's filesystem is full"),
        "26000" | "42P05" => Some(
            "is there a connection pooler in between? Connect to the server itself: host and port of \
             PostgreSQL, not of the pooler",
        ),
        _ => None,
    }
}

fn connect_hint(code: &SqlState, message: &str, user: &str) -> Option<String> {
    if message.contains("pg_hba.conf") {
        return Some(format!(
            "add a line for role {user:?} to pg_hba.conf and reload the server: \
             pg_hba_file_rules shows what is in force"
        ));
    }
    match code.code() {
        "28P01" => Some(format!(
            "the password for role {user:?} is wrong: check password_file, passfile or ~/.pgpass"
        )),
        _ if message.contains("Peer authentication") => Some(format!(
            "run pgkeep as the operating system's user {user:?}, or map its user to the role in \
             pg_ident.conf"
        )),
        "28000" => {
            Some(format!("check that role {user:?} exists and may log in (CREATE ROLE … LOGIN)"))
        }
        _ => None,
    }
}

/// Whether the server shows the certificate of an authority. rustls has webpki's error in a box, whose type is
/// no dependency of ours: its name decides.
fn is_authority(why: &rustls::CertificateError) -> bool {
    format!("{why:?}").contains("CaUsedAsEndEntity")
}

/// `system`: the roots are those of the operating system, with which no weaker mode is taken.
fn tls_hint(error: &rustls::Error, system: bool) -> Option<&'static str> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    Some(match error {
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            if system {
                "the server's certificate is for another name: connect by that name"
            } else {
                "the server's certificate is for another name: connect by that name, or use \
                 sslmode=verify-ca"
            }
        }
        Error::InvalidCertificate(why) if *why == Bad::UnknownIssuer || is_authority(why) => {
            "the server's certificate is not signed by sslrootcert: put its CA, or the \
             certificate itself, there"
        }
        Error::AlertReceived(
            Alert::HandshakeFailure | Alert::UnrecognisedName | Alert::MissingExtension,
        ) => {
            "the server ends the handshake: with ssl_sni (PostgreSQL 19) it chooses its certificate by the \
             name that is connected to, and an address is none: connect by a name that its pg_hosts.conf \
             has. Else both have no cipher in common"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_class() {
        let cases = [
            ("28P01", Class::Authentication),
            ("28000", Class::Authentication),
            ("42501", Class::Privilege),
            ("3D000", Class::DatabaseGone),
            ("57P04", Class::DatabaseGone),
            ("57P01", Class::Connection),
            ("55P03", Class::Lock),
            ("53100", Class::Space),
            ("40001", Class::Standby),
            ("26000", Class::Configuration),
            ("42601", Class::Sql),
            ("57014", Class::Sql),
        ];
        for (code, class) in cases {
            assert_eq!(class_of(&SqlState::from_code(code)), class, "{code}");
        }
    }

    #[test]
    fn a_server_that_chooses_its_certificate_by_name_is_told() {
        // PostgreSQL 19 with ssl_sni = on and a host that is an address.
        for alert in
            [rustls::AlertDescription::HandshakeFailure, rustls::AlertDescription::UnrecognisedName]
        {
            let hint = tls_hint(&rustls::Error::AlertReceived(alert), false);
            assert!(hint.unwrap().contains("pg_hosts.conf"), "{alert:?}");
        }
        assert_eq!(tls_hint(&rustls::Error::DecryptError, false), None);
    }

    #[test]
    fn a_failure_keeps_class_and_hint() {
        let error = PgError::new(Class::Lock, "no lock").with_hint("wait");
        let failure = error.into_failure("dump database app");
        assert_eq!(failure.to_string(), "dump database app: no lock");
        assert_eq!((failure.class, failure.hint.as_deref()), (Class::Lock, Some("wait")));
        assert_eq!(PgError::Cancelled.into_failure("x").class, Class::Interrupted);
    }
}
