//! From libpq's parameters to typed ones. Pure but for questions whether a file is there.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::{Endpoint, Keepalives, SOCKET_FOLDERS};
use crate::postgres::{
    params::{Params, SpecError},
    service::Environment,
    target::Target,
    tls::{Roots, SslMode, TlsSpec},
};

/// `DEF_PGPORT`
const DEFAULT_PORT: u16 = 5432;
/// A server that went away without a word is noticed after 30 + 3 × 10 seconds.
const KEEPALIVES: Keepalives = Keepalives {
    idle: Duration::from_secs(30),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::from_mins(1),
};

/// All that is known, and the service that the password came from, where it did.
pub(super) fn fill(
    mut params: Params,
    with_variables: bool,
    env: &Environment,
) -> Result<(Params, Option<String>), SpecError> {
    let from_env = if with_variables { Params::from_env(env)? } else { Params::default() };
    let mut password_from = None;
    if let Some(service) = params.get("service").or(from_env.get("service")).map(str::to_owned) {
        let without = params.get("password").is_none();
        params.fill_from(env.service(&service)?);
        password_from = (without && params.get("password").is_some()).then_some(service);
    }
    params.fill_from(from_env);
    Ok((params, password_from))
}

pub(super) fn endpoints(params: &Params) -> Result<Vec<Endpoint>, SpecError> {
    let list = |keyword| params.get(keyword).map(|text| text.split(',').collect::<Vec<_>>());
    let addresses = list("hostaddr").unwrap_or_default();
    let ports = list("port").unwrap_or_default();
    let hosts = list("host").unwrap_or_else(|| vec![""; addresses.len().max(1)]);
    if !addresses.is_empty() && addresses.len() != hosts.len() {
        return Err(SpecError::new("host and hostaddr name different numbers of hosts"));
    }
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(SpecError::new("host and port have different numbers of entries"));
    }
    let endpoint = |(index, host): (usize, &&str)| {
        let port = match ports.get(if ports.len() == 1 { 0 } else { index }) {
            None | Some(&"") => DEFAULT_PORT,
            Some(text) => {
                text.trim().parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                    SpecError::new(format!("{text:?} is not a port: use 1 to 65535"))
                })?
            }
        };
        let addr: Option<IpAddr> = match addresses.get(index) {
            None | Some(&"") => host.parse().ok(),
            Some(text) => {
                let bad = |_| SpecError::new(format!("hostaddr {text:?} is not an address"));
                Some(text.parse().map_err(bad)?)
            }
        };
        let host = match (host.is_empty(), addr) {
            (false, _) => (*host).to_owned(),
            (true, Some(addr)) => addr.to_string(),
            (true, None) => default_socket_folder(port),
        };
        if host.starts_with('@') {
            return Err(SpecError::new("abstract Unix sockets are not supported by pgkeep"));
        }
        Ok(Endpoint { host, addr, port })
    };
    hosts.iter().enumerate().map(endpoint).collect()
}

fn default_socket_folder(port: u16) -> String {
    let listens = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.into_iter().find(listens).unwrap_or(SOCKET_FOLDERS[0]).to_owned()
}

pub(super) fn tls(params: &Params, env: &Environment) -> Result<TlsSpec, SpecError> {
    let mode = params.get("sslmode").map(SslMode::parse).transpose()?;
    let existing = |name: &str| env.in_home(name).filter(|path| path.exists());
    let roots = match params.get("sslrootcert") {
        Some("system") => Roots::System,
        Some(path) => Roots::File(path.into()),
        None => existing(".postgresql/root.crt").map_or(Roots::None, Roots::File),
    };
    let mode = match (mode, &roots) {
        (Some(mode), Roots::System) if mode != SslMode::VerifyFull => {
            let what = format!("sslmode={} is too weak for sslrootcert=system", mode.as_str());
            return Err(SpecError::new(what).hint("use sslmode=verify-full"));
        }
        (Some(mode), _) => mode,
        (None, Roots::System) => SslMode::VerifyFull,
        (None, _) => SslMode::Prefer,
    };
    if mode >= SslMode::VerifyCa && roots == Roots::None {
        let what = format!("sslmode={} needs a root certificate", mode.as_str());
        // With the system's roots anybody can have a certificate: only the name tells.
        let hint = match mode {
            SslMode::VerifyFull => "set sslrootcert to a PEM file, or to \"system\"",
            _ => {
                "set sslrootcert to a PEM file; or, for the system's roots, sslmode=verify-full and \
                  sslrootcert to \"system\""
            }
        };
        return Err(SpecError::new(what).hint(hint));
    }
    let client = client_certificate(params, existing)?;
    let sni = params.get("sslsni") != Some("0");
    Ok(TlsSpec { mode, roots, client, sni, versions: tls_versions(params)? })
}

