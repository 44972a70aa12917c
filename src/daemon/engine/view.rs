//! What others see of the engine: the daemon's loop, and `status`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{name::JobName, run::RunId};

use super::{
    super::{
        journal::Journal,
        planner::{JobState, JobStatus},
        table::Table,
    },
    Engine,
};

/// A run under way, for `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningRun {
    pub run: RunId,
    pub job: JobName,
    /// Which attempt; 1 is the first.
    pub attempt: u32,
    pub since: Timestamp,
    pub stage: String,
    pub bytes: u64,
}

impl Engine {
    /// What it runs on.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// When it wants [`Event::Tick`] next, in monotonic time.
    pub fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// Whether all is done after [`Event::Drain`].
    pub fn is_done(&self) -> bool {
        self.exit
    }

    /// Whether anything happened since the last call: `STATUS` is then worth a new line.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The runs under way, for `status`.
    pub fn running(&self) -> Vec<RunningRun> {
        let planned = self.planner.status();
        let running = planned.iter().filter_map(|planned| {
            let (run, stage, bytes) = self.progress(&planned.state)?;
            let open = self.runs.get(run)?;
            Some(RunningRun {
                run: run.clone(),
                job: open.job.common.name.clone(),
                attempt: open.attempts,
                since: open.started.wall,
                stage,
                bytes,
            })
        });
        running.collect()
    }

    /// How far a run is: what is being done, or what it waits for, and bytes that went by.
    pub(super) fn progress<'a>(&self, at: &'a JobState) -> Option<(&'a RunId, String, u64)> {
        let of = |run: &RunId| self.runs.get(run);
        let bytes = |run: &RunId| of(run).map_or(0, |open| open.task.progress.bytes());
        Some(match at {
            JobState::Idle => return None,
            JobState::Queued { run, why, .. } => (run, format!("waits: {why}"), bytes(run)),
            JobState::Running { run, .. } => (run, of(run)?.task.progress.stage(), bytes(run)),
            JobState::WaitingRetry { run, attempt, at } => {
                let at = at.strftime("%Y-%m-%d %H:%M:%SZ");
                let next = format!("attempt {attempt} begins at {at}");
                let why = of(run).and_then(|open| open.report.failures().next().cloned());
                let stage = why.map_or_else(|| next.clone(), |why| format!("{next}, since {why}"));
                (run, stage, bytes(run))
            }
        })
    }

    /// The planner's view, for `status` and metrics.
    pub fn planned(&self) -> Vec<JobStatus> {
        self.planner.status()
    }

    /// The time, for `status`.
    pub fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// The journal, for `status`.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}
