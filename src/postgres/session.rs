//! A session on a server. Its statements can be cancelled, and each has a limit.
//!
//! Dropping the future of a statement does not stop the statement, and dropping the client leaves
//! the backend running until it next looks at its socket. So a cancelled token sends the cancel
//! request and then awaits the statement's end; a future that is dropped all the same sends the
//! request from a task of its own.
//!
//! The server's own limits are no help where the server, or what lies between, has fallen silent. So each question has
//! a limit here, too. A statement that may take its time (VACUUM, REINDEX) has none: while it runs, the server
//! is asked in a second session from time to time, whose answer tells a busy server from a dead one.
//!
//! What can still go wrong: a server that does not answer the cancel request either. The connection is
//! then closed, which the backend notices when it next writes. A backend that stands still while its server
//! answers looks like one that works: `time_limit` of the job ends that.

mod limits;
mod silence;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Row, SimpleQueryMessage, types::ToSql};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    domain::failure::Class,
    sys::{task::Task, time_limits},
};

pub use limits::Limits;
use limits::{Patience, SLACK};

use super::{
    connect::{self, CLOSE, Connected, Stop, find, timed_out},
    error::PgError,
    guard::Meter,
    notice::{Notice, Notices},
    pooler,
    spec::{ConnSpec, Endpoint},
};

/// How long a statement has to end after a cancel request before the next is sent: a request that
/// comes before the statement has begun is lost.
const CANCEL_WAIT: Duration = Duration::from_secs(1);
/// How long a statement has to end after the first request, before the connection is closed.
const CANCEL: Duration = Duration::from_secs(6);

/// What every session sets for itself, whatever the role's and the database's own settings are. A
/// setting that the server's version does not have is passed over.
/// A database in SQL_ASCII refuses to send bytes as UTF-8 that are none: it is to send them as they are.
/// Warnings are always sent: VACUUM says only there that it left a table out.
const SETTINGS: &str = "SELECT set_config(name, CASE name
      WHEN 'statement_timeout' THEN $1 WHEN 'lock_timeout' THEN $2
      WHEN 'search_path' THEN 'pg_catalog' WHEN 'DateStyle' THEN 'ISO'
      WHEN 'client_min_messages' THEN 'notice' WHEN 'client_encoding' THEN 'SQL_ASCII'
      ELSE '0' END, false)
    FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
      'idle_session_timeout', 'transaction_timeout', 'search_path', 'DateStyle',
      'client_min_messages')
      OR name = 'client_encoding' AND current_setting('server_encoding') = 'SQL_ASCII'";

/// Goes before [`SETTINGS`], and as a command: it calls no function and no operator. The owner of a
/// database may have set a search_path for it in which a schema of theirs stands before pg_catalog;
/// their `set_config()`, or their `=`, would then run with our rights. From here on names are looked
/// up in pg_catalog only.
const SEARCH_PATH: &str = "SET search_path = pg_catalog";

/// A session on a server.
#[derive(Debug)]
pub struct Session {
    client: Client,
    spec: ConnSpec,
    endpoint: Endpoint,
    dbname: String,
    stop: Stop,
    meter: Arc<Meter>,
    connection: JoinHandle<()>,
    broken: Arc<Mutex<Option<PgError>>>,
    notices: Notices,
    patience: Patience,
    /// Whether somebody stands between us and the server.
    pooled: AtomicBool,
    _dropped: DropGuard,
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
    /// [`ConnSpec::connect_timeout`]. A connection pooler that gives the session another backend from one
    /// transaction to the next is refused before anything is set there.
    pub async fn connect(
        spec: &ConnSpec,
        dbname: &str,
        application_name: &str,
        task: &Task,
    ) -> Result<Self, PgError> {
        let open = || async {
            let (session, outdated) = find(spec, dbname, application_name).await?;
            let settled = session.settle(application_name, &task.cancel).await;
            Ok::<_, PgError>((session, settled, outdated))
        };
        let attempt = async {
            let (session, settled, outdated) = open().await?;
            match settled {
                Ok(()) => return Ok(session),
                Err(error) if !outdated => return Err(error),
                // Only now is it known what the server can be told at the start: see `startup`.
                Err(_) => {}
            }
            let (session, settled, _) = open().await?;
            settled.map(|()| session)
        };
        tokio::select! {
            biased;
            () = task.cancel.cancelled() => Err(PgError::Cancelled),
            result = attempt => result,
        }
    }

