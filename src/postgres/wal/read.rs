//! Reading what [`super`] describes.

use std::time::Duration;

use tokio_postgres::Row;

use crate::domain::{
    text,
    wal::{History, Lsn, SegmentSize, Timeline},
};

use super::{
    super::{
        PgError,
        column::{columns, get},
        configuration::{READ_FUNCTION, read_file},
        queries::Queries,
    },
    ArchiveMode, Archiver, ReadyQueue, Slot, Unmeasured, WalDirectory, WalFacts, WalSettings,
};

/// `pg_ls_archive_statusdir()` came with PostgreSQL 12.
const HAS_STATUSDIR: u32 = 120_000;
/// `wal_status` and `safe_wal_size` of slots came with PostgreSQL 13.
const HAS_SLOT_STATUS: u32 = 130_000;
/// `invalidation_reason` of slots came with PostgreSQL 17.
const HAS_SLOT_REASON: u32 = 170_000;
/// Slots that are looked at: the ones that hold back most.
const SLOTS_MAX: usize = 1000;
/// A file may go away between the reading of a folder and that of its entries: before PostgreSQL 14
/// the whole statement fails then (undefined_file).
const ATTEMPTS: u32 = 5;
const UNDEFINED_FILE: &str = "58P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// After a promotion the control file names the old timeline until the next checkpoint; the
/// name of the present file does not.
const POSITION: &str = "SELECT clock_timestamp() AS at, r.is AS in_recovery, \
    CASE WHEN r.is THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
         ELSE pg_current_wal_lsn() END::text AS lsn, \
    CASE WHEN NOT r.is THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint \
         ELSE greatest(c.timeline_id, (SELECT received_tli FROM pg_stat_wal_receiver LIMIT 1)) \
         END AS timeline, \
    c.redo_lsn::text AS redo, c.checkpoint_time AS checkpoint_at, \
    c.timeline_id::bigint AS redo_timeline \
    FROM pg_control_checkpoint() c, (SELECT pg_is_in_recovery() AS is OFFSET 0) r";

/// It has one argument more since PostgreSQL 17.
const MAY_EMIT: &str = "SELECT coalesce(bool_or(has_function_privilege(oid, 'EXECUTE')), false) \
    FROM pg_proc WHERE proname = 'pg_logical_emit_message' \
    AND pronamespace = 'pg_catalog'::regnamespace AND proargtypes[2] = 'text'::regtype";

/// Asks a server about its WAL. `version_num` is its version.
pub async fn wal_facts(ask: Queries<'_>, version_num: u32) -> Result<WalFacts, PgError> {
    let (settings, segment_size) = settings(ask).await?;
    let row = ask.row(POSITION, &[]).await?;
    let lsn = get::<Option<Lsn>>(&row, "lsn")?.unwrap_or_default();
    let mut unmeasured = Vec::new();
    if settings.data_directory.is_none() {
        let (what, from) = ("the space left for pg_wal", "data_directory");
        unmeasured.push(Unmeasured { what, from, grant: Some(monitor(ask).await?) });
    }
    let archiver = archiver(ask).await?;
    let ready = ready(ask, version_num, &mut unmeasured).await?;
    let directory = directory(ask, &mut unmeasured).await?;
    let slots = slots(ask, version_num).await?;
    Ok(columns!(&row, WalFacts {
        at, in_recovery, timeline, redo, redo_timeline, checkpoint_at;
        lsn: lsn, segment_size: segment_size, settings: settings, archiver: archiver, ready: ready,
        directory: directory, slots: slots, unmeasured: unmeasured
    }))
}

