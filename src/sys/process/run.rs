//! Runs a program to its end and gives what it wrote: for `pg_dump --version` and the like.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Child, Exit, SpawnError, Spec, Stdout, Waited};

/// How long a program that is stopped has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{} did not end within {} s", program.display(), limit.as_secs_f32())]
    TimedOut { program: PathBuf, limit: Duration },
    #[error("cancelled")]
    Cancelled,
}

/// Runs a program, keeping the first `limit` bytes of its standard output. Any way in which it ends
/// by itself is a result: look at [`Exit::end`].
pub async fn run_captured(
    spec: Spec,
    limit: usize,
    timeout: Duration,
    cancel: &CancellationToken,
) -> Result<Arc<Exit>, RunError> {
    let program = spec.program.clone();
    let mut child = Child::spawn(spec, Stdout::Capture(limit)).await?;
    match tokio::time::timeout(timeout, child.wait_or_cancel(cancel, GRACE)).await {
        Ok(Waited::Ended(exit)) => Ok(exit),
        Ok(Waited::Cancelled(_)) => Err(RunError::Cancelled),
        Err(_) => {
            child.terminate(GRACE).await;
            Err(RunError::TimedOut { program, limit: timeout })
        }
    }
}
