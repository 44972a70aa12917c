//! Who waits behind a backup, asked in a session of its own.
//!
//! `pg_blocking_pids()` takes the lock manager's partitions for a moment, so that it is asked only of
//! backends that wait for a lock. Which do is in `pg_stat_activity` for a role that sees all of
//! it, at no cost; others look through `pg_locks`, which copies all locks of the server. The session is
//! in the maintenance database: it holds nothing in the database that is dumped.
//!
//! What can still go wrong: a role without `pg_read_all_stats` does not see the statements of others.
//! Before PostgreSQL 14 the server does not tell since when somebody waits: it counts from the first
//! look.

use std::{collections::BTreeMap, time::Duration};

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        blocking::{Look, Names, Party, Wanted, first_words},
        failure::{Failure, IntoFailure},
    },
    sys::task::Task,
};

use super::{
    PgError, Server, Session,
    catalog::version_and_role,
    column::{columns, get, sent_no},
    queries::Queries,
    session::Limits,
};

/// `pg_locks.waitstart` came with PostgreSQL 14.
const HAS_WAIT_START: u32 = 140_000;
/// Sessions that a look describes; all are counted.
const DESCRIBED: i64 = 20;
/// No look and no question for names may take longer.
const LIMITS: Limits = Limits { statement: Duration::from_secs(10), lock: Duration::from_secs(2) };

/// The session that looks.
#[derive(Debug)]
pub struct Watcher {
    session: Session,
    sql: String,
}

/// Both forms give the backends that wait for a lock, with those in their way: 0 stands for a prepared
/// transaction, which has no process, and is known by the lock on its own id.
fn sql(version: u32, sees_all: bool) -> String {
    let waiting = if sees_all {
        "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity
           WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
    } else {
        "SELECT pid, pg_blocking_pids(pid)
           FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) AS stuck"
    };
    let since = if version >= HAS_WAIT_START { "waitstart" } else { "NULL::timestamptz" };
    format!(
        "WITH RECURSIVE ours AS (
          SELECT pid, greatest(age(backend_xmin), age(backend_xid))::bigint AS held
          FROM pg_stat_activity
          WHERE pid = $1 OR (application_name = $2 AND usename = session_user)
        ), waiting (pid, by) AS (
          {waiting}
        ), behind (pid) AS (
          SELECT w.pid FROM waiting w JOIN ours o ON o.pid = ANY (w.by)
          UNION
          SELECT w.pid FROM waiting w JOIN behind b ON b.pid = ANY (w.by)
        ), ahead (pid, waits) AS (
          SELECT DISTINCT unnest(w.by), w.pid FROM waiting w JOIN ours o ON o.pid = w.pid
        ), asked (sort, pid, waits) AS (
          SELECT 'ahead', pid, waits FROM ahead
          UNION ALL
          SELECT 'behind', pid, pid FROM behind WHERE pid NOT IN (SELECT pid FROM ours)
        ), wanted AS (
          SELECT pid, mode, database, relation, {since} AS since FROM pg_locks WHERE NOT granted
        )
        SELECT clock_timestamp() AS at, (SELECT max(held) FROM ours) AS xmin_age,
          (SELECT count(*) FROM asked WHERE sort = 'behind') AS count,
          s.sort, a.pid, a.datname AS database, a.usename AS role,
          a.application_name AS application, a.state, a.query AS statement, l.mode,
          l.database AS wanted_in, l.relation AS wanted,
          CASE s.sort WHEN 'ahead' THEN a.xact_start ELSE l.since END AS since
        FROM (SELECT 1) AS one LEFT JOIN (asked s LEFT JOIN wanted l ON l.pid = s.waits
          JOIN LATERAL (
            SELECT a.pid, a.datname::text, a.usename::text, a.application_name, a.state,
              CASE WHEN octet_length(a.query) <= 16384 THEN a.query
                ELSE left(a.query, 300) END AS query, a.xact_start
            FROM pg_stat_activity a WHERE a.pid = s.pid
            UNION ALL
            SELECT 0, x.database::text, x.owner::text, x.gid, NULL, NULL, x.prepared
            FROM pg_prepared_xacts x
            JOIN pg_locks t ON t.locktype = 'transactionid' AND t.transactionid = x.transaction
            JOIN pg_locks k ON k.granted AND k.virtualtransaction = t.virtualtransaction
            WHERE s.pid = 0 AND t.pid IS NULL AND k.pid IS NULL
              AND k.database = l.database AND k.relation = l.relation
          ) AS a ON true) ON true
        ORDER BY s.sort, l.since LIMIT {DESCRIBED}"
    )
}

