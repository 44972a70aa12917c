//! How to connect to a server: read once from the configuration or from what libpq knows, used by
//! our own sessions and, through the environment, by the client programs, so that both reach the
//! same server in the same way.
//!
//! Passwords are looked up at each connection: a rotated password file takes effect by itself.

use std::{
    ffi::OsString,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::{
    params::{Params, SpecError},
    passfile::{self, Wanted, lookup},
    service::Environment,
    startup::Startup,
    target::Target,
    tls::{Roots, SslMode, TlsSpec},
};
use crate::{config::Secret, sys::process::Spec};

/// Folders where packages put the socket: Debian and Red Hat, then PostgreSQL's own default.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// How long one attempt to connect takes at most, unless configured. libpq's own has no limit.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a question to the catalogue may take, unless configured.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// When a silent connection counts as broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    /// Silence before the first probe.
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
    /// How long sent data may stay without acknowledgement (`TCP_USER_TIMEOUT`).
    pub user_timeout: Duration,
}

/// One place where the server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name, an address, or the folder of a Unix socket.
    pub host: String,
    /// The address to use for the host, where it is known.
    pub addr: Option<IpAddr>,
    pub port: u16,
}

impl Endpoint {
    /// Whether it is a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.addr.is_none() && self.host.starts_with('/')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            _ if self.is_socket() => write!(f, "{}/.s.PGSQL.{}", self.host, self.port),
            Some(addr) if self.host.parse() != Ok(addr) => {
                write!(f, "{} ({addr}) port {}", self.host, self.port)
            }
            _ => write!(f, "{} port {}", self.host, self.port),
        }
    }
}

/// How to connect, complete and checked.
#[derive(Clone)]
pub struct ConnSpec {
    /// Where the server may be, in the order in which to try.
    pub endpoints: Vec<Endpoint>,
    pub user: String,
    pub dbname: String,
    pub tls: TlsSpec,
    pub connect_timeout: Duration,
    /// Limit of one question to the catalogue.
    pub answer_timeout: Duration,
    pub keepalives: Keepalives,
    options: Option<String>,
    /// What the server takes at the start of a session; known from the first one on.
    pub(super) startup: Arc<Startup>,
    channel_binding: ChannelBinding,
    negotiation: SslNegotiation,
    pub(super) target: Target,
    pub(super) password: Option<Secret>,
    /// The service that the password was read from, where it may be another by now. What cannot be read in
    /// this moment may be about to be replaced: the known one is tried then.
    password_service: Option<(Environment, String)>,
    passfile: Option<PathBuf>,
    passfile_is_default: bool,
    trust_variables: Vec<(&'static str, String)>,
}

impl fmt::Debug for ConnSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnSpec")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("tls", &self.tls)
            .field("password", &self.password.as_ref().map(|_| "[redacted]"))
            .field("passfile", &self.passfile)
            .finish_non_exhaustive()
    }
}

impl ConnSpec {
    /// Works out how to connect. Looks for files (certificates, sockets), never at the network. Whatever
    /// `params` leaves out comes from the service that they name, then (`with_variables`) from `PG*`
    /// variables, then from libpq's defaults.
    ///
    /// # Errors
    /// Where libpq would refuse the parameters, or pgkeep cannot obey them.
    pub fn resolve(
        params: Params,
        with_variables: bool,
        env: &Environment,
    ) -> Result<Self, SpecError> {
        let (params, password_service) = resolve::fill(params, with_variables, env)?;
        let user = params.get("user").or(env.user()).ok_or_else(|| {
            SpecError::new("there is no role to connect as").hint("set `user` for the server")
        })?;
        let passfile = params.get("passfile").map(PathBuf::from);
        let passfile_is_default = passfile.is_none();
        let trust_variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
            .into_iter()
            .filter_map(|name| Some((name, env.get(name)?.to_owned())))
            .collect();
        if params.get("gssencmode") == Some("require") {
            return Err(SpecError::new("gssencmode=require is not supported by pgkeep"));
        }
        Ok(Self {
            endpoints: resolve::endpoints(&params)?,
            user: user.to_owned(),
            dbname: params.get("dbname").unwrap_or(user).to_owned(),
            tls: resolve::tls(&params, env)?,
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
            keepalives: resolve::keepalives(&params)?,
            options: params.get("options").map(str::to_owned),
            startup: Arc::default(),
            channel_binding: resolve::channel_binding(&params)?,
            negotiation: resolve::negotiation(&params)?,
            target: resolve::target(&params)?,
            password: params.get("password").map(|text| Secret::from(SecretString::from(text))),
            password_service: password_service.map(|service| (env.clone(), service)),
            passfile: passfile.or_else(|| env.in_home(".pgpass")),
            passfile_is_default,
            trust_variables,
        })
    }

    /// The same server as another role. The password of this one is not the other's: without one
    /// given, password files are asked, by the other's name.
    #[must_use]
    pub fn as_role(&self, user: &str, password: Option<Secret>) -> Self {
        // What one role may set at the start of a session, the other may not.
        Self {
            user: user.to_owned(),
            password,
            password_service: None,
            startup: Arc::default(),
            ..self.clone()
        }
    }

