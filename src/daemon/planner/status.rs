//! What the planner shows of itself.

use jiff::Timestamp;

use super::{
    Planner,
    permits::Wait,
    runs::{Phase, Run},
};
use crate::domain::{name::JobName, run::RunId};

/// What a job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    Idle,
    /// It waits for permits.
    Queued {
        run: RunId,
        /// The attempt that waits; 1 for a run that has not started yet.
        attempt: u32,
        /// Since when, by the wall clock then.
        since: Timestamp,
        why: Wait,
    },
    Running {
        run: RunId,
        attempt: u32,
        /// Since when, by the wall clock then.
        since: Timestamp,
    },
    /// It failed and waits to be tried again.
    WaitingRetry {
        run: RunId,
        attempt: u32,
        /// When, by the wall clock when the wait began.
        at: Timestamp,
    },
}

/// A job, what it is doing and what comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    pub name: JobName,
    pub state: JobState,
    /// When its next slot is due, with jitter and blackout.
    pub next: Option<Timestamp>,
}

impl Planner {
    /// All jobs by name, also one that was removed and whose last attempt is still under way.
    pub fn status(&self) -> Vec<JobStatus> {
        let mut names: Vec<&JobName> = self.jobs.keys().chain(self.active.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let run = self.active.get(name).and_then(|id| Some((id, self.runs.get(id)?)));
                let state = run.map_or(JobState::Idle, |(id, run)| state(id, run));
                JobStatus { name: name.clone(), state, next: self.next_run(name) }
            })
            .collect()
    }
}

fn state(id: &RunId, run: &Run) -> JobState {
    let run_id = id.clone();
    match &run.phase {
        Phase::Queued { since, why } => JobState::Queued {
            run: run_id,
            attempt: run.attempts + 1,
            since: *since,
            why: why.clone(),
        },
        Phase::Running { since, .. } => {
            JobState::Running { run: run_id, attempt: run.attempts, since: *since }
        }
        Phase::Waiting { at, .. } => {
            JobState::WaitingRetry { run: run_id, attempt: run.attempts + 1, at: *at }
        }
    }
}
