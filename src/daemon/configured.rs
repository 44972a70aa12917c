//! One `[job.NAME]` as the daemon runs it.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{JobCommon, RETRY_BACKOFF_MAX},
    domain::{name::NotifyName, schedule::Schedule},
    jobs::{Job, JobKind},
};

use super::planner::JobSpec;

/// One job, ready to run.
pub struct Configured {
    pub common: JobCommon,
    pub kind: &'static JobKind,
    pub job: Arc<dyn Job>,
    pub schedule: Option<Schedule>,
    /// The age of the last success that is too old; none where nothing tells.
    pub max_age: Option<Duration>,
    pub notify: Vec<NotifyName>,
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured").field("common", &self.common).finish_non_exhaustive()
    }
}

impl Configured {
    /// The job as the planner knows it.
    pub fn spec(&self) -> JobSpec {
        JobSpec {
            name: self.common.name.clone(),
            schedule: self.schedule.clone(),
            blackout: self.common.blackout.clone(),
            jitter: self.common.jitter,
            catch_up: self.common.catch_up,
            after: self.common.after.iter().map(|after| after.value.clone()).collect(),
            servers: self.job.servers(),
            memory: self.job.memory(),
            attempts: self.common.attempts,
            backoff: self.common.retry_backoff,
            backoff_max: RETRY_BACKOFF_MAX,
            enabled: self.common.enabled,
        }
    }
}
