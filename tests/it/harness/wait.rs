//! Waiting is on conditions, never on time: a limit is there to fail, not to pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use pgkeep::{
    domain::backup::BackupId,
    sys::clock::{Clock as _, SystemClock},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Long enough for anything that works, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `probe` gives something and returns it. Panics with `what` after `limit`.
#[expect(clippy::disallowed_methods, reason = "a test waits by the machine's own clock")]
pub(crate) fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(POLL);
    }
}

/// Waits until a new backup sorts behind the one called `id`: ids tell seconds apart, and within
/// one second it is left to chance which of two is the newer.
pub(crate) fn a_later_second_than(id: &str) {
    let made_at = id.parse::<BackupId>().expect("an id of a backup").time();
    eventually("a later second", PATIENCE, || {
        let age = SystemClock::new().now().wall.duration_since(made_at);
        (age.as_secs() >= 1).then_some(())
    });
}
