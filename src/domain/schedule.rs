//! When a job is due: five cron fields in a time zone.
//!
//! croner reads the fields and walks the calendar, as if there were no time zones; [`slots`] lays
//! the calendar on the time line. That is done here and not by croner because croner counts
//! `0 2,14 * * *` as an interval: it loses the 02:00 in spring and runs it twice in autumn.
//!
//! What happens when clocks change:
//!
//! - A schedule that names its hours (`30 2 * * *`, `0 2,14 * * *`, `*/20 1-4 * * *`,
//!   `0 */6 * * *`) has each of its times exactly once a day. A time that is skipped in spring comes
//!   right after the gap (several of one gap become one); one that is repeated in autumn comes at
//!   its first pass.
//! - A schedule with `*` for the hour (`*/30 * * * *`, `@hourly`) follows real time: nothing in the
//!   hour that does not exist, and both passes of the hour that is repeated.
//!
//! Day of month and day of week are OR-ed when both are given, as in every cron. `L`, `W` and `#`
//! are croner's and are accepted. What can still go wrong: the zone's rules come from the system's
//! database; where that is old, so are the slots.

mod slots;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use sha2::{Digest, Sha256};

use super::name::JobName;

/// How far [`Schedule::typical_gap`] looks ahead: over a year, so that it sees every month and both
/// changes of the clocks.
const GAP_HORIZON: SignedDuration = SignedDuration::from_hours(400 * 24);
/// Slots that [`Schedule::typical_gap`] visits one by one: a full day of every minute.
const GAP_SLOTS: usize = 24 * 60 + 1;

/// Why a schedule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ScheduleError {
    pub what: String,
    /// What to write instead, as a sentence in the imperative.
    pub hint: Option<String>,
}

/// A cron schedule in its time zone. Two schedules are equal when their text and the name of their
/// zone are.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    zone: TimeZone,
    cron: Cron,
    /// The hour is `*`: the schedule follows real time.
    every_hour: bool,
}

impl Schedule {
    /// Reads a schedule: minute, hour, day of month, month, day of week, or one of `@hourly`,
    /// `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`. One that will never
    /// be due after `now` is refused.
    pub fn parse(text: &str, zone: TimeZone, now: Timestamp) -> Result<Self, ScheduleError> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let fields = expand(&text)?;
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(fields)
            .map_err(|error| unreadable(&text, &error))?;
        let every_hour = matches!(fields.split(' ').nth(1), Some("*" | "*/1"));
        let schedule = Self { text, zone, cron, every_hour };
        if schedule.next_after(now).is_none() {
            return Err(ScheduleError {
                what: format!("the schedule {:?} is never due", schedule.text),
                hint: Some("name a day of the month that the month has".to_owned()),
            });
        }
        Ok(schedule)
    }

    /// The schedule as it was written, with single spaces.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The zone in which the fields are read.
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first slot after `t`.
    pub fn next_after(&self, t: Timestamp) -> Option<Timestamp> {
        if self.every_hour {
            slots::next_elapsed(&self.cron, &self.zone, t)
        } else {
            slots::next_pinned(&self.cron, &self.zone, t)
        }
    }

    /// The latest slot that is at `t` or before it, and after `not_before`. It searches backwards
    /// from `t`: the cost does not depend on how many slots lie between.
    pub fn latest_at_or_before(&self, t: Timestamp, not_before: Timestamp) -> Option<Timestamp> {
        let latest = if self.every_hour {
            slots::latest_elapsed(&self.cron, &self.zone, t)
        } else {
            slots::latest_pinned(&self.cron, &self.zone, t)
        };
        latest.filter(|slot| *slot > not_before)
    }

    /// The next `n` slots after `from`.
    pub fn preview(&self, n: usize, from: Timestamp) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(from), |slot| self.next_after(*slot))
            .take(n)
            .collect()
    }

    /// The longest time between two consecutive slots in the 400 days after `from` (or between the
    /// first two after it, where they lie farther apart); `None` for a schedule without two slots.
    ///
    /// It looks at each slot of a first stretch, then at the step from each day's last slot to the
    /// next day's first: a schedule has the same slots on each of its days.
    pub fn typical_gap(&self, from: Timestamp) -> Option<Duration> {
        let first = self.next_after(from)?;
        let horizon = from.saturating_add(GAP_HORIZON).unwrap_or(Timestamp::MAX);
        let mut slot = first;
        let mut largest = SignedDuration::ZERO;
        for _ in 0..GAP_SLOTS {
            let Some(next) = self.next_after(slot) else { break };
            largest = largest.max(next.duration_since(slot));
            slot = next;
            if slot > horizon {
                break;
            }
        }
        while slot <= horizon {
            let Ok(midnight) = slot.to_zoned(self.zone.clone()).end_of_day() else { break };
            let last = self.latest_at_or_before(midnight.timestamp(), slot).unwrap_or(slot);
            let Some(next) = self.next_after(last) else { break };
            largest = largest.max(next.duration_since(last));
            slot = next;
        }
        Duration::try_from(largest).ok().filter(|gap| !gap.is_zero())
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Schedule {}

/// Short: croner's tables have 5000 years.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

/// The text and the zone: `15 2 * * * Europe/Zurich`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.text)?;
        match (self.zone.iana_name(), self.zone.to_fixed_offset()) {
            (Some(name), _) => f.write_str(name),
            (None, Ok(offset)) => write!(f, "{offset}"),
            (None, Err(_)) => f.write_str("local"),
        }
    }
}

