//! What happens to the planner, and what it wants done.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::spec::{JobSpec, Limits, Remembered};
use crate::domain::{
    name::JobName,
    report::Verdict,
    run::{RequestId, RunId, SkipReason, Trigger},
    target::Target,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Tick,
    /// A person asks for a run. Answered by [`Action::Refuse`], or by [`Action::Accepted`] and at
    /// the run's end by [`Action::Ended`] or [`Action::Refuse`].
    Trigger {
        job: JobName,
        request: RequestId,
    },
    /// An attempt ended. Exactly once per [`Action::Start`], also when it was cancelled.
    Finished {
        run: RunId,
        /// How the attempt ended (or the run with all attempts so far: both read the same).
        verdict: Verdict,
        /// The targets that failed. Empty where the attempt failed before it tried any.
        failed: BTreeSet<Target>,
        retry_worth: bool,
    },
    /// The configuration was replaced. Ignored when the daemon is being stopped.
    Reloaded(Vec<JobSpec>, Limits),
    /// A person wants a run to stop. Unknown runs are ignored: it may just have ended.
    CancelRun(RunId),
    Drain,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Start {
        run: RunId,
        job: JobName,
        /// 1 for the first attempt.
        attempt: u32,
        trigger: Trigger,
        /// Only these targets; `None`: all.
        only: Option<BTreeSet<Target>>,
    },
    /// Cancel the attempt under way of this run; [`Event::Finished`] is still to come.
    Cancel { run: RunId },
    WillRetry {
        run: RunId,
        job: JobName,
        attempt: u32,
        /// When, by the wall clock as it stands now.
        at: Timestamp,
    },
    /// The run is over: no further attempt. Said once for each run, also for one that never
    /// started.
    Ended {
        run: RunId,
        job: JobName,
        /// How all attempts together ended; [`Verdict::Cancelled`] where there was none.
        verdict: Verdict,
        /// Attempts made. 0: it never started.
        attempts: u32,
        cause: EndCause,
        /// Requests that waited for it and are answered by this.
        requests: Vec<RequestId>,
    },
    /// The request became a run; its answer follows at the run's end.
    Accepted { request: RequestId, run: RunId },
    /// The request is answered: no.
    Refuse { request: RequestId, reason: Refusal },
    /// A slot brought no run. To be counted.
    Skip {
        job: JobName,
        reason: SkipReason,
        /// The slot, without jitter.
        slot: Timestamp,
    },
    /// Store this before any later action is carried out.
    Remember { job: JobName, memory: Remembered },
    /// The job is gone: what was remembered about it can go.
    Forget { job: JobName },
    /// Cancel all attempts under way. Said once.
    CancelAll,
    /// Send [`Event::Tick`] at this monotonic time at the latest. Replaces the one before.
    WakeAt(Duration),
    /// Nothing is under way any more: leave. Said once, and last.
    Exit,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndCause {
    Finished,
    /// A person cancelled it while it waited.
    Cancelled,
    /// Its job was removed or disabled while it waited.
    Withdrawn,
    /// The daemon was stopped while it waited.
    ShuttingDown,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such job")]
    UnknownJob,
    #[error("the job is already running")]
    AlreadyRunning,
    #[error("the job is already queued")]
    AlreadyQueued,
    #[error("the daemon is being stopped")]
    ShuttingDown,
}
