//! What everything long-running is handed: a token that cancels it, a clock, a place to say how far it
//! is, and the phrase that its failures say they were doing.
//!
//! Cancel by token, then await; never drop (DESIGN rule 8).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::domain::{
    failure::{Class, Failure},
    report::Outcome,
};

/// Token, clock, progress and phrase of one piece of work.
///
/// Where a failure wants to know what was being done, the task itself can be given: it stands for its
/// phrase.
#[derive(Debug, Clone)]
pub struct Task {
    pub cancel: CancellationToken,
    pub clock: Arc<dyn Clock>,
    pub progress: Arc<Progress>,
    doing: Arc<str>,
}

impl Task {
    /// A task of its own.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let cancel = CancellationToken::new();
        Self { cancel, clock, progress: Arc::default(), doing: Arc::from("run") }
    }

    /// The same task where it does something of its own: `dump database app`.
    #[must_use]
    pub fn doing(&self, phrase: impl Into<Arc<str>>) -> Self {
        Self { doing: phrase.into(), ..self.clone() }
    }

    /// The same task, cancelled by another token.
    #[must_use]
    pub fn cancelled_by(self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self }
    }

    /// What it is doing: `dump database app`.
    pub fn phrase(&self) -> &str {
        &self.doing
    }

    /// A failure of what it is doing.
    pub fn failure(&self, class: Class, what: impl Into<String>) -> Failure {
        Failure::new(class, self, what)
    }

    /// The failure of work that ends because the task was cancelled.
    pub fn cancelled(&self) -> Failure {
        self.failure(Class::Interrupted, "the run was cancelled")
    }

    /// How something ended that failed: cancelled, where the failure is that the task was.
    pub fn outcome(&self, failure: Failure) -> Outcome {
        if failure.class == Class::Interrupted && self.cancel.is_cancelled() {
            return Outcome::Cancelled;
        }
        Outcome::Failed(failure)
    }

    /// Fails once the task was cancelled.
    ///
    /// # Errors
    /// [`Class::Interrupted`].
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(self.cancelled()) } else { Ok(()) }
    }

    /// What a future brings, unless the task is cancelled first. The future is dropped then: it must be one
    /// that may be.
    ///
    /// # Errors
    /// [`Class::Interrupted`].
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(self.cancelled()),
            done = work => Ok(done),
        }
    }

    /// A task that ends when this one is cancelled, and can be cancelled alone. It shares the
    /// progress.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }
}

impl From<&Task> for String {
    fn from(task: &Task) -> Self {
        task.phrase().to_owned()
    }
}

/// How far a piece of work is. Written from any thread, read by `status` and by the stall limit.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    /// Monotonic milliseconds since which the source has been silent, plus one; 0: it is not
    /// being waited for.
    silent_since: AtomicU64,
    stage: Mutex<String>,
    /// What is being waited for, and how often.
    waits: Mutex<BTreeMap<String, u32>>,
}

impl Progress {
    /// Counts bytes that went by.
    pub fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes that went by so far, over all of the work.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Says that the work now waits for its source (monotonic time `at`). Only this wait counts
    /// towards a stall; back-pressure of our own does not.
    pub fn wait_begins(&self, at: Duration) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1);
        self.silent_since.store(millis + 1, Ordering::Relaxed);
    }

    /// Says that the source answered.
    pub fn wait_ends(&self) {
        self.silent_since.store(0, Ordering::Relaxed);
    }

    /// How long the source has been silent at monotonic time `at`; zero while it is not waited
    /// for.
    pub fn silence(&self, at: Duration) -> Duration {
        match self.silent_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => at.saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    /// Says what is being done: `dump app`.
    pub fn set_stage(&self, stage: impl Into<String>) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage.into();
    }

    /// Says that something is waited for, as long as the result lives: `repository offsite`.
    pub fn waits_for(&self, what: impl Into<String>) -> Waits<'_> {
        let what = what.into();
        *self.waiting().entry(what.clone()).or_default() += 1;
        Waits { progress: self, what }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being done, and what is waited for: `dump app (waits for repository offsite)`.
    pub fn stage(&self) -> String {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.waits() {
            Some(waits) => format!("{stage} (waits for {waits})"),
            None => stage,
        }
    }

    /// What is waited for: `repository disk, repository offsite`.
    pub fn waits(&self) -> Option<String> {
        let waits: Vec<String> = self.waiting().keys().cloned().collect();
        (!waits.is_empty()).then(|| waits.join(", "))
    }
}

/// Something is waited for while this lives.
#[derive(Debug)]
#[must_use = "it says so only while it lives"]
pub struct Waits<'a> {
    progress: &'a Progress,
    what: String,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.progress.waiting();
        let Some(count) = waiting.get_mut(&self.what) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            waiting.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;

    #[tokio::test]
    async fn a_failure_says_what_its_task_was_doing() {
        let task = Task::new(SystemClock::new());
        let dump = task.doing("dump database app");
        assert!(dump.check().is_ok());
        assert_eq!(dump.unless_cancelled(async { 7 }).await, Ok(7));
        task.cancel.cancel();
        let failure = dump.unless_cancelled(async { 7 }).await.unwrap_err();
        assert_eq!(failure, dump.check().unwrap_err());
        assert_eq!(failure.class, Class::Interrupted);
        assert_eq!(failure.to_string(), "dump database app: the run was cancelled");
    }

    #[test]
    fn what_is_waited_for_is_said_as_long_as_it_is() {
        let progress = Progress::default();
        progress.set_stage("dump app");
        let disk = progress.waits_for("repository disk");
        let cloud = [(); 2].map(|()| progress.waits_for("repository cloud"));
        assert_eq!(progress.stage(), "dump app (waits for repository cloud, repository disk)");
        drop(disk);
        progress.set_stage("dump shop");
        let [first, second] = cloud;
        drop(first);
        assert_eq!(progress.stage(), "dump shop (waits for repository cloud)");
        drop(second);
        assert_eq!(progress.stage(), "dump shop");
    }
}