/// The five fields that `text` means.
fn expand(text: &str) -> Result<&str, ScheduleError> {
    let refuse = |what: &str, hint: &str| {
        let what = format!("the schedule {text:?} {what}");
        Err(ScheduleError { what, hint: Some(hint.to_owned()) })
    };
    if let Some(nickname) = text.strip_prefix('@') {
        return match nickname.to_ascii_lowercase().as_str() {
            "yearly" | "annually" => Ok("0 0 1 1 *"),
            "monthly" => Ok("0 0 1 * *"),
            "weekly" => Ok("0 0 * * 0"),
            "daily" | "midnight" => Ok("0 0 * * *"),
            "hourly" => Ok("0 * * * *"),
            "reboot" => refuse(
                "is not a time",
                "write the times at which the job is due; a slot that was missed while the \
                 machine was down is made good within the catch-up window",
            ),
            name if name.starts_with("every") => {
                refuse("is not cron's", "write `*/5 * * * *` for every five minutes")
            }
            _ => refuse(
                "is not known",
                "use @hourly, @daily, @weekly, @monthly, @yearly, or five fields",
            ),
        };
    }
    let fields: Vec<&str> = text.split(' ').collect();
    if fields
        .iter()
        .any(|field| *field == "H" || field.starts_with("H/") || field.starts_with("H("))
    {
        return refuse("has an `H`", "write a number, and spread jobs with `jitter`");
    }
    match fields.len() {
        5 => Ok(text),
        _ if text.is_empty() => {
            refuse("is empty", "write five fields: minute, hour, day of month, month, day of week")
        }
        6 | 7 => refuse(
            &format!("has {} fields", fields.len()),
            "write five fields, without seconds and years: minute, hour, day of month, month, \
             day of week",
        ),
        count => refuse(
            &format!("has {count} field{}", if count == 1 { "" } else { "s" }),
            "write five fields: minute, hour, day of month, month, day of week",
        ),
    }
}

fn unreadable(text: &str, error: &CronError) -> ScheduleError {
    let detail = match error {
        CronError::InvalidPattern(detail)
        | CronError::IllegalCharacters(detail)
        | CronError::ComponentError(detail) => detail.clone(),
        other => other.to_string(),
    };
    let detail = detail.trim_end_matches('.');
    ScheduleError {
        what: format!("the schedule {text:?} cannot be read: {detail}"),
        hint: Some(
            "write minute 0-59, hour 0-23, day of month 1-31, month 1-12 or JAN-DEC, day of week \
             0-7 or SUN-SAT"
                .to_owned(),
        ),
    }
}

/// How long after each of its slots a job starts: between zero and `max`, in whole seconds, always
/// the same for a name. Jobs that share a slot so do not start together, and a job keeps its
/// distance from one day to the next.
pub fn jitter_offset(job: &JobName, max: Duration) -> Duration {
    let digest = Sha256::digest(job.as_str().as_bytes());
    let hash = digest.iter().take(8).fold(0_u128, |hash, byte| (hash << 8) | u128::from(*byte));
    let places = u128::from(max.as_secs()) + 1;
    Duration::from_secs(u64::try_from((hash * places) >> 64).unwrap_or(0))
}
