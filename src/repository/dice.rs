//! Random numbers from a seed: for jitter, and for faults that a test can repeat. Not for secrets.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn roll(&self) -> u64 {
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 where the limit is 0. (The bias of the remainder does not matter
    /// here.)
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.roll().checked_rem(limit).unwrap_or(0)
    }

    /// True in `rate` of all cases (0 = never, 1 = always).
    #[cfg(any(test, feature = "test-util"))]
    pub(super) fn chance(&self, rate: f64) -> bool {
        // 2^53 values: as many as an f64 holds without a gap.
        ((self.roll() >> 11) as f64) < rate * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let [a, b] = [Dice::new(7), Dice::new(7)];
        let hits = (0..1000).filter(|_| a.chance(0.3)).count();
        assert_eq!(hits, (0..1000).filter(|_| b.chance(0.3)).count());
        assert!((200..400).contains(&hits), "{hits}");
        assert!(!(0..1000).any(|_| a.chance(0.0)));
        assert!((0..1000).all(|_| a.chance(1.0)));
        assert_eq!(a.below(0), 0);
    }
}
