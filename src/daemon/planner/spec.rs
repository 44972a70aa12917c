//! What the planner is told: jobs, limits, and what an earlier life left.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{
    blackout::Blackout,
    name::{JobName, ServerName},
    schedule::Schedule,
};

/// What the planner has to know about a job. It knows neither its kind nor its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    pub name: JobName,
    pub schedule: Option<Schedule>,
    pub blackout: Option<Blackout>,
    /// Upper bound of the time by which its slots are moved (see
    /// [`crate::domain::schedule::jitter_offset`]).
    pub jitter: Duration,
    /// How late a missed slot is still made good. Zero: never.
    pub catch_up: Duration,
    /// It starts when each of these has ended with something done.
    pub after: Vec<JobName>,
    /// Servers of which each attempt takes a permit.
    pub servers: Vec<ServerName>,
    /// Bytes of the memory budget that an attempt takes.
    pub memory: u64,
    /// Attempts of a run at most. 1 (or 0): no retry.
    pub attempts: u32,
    /// Pause after the first attempt; it doubles with each further one.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// Whether it does anything by itself.
    pub enabled: bool,
}

/// What all jobs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts under way at once. 0 counts as 1.
    pub running: usize,
    /// Attempts under way at once that use the same server. 0 counts as 1.
    pub per_server: usize,
    /// Bytes that attempts under way may take together. One that takes more runs while no other
    /// takes any.
    pub memory: u64,
}

/// What the planner has to remember about a job from one life of the daemon to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub first_seen: Timestamp,
    /// Slots up to this moment are dealt with.
    pub handled: Timestamp,
    /// What `handled` had been when it turned out to lie in the future. It counts again when the
    /// clock leaps past it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<Timestamp>,
    /// The schedule with its zone that `handled` belongs to; `None` for a job that was disabled or
    /// had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Those of its `after` that have ended, with something done, since its last start.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ended: BTreeSet<JobName>,
}
