//! How far a standby has replayed.

use std::time::Duration;

use crate::domain::standby::Replay;

use super::{
    PgError,
    column::{columns, get},
    queries::Queries,
};

/// Any role sees that a WAL receiver runs, if not what it does. Where WAL comes from an archive, replay may
/// be ahead of what was received.
const REPLAY: &str = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receiving,
      coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), false) AS caught_up,
      extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS last_commit,
      pg_last_wal_receive_lsn()::text AS received";
const REPLAYED: &str = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
/// What has come in a moment ago is about to be replayed. An idle primary sends something too, each 15 s
/// (LOG_SNAPSHOT_INTERVAL_MS in bgwriter.c): a standby that is met just then is not behind.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks a standby how it stands. Whether it has caught up is seen after `max`, and at most a moment.
pub async fn replay(ask: Queries<'_>, max: Duration) -> Result<Replay, PgError> {
    let row = ask.row(REPLAY, &[]).await?;
    let mut replay = columns!(&row, Replay { receiving, caught_up, last_commit });
    let received: Option<String> = get(&row, "received")?;
    let Some(received) = received.filter(|_| replay.receiving) else { return Ok(replay) };
    let looks = max.min(SETTLE).as_millis() / LOOK_AGAIN.as_millis();
    for _ in 0..looks {
        if replay.caught_up {
            break;
        }
        tokio::select! {
            () = ask.cancel.cancelled() => return Err(PgError::Cancelled),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        replay.caught_up = ask.value(REPLAYED, &[&received]).await?;
    }
    Ok(replay)
}
