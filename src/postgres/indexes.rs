//! Facts about indexes, and about what other sessions do with them. Read before anything is
//! decided, so nothing here takes a lock on a table or an index but [`size`]: pg_get_indexdef and
//! pg_get_expr do.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use crate::domain::{
    failure::Class,
    index::{Activity, Index},
    pattern::Glob,
};

use super::{
    PgError,
    column::{columns, get, only},
    queries::Queries,
};

/// Indexes that one database may bring: a plan stays in memory, and so does its report.
pub const INDEXES_MAX: usize = 10_000;
/// `pg_stat_progress_create_index` came with PostgreSQL 12.
const HAS_PROGRESS: u32 = 120_000;
/// `NULLS NOT DISTINCT` came with PostgreSQL 15.
const HAS_NULLS_NOT_DISTINCT: u32 = 150_000;
/// The privilege MAINTAIN came with PostgreSQL 17.
const HAS_MAINTAIN: u32 = 170_000;
/// FirstNormalObjectId (transam.h): what is below was made by initdb.
const FIRST_NORMAL_OID: u32 = 16_384;

/// Columns of [`index`].
const COLUMNS: &str = "c.oid, n.nspname::text AS schema, c.relname::text AS name, t.oid AS table, \
     tn.nspname || '.' || t.relname AS table_name, c.relkind = 'I' AS partitioned, \
     h.inhparent AS parent, i.indisvalid AS valid, i.indisready AS ready, i.indislive AS live, \
     i.indisprimary AS primary, i.indisexclusion AS exclusion, \
     i.indisreplident AS replica_identity, c.relpersistence = 't' AS temporary, \
     t.relkind = 't' AS toast, \
     greatest(c.relpages, 0)::bigint * current_setting('block_size')::bigint AS bytes";
/// What is indexed and how. A copy of an expression differs from it in nothing but the places in
/// the statement that it came from.
const DEFINITION: &str = "concat_ws(' ', c.relam, c.reltablespace, c.reloptions, i.indisunique, \
     i.indnkeyatts, i.indkey, i.indclass, i.indcollation, i.indoption, \
     regexp_replace(i.indexprs::text, ':location -?[0-9]+', '', 'g'), '/', \
     regexp_replace(i.indpred::text, ':location -?[0-9]+', '', 'g'))";
const FROM: &str = "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
     JOIN pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace \
     LEFT JOIN pg_inherits h ON h.inhrelid = c.oid";
const BROKEN: &str = "NOT (i.indisvalid AND i.indisready AND i.indislive)";

/// The database's oid.
pub async fn database_oid(ask: Queries<'_>) -> Result<u32, PgError> {
    ask.value("SELECT oid FROM pg_database WHERE datname = current_database()", &[]).await
}

/// The indexes whose `schema.name` matches a pattern, with all parts of those that are partitioned;
/// those that are not whole; and the others of their tables.
///
/// # Errors
/// Also when they are more than [`INDEXES_MAX`].
pub async fn indexes(
    ask: Queries<'_>,
    version_num: u32,
    named: &[Glob],
) -> Result<Vec<Index>, PgError> {
    let likes: Vec<String> = named.iter().map(Glob::like).collect();
    let sql = format!(
        "WITH RECURSIVE named(oid) AS (
           SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('i', 'I') AND n.nspname || '.' || c.relname LIKE ANY ($1)
           UNION SELECT h.inhrelid FROM pg_inherits h JOIN named ON h.inhparent = named.oid)
         SELECT {COLUMNS}, {rest} {FROM}
         WHERE c.oid IN (SELECT oid FROM named)
           OR i.indrelid IN (SELECT i.indrelid FROM pg_index i WHERE {BROKEN})
         ORDER BY n.nspname, c.relname LIMIT {limit}",
        rest = by_version(version_num),
        limit = INDEXES_MAX + 1,
    );
    let found = ask.list(&sql, &[&likes], index).await?;
    if found.len() > INDEXES_MAX {
        let what = format!("the patterns match more than {INDEXES_MAX} indexes");
        let error = PgError::new(Class::Configuration, what);
        return Err(error.with_hint("make several jobs of it, with narrower patterns"));
    }
    Ok(found)
}

