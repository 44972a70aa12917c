//! A session on a server whose statements can be cancelled.
//!
//! Dropping the future of a statement does not stop the statement, and dropping the client leaves
//! the backend running until it next looks at its socket. So a cancelled token sends the cancel
//! request and then awaits the statement's end; a future that is dropped all the same sends the
//! request from a task of its own.
//!
//! What can still go wrong: a server that does not answer the request either. The connection is
//! then closed, which the backend notices when it next writes.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Row, SimpleQueryMessage, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use crate::{domain::failure::Class, sys::task::Task};

use super::{
    error::PgError,
    notice::{Notice, Notices},
    spec::{ConnSpec, Endpoint},
    startup::{UNKNOWN_SETTING, is_refusal},
    tls::SslMode,
};

/// How long one cancel request may take.
const CANCEL_REQUEST: Duration = Duration::from_secs(5);
/// How long a statement has to end after a cancel request before the next is sent: a request that
/// comes before the statement has begun is lost.
const CANCEL_WAIT: Duration = Duration::from_secs(1);
/// Cancel requests before the connection is closed.
const CANCEL_ATTEMPTS: usize = 10;
/// How long the server has to end a session that we close.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(10);

/// Limits that the server keeps for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `statement_timeout`; zero is none.
    pub statement: Duration,
    /// `lock_timeout`; zero is none.
    pub lock: Duration,
}

impl Default for Limits {
    /// For questions to the catalogue.
    fn default() -> Self {
        Self { statement: Duration::from_mins(5), lock: Duration::from_secs(10) }
    }
}

/// What every session sets for itself, whatever the role's and the database's own settings are. A
/// setting that the server's version does not have is passed over.
/// Warnings are always sent: VACUUM says only there that it left a table out.
const SETTINGS: &str = "SELECT set_config(name, CASE name
      WHEN 'statement_timeout' THEN $1 WHEN 'lock_timeout' THEN $2
      WHEN 'search_path' THEN 'pg_catalog' WHEN 'DateStyle' THEN 'ISO'
      WHEN 'client_min_messages' THEN 'notice' ELSE '0' END, false)
    FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
      'idle_session_timeout', 'transaction_timeout', 'search_path', 'DateStyle',
      'client_min_messages')";

/// Goes before [`SETTINGS`], and as a command: it calls no function and no operator. The owner of a
/// database may have set a search_path for it in which a schema of theirs stands before pg_catalog;
/// their `set_config()`, or their `=`, would then run with our rights. From here on names are looked
/// up in pg_catalog only.
const SEARCH_PATH: &str = "SET search_path = pg_catalog";

/// A session on a server.
#[derive(Debug)]
pub struct Session {
    client: Client,
    endpoint: Endpoint,
    dbname: String,
    stop: Stop,
    connection: JoinHandle<()>,
    broken: Arc<Mutex<Option<PgError>>>,
    notices: Notices,
}

/// What it takes to cancel a statement.
#[derive(Clone)]
struct Stop {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop")
    }
}

impl Stop {
    async fn request(&self) {
        // If it does not get through, the next one may; after the last the connection is closed.
        drop(timeout(CANCEL_REQUEST, self.token.cancel_query(self.tls.clone())).await);
    }
}

/// Cancels the statement if its future is dropped before it has ended.
struct InFlight<'a> {
    stop: &'a Stop,
    ended: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let stop = self.stop.clone();
            runtime.spawn(async move { stop.request().await });
        }
    }
}

impl Session {
    /// Connects to a database. Endpoints are tried in their order until one answers; a server that
    /// answers and refuses the role ends the search, as in libpq. Each attempt is bounded by
    /// [`ConnSpec::connect_timeout`].
    pub async fn connect(
        spec: &ConnSpec,
        dbname: &str,
        application_name: &str,
        task: &Task,
    ) -> Result<Self, PgError> {
        let attempt = async {
            let (session, outdated) = find(spec, dbname, application_name).await?;
            let Err(error) = session.settle(spec, task).await else { return Ok(session) };
            if !outdated {
                return Err(error);
            }
            // Only now is it known what the server can be told at the start: see `startup`.
            let (session, _) = find(spec, dbname, application_name).await?;
            session.settle(spec, task).await.map(|()| session)
        };
        tokio::select! {
            biased;
            () = task.cancel.cancelled() => Err(PgError::Cancelled),
            result = attempt => result,
        }
    }

