//! How old the databases are, and what keeps dead rows from being removed.

use tokio_postgres::Row;

use crate::{
    domain::vacuum::{DatabaseAge, Holder, HolderSort, Horizon},
    postgres::{
        PgError,
        column::{columns, get},
        queries::Queries,
    },
};

/// The age of every database of the cluster, also of those that allow no connections: wraparound
/// comes to them as well. One that is half dropped (`datconnlimit` is -2) stays as old as it is, and
/// the server does not count it (`vac_truncate_clog` in vacuum.c).
pub async fn ages(ask: Queries<'_>) -> Result<Vec<DatabaseAge>, PgError> {
    let sql = "SELECT datname::text AS name, age(datfrozenxid)::bigint AS xids, \
               mxid_age(datminmxid)::bigint AS mxids \
               FROM pg_database WHERE datconnlimit <> -2 ORDER BY datname";
    ask.list(sql, &[], |row| Ok(columns!(row, DatabaseAge { name, xids, mxids }))).await
}

/// Backends of VACUUM hold nothing back, and neither does this session. Who may not see a session's
/// state sees its age all the same. With a slot, the feedback of a standby stands there and not at its
/// walsender; `catalog_xmin` concerns the system catalogue alone (`ComputeXidHorizons` in procarray.c). A slot
/// that is lost shows what it held and holds nothing (`ReplicationSlotsComputeRequiredXmin` in slot.c);
/// `wal_status` came with PostgreSQL 13. `pg_conflict_detection` is the server's own since 19.
const HOLDERS: &str = "SELECT DISTINCT ON (of_rows) of_rows, sort, who, age, held_for FROM (
    SELECT true AS of_rows,
      CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS sort,
      format('process %s of role %s in database %s, %s', a.pid, coalesce(a.usename, '?'),
        coalesce(a.datname, '?'), coalesce(a.state, a.backend_type, 'state not known')) AS who,
      greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS age,
      (extract(epoch FROM clock_timestamp() - a.xact_start))::float8 AS held_for
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
      AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
    UNION ALL
    SELECT true, 'prepared', format('prepared transaction %L in database %s', gid, database),
      age(transaction)::bigint, (extract(epoch FROM clock_timestamp() - prepared))::float8
    FROM pg_prepared_xacts
    UNION ALL
    SELECT kept.of_rows, CASE WHEN s.slot_name = 'pg_conflict_detection' THEN 'conflicts'
        WHEN NOT s.active THEN 'slot'
        WHEN s.slot_type = 'physical' THEN 'standby' ELSE 'subscriber' END,
      format('%s replication slot %s (%s)', s.slot_type, s.slot_name,
        CASE WHEN s.active THEN 'active' ELSE 'inactive' END), kept.age, NULL
    FROM pg_replication_slots s, LATERAL (
      VALUES (true, age(s.xmin)::bigint), (false, age(s.catalog_xmin)::bigint)) AS kept (of_rows, age)
    WHERE to_jsonb(s) ->> 'wal_status' IS DISTINCT FROM 'lost'
  ) AS holders
  WHERE age IS NOT NULL ORDER BY of_rows, age DESC, held_for DESC NULLS LAST";

/// The oldest that hold dead rows back.
pub async fn horizon(ask: Queries<'_>) -> Result<Horizon, PgError> {
    let mut horizon = Horizon::default();
    for row in &ask.rows(HOLDERS, &[]).await? {
        let of_rows: bool = get(row, "of_rows")?;
        *(if of_rows { &mut horizon.rows } else { &mut horizon.catalogue }) = Some(holder(row)?);
    }
    Ok(horizon)
}

fn holder(row: &Row) -> Result<Holder, PgError> {
    let sort = match get::<String>(row, "sort")?.as_str() {
        "standby" => HolderSort::Standby,
        "prepared" => HolderSort::Prepared,
        "slot" => HolderSort::Slot,
        "subscriber" => HolderSort::Subscriber,
        "conflicts" => HolderSort::Conflicts,
        _ => HolderSort::Session,
    };
    Ok(columns!(row, Holder { who, age, held_for; sort: sort }))
}
