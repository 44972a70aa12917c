//! Windows in which a job does not start by itself: `"mon-fri 08:00-18:00"`, `"00:00-00:30"`.
//!
//! A moment lies in a window if the clock on the wall of the job's zone shows a time in it. So when clocks
//! change, a window that is skipped in spring does not happen, and a time that is shown twice in autumn is
//! in the window both times. A window that ends before it begins goes over midnight, and belongs to the day on
//! which it begins: `"fri 22:00-06:00"` ends on Saturday.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, TimeZone},
};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Minutes of a week.
const WEEK: usize = 7 * DAY as usize;
/// Windows of a job at most.
const WINDOWS_MAX: usize = 50;
/// How far the end of a window is looked for, in days: windows never cover a whole week.
const HORIZON: i64 = 9;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Why a window was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BlackoutError {
    pub what: String,
    pub hint: String,
}

fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, BlackoutError> {
    Err(BlackoutError { what: what.into(), hint: hint.into() })
}

/// One window, each week anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// On which days it begins, Monday first.
    days: [bool; 7],
    /// Minute of the day.
    from: u16,
    /// Minute of the day, 1 to 1440; up to `from`: of the next day.
    to: u16,
}

/// The windows of a job, in its time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blackout {
    windows: Vec<Window>,
    zone: TimeZone,
}

impl Window {
    /// Reads one: days (`mon`, `mon-fri`, `sat,sun`; none: every day) and `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// When it is not that.
    pub fn parse(text: &str) -> Result<Self, BlackoutError> {
        const HINT: &str = "write it like \"mon-fri 08:00-18:00\" or \"22:00-06:00\"";
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times) = match words[..] {
            [times] => ([true; 7], times),
            [listed, times] => (days(listed)?, times),
            _ => return refused("a window has days and times, in two words", HINT),
        };
        let Some((from, to)) = times.split_once('-') else {
            return refused("a window has a beginning and an end", HINT);
        };
        let (from, to) = (minute(from)?, minute(to)?);
        if from == DAY {
            return refused("a day ends at 24:00, and nothing begins then", "write \"00:00\"");
        }
        if from == to {
            let hint = "the whole day is \"00:00-24:00\"";
            return refused("the window ends when it begins", hint);
        }
        // An end at midnight is the end of the day that goes.
        Ok(Self { days, from, to: if to == 0 { DAY } else { to } })
    }

    fn wraps(&self) -> bool {
        self.to <= self.from
    }

    fn begins_on(&self, date: Date) -> bool {
        self.days[day_of(date)]
    }

    /// Whether the clock shows a time in it.
    fn holds(&self, civil: DateTime) -> bool {
        let minute =
            u16::from(civil.hour().unsigned_abs()) * 60 + u16::from(civil.minute().unsigned_abs());
        if !self.wraps() {
            return self.begins_on(civil.date()) && (self.from..self.to).contains(&minute);
        }
        let yesterday = civil.date().yesterday().is_ok_and(|date| self.begins_on(date));
        (self.begins_on(civil.date()) && minute >= self.from) || (yesterday && minute < self.to)
    }

    /// When the one ends that begins on `date`.
    fn end(&self, date: Date) -> Option<DateTime> {
        let date = if self.wraps() { date.tomorrow().ok()? } else { date };
        let midnight = date.at(0, 0, 0, 0);
        midnight.checked_add(SignedDuration::from_mins(i64::from(self.to))).ok()
    }
}

fn day_of(date: Date) -> usize {
    usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())
}

fn days(listed: &str) -> Result<[bool; 7], BlackoutError> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| name.eq_ignore_ascii_case(day));
        found.map_or_else(
            || {
                refused(
                    format!("{name:?} is not a day"),
                    "the days are mon, tue, wed, thu, fri, sat, sun",
                )
            },
            Ok,
        )
    };
    let mut days = [false; 7];
    for part in listed.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Ok(days)
}

/// Minutes since midnight: `00:00` to `24:00`.
fn minute(text: &str) -> Result<u16, BlackoutError> {
    let two = |part: &str| {
        let fits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| fits)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
    match parts {
        Some((hour, minute)) if minute < 60 && hour * 60 + minute <= DAY => Ok(hour * 60 + minute),
        _ => refused(
            format!("{text:?} is not a time of the day"),
            "write it like \"08:00\"; a day ends at \"24:00\"",
        ),
    }
}

