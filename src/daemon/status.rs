//! What `pgkeep status` shows: the shape that the daemon sends and the command line reads.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    finding::Finding,
    name::{DatabaseName, JobName, RepositoryName, ServerName},
    protection::InPart,
    run::EndedRun,
};

use super::{
    engine::{Engine, RunningRun},
    journal::{Journal, RunRecord},
    planner::{JobState, JobStatus},
    table::Table,
};

/// The state of the daemon. Stable; fields are only added.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub stopping: bool,
    /// Why the last reload was refused, one line; none where it was accepted.
    pub reload_refused: Option<String>,
    pub running: Vec<RunningRun>,
    /// Databases that no job backs up, by server; no entry for a server that could not be asked.
    #[serde(default)]
    pub unprotected: BTreeMap<ServerName, Vec<DatabaseName>>,
    /// Databases that jobs back up only in part, by server.
    #[serde(default)]
    pub in_part: BTreeMap<ServerName, Vec<InPart>>,
    /// What is in doubt in each repository (`main/app`): its newest backups are suspicious, and nobody
    /// has acknowledged them.
    #[serde(default)]
    pub suspicious: BTreeMap<RepositoryName, Vec<String>>,
    pub jobs: Vec<JobLine>,
}

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobLine {
    pub job: JobName,
    pub kind: String,
    /// `idle`, `paused`, `queued`, `running`, `waiting-retry`.
    pub state: String,
    /// More about the state, for people.
    pub detail: Option<String>,
    /// When it is due next, with jitter and blackout.
    pub next: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    pub last: Option<EndedRun>,
    /// What its last run found that did something: what the metrics show and alerts fire for.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// The jobs of an engine.
pub fn jobs(engine: &Engine) -> Vec<JobLine> {
    let planned = engine.planned();
    let now = engine.now();
    planned.iter().map(|planned| line(planned, engine.table(), engine.journal(), now)).collect()
}

fn line(planned: &JobStatus, table: &Table, journal: &Journal, now: Timestamp) -> JobLine {
    let job = planned.name.clone();
    let kind = table.jobs.get(&job).map_or("", |job| job.kind.name).to_owned();
    let (state, detail) = match &planned.state {
        JobState::Idle if is_paused(&job, table) => {
            ("paused", Some("enabled = false: it runs only when it is asked to".to_owned()))
        }
        JobState::Idle => ("idle", blackout(&job, table, now)),
        JobState::Queued { why, .. } => ("queued", Some(why.to_string())),
        JobState::Running { attempt, .. } => ("running", Some(format!("attempt {attempt}"))),
        JobState::WaitingRetry { at, .. } => ("waiting-retry", Some(format!("until {at}"))),
    };
    let remembered = journal.job(&job);
    JobLine {
        last_success: remembered.last_success,
        findings: remembered.findings,
        // The newest may be under way: the one before it has ended.
        last: journal.runs(&job, 2).iter().find_map(RunRecord::ended),
        job,
        kind,
        state: state.to_owned(),
        detail,
        next: planned.next,
    }
}

fn is_paused(job: &JobName, table: &Table) -> bool {
    table.jobs.get(job).is_some_and(|job| !job.common.enabled)
}

fn blackout(job: &JobName, table: &Table, now: Timestamp) -> Option<String> {
    let until = table.jobs.get(job)?.common.blackout.as_ref()?.ends(now)?;
    Some(format!("blackout until {until}"))
}
