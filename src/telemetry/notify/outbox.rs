//! The queue of one receiver, the task that empties it, and what all of them share.
//!
//! The task lives only while there is something to send. It holds its receiver, so that what was
//! queued before a reload is still sent as it was then configured.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Again, Notifier, Undelivered};
use crate::{
    domain::{
        name::{JobName, NotifyName},
        notice::{Event, Memory, Notice},
    },
    sys::clock::Clock,
    telemetry::metrics::{Metrics, Notified},
};

/// Notices that wait for one receiver; beyond it the oldest is given up.
const QUEUE_MAX: usize = 64;
/// Longest wait between two attempts, also where the receiver asks for more.
pub(super) const BACKOFF_MAX: Duration = Duration::from_mins(5);
/// Time that those have which are under way when all is given up: to end a program.
const ABANDON: Duration = Duration::from_secs(3);

/// A notice on its way.
#[derive(Debug)]
pub struct Letter {
    pub notice: Notice,
    pub job: JobName,
    /// What is to be remembered of it; none: nothing.
    pub told: Option<Told>,
}

/// What a notice changes in what a receiver knows.
#[derive(Debug)]
pub struct Told {
    pub before: Memory,
    /// What it has been told once this arrived.
    pub after: Memory,
}

/// What became of a letter.
#[derive(Debug)]
pub struct Sent {
    pub notify: NotifyName,
    pub letter: Letter,
    pub delivered: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    /// Whether there is a task that will take the next one.
    working: bool,
}

/// What waits for one receiver.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Waiting>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a letter: what had to go for it, and whether a task has to be started.
    fn push(&self, letter: Letter) -> (Option<Letter>, bool) {
        let mut waiting = self.lock();
        waiting.letters.push_back(letter);
        let dropped =
            if waiting.letters.len() > QUEUE_MAX { waiting.letters.pop_front() } else { None };
        (dropped, !std::mem::replace(&mut waiting.working, true))
    }

    /// The next letter; where there is none the task has to end.
    fn next(&self) -> Option<Letter> {
        let mut waiting = self.lock();
        let next = waiting.letters.pop_front();
        waiting.working = next.is_some();
        next
    }
}

/// What all receivers of a process share, over all reloads.
#[derive(Debug)]
pub struct Post {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    workers: TaskTracker,
    /// No more waiting between attempts.
    closing: CancellationToken,
    /// No more attempts.
    abandon: CancellationToken,
    sent: Mutex<Vec<Sent>>,
}

impl Post {
    /// One that has sent nothing yet.
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            clock,
            workers: TaskTracker::new(),
            closing: CancellationToken::new(),
            abandon: CancellationToken::new(),
            sent: Mutex::default(),
        })
    }

    /// What became of letters since the last call.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends what waits, each with one more attempt, for at most `limit`; then gives up what is
    /// left, and says so.
    pub async fn close(&self, limit: Duration) {
        self.closing.cancel();
        self.workers.close();
        if tokio::time::timeout(limit, self.workers.wait()).await.is_ok() {
            return;
        }
        self.abandon.cancel();
        if tokio::time::timeout(ABANDON, self.workers.wait()).await.is_err() {
            tracing::warn!("a notification under way does not end; it is left behind");
        }
    }

    fn ended(&self, notify: &NotifyName, letter: Letter, outcome: Notified) {
        self.metrics.notified(notify, outcome, self.clock.now().wall);
        let delivered = outcome == Notified::Sent;
        let sent = Sent { notify: notify.clone(), letter, delivered };
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
    }
}

impl Notifier {
    /// Puts a letter into the queue. Never waits.
    pub fn send(self: &Arc<Self>, post: &Arc<Post>, letter: Letter) {
        let (dropped, start) = self.queue.push(letter);
        if let Some(letter) = dropped {
            let (event, job) = (letter.notice.event, &letter.job);
            tracing::warn!(notify = %self.name, %job, %event, "notification dropped: too many wait");
            post.ended(&self.name, letter, Notified::Dropped);
        }
        if start {
            let (notifier, shared) = (Arc::clone(self), Arc::clone(post));
            post.workers.spawn(async move { notifier.work(&shared).await });
        }
    }

    /// Sends until nothing waits any more.
    async fn work(&self, post: &Post) {
        while let Some(letter) = self.queue.next() {
            let (event, job) = (letter.notice.event, letter.job.clone());
            let outcome = match self.deliver(&letter.notice, post).await {
                Ok(attempts) if matches!(event, Event::Start | Event::Success) => {
                    tracing::debug!(notify = %self.name, %job, %event, attempts, "notification sent");
                    Notified::Sent
                }
                Ok(attempts) => {
                    tracing::info!(notify = %self.name, %job, %event, attempts, "notification sent");
                    Notified::Sent
                }
                Err((attempts, error)) => {
                    let hint = error.hint.as_deref();
                    tracing::warn!(
                        notify = %self.name, %job, %event, attempts, hint,
                        "notification not delivered: {error}"
                    );
                    Notified::Failed
                }
            };
            post.ended(&self.name, letter, outcome);
        }
    }

    /// Tries until it is delivered or given up; in either case with the number of attempts.
    async fn deliver(&self, notice: &Notice, post: &Post) -> Result<u32, (u32, Undelivered)> {
        let mut wait = self.backoff;
        let mut attempt = 0;
        loop {
            if post.abandon.is_cancelled() {
                return Err((attempt, Undelivered::stopped()));
            }
            attempt += 1;
            let closing = post.closing.is_cancelled();
            let error = match self.channel.deliver(notice, self.timeout, &post.abandon).await {
                Ok(()) => return Ok(attempt),
                Err(error) => error,
            };
            let pause = match error.again {
                Again::No => None,
                Again::Yes => Some(wait),
                Again::After(asked) => Some(asked.clamp(wait, BACKOFF_MAX)),
            };
            let Some(pause) = pause.filter(|_| attempt < self.attempts && !closing) else {
                return Err((attempt, error));
            };
            let seconds = pause.as_secs();
            tracing::info!(notify = %self.name, attempt, seconds, "will be tried again: {error}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = post.closing.cancelled() => {}
            }
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