fn client_certificate(
    params: &Params,
    existing: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, SpecError> {
    let path =
        |keyword, default| params.get(keyword).map(PathBuf::from).or_else(|| existing(default));
    let Some(cert) = path("sslcert", ".postgresql/postgresql.crt") else { return Ok(None) };
    match path("sslkey", ".postgresql/postgresql.key") {
        Some(key) => Ok(Some((cert, key))),
        None => Err(SpecError::new(format!("there is no sslkey for {}", cert.display()))),
    }
}

/// Whether TLS 1.2 and 1.3 are allowed. Older ones never are.
fn tls_versions(params: &Params) -> Result<(bool, bool), SpecError> {
    let version = |keyword| match params.get(keyword) {
        None => Ok(None),
        Some("TLSv1" | "TLSv1.1" | "TLSv1.2") => Ok(Some(2)),
        Some("TLSv1.3") => Ok(Some(3)),
        Some(other) => Err(SpecError::new(format!("{keyword} {other:?} does not exist"))),
    };
    let least = version("ssl_min_protocol_version")?.unwrap_or(2);
    let most = version("ssl_max_protocol_version")?.unwrap_or(3);
    match (least <= 2, most >= 3) {
        (false, false) => Err(SpecError::new("no version of TLS is allowed")),
        allowed => Ok(allowed),
    }
}

fn number(params: &Params, keyword: &str) -> Result<Option<u64>, SpecError> {
    let read = |text: &str| {
        // libpq takes a negative number as not set.
        let number: i64 = text.trim().parse().ok()?;
        Some(u64::try_from(number).unwrap_or(0))
    };
    params
        .get(keyword)
        .map(|text| read(text).ok_or_else(|| SpecError::new(format!("{keyword} is not a number"))))
        .transpose()
}

/// Zero means "the default" here: nothing waits without a limit.
fn seconds(params: &Params, keyword: &str, default: Duration) -> Result<Duration, SpecError> {
    let given = number(params, keyword)?.filter(|seconds| *seconds > 0);
    Ok(given.map_or(default, Duration::from_secs))
}

pub(super) fn keepalives(params: &Params) -> Result<Keepalives, SpecError> {
    let count = number(params, "keepalives_count")?.and_then(|n| u32::try_from(n).ok());
    let user_timeout = number(params, "tcp_user_timeout")?.filter(|millis| *millis > 0);
    Ok(Keepalives {
        idle: seconds(params, "keepalives_idle", KEEPALIVES.idle)?,
        interval: seconds(params, "keepalives_interval", KEEPALIVES.interval)?,
        count: count.filter(|n| *n > 0).unwrap_or(KEEPALIVES.count),
        user_timeout: user_timeout.map_or(KEEPALIVES.user_timeout, Duration::from_millis),
    })
}

pub(super) fn channel_binding(params: &Params) -> Result<ChannelBinding, SpecError> {
    match params.get("channel_binding") {
        None | Some("prefer") => Ok(ChannelBinding::Prefer),
        Some("disable") => Ok(ChannelBinding::Disable),
        Some("require") => Ok(ChannelBinding::Require),
        Some(other) => Err(SpecError::new(format!("channel_binding {other:?} does not exist"))),
    }
}

pub(super) fn negotiation(params: &Params) -> Result<SslNegotiation, SpecError> {
    match params.get("sslnegotiation") {
        None | Some("postgres") => Ok(SslNegotiation::Postgres),
        Some("direct") => Ok(SslNegotiation::Direct),
        Some(other) => Err(SpecError::new(format!("sslnegotiation {other:?} does not exist"))),
    }
}

pub(super) fn target(params: &Params) -> Result<Target, SpecError> {
    params.get("target_session_attrs").map_or(Ok(Target::Any), Target::parse)
}