async fn settings(ask: Queries<'_>) -> Result<(WalSettings, SegmentSize), PgError> {
    let sql = "SELECT name, setting, coalesce(unit, '') AS unit FROM pg_settings WHERE name IN \
               ('archive_mode', 'archive_command', 'archive_library', 'archive_timeout', \
               'wal_keep_size', 'wal_keep_segments', 'max_wal_size', 'wal_segment_size', \
               'data_directory')";
    let mut settings = WalSettings {
        archive_mode: ArchiveMode::Off,
        has_command: false,
        has_library: false,
        archive_timeout: Duration::ZERO,
        keep_bytes: 0,
        max_wal_size: 0,
        data_directory: None,
    };
    let (mut size, mut keep_segments) = (SegmentSize::DEFAULT, 0);
    for row in &ask.rows(sql, &[]).await? {
        let (name, value): (String, String) = (get(row, "name")?, get(row, "setting")?);
        let unit: String = get(row, "unit")?;
        let number = value.parse::<u64>().unwrap_or(0).saturating_mul(unit_bytes(&unit));
        match name.as_str() {
            "archive_mode" if value == "on" => settings.archive_mode = ArchiveMode::On,
            "archive_mode" if value == "always" => settings.archive_mode = ArchiveMode::Always,
            "archive_command" => settings.has_command = !value.trim().is_empty(),
            "archive_library" => settings.has_library = !value.trim().is_empty(),
            "archive_timeout" => settings.archive_timeout = Duration::from_secs(number),
            "wal_keep_size" => settings.keep_bytes = number,
            "wal_keep_segments" => keep_segments = number,
            "max_wal_size" => settings.max_wal_size = number,
            "wal_segment_size" => size = SegmentSize::new(number).unwrap_or(size),
            "data_directory" => settings.data_directory = Some(value.into()),
            _ => {}
        }
    }
    settings.keep_bytes = settings.keep_bytes.max(keep_segments.saturating_mul(size.bytes()));
    Ok((settings, size))
}

/// Bytes of a unit of `pg_settings`; 1 for what is no size.
fn unit_bytes(unit: &str) -> u64 {
    let (count, unit) = unit.split_at(unit.bytes().take_while(u8::is_ascii_digit).count());
    let bytes = match unit {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        _ => 1,
    };
    count.parse::<u64>().unwrap_or(1) * bytes
}

/// Asks for `pg_stat_archiver` alone.
pub async fn archiver(ask: Queries<'_>) -> Result<Archiver, PgError> {
    let row = &ask.row("SELECT * FROM pg_stat_archiver", &[]).await?;
    let event = |file, at| Ok::<_, PgError>(get::<Option<String>>(row, file)?.zip(get(row, at)?));
    let last_archived = event("last_archived_wal", "last_archived_time")?;
    let last_failed = event("last_failed_wal", "last_failed_time")?;
    Ok(columns!(row, Archiver {
        archived_count, failed_count, stats_reset;
        last_archived: last_archived, last_failed: last_failed
    }))
}

async fn ready(
    ask: Queries<'_>,
    version_num: u32,
    unmeasured: &mut Vec<Unmeasured>,
) -> Result<Option<ReadyQueue>, PgError> {
    let (what, from) = ("what waits to be archived", "pg_ls_archive_statusdir()");
    if version_num < HAS_STATUSDIR {
        unmeasured.push(Unmeasured { what, from, grant: None });
        return Ok(None);
    }
    if !is_measured(ask, what, from, unmeasured).await? {
        return Ok(None);
    }
    let sql = "WITH r AS (SELECT regexp_replace(name, '\\.ready$', '') COLLATE \"C\" AS name, \
                 modification FROM pg_ls_archive_statusdir() WHERE name ~ '\\.ready$') \
        SELECT count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}$') AS segments, \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{8}\\.history$') AS histories, \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}\\.[0-9A-F]{8}\\.backup$') AS backups, \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}\\.partial$') AS partials, \
          count(*) AS others, min(modification) AS oldest, \
          coalesce(min(name) FILTER (WHERE name ~ '^[0-9A-F]{8}\\.history$'), min(name)) AS next, \
          min(name) FILTER (WHERE name ~ '^[0-9A-F]{24}$') AS first_segment FROM r";
    let row = &listed(ask, sql).await?;
    let mut queue = columns!(
        row,
        ReadyQueue { segments, histories, backups, partials, others, oldest, next, first_segment }
    );
    queue.others -= queue.segments + queue.histories + queue.backups + queue.partials;
    Ok(Some(queue))
}

async fn directory(
    ask: Queries<'_>,
    unmeasured: &mut Vec<Unmeasured>,
) -> Result<Option<WalDirectory>, PgError> {
    if !is_measured(ask, "the size of pg_wal", "pg_ls_waldir()", unmeasured).await? {
        return Ok(None);
    }
    let sql =
        "SELECT coalesce(sum(size), 0)::bigint AS bytes, count(*) AS files FROM pg_ls_waldir()";
    let row = &listed(ask, sql).await?;
    Ok(Some(columns!(row, WalDirectory { bytes, files })))
}

/// Whether the role may read something from a function; what it may not is noted.
async fn is_measured(
    ask: Queries<'_>,
    what: &'static str,
    from: &'static str,
    unmeasured: &mut Vec<Unmeasured>,
) -> Result<bool, PgError> {
    let may = may_execute(ask, from).await?;
    if !may {
        unmeasured.push(Unmeasured { what, from, grant: Some(monitor(ask).await?) });
    }
    Ok(may)
}