/// All indexes of a table.
pub async fn of_table(
    ask: Queries<'_>,
    version_num: u32,
    table: u32,
) -> Result<Vec<Index>, PgError> {
    let rest = by_version(version_num);
    let sql = format!("SELECT {COLUMNS}, {rest} {FROM} WHERE i.indrelid = $1 ORDER BY c.relname");
    ask.list(&sql, &[&table], index).await
}

/// The definition, and who may REINDEX: the owner, and from 17 on whoever may MAINTAIN.
fn by_version(version_num: u32) -> String {
    let nulls =
        if version_num >= HAS_NULLS_NOT_DISTINCT { "i.indnullsnotdistinct" } else { "false" };
    let may =
        if version_num >= HAS_MAINTAIN { "OR has_table_privilege(t.oid, 'MAINTAIN')" } else { "" };
    format!(
        "concat({DEFINITION}, ' ', {nulls}) AS definition, \
         (pg_has_role(t.relowner, 'USAGE') {may}) AS permitted"
    )
}

fn index(row: &Row) -> Result<Index, PgError> {
    let table = get(row, "table")?;
    Ok(columns!(row, Index {
        oid, schema, name, table_name, partitioned, parent, valid, ready, live, primary, exclusion,
        replica_identity, temporary, toast, bytes, definition, permitted;
        table: table, system: table < FIRST_NORMAL_OID
    }))
}

/// The size of an index in bytes, waiting for its lock; none where it is gone.
pub async fn size(ask: Queries<'_>, oid: u32) -> Result<Option<u64>, PgError> {
    ask.value("SELECT pg_relation_size($1::oid::regclass)", &[&oid]).await
}

/// Locks of other sessions that conflict with a concurrent build, in this database. pg_locks shows
/// them to every role.
const LOCKS: &str = "WITH locks AS (
    SELECT l.pid, l.relation, l.mode FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
        'ExclusiveLock', 'AccessExclusiveLock'))";

/// What other sessions are doing in the database. Where the role does not see what others do, a
/// vacuum against wraparound is recognised by the table's age, and dumps are not seen.
pub async fn activity(ask: Queries<'_>, version_num: u32) -> Result<Activity, PgError> {
    // VACUUM and ANALYZE take weaker locks on indexes; who takes these changes them.
    let by_progress = if version_num >= HAS_PROGRESS {
        "UNION SELECT l.relation, l.pid FROM locks l
           JOIN pg_stat_progress_create_index p ON p.pid = l.pid"
    } else {
        ""
    };
    let building = format!(
        "{LOCKS} SELECT i.indrelid AS relation, l.pid FROM locks l JOIN pg_index i ON i.indexrelid = l.relation
         {by_progress}"
    );
    let wraparound = format!(
        "{LOCKS} SELECT DISTINCT l.relation, l.pid FROM locks l JOIN pg_class c ON c.oid = l.relation
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         LEFT JOIN pg_stat_progress_vacuum v ON v.pid = l.pid
         WHERE a.query LIKE 'autovacuum: VACUUM%(to prevent wraparound)' OR v.pid IS NOT NULL
           AND (age(c.relfrozenxid) > current_setting('autovacuum_freeze_max_age')::int
             OR mxid_age(c.relminmxid)
               > current_setting('autovacuum_multixact_freeze_max_age')::int)"
    );
    // Our own dumps, and those of other hosts, hold their snapshot in a session that waits.
    let dumps = "SELECT format('process %s of role %s', pid, usename) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
          AND (application_name = 'pg_dump' OR application_name LIKE 'pgkeep %'
            OR application_name = 'pgkeep' AND state = 'idle in transaction')
        ORDER BY xact_start LIMIT 1";
    let sees_all = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')";
    let pair = |row: &Row| Ok((get(row, "relation")?, get(row, "pid")?));
    Ok(Activity {
        building: ask.list(&building, &[], pair).await?,
        wraparound: ask.list(&wraparound, &[], pair).await?,
        dumps: ask.list(dumps, &[], only).await?,
        sees_all: ask.value(sees_all, &[]).await?,
    })
}

/// The oids of indexes.
pub fn oids(indexes: &[Index]) -> BTreeSet<u32> {
    indexes.iter().map(|index| index.oid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_names_what_depends_on_it() {
        for version in [110_000, HAS_NULLS_NOT_DISTINCT, HAS_MAINTAIN, 190_000] {
            let columns = by_version(version);
            assert!(columns.contains(") AS definition, ("), "{version}: {columns}");
            assert!(columns.ends_with(") AS permitted"), "{version}: {columns}");
        }
    }
}
