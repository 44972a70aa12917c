//! How long the server, and how long we, wait for the end of a statement.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::sys::time_limits;

/// A server that keeps its own limit says so within this time.
pub(super) const SLACK: Duration = Duration::from_secs(5);
/// How long a lock is waited for where nothing else is said.
const LOCK: Duration = Duration::from_secs(10);

/// Limits that the server keeps for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `statement_timeout`; zero is none.
    pub statement: Duration,
    /// `lock_timeout`; zero is none.
    pub lock: Duration,
}

impl Default for Limits {
    /// For questions to the catalogue.
    fn default() -> Self {
        Self::of_questions(Duration::from_mins(5))
    }
}

impl Limits {
    /// For questions to the catalogue that are to be answered in that time.
    pub const fn of_questions(answer: Duration) -> Self {
        Self { statement: answer, lock: LOCK }
    }
}

/// How long an answer is waited for, in milliseconds.
#[derive(Debug)]
pub(super) struct Patience {
    /// Of a question.
    pub(super) question: AtomicU64,
    /// Of a statement; 0: as long as the server is there.
    pub(super) statement: AtomicU64,
}

impl Patience {
    pub(super) fn new(limits: Limits, answer: Duration) -> Self {
        let patience = Self { question: AtomicU64::new(0), statement: AtomicU64::new(0) };
        patience.set(limits, answer);
        patience
    }

    pub(super) fn set(&self, limits: Limits, answer: Duration) {
        let millis = |limit: Duration| {
            u64::try_from((limit + time_limits::limit(SLACK)).as_millis()).unwrap_or(u64::MAX)
        };
        let (statement, question) = match limits.statement {
            // The server then counts the wait for a lock alone.
            Duration::ZERO => (0, millis(answer + limits.lock)),
            limit => (millis(limit), millis(limit)),
        };
        self.statement.store(statement, Ordering::Relaxed);
        self.question.store(question, Ordering::Relaxed);
    }

    pub(super) fn of(waits: &AtomicU64) -> Option<Duration> {
        let millis = waits.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{connect::CLOSE, session::CANCEL};

    #[test]
    fn a_silent_server_has_its_limit_and_five_seconds_and_its_cancel_request_six() {
        let limits = Limits::of_questions(Duration::from_mins(5));
        let patience = Patience::new(limits, Duration::from_mins(5));
        assert_eq!(Patience::of(&patience.question), Some(Duration::from_secs(305)));
        assert_eq!((SLACK.as_secs(), CANCEL.as_secs(), CLOSE.as_secs()), (5, 6, 3));
    }
}