async fn slots(ask: Queries<'_>, version_num: u32) -> Result<Vec<Slot>, PgError> {
    let slot = |row: &Row| {
        Ok(columns!(
            row,
            Slot { name, active, restart_lsn, wal_status, safe_wal_size, invalidation_reason }
        ))
    };
    ask.list(&slots_sql(version_num), &[], slot).await
}

fn slots_sql(version_num: u32) -> String {
    let status = if version_num >= HAS_SLOT_STATUS {
        "wal_status, safe_wal_size"
    } else {
        "NULL::text AS wal_status, NULL::bigint AS safe_wal_size"
    };
    let reason = if version_num >= HAS_SLOT_REASON { "invalidation_reason" } else { "NULL::text" };
    format!(
        "SELECT slot_name::text AS name, active, restart_lsn::text AS restart_lsn, {status}, \
         {reason} AS invalidation_reason FROM pg_replication_slots s \
         ORDER BY s.restart_lsn NULLS LAST, s.slot_name LIMIT {SLOTS_MAX}"
    )
}

/// A statement that reads a folder: once more where a file went away meanwhile.
async fn listed(ask: Queries<'_>, sql: &str) -> Result<Row, PgError> {
    let mut attempt = 1;
    loop {
        match ask.row(sql, &[]).await {
            Err(error) if error.sqlstate() == Some(UNDEFINED_FILE) && attempt < ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Whether the role may call a function of that signature. It has to exist.
pub async fn may_execute(ask: Queries<'_>, function: &str) -> Result<bool, PgError> {
    let sql = "SELECT has_function_privilege('pg_catalog.' || $1, 'EXECUTE')";
    ask.value(sql, &[&function]).await
}

/// The history of a timeline as it lies in `pg_wal`; none where the role may not have files read, or the
/// server has no such file (one that was restored from elsewhere keeps only what it needed).
pub async fn history(ask: Queries<'_>, timeline: Timeline) -> Result<Option<History>, PgError> {
    if !may_execute(ask, READ_FUNCTION).await? {
        return Ok(None);
    }
    let path = format!("pg_wal/{:08X}.history", timeline.number());
    let bytes = match read_file(ask, &path).await {
        Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => return Ok(None),
        bytes => bytes?,
    };
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| History::parse(&text).ok()))
}

/// The statement that gives the role what it takes to watch a server.
async fn monitor(ask: Queries<'_>) -> Result<String, PgError> {
    let role: String = ask.value("SELECT quote_ident(current_user)", &[]).await?;
    Ok(format!("GRANT pg_monitor TO {}", text::pasted(&role)))
}

/// Writes a little and ends the present segment, which then is archived. The answer is the end of
/// what it holds.
///
/// # Errors
/// Without EXECUTE on `pg_switch_wal()`; on a standby.
pub async fn switch_wal(ask: Queries<'_>) -> Result<Lsn, PgError> {
    // A server that wrote nothing since the last switch switches nothing.
    let emits: bool = ask.value(MAY_EMIT, &[]).await?;
    // Not as part of a transaction: its commit would wait for synchronous standbys, for ever where
    // there is none, and no statement_timeout ends that wait.
    let write = if emits {
        "SELECT pg_logical_emit_message(false, 'pgkeep', 'end-to-end check of WAL archiving')::text"
    } else {
        // A transaction that has an id leaves the record of its commit.
        "SELECT txid_current()::text"
    };
    ask.row(write, &[]).await?;
    ask.value("SELECT pg_switch_wal()::text", &[]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_each_version_have_all_columns() {
        for version in [110_000, HAS_SLOT_STATUS, HAS_SLOT_REASON, 190_000] {
            let sql = slots_sql(version);
            let names = ["name", "active", "restart_lsn", "wal_status", "safe_wal_size"];
            for name in names.into_iter().chain(["invalidation_reason"]) {
                let is_there = [format!("AS {name}"), format!(", {name},"), format!(" {name}, ")];
                assert!(is_there.iter().any(|it| sql.contains(it)), "{version}: {name}: {sql}");
            }
        }
    }

    #[test]
    fn units_of_settings_are_bytes() {
        for (unit, bytes) in [("MB", 1 << 20), ("kB", 1 << 10), ("8kB", 8 << 10), ("B", 1), ("", 1)]
        {
            assert_eq!(unit_bytes(unit), bytes, "{unit:?}");
        }
    }
}
