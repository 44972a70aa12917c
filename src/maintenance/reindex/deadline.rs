//! A task of its own that ends by itself: for what has to be done although the run is cancelled.

use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::sys::task::Task;

/// How much longer than a lock is waited for a deadline has to be: where both ended at once, the cancel request
/// could come late and end the next statement of the session.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A task that is cancelled after a while, and by nobody else.
#[derive(Debug)]
pub(super) struct Deadline {
    pub(super) task: Task,
    _timer: DropGuard,
}

impl Deadline {
    /// Clock and progress are those of `task`, its cancellation is not.
    pub(super) fn new(task: &Task, limit: Duration) -> Self {
        Self::under(task, limit, CancellationToken::new())
    }

    /// A task that ends with `task` as well.
    pub(super) fn within(task: &Task, limit: Duration) -> Self {
        Self::under(task, limit, task.cancel.child_token())
    }

    fn under(task: &Task, limit: Duration, cancel: CancellationToken) -> Self {
        let ended = CancellationToken::new();
        let (over, end) = (cancel.clone(), ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(limit) => over.cancel(),
                () = end.cancelled() => {}
            }
        });
        Self { task: task.clone().cancelled_by(cancel), _timer: ended.drop_guard() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;

    #[tokio::test]
    async fn it_ends_by_itself_and_not_with_the_run() {
        let run = Task::new(SystemClock::new());
        let within = Deadline::within(&run, Duration::from_mins(1));
        let alone = Deadline::new(&run, Duration::from_millis(50));
        run.cancel.cancel();
        assert!(!alone.task.cancel.is_cancelled() && within.task.cancel.is_cancelled());
        alone.task.cancel.cancelled().await;
    }
}