    /// A session on a connection that was just opened.
    pub(super) fn begin(
        spec: &ConnSpec,
        endpoint: &Endpoint,
        dbname: &str,
        (client, connection): Connected,
        (stop, meter): (Stop, Arc<Meter>),
    ) -> Self {
        let (broken, notices, dropped) =
            (Arc::default(), Notices::default(), CancellationToken::new());
        let driven =
            connect::drive(connection, notices.clone(), Arc::clone(&broken), dropped.clone());
        let limits = Limits::of_questions(spec.answer_timeout);
        Self {
            client,
            spec: spec.clone(),
            endpoint: endpoint.clone(),
            dbname: dbname.to_owned(),
            stop,
            meter,
            connection: tokio::spawn(driven),
            broken,
            notices,
            patience: Patience::new(limits, spec.answer_timeout),
            pooled: AtomicBool::new(false),
            _dropped: dropped.drop_guard(),
        }
    }

    /// Makes the settings of a session that was just opened, unless it is a pooler's.
    async fn settle(
        &self,
        application_name: &str,
        cancel: &CancellationToken,
    ) -> Result<(), PgError> {
        if self.is_through_something(cancel).await? {
            let (other, _) = find(&self.spec, &self.dbname, application_name).await?;
            let refused = pooler::refuse_pooler(self, &other, cancel).await;
            other.close().await;
            refused?;
        }
        self.while_connecting(self.set_limits(self.limits_of_questions(), cancel)).await
    }

    /// Whether it is not the server itself that we are connected to: its backend then has another process id
    /// than we were told for cancel requests.
    async fn is_through_something(&self, cancel: &CancellationToken) -> Result<bool, PgError> {
        let pid = self.while_connecting(self.backend_pid(cancel)).await?;
        let pooled = pid != self.meter.backend();
        self.pooled.store(pooled, Ordering::Relaxed);
        Ok(pooled)
    }

    async fn while_connecting<T>(
        &self,
        asked: impl Future<Output = Result<T, PgError>>,
    ) -> Result<T, PgError> {
        let limit = self.spec.connect_timeout;
        timeout(limit, asked).await.unwrap_or_else(|_| Err(timed_out(&self.endpoint, limit)))
    }

    /// The limits that a session has for questions to the catalogue.
    pub fn limits_of_questions(&self) -> Limits {
        Limits::of_questions(self.spec.answer_timeout)
    }

    /// How long the server has for an answer: `answer_timeout`.
    pub fn answer_timeout(&self) -> Duration {
        self.spec.answer_timeout
    }

    /// Where the server was found: programs that shall reach the same server are sent there.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The database.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Whether that is the one for what concerns the whole server.
    pub fn is_maintenance(&self) -> bool {
        self.dbname == self.spec.dbname
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
        self.patience.set(self.limits_of_questions(), self.spec.answer_timeout);
        self.execute(SEARCH_PATH, cancel).await?;
        self.query(SETTINGS, &[&statement, &lock], cancel).await?;
        self.patience.set(limits, self.spec.answer_timeout);
        Ok(())
    }

