//! Who holds a lock on a table, for people.

use std::time::Duration;

use super::{PgError, column::only, queries::Queries};

/// Those that are named.
const NAMED_MAX: i64 = 3;

/// Who holds a lock on the table, a prepared transaction too: it has no process, and is known by the lock on
/// its own id. The text of statements is left out: it may hold what is nobody's business.
pub async fn holders(ask: Queries<'_>, table: u32) -> Result<Vec<String>, PgError> {
    let sql = "SELECT CASE WHEN l.pid IS NULL
          THEN format('the prepared transaction %L (role %s) has %s', x.gid, x.owner, l.mode)
          ELSE format('process %s (role %s, %s) has %s', l.pid, coalesce(a.usename, '?'),
            coalesce(a.state, a.backend_type, '?'), l.mode) END
        FROM (SELECT DISTINCT pid, mode, virtualtransaction FROM pg_locks
          WHERE locktype = 'relation' AND granted AND relation = $1
            AND database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND pid IS DISTINCT FROM pg_backend_pid()) AS l
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        LEFT JOIN pg_locks t ON l.pid IS NULL AND t.pid IS NULL
          AND t.locktype = 'transactionid' AND t.virtualtransaction = l.virtualtransaction
        LEFT JOIN pg_prepared_xacts x ON x.transaction = t.transactionid
        ORDER BY l.pid, l.mode LIMIT $2";
    ask.list(sql, &[&table, &NAMED_MAX], only).await
}

/// The oldest transactions of the database, of those that have been open for `at_least`: whom a
/// concurrent build waits for.
pub async fn open_for(ask: Queries<'_>, at_least: Duration) -> Result<Vec<String>, PgError> {
    let sql = "SELECT who FROM (
        SELECT xact_start AS since, format('process %s of role %s, %s%s, its transaction open for %s s',
          pid, coalesce(usename, '?'), coalesce(nullif(application_name, '') || ', ', ''),
          coalesce(state, 'state unknown'),
          floor(extract(epoch FROM clock_timestamp() - xact_start))) AS who
        FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        UNION ALL SELECT prepared, format('the prepared transaction %L of role %s', gid, owner)
        FROM pg_prepared_xacts WHERE database = current_database()) AS open
      WHERE since <= clock_timestamp() - make_interval(secs => $1) ORDER BY since LIMIT $2";
    ask.list(sql, &[&at_least.as_secs_f64(), &NAMED_MAX], only).await
}
