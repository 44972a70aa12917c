//! The gap between the snapshot and pg_dump's locks.
//!
//! pg_dump reads in a snapshot that is older than its locks. A table that is truncated or rewritten in
//! between, or for whose lock pg_dump waits while that happens, is dumped without a row, and nobody says
//! a word: the usual way to load a table (BEGIN, TRUNCATE, INSERT, COMMIT) does just that. So the
//! tables are looked at once pg_dump has its locks, which nothing of the kind gets past.
//!
//! Until then pg_dump reads the catalogue, and may be silent for as long as that takes. But the session that holds the snapshot
//! has to answer, and a backend that waits for pg_dump all the time, while that writes nothing, does not read the catalogue.
//!
//! What can still go wrong: a dump that takes less time than the look; then a table that is rewritten
//! just behind it makes the run fail for nothing, and it is tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        failure::{Class, Failure, IntoFailure},
        scope::Scope,
    },
    postgres::{PgError, snapshot::ExportedSnapshot},
    sys::task::Task,
};

/// How often it is looked whether pg_dump has begun to write: it does when it has all its locks.
const POLL: Duration = Duration::from_millis(10);

/// How often it is asked meanwhile whether the server is there.
const ASK: Duration = Duration::from_secs(30);
/// How often the time of an answer pg_dump may leave its backend without anything to do: it sorts what it has read.
const WAITS: u32 = 4;

/// Tables of the scope that changed under the snapshot before pg_dump had its locks. Others are not
/// locked, and may be emptied at any time.
///
/// # Errors
/// When nobody can say it, or pg_dump will never have its locks: the session is gone or silent, or pg_dump and its
/// backend wait for each other.
pub(super) async fn changed(
    snapshot: &ExportedSnapshot,
    scope: &Scope,
    application: &str,
    exited: &CancellationToken,
    task: &Task,
) -> Result<Vec<String>, PgError> {
    let begun = task.progress.bytes();
    let limit = snapshot.answer_timeout();
    let every = ASK.min(limit);
    let mut asked = task.clock.now().mono;
    while task.progress.bytes() == begun && !exited.is_cancelled() {
        tokio::time::sleep(POLL).await;
        let now = task.clock.now().mono;
        if now.saturating_sub(asked) >= every {
            asked = now;
            let waits = snapshot.client_waits(application, &task.cancel).await?;
            if let Some(waits) = waits.filter(|waits| *waits >= limit * WAITS) {
                return Err(PgError::stalled(waits));
            }
        }
    }
    snapshot.changed(scope, &task.cancel).await
}

/// Why there is no backup, where tables changed, or nobody can say that none did.
pub(super) fn refusal(changed: Result<Vec<String>, PgError>, task: &Task) -> Option<Failure> {
    let changed = match changed {
        Ok(changed) if changed.is_empty() => return None,
        Ok(changed) => changed,
        Err(error) => return Some(error.into_failure(task)),
    };
    let what = format!(
        "truncated, rewritten or dropped after the snapshot was taken and before pg_dump had its \
         lock: {}; their rows would be missing without a word",
        changed.join(", ")
    );
    Some(task.failure(Class::Lock, what).hint(
        "it is tried as often as `attempts` says, with a new snapshot; if it happens each time, run the dump at another \
         hour than what loads or rewrites them (TRUNCATE, ALTER TABLE, VACUUM FULL, CLUSTER, REPACK)",
    ))
}