impl Watcher {
    /// Opens the session.
    ///
    /// # Errors
    /// When there is no connection to be had, or the server does not answer.
    pub async fn open(server: &Server, task: &Task) -> Result<Self, Failure> {
        let session = server.connect(server.maintenance_database(), task).await?;
        let prepared = async {
            session.set_limits(LIMITS, &task.cancel).await?;
            let ask = session.queries(&task.cancel);
            let (version, _) = version_and_role(ask).await?;
            let sees_all = "SELECT pg_has_role(session_user, 'pg_read_all_stats', 'USAGE')";
            Ok(sql(version, ask.value(sees_all, &[]).await?))
        };
        match prepared.await {
            Ok(sql) => Ok(Self { session, sql }),
            Err(error) => {
                session.close().await;
                Err(PgError::into_failure(error, task))
            }
        }
    }

    /// Looks once at what waits behind the backend `pid`, and behind those of the application.
    pub async fn look(
        &self,
        pid: i32,
        application: &str,
        cancel: &CancellationToken,
    ) -> Result<Look, PgError> {
        let rows = self.session.queries(cancel).rows(&self.sql, &[&pid, &application]).await?;
        let first = rows.first().ok_or_else(|| sent_no("row"))?;
        let (behind, ahead) = (Vec::new(), Vec::new());
        let mut look = columns!(first, Look { at, xmin_age, count; behind: behind, ahead: ahead });
        for row in &rows {
            match get::<Option<String>>(row, "sort")?.as_deref() {
                Some("ahead") => look.ahead.push(party(row)?),
                Some(_) => look.behind.push(party(row)?),
                None => {}
            }
        }
        Ok(look)
    }

    /// Ends the session.
    pub async fn close(self) {
        self.session.close().await;
    }
}

fn party(row: &Row) -> Result<Party, PgError> {
    let relation = get::<Option<u32>>(row, "wanted_in")?.zip(get(row, "wanted")?);
    let wanted = get::<Option<String>>(row, "mode")?.map(|mode| Wanted { mode, relation });
    let statement = get::<Option<String>>(row, "statement")?.map(|sql| first_words(&sql));
    Ok(columns!(row, Party {
        pid, database, role, application, state, since; statement: statement, wanted: wanted
    }))
}

/// The names of relations of the session's database; of what is gone, or lies in another
/// database, there is none.
///
/// # Errors
/// When the server does not answer in time.
pub async fn names(ask: Queries<'_>, relations: &[(u32, u32)]) -> Result<Names, PgError> {
    ask.session.set_limits(LIMITS, ask.cancel).await?;
    let sql = "SELECT d.oid AS database, c.oid AS relation,
          format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_database d
        WHERE d.datname = current_database() AND c.oid = ANY ($1)";
    let oids: Vec<u32> = relations.iter().map(|(_, relation)| *relation).collect();
    let mut names = BTreeMap::new();
    for row in &ask.rows(sql, &[&oids]).await? {
        let (database, relation) = (get(row, "database")?, get(row, "relation")?);
        // A shared catalogue counts to no database.
        let keys = [(database, relation), (0, relation)];
        for key in keys.into_iter().filter(|key| relations.contains(key)) {
            names.insert(key, get(row, "name")?);
        }
    }
    Ok(names)
}