    /// Runs one statement and gives its rows.
    pub async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        cancel: &CancellationToken,
    ) -> Result<Vec<Row>, PgError> {
        let limit = Patience::of(&self.patience.question);
        self.cancellable(self.client.query(sql, params), limit, cancel).await
    }

    /// Runs one statement that gives exactly one row.
    pub async fn query_one(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        cancel: &CancellationToken,
    ) -> Result<Row, PgError> {
        let limit = Patience::of(&self.patience.question);
        self.cancellable(self.client.query_one(sql, params), limit, cancel).await
    }

    /// As [`Session::query_one`], for a question that the server has another limit for than the session's.
    pub async fn query_one_within(
        &self,
        limit: Duration,
        sql: &str,
        cancel: &CancellationToken,
    ) -> Result<Row, PgError> {
        self.cancellable(
            self.client.query_one(sql, &[]),
            Some(limit + time_limits::limit(SLACK)),
            cancel,
        )
        .await
    }

    /// Runs text without parameters. One statement at a time for VACUUM and the like: several make
    /// a transaction of their own. Where the session has no limit for statements, it may take as long as the
    /// server is there.
    pub async fn execute(&self, sql: &str, cancel: &CancellationToken) -> Result<(), PgError> {
        let limit = Patience::of(&self.patience.statement);
        self.cancellable(self.client.batch_execute(sql), limit, cancel).await
    }

    /// Runs one statement, in one message, and gives its only value as text.
    pub(super) async fn ask(
        &self,
        sql: &str,
        cancel: &CancellationToken,
    ) -> Result<String, PgError> {
        let limit = Patience::of(&self.patience.question);
        let answer = self.cancellable(self.client.simple_query(sql), limit, cancel).await?;
        let value = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.ok_or_else(|| PgError::new(Class::Internal, "the server has sent no value"))
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
        let pid = self.ask("SELECT pg_catalog.pg_backend_pid()", cancel).await?.parse();
        pid.map_err(|_| PgError::new(Class::Internal, "the server has sent no process id"))
    }

    /// Awaits a statement for `limit`, or as long as the server is there. When the token is cancelled, or the
    /// server is silent for too long, cancels the statement on the server and awaits its end.
    async fn cancellable<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        limit: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<T, PgError> {
        if cancel.is_cancelled() {
            return Err(PgError::Cancelled);
        }
        self.meter.next_question();
        tokio::pin!(statement);
        let mut in_flight = InFlight { stop: &self.stop, ended: false };
        let why = tokio::select! {
            biased;
            ended = &mut statement => {
                in_flight.ended = true;
                return match ended {
                    Ok(value) => Ok(value),
                    Err(error) => Err(self.explain(&error).await),
                };
            }
            () = cancel.cancelled() => PgError::Cancelled,
            error = self.silence(limit) => error,
        };
        let requests = async {
            loop {
                self.stop.request().await;
                tokio::time::sleep(time_limits::limit(CANCEL_WAIT)).await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut statement => {}
            () = requests => {}
            () = tokio::time::sleep(time_limits::limit(CANCEL)) => {
                tracing::warn!(endpoint = %self.endpoint, "a statement cannot be cancelled; closing \
                 the connection");
                self.abort(&why);
            }
        }
        in_flight.ended = true;
        Err(why)
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
            return self
                .broken()
                .unwrap_or_else(|| PgError::new(Class::Connection, "the connection broke"));
        }
        PgError::of_statement(error)
    }

    /// Closes the connection at once, for that reason.
    fn abort(&self, why: &PgError) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if !why.is_cancelled() {
            broken.get_or_insert_with(|| why.clone());
        }
        self.connection.abort();
    }

    /// Ends the transaction, the session, and waits until the connection is closed, for a limited time.
    pub async fn roll_back(self) {
        let never = CancellationToken::new();
        // The end of the session ends the transaction in any case.
        match timeout(time_limits::limit(CLOSE), self.execute("ROLLBACK", &never)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a transaction did not end by itself"),
            Err(_) => self.connection.abort(),
        }
        self.close().await;
    }

    /// Ends the session and waits until the connection is closed, for a limited time.
    pub async fn close(self) {
        let Self { client, mut connection, .. } = self;
        drop(client);
        if timeout(time_limits::limit(CLOSE), &mut connection).await.is_err() {
            connection.abort();
        }
    }
}
