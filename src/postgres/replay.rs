//! How far a standby has replayed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::standby::Replay;

use super::{PgError, Session, catalog::get};

/// Any role sees that a WAL receiver runs, if not what it does. Where WAL comes from an archive, replay may
/// be ahead of what was received.
const REPLAY: &str = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
      coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), false),
      extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8";

/// Asks a standby how it stands.
///
/// # Errors
/// When the server does not answer.
pub async fn replay(session: &Session, cancel: &CancellationToken) -> Result<Replay, PgError> {
    let row = session.query_one(REPLAY, &[], cancel).await?;
    let last: Option<f64> = get(&row, 2)?;
    Ok(Replay {
        receiving: get(&row, 0)?,
        caught_up: get(&row, 1)?,
        last_commit: last.and_then(|last| Duration::try_from_secs_f64(last.max(0.0)).ok()),
    })
}
