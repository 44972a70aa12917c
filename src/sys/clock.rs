//! The only place that asks the machine for the time.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

/// Wall and monotonic time, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the clock on the wall says. May jump either way.
    pub wall: Timestamp,
    /// Time since some fixed moment. Never goes back; stands still while the machine sleeps.
    pub mono: Duration,
}

/// A source of time.
pub trait Clock: Send + Sync + Debug {
    /// The time now.
    fn now(&self) -> Now;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Now {
        Now { wall: Timestamp::now(), mono: self.start.elapsed() }
    }
}

/// How far another clock is ahead of ours that said `at` between two looks at ours, and cuts what is
/// finer than `grain` off. What the measuring leaves open counts for nothing.
pub fn ahead(
    at: Timestamp,
    before: Timestamp,
    after: Timestamp,
    grain: SignedDuration,
) -> SignedDuration {
    let (early, late) = (before.duration_since(at) - grain, at.duration_since(after));
    if late > SignedDuration::ZERO {
        late
    } else if early > SignedDuration::ZERO {
        -early
    } else {
        SignedDuration::ZERO
    }
}

/// A clock that goes only where a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Now>,
}

impl ManualClock {
    /// A clock that stands at `wall`.
    pub fn new(wall: Timestamp) -> Arc<Self> {
        Arc::new(Self { now: Mutex::new(Now { wall, mono: Duration::ZERO }) })
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.wall = now
            .wall
            .saturating_add(jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX))
            .unwrap_or(Timestamp::MAX);
        now.mono += by;
    }

    /// Sets the clock on the wall; the monotonic time stays.
    pub fn step_to(&self, wall: Timestamp) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).wall = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_measuring_leaves_open_is_no_skew() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let second = SignedDuration::from_secs(1);
        let cases = [(100, 0), (104, 0), (99, 0), (110, 5), (90, -9), (105, 0)];
        for (said, seconds) in cases {
            let skew = ahead(at(said), at(100), at(105), second);
            assert_eq!(skew, SignedDuration::from_secs(seconds), "{said}");
        }
    }
}
