//! Opening a session: where the server is, in which way it is spoken to, and the limits that hold from the
//! first byte on.
//!
//! Each attempt (the connection, TLS, the login, and what is asked of the server to know whether it is the one
//! that is looked for) is bounded by [`ConnSpec::connect_timeout`] as a whole.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Connection, config::SslNegotiation, tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::{either::Either, sync::CancellationToken};

use crate::{domain::failure::Class, sys::time_limits};

use super::{
    error::PgError,
    guard::{Guarded, GuardedTls, Meter},
    notice::Notices,
    session::Session,
    spec::{ConnSpec, Endpoint, Keepalives},
    startup::is_refusal,
    target::{self, Target},
    tls::SslMode,
};

/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long one cancel request may take.
const CANCEL_REQUEST: Duration = Duration::from_secs(5);
/// How long the server has to end a session that we close.
pub(super) const CLOSE: Duration = Duration::from_secs(3);

/// A session, and whether the next one on the server is opened with other settings.
pub(super) type Opened = (Session, bool);

type Socket = Either<TcpStream, UnixStream>;
type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// What it takes to cancel a statement.
#[derive(Clone)]
pub(super) struct Stop {
    token: CancelToken,
    tls: MakeRustlsConnect,
    at: Endpoint,
    keepalives: Keepalives,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop")
    }
}

impl Stop {
    /// Sends a cancel request, over a connection of its own.
    pub(super) async fn request(&self) {
        let asked = async {
            let socket = dial(&self.at, self.keepalives).await.ok()?;
            let tls = above(&self.tls, &self.at).ok()?;
            self.token.cancel_query_raw(socket, tls).await.ok()
        };
        // If it does not get through, the next one may; after the last the connection is closed.
        drop(timeout(time_limits::limit(CANCEL_REQUEST), asked).await);
    }
}

pub(super) fn timed_out(at: &Endpoint, limit: Duration) -> PgError {
    let limit = limit.as_secs_f32();
    PgError::new(
        Class::Connection,
        format!("connection to {at} failed: no answer within {limit} s"),
    )
    .with_hint("the host does not answer: check the address, the network and firewalls")
}

/// Tries the endpoints in their order.
pub(super) async fn find(
    spec: &ConnSpec,
    dbname: &str,
    application_name: &str,
) -> Result<Opened, PgError> {
    let tls = spec.tls.connector()?;
    let mut last = PgError::new(Class::Configuration, "there is no host to connect to");
    for target in spec.target.passes() {
        for configured in &spec.endpoints {
            let places = match places(configured).await {
                Ok(places) => places,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for at in places {
                match try_modes(spec, (&at, *target), dbname, application_name, &tls).await {
                    Ok(session) => return Ok(session),
                    Err(error) if may_be_elsewhere(&error) => last = error,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Err(last)
}

/// A server that answered and refused is the right one; libpq does not look further either.
fn may_be_elsewhere(error: &PgError) -> bool {
    error.class() == Class::Connection && error.sqlstate().is_none_or(|code| code == "57P03")
}

/// The addresses of a host, so that our session and client programs use the same.
async fn places(configured: &Endpoint) -> Result<Vec<Endpoint>, PgError> {
    if configured.is_socket() || configured.addr.is_some() {
        return Ok(vec![configured.clone()]);
    }
    let host = &configured.host;
    let failed = |why: String| {
        PgError::new(Class::Connection, format!("the host name {host:?} is not resolved: {why}"))
            .with_hint("check the name, and the name service of this machine")
    };
    let found = timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), configured.port))).await;
    let found: Vec<Endpoint> = match found {
        Ok(Ok(found)) => {
            found.map(|at| Endpoint { addr: Some(at.ip()), ..configured.clone() }).collect()
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {} s", RESOLVE.as_secs()))),
    };
    if found.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(found) }
}

/// `allow` and `prefer` try a second way where the first is refused because of its encryption.
async fn try_modes(
    spec: &ConnSpec,
    (at, target): (&Endpoint, Target),
    dbname: &str,
    application_name: &str,
    tls: &MakeRustlsConnect,
) -> Result<Opened, PgError> {
    let modes: &[SslMode] = match spec.tls.mode {
        SslMode::Allow if !at.is_socket() => &[SslMode::Disable, SslMode::Require],
        SslMode::Prefer if !at.is_socket() => &[SslMode::Prefer, SslMode::Disable],
        ref only => std::slice::from_ref(only),
    };
    let mut first = None;
    for mode in modes {
        let mut opened = open(spec, (at, target), dbname, application_name, tls, *mode).await;
        if let Err(error) = &opened {
            // Another session may have learned the same a moment ago: this one is opened again, too.
            let is_refused = is_refusal(&error.to_string());
            let is_older = spec.startup.may_have_caused(error.sqlstate());
            if is_refused {
                spec.startup.refuse();
            } else if is_older {
                spec.startup.forget();
            }
            if is_refused || is_older {
                opened = open(spec, (at, target), dbname, application_name, tls, *mode).await;
            }
        }
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error) if refuses_encryption(&error) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(first.unwrap_or(error)),
        }
    }
    Err(first.unwrap_or(PgError::Cancelled))
}