    /// Makes the settings of a session that was just opened.
    async fn settle(&self, spec: &ConnSpec, task: &Task) -> Result<(), PgError> {
        let limits = self.set_limits(Limits::default(), &task.cancel);
        match timeout(spec.connect_timeout, limits).await {
            Ok(set) => set,
            Err(_) => Err(timed_out(&self.endpoint, spec.connect_timeout)),
        }
    }

    /// Where the server was found: programs that shall reach the same server are sent there.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The database.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Why the connection is gone, where the server said it.
    pub fn broken(&self) -> Option<PgError> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the session's limits, and its other settings once more.
    pub async fn set_limits(
        &self,
        limits: Limits,
        cancel: &CancellationToken,
    ) -> Result<(), PgError> {
        let millis = |limit: Duration| limit.as_millis().min(i32::MAX as u128).to_string();
        let (statement, lock) = (millis(limits.statement), millis(limits.lock));
        self.execute(SEARCH_PATH, cancel).await?;
        self.query(SETTINGS, &[&statement, &lock], cancel).await.map(drop)
    }

    /// Runs one statement and gives its rows.
    pub async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        cancel: &CancellationToken,
    ) -> Result<Vec<Row>, PgError> {
        self.cancellable(self.client.query(sql, params), cancel).await
    }

    /// Runs one statement that gives exactly one row.
    pub async fn query_one(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        cancel: &CancellationToken,
    ) -> Result<Row, PgError> {
        self.cancellable(self.client.query_one(sql, params), cancel).await
    }

    /// Runs text without parameters. One statement at a time for VACUUM and the like: several make
    /// a transaction of their own.
    pub async fn execute(&self, sql: &str, cancel: &CancellationToken) -> Result<(), PgError> {
        self.cancellable(self.client.batch_execute(sql), cancel).await
    }

    /// What the server has said beside its answers since this was last asked, the oldest first. All
    /// that belongs to a statement is there once the statement has ended. The number is of older
    /// ones that were not kept.
    pub fn take_notices(&self) -> (Vec<Notice>, usize) {
        self.notices.take()
    }

    /// The process id of the session's backend, as pg_stat_activity has it. In one message: the end of
    /// a prepared statement goes to the server after its answer, and a pooler may give that another
    /// backend, so that the next question of another session finds this one's taken.
    pub async fn backend_pid(&self, cancel: &CancellationToken) -> Result<i32, PgError> {
        let asked = self.client.simple_query("SELECT pg_backend_pid()");
        let answer = self.cancellable(asked, cancel).await?;
        let pid = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        pid.ok_or_else(|| PgError::new(Class::Internal, "the server has sent no process id"))
    }

    /// Awaits a statement; when the token is cancelled, cancels the statement on the server and
    /// awaits its end.
    async fn cancellable<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        cancel: &CancellationToken,
    ) -> Result<T, PgError> {
        if cancel.is_cancelled() {
            return Err(PgError::Cancelled);
        }
        tokio::pin!(statement);
        let mut in_flight = InFlight { stop: &self.stop, ended: false };
        let ended = tokio::select! {
            biased;
            ended = &mut statement => Some(ended),
            () = cancel.cancelled() => None,
        };
        if let Some(ended) = ended {
            in_flight.ended = true;
            return match ended {
                Ok(value) => Ok(value),
                Err(error) => Err(self.explain(&error).await),
            };
        }
        for _ in 0..CANCEL_ATTEMPTS {
            self.stop.request().await;
            if timeout(CANCEL_WAIT, &mut statement).await.is_ok() {
                in_flight.ended = true;
                return Err(PgError::Cancelled);
            }
        }
        tracing::warn!(endpoint = %self.endpoint, "a statement cannot be cancelled; closing the \
         connection");
        in_flight.ended = true;
        self.connection.abort();
        Err(PgError::Cancelled)
    }

    /// The error of a statement. Where the connection broke, its own error says why.
    async fn explain(&self, error: &tokio_postgres::Error) -> PgError {
        if error.is_closed() {
            // The task records the cause just before it ends.
            for _ in 0..100 {
                if self.connection.is_finished() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let cause = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return cause
                .unwrap_or_else(|| PgError::new(Class::Connection, "the connection broke"));
        }
        PgError::of_statement(error)
    }

    /// Ends the session and waits until the connection is closed, but not for ever.
    pub async fn close(self) {
        let Self { client, mut connection, .. } = self;
        drop(client);
        if timeout(CLOSE, &mut connection).await.is_err() {
            connection.abort();
        }
    }
}