    /// The password for a database at an endpoint, from the configuration or a password file.
    ///
    /// # Errors
    /// Where a password file that was asked for cannot be used. `~/.pgpass` in that state is passed
    /// over, with a warning in the log, as libpq does.
    pub fn password(&self, at: &Endpoint, dbname: &str) -> Result<Option<SecretString>, SpecError> {
        if let Some(known) = &self.password {
            let rotated = self.password_service.as_ref().and_then(|(env, service)| {
                env.service(service).ok()?.get("password").map(SecretString::from)
            });
            return Ok(Some(rotated.unwrap_or_else(|| known.now())));
        }
        let Some(file) = &self.passfile else { return Ok(None) };
        if self.passfile_is_default && !file.exists() {
            return Ok(None);
        }
        let default_socket = SOCKET_FOLDERS.contains(&at.host.as_str());
        // libpq looks sockets in its default folder up as localhost, others by their folder. Which
        // folder is the default depends on who built it: we try both.
        let hosts = [at.host.as_str(), "localhost"];
        for host in &hosts[..if default_socket { 2 } else { 1 }] {
            let wanted = Wanted { host, port: at.port, dbname, user: &self.user };
            match lookup(file, wanted) {
                Ok(None) => {}
                Err(error) if self.passfile_is_default => {
                    tracing::warn!(%error, "the password file is not used");
                    return Ok(None);
                }
                found => return found,
            }
        }
        Ok(None)
    }

    /// What tokio-postgres needs to begin a session on a connection to an endpoint.
    pub(super) fn client_config(
        &self,
        at: &Endpoint,
        dbname: &str,
        application_name: &str,
        mode: SslMode,
    ) -> Result<tokio_postgres::Config, SpecError> {
        use tokio_postgres::config::SslMode as Wire;
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).dbname(dbname).application_name(application_name);
        if let Some(password) = self.password(at, dbname)? {
            config.password(password.expose_secret());
        }
        if let Some(options) = self.startup.options(self.options.as_deref()) {
            config.options(options);
        }
        // There is no TLS on Unix sockets; libpq ignores the mode there, tokio-postgres fails.
        config.ssl_mode(match mode {
            _ if at.is_socket() => Wire::Disable,
            SslMode::Disable | SslMode::Allow => Wire::Disable,
            SslMode::Prefer => Wire::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Wire::Require,
        });
        config.channel_binding(self.channel_binding).ssl_negotiation(self.negotiation);
        Ok(config)
    }

    /// The environment with which a client program connects to the same place. A password goes
    /// through a file in memory, never into the environment itself.
    pub fn child_env(
        &self,
        at: &Endpoint,
        dbname: &str,
        application_name: &str,
    ) -> Result<ChildEnv, SpecError> {
        let mut env = ChildEnv { vars: Vec::new(), passfile: Vec::new().into() };
        env.set("PGHOST", &at.host);
        if let Some(addr) = at.addr {
            env.set("PGHOSTADDR", addr.to_string());
        }
        env.set("PGPORT", at.port.to_string());
        env.set("PGUSER", &self.user);
        env.set("PGDATABASE", dbname);
        env.set("PGAPPNAME", application_name);
        // Whole seconds, at least 2: libpq before 17 reads 1 as 2, and 0 is no limit.
        env.set("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(2).to_string());
        self.tls_env(&mut env)?;
        if let Some(options) = self.startup.options(self.options.as_deref()) {
            env.set("PGOPTIONS", options);
        }
        match self.channel_binding {
            ChannelBinding::Disable => env.set("PGCHANNELBINDING", "disable"),
            ChannelBinding::Require => env.set("PGCHANNELBINDING", "require"),
            _ => {}
        }
        if let Some(password) = self.password(at, dbname)? {
            env.passfile = passfile::text(&password)?;
            env.set("PGPASSFILE", passfile::CHILDS);
        }
        Ok(env)
    }

    fn tls_env(&self, env: &mut ChildEnv) -> Result<(), SpecError> {
        env.set("PGSSLMODE", self.tls.mode.as_str());
        match &self.tls.roots {
            Roots::None => {}
            Roots::System => env.set("PGSSLROOTCERT", "system"),
            Roots::File(path) => env.set("PGSSLROOTCERT", absolute(path)?),
        }
        if let Some((cert, key)) = &self.tls.client {
            env.set("PGSSLCERT", absolute(cert)?);
            env.set("PGSSLKEY", absolute(key)?);
        }
        if !self.tls.sni {
            env.set("PGSSLSNI", "0");
        }
        match self.tls.versions {
            (true, false) => env.set("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"),
            (false, true) => env.set("PGSSLMINPROTOCOLVERSION", "TLSv1.3"),
            _ => {}
        }
        if self.negotiation == SslNegotiation::Direct {
            env.set("PGSSLNEGOTIATION", "direct");
        }
        for (name, value) in &self.trust_variables {
            env.set(name, value);
        }
        Ok(())
    }
}

/// The environment of a client program.
#[derive(Debug)]
pub struct ChildEnv {
    /// None of these variables is secret.
    vars: Vec<(OsString, OsString)>,
    /// The password file, as the program's standard input; empty where there is no password.
    passfile: SecretSlice<u8>,
}

impl ChildEnv {
    /// The program with this environment. No client program that we start reads its standard input.
    #[must_use]
    pub fn of(&self, program: Spec) -> Spec {
        Spec { stdin: self.passfile.clone(), ..program.envs(self.vars.iter().cloned()) }
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.vars.push((name.into(), value.into()));
    }
}

fn absolute(path: &Path) -> Result<PathBuf, SpecError> {
    std::path::absolute(path)
        .map_err(|error| SpecError::new(format!("{}: {error}", path.display())))
}

mod resolve;
#[cfg(test)]
mod tests;
