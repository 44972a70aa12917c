//! A snapshot that a dump and our own counting share.
//!
//! The transaction that exports it must stay open until the dump has taken it over and done its
//! work. It is read-only and idle, but it holds back the xmin horizon as long as it lives, like the
//! dump itself.
//!
//! **Isolation.** The transaction is REPEATABLE READ; where it is asked for, SERIALIZABLE READ ONLY
//! DEFERRABLE, which waits until no serializable transaction that is under way can make what it sees
//! impossible in any order of transactions (README-SSI, "safe snapshots"). pg_dump reads in it with
//! `--snapshot`, in a REPEATABLE READ transaction of its own: it would set SERIALIZABLE, READ ONLY, DEFERRABLE with
//! `--serializable-deferrable` (setup_connection in pg_dump.c), and the server refuses to import a
//! snapshot into that ("a snapshot-importing transaction must not be READ ONLY DEFERRABLE",
//! predicate.c). A safe snapshot stays safe at whatever level it is read, and pg_dump's own parallel workers
//! do the same, by the comment there.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    failure::Class,
    manifest::Snapshot,
    owner::Past,
    relation::RelationName,
    scope::Scope,
    units::format_duration,
    wal::{History, Timeline},
};

use super::{
    PgError, Session,
    column::{columns, get, only, sent_no},
    configuration,
    queries::Queries,
};

/// The WAL position, on a primary and on a standby, and the timeline of a primary.
const PLACE: &str = "SELECT (CASE WHEN r.is \
                     THEN coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn(), '0/0') \
                     ELSE pg_current_wal_lsn() END)::text AS lsn, \
                     CASE WHEN NOT r.is \
                     THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint \
                     END AS timeline FROM (SELECT pg_is_in_recovery() AS is OFFSET 0) r";

/// Tables that the server has in another file, or no more, than the snapshot has them. The catalog is
/// read by the snapshot, `pg_relation_filenode` as it is now. Those of a materialized view are made
/// again by a restore; temporary tables are never dumped.
const CHANGED: &str = "SELECT format('%I.%I', n.nspname, c.relname) AS ident, \
                       n.nspname::text AS schema, c.relname::text AS name \
                       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                       WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND c.relfilenode <> 0 \
                       AND c.oid >= 16384 \
                       AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode \
                       ORDER BY 1 LIMIT 10000";
const UNLOGGED: &str = "SELECT n.nspname::text AS schema, c.relname::text AS name \
                        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                        WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname !~ '^pg_' \
                        LIMIT 10000";
/// Their limit.
const CHANGED_MAX: usize = 10_000;
/// Tables that are named.
const NAMED_MAX: usize = 10;

/// An exported snapshot, alive while this is.
#[derive(Debug)]
#[must_use = "the snapshot ends when this is dropped"]
pub struct ExportedSnapshot {
    pub id: String,
    /// The moment, for the manifest.
    pub facts: Snapshot,
    /// The backend that holds it.
    pub pid: i32,
    session: Session,
}

/// Opens a transaction in the session's database and exports its snapshot. The session is the
/// snapshot's from then on. With `deferrable` it waits for a safe snapshot, for so long.
///
/// # Errors
/// When there is no safe snapshot in time, on a standby, or the server does not answer.
pub async fn export_snapshot(
    session: Session,
    deferrable: Option<Duration>,
    cancel: &CancellationToken,
) -> Result<ExportedSnapshot, PgError> {
    // Outside of the transaction: its first statement takes the snapshot.
    let ask = session.queries(cancel);
    let (lsn_before, _) = place(ask).await?;
    let begin = match deferrable {
        None => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
        Some(limit) => format!(
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE; SET LOCAL statement_timeout = {}",
            limit.as_millis().clamp(1, i32::MAX as u128)
        ),
    };
    session.execute(&begin, cancel).await?;
    let sql = "SELECT pg_export_snapshot() AS id, pg_is_in_recovery() AS standby, \
               clock_timestamp() AS at, pg_backend_pid() AS pid";
    let asked = match deferrable {
        None => ask.row(sql, &[]).await,
        Some(limit) => session.query_one_within(limit, sql, cancel).await,
    };
    let row = match (asked, deferrable) {
        (Err(error), Some(limit)) if error.sqlstate() == Some(QUERY_CANCELED) => {
            return Err(no_safe_snapshot(limit));
        }
        (row, _) => row?,
    };
    let (lsn_after, timeline) = place(ask).await?;
    let facts = columns!(&row, Snapshot {
        at, standby; lsn_before: lsn_before, lsn_after: lsn_after, timeline: timeline
    });
    Ok(columns!(&row, ExportedSnapshot { id, pid; facts: facts, session: session }))
}

/// `query_canceled`: what a statement_timeout ends with.
const QUERY_CANCELED: &str = "57014";

fn no_safe_snapshot(limit: Duration) -> PgError {
    let limit = format_duration(limit);
    let what = format!(
        "there was no safe snapshot within {limit}: serializable transactions that write were under \
         way all the time"
    );
    PgError::new(Class::Lock, what).with_hint(
        "look for a long one in pg_locks (mode SIReadLock) and pg_stat_activity, raise \
         deferrable_timeout, or do without deferrable",
    )
}