/// Whether the other way, with or without TLS, may be let in. A refusal by pg_hba.conf has its code in common
/// with others, and a handshake that fails has none: the text decides.
fn refuses_encryption(error: &PgError) -> bool {
    let text = error.to_string();
    text.contains("TLS handshake") || text.contains("pg_hba.conf")
}

async fn open(
    spec: &ConnSpec,
    (at, target): (&Endpoint, Target),
    dbname: &str,
    application_name: &str,
    tls: &MakeRustlsConnect,
    mode: SslMode,
) -> Result<Opened, PgError> {
    let config = spec.client_config(at, dbname, application_name, mode)?;
    let meter = Arc::new(Meter::default());
    let attempt = async {
        let socket = dial(at, spec.keepalives).await;
        let socket = socket.map_err(|error| PgError::of_dial(&error, at))?;
        let asks_for_tls = config.get_ssl_mode() != tokio_postgres::config::SslMode::Disable
            && config.get_ssl_negotiation() == SslNegotiation::Postgres;
        let above = above(tls, at)?;
        let above = GuardedTls { tls: above, meter: meter.clone() };
        let stream = Guarded::new(socket, asks_for_tls, meter.clone());
        let connected = config.connect_raw(stream, above).await;
        let (client, connection) =
            connected.map_err(|error| PgError::of_connect(&error, at, spec))?;
        let version = connection.parameter("server_version");
        let superuser = connection.parameter("is_superuser") == Some("on");
        let outdated = version.is_some_and(|version| spec.startup.learn(version, superuser));
        let stop = Stop {
            token: client.cancel_token(),
            tls: tls.clone(),
            at: at.clone(),
            keepalives: spec.keepalives,
        };
        let session = Session::begin(spec, at, dbname, (client, connection), (stop, meter.clone()));
        fits(target, &session, at).await?;
        Ok((session, outdated))
    };
    match timeout(spec.connect_timeout, attempt).await {
        Ok(opened) => opened,
        Err(_) => Err(timed_out(at, spec.connect_timeout)),
    }
}

/// What speaks TLS to the endpoint.
fn above(
    tls: &MakeRustlsConnect,
    at: &Endpoint,
) -> Result<<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect, PgError> {
    MakeTlsConnect::<Socket>::make_tls_connect(&mut tls.clone(), &at.host)
        .map_err(|error| PgError::new(Class::Configuration, format!("TLS to {at}: {error}")))
}

/// The connection alone: no byte has been said on it.
async fn dial(at: &Endpoint, keepalives: Keepalives) -> io::Result<Socket> {
    let Some(addr) = at.addr.filter(|_| !at.is_socket()) else {
        let path = format!("{}/.s.PGSQL.{}", at.host, at.port);
        return UnixStream::connect(path).await.map(Either::Right);
    };
    let stream = TcpStream::connect((addr, at.port)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, keepalives.idle)?;
    sockopt::set_tcp_keepintvl(&stream, keepalives.interval)?;
    sockopt::set_tcp_keepcnt(&stream, keepalives.count)?;
    let user_timeout = u32::try_from(keepalives.user_timeout.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&stream, user_timeout)?;
    Ok(Either::Left(stream))
}

/// Whether it is the server that is looked for: `target_session_attrs`.
async fn fits(target: Target, session: &Session, at: &Endpoint) -> Result<(), PgError> {
    if target == Target::Any {
        return Ok(());
    }
    let answer = session.ask(target::QUESTION, &CancellationToken::new()).await?;
    let (in_recovery, read_only) = answer.split_once(' ').unwrap_or_default();
    let refuses = target.refuses(in_recovery == "t", read_only == "on");
    refuses.map_or(Ok(()), |why| Err(target.error(at, why)))
}

/// Drives a connection until it ends, and notes what the server says beside its answers, and why it broke.
/// Once the session was dropped, the server has a moment to end it: a question without an answer would keep
/// the connection open.
pub(super) async fn drive(
    mut connection: Connection<Guarded<Socket>, Guarded<Tls>>,
    heard: Notices,
    cause: Arc<Mutex<Option<PgError>>>,
    dropped: CancellationToken,
) {
    let speaks = async {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => heard.add(&notice),
                Ok(_) => {}
                Err(error) => {
                    let error = PgError::of_statement(&error);
                    *cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    break;
                }
            }
        }
    };
    tokio::select! {
        () = speaks => {}
        () = async { dropped.cancelled().await; tokio::time::sleep(time_limits::limit(CLOSE)).await } => {}
    }
}

/// What tokio-postgres makes of a stream.
pub(super) type Connected = (Client, Connection<Guarded<Socket>, Guarded<Tls>>);
