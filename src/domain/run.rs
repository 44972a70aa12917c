//! What one execution of a job is called, what set it off, how it ended, and why a slot of a schedule
//! was left out.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    backup::BackupId,
    name::JobName,
    named::named,
    report::{Report, Verdict},
};

/// The text is not a run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a run id")]
pub struct RunIdError {
    text: String,
}

/// Identifies one run: the UTC time when it was decided on, to the millisecond, and 30 random bits,
/// in the form of a [`BackupId`]: `20261121T021500Z-k3f9q2x7`. Ids sort by time as text, as long as
/// the clock goes forward.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(BackupId);

impl RunId {
    /// Makes an id from the time and the lowest 30 of `random`'s bits.
    pub fn new(at: Timestamp, random: u64) -> Self {
        Self(BackupId::new(at, random))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// When the run was decided on, to the second.
    pub fn time(&self) -> Timestamp {
        self.0.time()
    }
}

impl FromStr for RunId {
    type Err = RunIdError;
    fn from_str(text: &str) -> Result<Self, RunIdError> {
        text.parse().map(Self).map_err(|_| RunIdError { text: text.to_owned() })
    }
}

impl TryFrom<String> for RunId {
    type Error = RunIdError;
    fn try_from(text: String) -> Result<Self, RunIdError> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a request that a person made over the control socket and waits for. Unique within the
/// life of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// What set a run off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Schedule {
        /// The slot, without the job's jitter.
        slot: Timestamp,
    },
    /// A slot that had been missed (the machine slept, the daemon was down), made good late.
    CatchUp {
        /// The latest of the missed slots, without the job's jitter.
        slot: Timestamp,
    },
    /// Each of these jobs had ended with something done.
    After(Vec<JobName>),
    Manual(RequestId),
}

impl Trigger {
    /// The trigger's name in logs, reports and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Schedule { .. } => "schedule",
            Self::CatchUp { .. } => "catch-up",
            Self::After(_) => "after",
            Self::Manual(_) => "manual",
        }
    }

    /// The slot of the schedule, where there is one.
    pub const fn slot(&self) -> Option<Timestamp> {
        match self {
            Self::Schedule { slot } | Self::CatchUp { slot } => Some(*slot),
            Self::After(_) | Self::Manual(_) => None,
        }
    }

    /// The request that waits for the run, where there is one.
    pub const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Manual(request) => Some(*request),
            Self::Schedule { .. } | Self::CatchUp { .. } | Self::After(_) => None,
        }
    }
}

/// A run that has ended, with all its attempts: what journal, metrics, notices, log, `status` and the
/// command line read. It goes beside its job. The serialized form is that of `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedRun {
    pub run: String,
    /// What set it off: `schedule`, `manual`, …
    pub trigger: String,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// How long it took by the monotonic clock, with its retries, in whole milliseconds.
    #[serde(skip)]
    pub took: Duration,
    /// How it ended. A run that failed before any target has an empty report.
    pub verdict: Verdict,
    pub attempts: u32,
    pub report: Report,
}

named! {
    /// Why a slot of a schedule brought no run: metrics have a series for each from the start.
    pub enum SkipReason {
        /// The job was still running, queued, or waiting to be tried again.
        Overlap = "overlap",
        /// It was noticed later than the job's catch-up window allows.
        Missed = "missed",
        /// The daemon was stopped while the run was queued. It is still open after the restart.
        ShuttingDown = "shutting-down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = RunId::new("2026-11-21T02:15:00.9Z".parse().unwrap(), 7);
        assert_eq!(id.as_str(), "20261121T021500Z-w4000007");
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.time(), "2026-11-21T02:15:00Z".parse().unwrap());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"20261121T021500Z-w4000007\"");
        assert_eq!(serde_json::from_str::<RunId>(&json).unwrap(), id);
    }

    #[test]
    fn what_is_not_an_id_is_refused_by_its_own_name() {
        let error = "nightly".parse::<RunId>().unwrap_err();
        assert_eq!(error.to_string(), "\"nightly\" is not a run id");
        assert!(serde_json::from_str::<RunId>("\"nightly\"").is_err());
    }

    #[test]
    fn triggers_keep_their_shape_in_the_journal() {
        let slot = "2026-11-21T02:15:00Z".parse().unwrap();
        for (trigger, json) in [
            (Trigger::Schedule { slot }, r#"{"schedule":{"slot":"2026-11-21T02:15:00Z"}}"#),
            (Trigger::CatchUp { slot }, r#"{"catch_up":{"slot":"2026-11-21T02:15:00Z"}}"#),
            (Trigger::After(vec!["nightly".parse().unwrap()]), r#"{"after":["nightly"]}"#),
            (Trigger::Manual(RequestId(3)), r#"{"manual":3}"#),
        ] {
            assert_eq!(serde_json::to_string(&trigger).unwrap(), json);
            assert_eq!(serde_json::from_str::<Trigger>(json).unwrap(), trigger);
        }
    }

    #[test]
    fn skip_reasons_are_called_the_same_everywhere() {
        for (reason, name) in SkipReason::ALL.iter().zip(SkipReason::NAMES) {
            assert_eq!(reason.as_str(), *name);
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
        }
    }
}
