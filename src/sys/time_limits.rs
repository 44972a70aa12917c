//! Limits and intervals that no option changes, as they hold in this process.
//!
//! Whoever tests that one is kept has to wait for it. With the feature `test-util`, which no package has, the
//! environment variable `PGKEEP_TEST_HASTE` divides all of them alike (2 to 100).

use std::time::Duration;

/// How long that is here: as it says, unless a test is in haste.
pub fn limit(limit: Duration) -> Duration {
    limit / haste()
}

#[cfg(not(feature = "test-util"))]
const fn haste() -> u32 {
    1
}

#[cfg(feature = "test-util")]
fn haste() -> u32 {
    static HASTE: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let said = || std::env::var("PGKEEP_TEST_HASTE").ok()?.parse().ok();
    *HASTE.get_or_init(|| said().unwrap_or(1).clamp(1, 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_in_haste_unless_a_test_says_so() {
        assert_eq!(limit(Duration::from_secs(30)), Duration::from_secs(30));
    }
}
