//! How far a standby has replayed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::standby::Replay;

use super::{PgError, Session, column::get};

/// Any role sees that a WAL receiver runs, if not what it does. Where WAL comes from an archive, replay may
/// be ahead of what was received.
const REPLAY: &str = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
      coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), false),
      extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
      pg_last_wal_receive_lsn()::text";
const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
/// What has come in a moment ago is about to be replayed. An idle primary sends something too, each 15 s
/// (LOG_SNAPSHOT_INTERVAL_MS in bgwriter.c): a standby that is met just then is not behind.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks a standby how it stands. Whether it has caught up is seen after `max`, and at most a moment.
///
/// # Errors
/// When the server does not answer.
pub async fn replay(
    session: &Session,
    max: Duration,
    cancel: &CancellationToken,
) -> Result<Replay, PgError> {
    let row = session.query_one(REPLAY, &[], cancel).await?;
    let last: Option<f64> = get(&row, 2)?;
    let mut replay = Replay {
        receiving: get(&row, 0)?,
        caught_up: get(&row, 1)?,
        last_commit: last.and_then(|last| Duration::try_from_secs_f64(last.max(0.0)).ok()),
    };
    let received: Option<String> = get(&row, 3)?;
    let Some(received) = received.filter(|_| replay.receiving) else { return Ok(replay) };
    let looks = max.min(SETTLE).as_millis() / LOOK_AGAIN.as_millis();
    for _ in 0..looks {
        if replay.caught_up {
            break;
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(PgError::Cancelled),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let row = session.query_one(REPLAYED, &[&received], cancel).await?;
        replay.caught_up = get::<Option<bool>>(&row, 0)?.unwrap_or(false);
    }
    Ok(replay)
}
