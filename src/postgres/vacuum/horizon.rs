//! How old the databases are, and what keeps dead rows from being removed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    domain::vacuum::{DatabaseAge, Holder, HolderSort},
    postgres::{PgError, Session, catalog::get},
};

/// The age of every database of the cluster, also of those that allow no connections: wraparound
/// comes to them as well.
pub async fn ages(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Vec<DatabaseAge>, PgError> {
    let sql = "SELECT datname::text, age(datfrozenxid)::bigint, mxid_age(datminmxid)::bigint \
               FROM pg_database ORDER BY datname";
    let rows = session.query(sql, &[], cancel).await?;
    let age = |row| {
        let count = |column| Ok::<_, PgError>(u64::try_from(get::<i64>(row, column)?).unwrap_or(0));
        Ok(DatabaseAge { name: get(row, 0)?, xids: count(1)?, mxids: count(2)? })
    };
    rows.iter().map(age).collect()
}

/// Backends of VACUUM hold nothing back, and neither does this session. Who may not see a session's
/// state sees its age all the same.
const HOLDERS: &str = "SELECT sort, who, age, held FROM (
    SELECT CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS sort,
      format('process %s of role %s in database %s, %s', a.pid, coalesce(a.usename, '?'),
        coalesce(a.datname, '?'), coalesce(a.state, a.backend_type, 'state not known')) AS who,
      greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS age,
      (extract(epoch FROM clock_timestamp() - a.xact_start))::float8 AS held
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
      AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
    UNION ALL
    SELECT 'prepared', format('prepared transaction %L in database %s', gid, database),
      age(transaction)::bigint, (extract(epoch FROM clock_timestamp() - prepared))::float8
    FROM pg_prepared_xacts
    UNION ALL
    SELECT 'slot', format('replication slot %s (%s)', slot_name,
        CASE WHEN active THEN 'active' ELSE 'inactive' END),
      greatest(age(xmin), age(catalog_xmin))::bigint, NULL
    FROM pg_replication_slots) AS holders
  WHERE age IS NOT NULL ORDER BY age DESC, held DESC NULLS LAST LIMIT 1";

/// The oldest that holds dead rows back; none where nothing does.
pub async fn holder(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<Option<Holder>, PgError> {
    let rows = session.query(HOLDERS, &[], cancel).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let sort: String = get(row, 0)?;
    let held: Option<f64> = get(row, 3)?;
    Ok(Some(Holder {
        sort: match sort.as_str() {
            "standby" => HolderSort::Standby,
            "prepared" => HolderSort::Prepared,
            "slot" => HolderSort::Slot,
            _ => HolderSort::Session,
        },
        who: get(row, 1)?,
        age: u64::try_from(get::<i64>(row, 2)?).unwrap_or(0),
        held_for: held.and_then(|held| Duration::try_from_secs_f64(held.max(0.0)).ok()),
    }))
}