impl Blackout {
    /// The windows in a zone; none where there are no windows.
    ///
    /// # Errors
    /// When they leave no moment of the week, or are too many.
    pub fn new(windows: Vec<Window>, zone: TimeZone) -> Result<Option<Self>, BlackoutError> {
        if windows.is_empty() {
            return Ok(None);
        }
        if windows.len() > WINDOWS_MAX {
            return refused(
                format!("at most {WINDOWS_MAX} windows can be given"),
                "join some of them",
            );
        }
        let blackout = Self { windows, zone };
        if blackout.week().iter().all(|dark| *dark) {
            let hint = "leave some time of the week, or set enabled = false";
            return refused("the windows cover the whole week: the job would never start", hint);
        }
        Ok(Some(blackout))
    }

    /// Each minute of a week without a change of the clocks, from Monday on: whether it lies in a window.
    fn week(&self) -> Vec<bool> {
        let mut week = vec![false; WEEK];
        for window in &self.windows {
            let minutes = if window.wraps() {
                DAY - window.from + window.to
            } else {
                window.to - window.from
            };
            for day in (0..7).filter(|day| window.days[*day]) {
                let from = day * usize::from(DAY) + usize::from(window.from);
                (from..from + usize::from(minutes)).for_each(|minute| week[minute % WEEK] = true);
            }
        }
        week
    }

    /// The longest time without a moment to start, in a week without a change of the clocks.
    pub fn longest(&self) -> Duration {
        let week = self.week();
        let (mut longest, mut run) = (0_u64, 0_u64);
        // Twice round: one may go over the end of the week.
        for dark in week.iter().chain(&week) {
            run = if *dark { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        Duration::from_mins(longest)
    }

    /// The end of the windows that `t` lies in, those that follow without a break included; none where it
    /// lies in none.
    pub fn ends(&self, t: Timestamp) -> Option<Timestamp> {
        if !self.holds(t) {
            return None;
        }
        let mut candidates = self.boundaries(t);
        candidates.sort_unstable();
        let last = candidates.last().copied();
        candidates.into_iter().find(|at| *at > t && !self.holds(*at)).or(last)
    }

    fn holds(&self, t: Timestamp) -> bool {
        let civil = self.zone.to_datetime(t);
        self.windows.iter().any(|window| window.holds(civil))
    }

    /// The moments in the days after `t` at which a window can end: by its time, or as the clocks change.
    fn boundaries(&self, t: Timestamp) -> Vec<Timestamp> {
        let today = self.zone.to_datetime(t).date();
        let mut found = Vec::new();
        for ahead in -1..=HORIZON {
            let Ok(date) = today.checked_add(SignedDuration::from_hours(24 * ahead)) else {
                continue;
            };
            for window in self.windows.iter().filter(|window| window.begins_on(date)) {
                let Some(end) = window.end(date) else { continue };
                match self.zone.to_ambiguous_timestamp(end).offset() {
                    AmbiguousOffset::Unambiguous { offset } => {
                        found.extend(offset.to_timestamp(end));
                    }
                    AmbiguousOffset::Fold { before, after } => {
                        found.extend(before.to_timestamp(end));
                        found.extend(after.to_timestamp(end));
                    }
                    // The change of the clocks itself is looked at below.
                    AmbiguousOffset::Gap { .. } => {}
                }
            }
        }
        let far =
            t.saturating_add(SignedDuration::from_hours(24 * HORIZON)).unwrap_or(Timestamp::MAX);
        let changes = self.zone.following(t).map(|change| change.timestamp());
        found.extend(changes.take_while(|at| *at <= far).take(8));
        found
    }
}

/// The days and times of a window, as [`Window::parse`] reads them.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = (0..7).filter(|day| self.days[*day]).map(|day| DAYS[day]);
        let days: Vec<&str> = days.collect();
        if days.len() < 7 {
            write!(f, "{} ", days.join(","))?;
        }
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{}", time(self.from), time(self.to))
    }
}