/// The moment of a dump that takes no snapshot: of the globals.
pub async fn moment(ask: Queries<'_>) -> Result<Snapshot, PgError> {
    let (lsn, timeline) = place(ask).await?;
    let sql = "SELECT pg_is_in_recovery() AS standby, clock_timestamp() AS at";
    let row = ask.row(sql, &[]).await?;
    Ok(columns!(&row, Snapshot {
        at, standby; lsn_before: lsn.clone(), lsn_after: lsn, timeline: timeline
    }))
}

/// The WAL position, and the timeline of a primary.
async fn place(ask: Queries<'_>) -> Result<(String, Option<Timeline>), PgError> {
    let row = ask.row(PLACE, &[]).await?;
    Ok((get(&row, "lsn")?, get(&row, "timeline")?))
}

/// Where a primary is in its WAL and how it came there; none of a standby.
pub async fn past(ask: Queries<'_>) -> Result<Option<Past>, PgError> {
    let (lsn, timeline) = place(ask).await?;
    let Some(timeline) = timeline else { return Ok(None) };
    let lsn = lsn.parse().map_err(|_| sent_no("LSN"))?;
    let mut history = None;
    if timeline > Timeline::FIRST {
        let path = format!("pg_wal/{:08X}.history", timeline.number());
        let file = match configuration::read_file(ask, &path).await {
            // Not every role may; then the position alone tells.
            Err(error) if error.class() == Class::Privilege => None,
            file => file?,
        };
        history = file.and_then(|text| History::parse(&String::from_utf8_lossy(&text)).ok());
    }
    Ok(Some(Past { timeline, lsn, history }))
}

impl ExportedSnapshot {
    /// The session, for questions that shall see what the dump sees.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Tables whose rows are in `scope` and that were truncated, rewritten or dropped since the
    /// snapshot was taken, ten at most.
    /// TRUNCATE and the forms of ALTER TABLE that rewrite leave nothing for older snapshots ("MVCC
    /// Caveats" in the manual): whoever locks such a table afterwards reads it as empty, and is told
    /// nothing. VACUUM FULL and CLUSTER cannot be told apart from them here.
    ///
    /// # Errors
    /// When the session is gone, and the snapshot with it.
    pub async fn changed(
        &self,
        scope: &Scope,
        cancel: &CancellationToken,
    ) -> Result<Vec<String>, PgError> {
        let rows = self.session.queries(cancel).rows(CHANGED, &[]).await?;
        let mut changed: Vec<String> = Vec::new();
        for row in &rows {
            let RelationName { schema, name } = columns!(row, RelationName { schema, name });
            if changed.len() < NAMED_MAX && scope.takes_data(&schema, &name) {
                changed.push(get(row, "ident")?);
            }
        }
        if changed.is_empty() && rows.len() >= CHANGED_MAX {
            changed.push(format!("more than {CHANGED_MAX} tables"));
        }
        Ok(changed)
    }

    /// For how long the sessions of that application have all waited for their client; none where one works, or there
    /// is none. A transaction sees what others do as it was at the first look, unless that is forgotten.
    ///
    /// # Errors
    /// When the session is gone or silent, and the snapshot with it.
    pub async fn client_waits(
        &self,
        application: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Duration>, PgError> {
        let ask = self.session.queries(cancel);
        ask.rows("SELECT pg_stat_clear_snapshot()", &[]).await?;
        let sql = "SELECT extract(epoch FROM min(clock_timestamp() - state_change))::float8 \
                   FROM pg_stat_activity WHERE application_name = $1 AND usename = session_user \
                   HAVING bool_and(state <> 'active')";
        let waits = ask.list(sql, &[&application], only::<Option<Duration>>).await?;
        Ok(waits.into_iter().next().flatten())
    }

    /// How long the server has for an answer.
    pub fn answer_timeout(&self) -> Duration {
        self.session.answer_timeout()
    }

    /// Unlogged tables whose rows would be in `scope`: a standby does not have them, and pg_dump leaves
    /// them out there (`dopt.no_unlogged_table_data` in pg_dump.c).
    ///
    /// # Errors
    /// When the session is gone.
    pub async fn unlogged(
        &self,
        scope: &Scope,
        cancel: &CancellationToken,
    ) -> Result<u64, PgError> {
        let name = |row: &Row| Ok(columns!(row, RelationName { schema, name }));
        let tables = self.session.queries(cancel).list(UNLOGGED, &[], name).await?;
        Ok(tables.iter().filter(|it| scope.takes_data(&it.schema, &it.name)).count() as u64)
    }

    /// Whether the connection that holds it is gone, and the snapshot with it.
    pub fn is_lost(&self) -> bool {
        self.session.is_closed()
    }

    /// Why it was lost, where the server said it.
    pub fn lost(&self) -> Option<PgError> {
        self.session.broken()
    }

    /// Ends the transaction and the session.
    pub async fn close(self) {
        self.session.roll_back().await;
    }
}
