//! What others see of the engine: the daemon's loop, and `status`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{name::JobName, run::RunId};

use super::{
    super::{journal::Journal, planner::JobStatus, table::Table},
    Engine,
};

/// A run under way, for `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningRun {
    /// The run.
    pub run: RunId,
    /// The job.
    pub job: JobName,
    /// Which attempt; 1 is the first.
    pub attempt: u32,
    /// When the run started.
    pub since: Timestamp,
    /// What is being done.
    pub stage: String,
    /// Bytes that went by.
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
        let running = self.runs.iter().map(|(run, open)| RunningRun {
            run: run.clone(),
            job: open.job.common.name.clone(),
            attempt: open.attempts,
            since: open.started.wall,
            stage: open.task.progress.stage(),
            bytes: open.task.progress.bytes(),
        });
        running.collect()
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
