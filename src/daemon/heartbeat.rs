//! The heartbeat: every few seconds it pokes the daemon's loop, which then looks at what is due.
//!
//! tokio-cron-scheduler 0.15 is used as a clock and for nothing else. Its time zones freeze their
//! offset, it has no guard against overlap, and after a clock that was in the future and came back
//! it is silent until that future (issues 87, 107 and 113 of its repository). Therefore: one job, in
//! UTC, never added to nor removed; its body only pokes a channel of one place, and a poke that
//! finds the place taken is dropped. Since a step of the clock can silence it, the loop has a
//! monotonic timer beside it, and counts the heartbeats that it missed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

/// How often the heart beats.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The same as a schedule; its first field is seconds.
const SCHEDULE: &str = "*/5 * * * * *";

/// The heartbeat could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    #[error("the heartbeat cannot be started")]
    Start(#[source] JobSchedulerError),
    #[error("the heartbeat cannot be stopped")]
    Stop(#[source] JobSchedulerError),
}

/// A heart that beats until [`Heartbeat::stop`].
pub struct Heartbeat {
    scheduler: JobScheduler,
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").finish_non_exhaustive()
    }
}

impl Heartbeat {
    /// Starts it; each beat puts one unit into the channel, unless the last is still there.
    pub async fn start() -> Result<(Self, mpsc::Receiver<()>), HeartbeatError> {
        let (poke, beats) = mpsc::channel(1);
        let scheduler = JobScheduler::new().await.map_err(HeartbeatError::Start)?;
        // Async on purpose: a panic in a job of the synchronous sort silences it for good.
        let job = Job::new_async(SCHEDULE, move |_id, _scheduler| {
            let poke = poke.clone();
            Box::pin(async move {
                // Full: the loop has not taken the last beat yet. Closed: the loop has gone.
                poke.try_send(()).unwrap_or_default();
            })
        })
        .map_err(HeartbeatError::Start)?;
        scheduler.add(job).await.map_err(HeartbeatError::Start)?;
        scheduler.start().await.map_err(HeartbeatError::Start)?;
        Ok((Self { scheduler }, beats))
    }

    /// Stops it. It waits for nothing: a beat may still come.
    pub async fn stop(mut self) -> Result<(), HeartbeatError> {
        self.scheduler.shutdown().await.map_err(HeartbeatError::Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_beats_again_and_holds_one_beat_at_most() {
        let (heart, mut beats) = Heartbeat::start().await.unwrap();
        let deadline = INTERVAL * 6;
        for _ in 0..2 {
            let beat = tokio::time::timeout(deadline, beats.recv()).await;
            assert_eq!(beat.expect("a beat in time"), Some(()));
        }
        assert_eq!(beats.max_capacity(), 1);
        heart.stop().await.unwrap();
    }
}
