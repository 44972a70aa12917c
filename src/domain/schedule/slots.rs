//! Lays the calendar that croner walks on the time line of a zone.
//!
//! Two readings of a calendar time (see the head of [`super`]): *pinned*, where each calendar time
//! is one instant, and *elapsed*, where it is as many instants as the clock shows it. croner gets
//! calendar times without a zone, so that it never meets a change of the clocks.
//!
//! All loops are bounded. A bound that is hit means a zone stranger than any on record, and reads
//! as "no slot".

use croner::Cron;
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

/// Calendar times that may collapse into one instant, or have passed already in the first pass of a
/// repeated stretch: a day of minutes, the longest stretch that a zone ever jumped (Samoa, 2011).
const MAX_STEPS: usize = 24 * 60 + 1;
/// Changes of the clocks that one search may cross; far ones are jumped over.
const MAX_CHANGES: usize = 32;
/// No change of the clocks moves a calendar time farther than this: offsets are between −26 and
/// +26 hours (jiff's bounds).
const FAR: SignedDuration = SignedDuration::from_hours(2 * 26);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The first slot after `t`; each calendar time counts once.
pub(super) fn next_pinned(cron: &Cron, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
    // A calendar time before that of `t` is an instant before `t`: instants never go back as
    // calendar times go forward.
    let mut civil = zone.to_datetime(t);
    for _ in 0..MAX_STEPS {
        civil = cron.find_next_occurrence(&civil, false).ok()?;
        let slot = instant(zone, civil)?;
        if slot > t {
            return Some(slot);
        }
    }
    None
}

/// The latest slot at `t` or before; each calendar time counts once.
pub(super) fn latest_pinned(cron: &Cron, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
    let mut civil = zone.to_datetime(t);
    // In the second pass, calendar times ahead on the clock have had their first pass already.
    if let AmbiguousOffset::Fold { before, after } = zone.to_ambiguous_timestamp(civil).offset()
        && zone.to_offset(t) == after
    {
        let repeated = before.duration_since(after);
        civil = civil.checked_add(repeated).ok()?;
    }
    let mut inclusive = true;
    for _ in 0..MAX_STEPS {
        civil = cron.find_previous_occurrence(&civil, inclusive).ok()?;
        inclusive = false;
        let slot = instant(zone, civil)?;
        if slot <= t {
            return Some(slot);
        }
    }
    None
}

/// The instant of a calendar time: the end of the gap for one that is skipped, the first pass for
/// one that is repeated.
fn instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // Read with the later offset, the time lies before the change.
            let before_gap = after.to_timestamp(civil).ok()?;
            zone.following(before_gap).next().map(|change| change.timestamp())
        }
    }
}

/// The first slot after `t`; each calendar time counts as often as the clock shows it.
pub(super) fn next_elapsed(cron: &Cron, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
    let mut from = t;
    let mut inclusive = false;
    for _ in 0..MAX_CHANGES {
        let offset = zone.to_offset(from);
        let civil = cron.find_next_occurrence(&offset.to_datetime(from), inclusive).ok()?;
        let slot = offset.to_timestamp(civil).ok()?;
        match zone.following(from).next().map(|change| change.timestamp()) {
            Some(change) if change <= slot => {
                // Nothing is due until about then, whatever the offset.
                from = change.max(slot.checked_sub(FAR).ok()?);
                inclusive = true;
            }
            _ => return Some(slot),
        }
    }
    None
}

/// The latest slot at `t` or before; each calendar time counts as often as the clock shows it.
pub(super) fn latest_elapsed(cron: &Cron, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
    let mut from = Timestamp::from_second(t.as_second()).ok()?;
    for _ in 0..MAX_CHANGES {
        let offset = zone.to_offset(from);
        let civil = cron.find_previous_occurrence(&offset.to_datetime(from), true).ok()?;
        let slot = offset.to_timestamp(civil).ok()?;
        let upto = from.checked_add(SECOND).ok()?;
        match zone.preceding(upto).next().map(|change| change.timestamp()) {
            Some(change) if slot < change => {
                let before = change.checked_sub(SECOND).ok()?;
                from = before.min(slot.checked_add(FAR).ok()?);
            }
            _ => return Some(slot),
        }
    }
    None
}
