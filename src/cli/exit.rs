//! What the process's exit code says. Stable: scripts branch on it.

use std::process::ExitCode;

use crate::{daemon::signals::Signal, domain::report::Verdict};

/// The exit codes of pgkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// The run failed, or the command did.
    Failed,
    Usage,
    Configuration,
    /// Done for some targets, failed for others.
    Partial,
    /// Nothing was found that matches.
    NotFound,
    /// Refused: already running, locked, or a floor forbids it.
    Refused,
    /// Findings at or above the severity that was asked for.
    Findings,
    Interrupted,
    Terminated,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Configuration => 3,
            Self::Partial => 4,
            Self::NotFound => 5,
            Self::Refused => 6,
            Self::Findings => 7,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// The exit code of a command that such a signal ended.
    pub const fn of_signal(signal: Signal) -> Self {
        match signal {
            Signal::Terminate => Self::Terminated,
            _ => Self::Interrupted,
        }
    }

    /// The exit code of a run that ended so.
    pub const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Succeeded => Self::Done,
            Verdict::Partial => Self::Partial,
            Verdict::Failed | Verdict::Interrupted => Self::Failed,
            Verdict::Cancelled => Self::Interrupted,
            Verdict::Skipped => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
