//! Reading what [`super`] describes.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    Timestamp,
    failure::Class,
    text,
    wal::{History, Lsn, SegmentSize, Timeline},
};

use super::{
    super::{
        PgError, Session,
        catalog::timestamp,
        column::get,
        configuration::{READ_FUNCTION, read_file},
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

/// It has one argument more since PostgreSQL 17.
const MAY_EMIT: &str = "SELECT coalesce(bool_or(has_function_privilege(oid, 'EXECUTE')), false) \
    FROM pg_proc WHERE proname = 'pg_logical_emit_message' \
    AND pronamespace = 'pg_catalog'::regnamespace AND proargtypes[2] = 'text'::regtype";

/// Asks a server about its WAL. `version_num` is its version.
pub async fn wal_facts(
    session: &Session,
    version_num: u32,
    cancel: &CancellationToken,
) -> Result<WalFacts, PgError> {
    let (settings, segment_size) = settings(session, cancel).await?;
    let position = position(session, cancel).await?;
    let mut unmeasured = Vec::new();
    if settings.data_directory.is_none() {
        unmeasured.push(Unmeasured {
            what: "the space left for pg_wal",
            from: "data_directory",
            grant: Some(monitor(session, cancel).await?),
        });
    }
    let archiver = archiver(session, cancel).await?;
    let ready = ready(session, version_num, &mut unmeasured, cancel).await?;
    let directory = directory(session, &mut unmeasured, cancel).await?;
    let slots = slots(session, version_num, cancel).await?;
    Ok(WalFacts {
        at: position.at,
        in_recovery: position.in_recovery,
        segment_size,
        timeline: position.timeline,
        lsn: position.lsn,
        redo: position.redo,
        redo_timeline: position.redo_timeline,
        checkpoint_at: position.checkpoint_at,
        settings,
        archiver,
        ready,
        directory,
        slots,
        unmeasured,
    })
}

async fn settings(
    session: &Session,
    cancel: &CancellationToken,
) -> Result<(WalSettings, SegmentSize), PgError> {
    let sql = "SELECT name, setting, coalesce(unit, '') FROM pg_settings WHERE name IN \
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
    for row in session.query(sql, &[], cancel).await? {
        let (name, value, unit): (String, String, String) =
            (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
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

struct Position {
    at: Timestamp,
    in_recovery: bool,
    timeline: Timeline,
    lsn: Lsn,
    redo: Lsn,
    redo_timeline: Timeline,
    checkpoint_at: Timestamp,
}

async fn position(session: &Session, cancel: &CancellationToken) -> Result<Position, PgError> {
    // After a promotion the control file names the old timeline until the next checkpoint; the
    // name of the present file does not.
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, r.is, \
        CASE WHEN r.is THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
             ELSE pg_current_wal_lsn() END::text, \
        CASE WHEN NOT r.is THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint \
             ELSE greatest(c.timeline_id, (SELECT received_tli FROM pg_stat_wal_receiver LIMIT 1)) \
             END, \
        c.redo_lsn::text, (extract(epoch FROM c.checkpoint_time) * 1000000)::bigint, \
        c.timeline_id::bigint \
        FROM pg_control_checkpoint() c, (SELECT pg_is_in_recovery() AS is OFFSET 0) r";
    let row = session.query_one(sql, &[], cancel).await?;
    let timeline = |column| {
        let number: i64 = get(&row, column)?;
        let timeline = u32::try_from(number).ok().and_then(Timeline::new);
        timeline.ok_or_else(|| PgError::new(Class::Internal, "the server sent no timeline"))
    };
    Ok(Position {
        at: timestamp(get(&row, 0)?)?,
        in_recovery: get(&row, 1)?,
        lsn: lsn(&row, 2)?.unwrap_or_default(),
        timeline: timeline(3)?,
        redo: lsn(&row, 4)?.unwrap_or_default(),
        redo_timeline: timeline(6)?,
        checkpoint_at: timestamp(get(&row, 5)?)?,
    })
}

fn lsn(row: &Row, column: usize) -> Result<Option<Lsn>, PgError> {
    let text: Option<String> = get(row, column)?;
    let parse = |text: String| {
        text.parse().map_err(|_| PgError::new(Class::Internal, "the server sent no LSN"))
    };
    text.map(parse).transpose()
}

/// Asks for `pg_stat_archiver` alone.
pub async fn archiver(session: &Session, cancel: &CancellationToken) -> Result<Archiver, PgError> {
    let micros = |column| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let sql = format!(
        "SELECT archived_count, last_archived_wal, {}, failed_count, last_failed_wal, {}, {} \
         FROM pg_stat_archiver",
        micros("last_archived_time"),
        micros("last_failed_time"),
        micros("stats_reset"),
    );
    let row = session.query_one(&sql, &[], cancel).await?;
    let event = |name, at| {
        let (name, at): (Option<String>, Option<i64>) = (get(&row, name)?, get(&row, at)?);
        let pair = |(name, at)| Ok::<_, PgError>((name, timestamp(at)?));
        name.zip(at).map(pair).transpose()
    };
    let reset: Option<i64> = get(&row, 6)?;
    Ok(Archiver {
        archived_count: count(&row, 0)?,
        last_archived: event(1, 2)?,
        failed_count: count(&row, 3)?,
        last_failed: event(4, 5)?,
        stats_reset: reset.map(timestamp).transpose()?,
    })
}

async fn ready(
    session: &Session,
    version_num: u32,
    unmeasured: &mut Vec<Unmeasured>,
    cancel: &CancellationToken,
) -> Result<Option<ReadyQueue>, PgError> {
    let (what, from) = ("what waits to be archived", "pg_ls_archive_statusdir()");
    if version_num < HAS_STATUSDIR {
        unmeasured.push(Unmeasured { what, from, grant: None });
        return Ok(None);
    }
    if !may_execute(session, from, cancel).await? {
        let grant = Some(monitor(session, cancel).await?);
        unmeasured.push(Unmeasured { what, from, grant });
        return Ok(None);
    }
    let sql = "WITH r AS (SELECT regexp_replace(name, '\\.ready$', '') COLLATE \"C\" AS name, \
                 modification FROM pg_ls_archive_statusdir() WHERE name ~ '\\.ready$') \
        SELECT count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}$'), \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{8}\\.history$'), \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}\\.[0-9A-F]{8}\\.backup$'), \
          count(*) FILTER (WHERE name ~ '^[0-9A-F]{24}\\.partial$'), count(*), \
          (extract(epoch FROM min(modification)) * 1000000)::bigint, \
          coalesce(min(name) FILTER (WHERE name ~ '^[0-9A-F]{8}\\.history$'), min(name)), \
          min(name) FILTER (WHERE name ~ '^[0-9A-F]{24}$') FROM r";
    let row = listed(session, sql, cancel).await?;
    let mut queue = ReadyQueue {
        segments: count(&row, 0)?,
        histories: count(&row, 1)?,
        backups: count(&row, 2)?,
        partials: count(&row, 3)?,
        others: count(&row, 4)?,
        oldest: get::<Option<i64>>(&row, 5)?.map(timestamp).transpose()?,
        next: get(&row, 6)?,
        first_segment: get(&row, 7)?,
    };
    queue.others -= queue.segments + queue.histories + queue.backups + queue.partials;
    Ok(Some(queue))
}

async fn directory(
    session: &Session,
    unmeasured: &mut Vec<Unmeasured>,
    cancel: &CancellationToken,
) -> Result<Option<WalDirectory>, PgError> {
    let (what, from) = ("the size of pg_wal", "pg_ls_waldir()");
    if !may_execute(session, from, cancel).await? {
        let grant = Some(monitor(session, cancel).await?);
        unmeasured.push(Unmeasured { what, from, grant });
        return Ok(None);
    }
    let sql = "SELECT coalesce(sum(size), 0)::bigint, count(*) FROM pg_ls_waldir()";
    let row = listed(session, sql, cancel).await?;
    Ok(Some(WalDirectory { bytes: count(&row, 0)?, files: count(&row, 1)? }))
}

async fn slots(
    session: &Session,
    version_num: u32,
    cancel: &CancellationToken,
) -> Result<Vec<Slot>, PgError> {
    let status = if version_num >= HAS_SLOT_STATUS {
        "wal_status, safe_wal_size"
    } else {
        "NULL::text, NULL::bigint"
    };
    let reason = if version_num >= HAS_SLOT_REASON { "invalidation_reason" } else { "NULL::text" };
    let sql = format!(
        "SELECT slot_name::text, active, restart_lsn::text, {status}, {reason} \
         FROM pg_replication_slots s ORDER BY s.restart_lsn NULLS LAST, s.slot_name LIMIT {SLOTS_MAX}"
    );
    let rows = session.query(&sql, &[], cancel).await?;
    let slot = |row: &Row| {
        Ok(Slot {
            name: get(row, 0)?,
            active: get(row, 1)?,
            restart_lsn: lsn(row, 2)?,
            wal_status: get(row, 3)?,
            safe_wal_size: get(row, 4)?,
            invalidation_reason: get(row, 5)?,
        })
    };
    rows.iter().map(slot).collect()
}

/// A statement that reads a folder: once more where a file went away meanwhile.
async fn listed(session: &Session, sql: &str, cancel: &CancellationToken) -> Result<Row, PgError> {
    let mut attempt = 1;
    loop {
        match session.query_one(sql, &[], cancel).await {
            Err(error) if error.sqlstate() == Some(UNDEFINED_FILE) && attempt < ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Whether the role may call a function of that signature. It has to exist.
pub async fn may_execute(
    session: &Session,
    function: &str,
    cancel: &CancellationToken,
) -> Result<bool, PgError> {
    let sql = "SELECT has_function_privilege('pg_catalog.' || $1, 'EXECUTE')";
    get(&session.query_one(sql, &[&function], cancel).await?, 0)
}

/// The history of a timeline as it lies in `pg_wal`; none where the role may not have files read, or the
/// server has no such file (one that was restored from elsewhere keeps only what it needed).
pub async fn history(
    session: &Session,
    timeline: Timeline,
    cancel: &CancellationToken,
) -> Result<Option<History>, PgError> {
    if !may_execute(session, READ_FUNCTION, cancel).await? {
        return Ok(None);
    }
    let path = format!("pg_wal/{:08X}.history", timeline.number());
    let bytes = match read_file(session, &path, cancel).await {
        Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => return Ok(None),
        bytes => bytes?,
    };
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| History::parse(&text).ok()))
}

/// The statement that gives the role what it takes to watch a server.
async fn monitor(session: &Session, cancel: &CancellationToken) -> Result<String, PgError> {
    let role: String =
        get(&session.query_one("SELECT quote_ident(current_user)", &[], cancel).await?, 0)?;
    Ok(format!("GRANT pg_monitor TO {}", text::pasted(&role)))
}

/// Writes a little and ends the present segment, which then is archived. The answer is the end of
/// what it holds.
///
/// # Errors
/// Without EXECUTE on `pg_switch_wal()`; on a standby.
pub async fn switch_wal(session: &Session, cancel: &CancellationToken) -> Result<Lsn, PgError> {
    // A server that wrote nothing since the last switch switches nothing.
    let emits: bool = get(&session.query_one(MAY_EMIT, &[], cancel).await?, 0)?;
    // Not as part of a transaction: its commit would wait for synchronous standbys, for ever where
    // there is none, and no statement_timeout ends that wait.
    let write = if emits {
        "SELECT pg_logical_emit_message(false, 'pgkeep', 'end-to-end check of WAL archiving')::text"
    } else {
        // A transaction that has an id leaves the record of its commit.
        "SELECT txid_current()::text"
    };
    session.query_one(write, &[], cancel).await?;
    let row = session.query_one("SELECT pg_switch_wal()::text", &[], cancel).await?;
    lsn(&row, 0)?.ok_or_else(|| PgError::new(Class::Internal, "the server sent no LSN"))
}

fn count(row: &Row, column: usize) -> Result<u64, PgError> {
    Ok(u64::try_from(get::<i64>(row, column)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_settings_are_bytes() {
        for (unit, bytes) in [("MB", 1 << 20), ("kB", 1 << 10), ("8kB", 8 << 10), ("B", 1), ("", 1)]
        {
            assert_eq!(unit_bytes(unit), bytes, "{unit:?}");
        }
    }
}
