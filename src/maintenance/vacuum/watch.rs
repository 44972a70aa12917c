//! How far a statement is, from a session beside it.
//!
//! What can still go wrong: there is no second connection to be had. The statement then runs on
//! without anybody knowing how far it is.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    postgres::{PgError, Session, column::get},
    sys::task::Task,
};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// The first look comes sooner: most tables are done by then.
const FIRST: Duration = Duration::from_millis(300);
/// `pg_stat_progress_cluster` came with 12, `pg_stat_progress_analyze` with 13.
const HAS_CLUSTER: u32 = 120_000;
const HAS_ANALYZE: u32 = 130_000;

/// Phase and, where the server counts, percent of the phase.
fn sql(version: u32) -> String {
    let mut sql = "SELECT phase::text AS phase, (CASE phase \
         WHEN 'scanning heap' THEN 100 * heap_blks_scanned / nullif(heap_blks_total, 0) \
         WHEN 'vacuuming heap' THEN 100 * heap_blks_vacuumed / nullif(heap_blks_total, 0) \
         END)::bigint AS percent FROM pg_stat_progress_vacuum WHERE pid = $1"
        .to_owned();
    if version >= HAS_CLUSTER {
        sql.push_str(
            " UNION ALL SELECT phase::text, (100 * heap_blks_scanned / nullif(heap_blks_total, \
             0))::bigint FROM pg_stat_progress_cluster WHERE pid = $1",
        );
    }
    if version >= HAS_ANALYZE {
        sql.push_str(
            " UNION ALL SELECT phase::text, (100 * sample_blks_scanned / \
             nullif(sample_blks_total, 0))::bigint FROM pg_stat_progress_analyze WHERE pid = $1",
        );
    }
    sql
}

/// The session that looks.
#[derive(Debug)]
pub(super) struct Watch {
    pub session: Session,
    pub version: u32,
}

impl Watch {
    /// Says how far backend `pid` is, as `stage (phase)`, until `done`.
    pub(super) async fn follow(
        &self,
        pid: i32,
        stage: &str,
        task: &Task,
        done: &CancellationToken,
    ) {
        let sql = sql(self.version);
        let mut wait = FIRST;
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = INTERVAL,
            }
            match self.phase(&sql, pid, done).await {
                Ok(Some(phase)) => task.progress.set_stage(format!("{stage} ({phase})")),
                Ok(None) => {}
                Err(PgError::Cancelled) => return,
                Err(error) => {
                    tracing::debug!(%error, "no look at the progress");
                    return;
                }
            }
        }
    }

    async fn phase(
        &self,
        sql: &str,
        pid: i32,
        done: &CancellationToken,
    ) -> Result<Option<String>, PgError> {
        let rows = self.session.queries(done).rows(sql, &[&pid]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (phase, percent): (String, Option<i64>) = (get(row, "phase")?, get(row, "percent")?);
        Ok(Some(match percent {
            Some(percent) => format!("{phase}, {percent} %"),
            None => phase,
        }))
    }
}