fn timed_out(at: &Endpoint, limit: Duration) -> PgError {
    let limit = limit.as_secs_f32();
    PgError::new(
        Class::Connection,
        format!("connection to {at} failed: no answer within {limit} s"),
    )
    .with_hint("the host does not answer: check the address, the network and firewalls")
}

/// A session, and whether the next one on the server is opened with other settings.
type Opened = (Session, bool);

/// Tries the endpoints in their order.
async fn find(spec: &ConnSpec, dbname: &str, application_name: &str) -> Result<Opened, PgError> {
    let tls = spec.tls.connector()?;
    let mut last = PgError::new(Class::Configuration, "there is no host to connect to");
    for configured in &spec.endpoints {
        let places = match places(configured).await {
            Ok(places) => places,
            Err(error) => {
                last = error;
                continue;
            }
        };
        for at in places {
            match try_modes(spec, &at, dbname, application_name, &tls).await {
                Ok(session) => return Ok(session),
                Err(error) if may_be_elsewhere(&error) => last = error,
                Err(error) => return Err(error),
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
    at: &Endpoint,
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
        let mut opened = open(spec, at, dbname, application_name, tls, *mode).await;
        if let Err(error) = &opened {
            // Another session may have learned the same a moment ago: this one is opened again, too.
            let is_refused = is_refusal(&error.to_string());
            let is_older = error.sqlstate() == Some(UNKNOWN_SETTING);
            if is_refused {
                spec.startup.refuse();
            } else if is_older {
                spec.startup.forget();
            }
            if is_refused || is_older {
                opened = open(spec, at, dbname, application_name, tls, *mode).await;
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

/// Whether the other way, with or without TLS, may be let in.
fn refuses_encryption(error: &PgError) -> bool {
    let text = error.to_string();
    text.contains("TLS handshake") || text.contains("pg_hba.conf")
}

async fn open(
    spec: &ConnSpec,
    at: &Endpoint,
    dbname: &str,
    application_name: &str,
    tls: &MakeRustlsConnect,
    mode: SslMode,
) -> Result<Opened, PgError> {
    let config = spec.client_config(at, dbname, application_name, mode)?;
    // tokio-postgres applies its limit to the connection alone, not to what is said on it.
    let (client, mut connection) =
        match timeout(spec.connect_timeout, config.connect(tls.clone())).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(PgError::of_connect(&error, at, &spec.user)),
            Err(_) => return Err(timed_out(at, spec.connect_timeout)),
        };
    let outdated =
        connection.parameter("server_version").is_some_and(|version| spec.startup.learn(version));
    let broken = Arc::new(Mutex::new(None));
    let cause = Arc::clone(&broken);
    let notices = Notices::default();
    let heard = notices.clone();
    let connection = tokio::spawn(async move {
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
    });
    let stop = Stop { token: client.cancel_token(), tls: tls.clone() };
    let (endpoint, dbname) = (at.clone(), dbname.to_owned());
    Ok((Session { client, endpoint, dbname, stop, connection, broken, notices }, outdated))
}
