//! `[job.NAME]`: the options that every job has, whatever its kind.
//!
//! The kind's own options stay in [`Options`] for the kind to take; this module knows no kind. The
//! schedule is kept as text with its place: what it means is `domain::schedule`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::tz::TimeZone;

use super::{
    Config,
    diagnostic::{Diagnostics, Located, Span, class},
    section::Options,
};
use crate::domain::{
    blackout::{Blackout, Window},
    name::{JobName, NotifyName},
};

/// The longest wait between two attempts: waits double from `retry_backoff` up to this.
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_mins(15);
/// Durations longer than this are mistakes.
const YEARS_TEN: Duration = Duration::from_hours(24 * 3660);

/// What every job says.
#[derive(Debug, Clone)]
pub struct JobCommon {
    pub name: JobName,
    pub span: Span,
    /// The name of its kind; not checked here.
    pub kind: Located<String>,
    /// When it runs, unparsed. With neither this nor `after` it runs when it is told to.
    pub schedule: Option<Located<String>>,
    /// The time zone of the schedule: its own, or the daemon's.
    pub timezone: TimeZone,
    pub blackout: Option<Blackout>,
    /// Runs when these ended. They exist, and there is no circle.
    pub after: Vec<Located<JobName>>,
    /// A missed run is started late if it is not older than this; zero: never.
    pub catch_up: Duration,
    /// The start is delayed by up to this, by a share that is the job's own.
    pub jitter: Duration,
    /// The age of the last success that is too old. `None`: worked out from the schedule.
    pub max_age: Option<Duration>,
    /// Attempts of one run, the first included.
    pub attempts: u32,
    /// The wait before the second attempt; doubles to [`RETRY_BACKOFF_MAX`].
    pub retry_backoff: Duration,
    /// An attempt in which nothing moves for so long is stopped.
    pub stall_timeout: Duration,
    /// An attempt that takes longer is stopped. `None`: the kind's own limit, which no honest one meets.
    pub time_limit: Option<Duration>,
    /// Who is told of it. `None`: every `[notify.NAME]` that covers it.
    pub notify: Option<Vec<NotifyName>>,
    pub enabled: bool,
}

impl JobCommon {
    /// Takes the options that every job has. `None` where the job cannot be built: it has no kind.
    /// Other errors leave a default in their place.
    pub fn read(
        name: &JobName,
        o: &mut Options<'_>,
        config: &Config,
        d: &mut Diagnostics,
    ) -> Option<Self> {
        let second = Duration::from_secs(1);
        let kind = o.require::<String>("kind", d);
        o.at_most_one(&["schedule", "after"], d);
        let schedule = o.take::<String>("schedule", d);
        let timed = o.given("schedule").is_some() || o.given("blackout").is_some();
        if let Some(alone) = o.given("timezone").filter(|_| !timed) {
            d.warning(&alone, "`timezone` does nothing without `schedule` or `blackout`");
        }
        let zone = o.take::<TimeZone>("timezone", d).map(|zone| zone.value);
        let timezone = zone.unwrap_or_else(|| config.daemon.timezone.clone());
        let after = after(name, o, config, d);
        let common = Self {
            name: name.clone(),
            span: o.span(),
            schedule,
            blackout: blackout(o, &timezone, d),
            timezone,
            after,
            catch_up: take(o, "catch_up", Duration::ZERO, Duration::from_hours(24), d),
            jitter: take(o, "jitter", Duration::ZERO, Duration::ZERO, d),
            max_age: o.take_in("max_age", second..=YEARS_TEN, d).map(|age| age.value),
            attempts: o.take_in_or("attempts", 1..=100, 3, d),
            retry_backoff: take(o, "retry_backoff", second, Duration::from_mins(1), d),
            stall_timeout: take(o, "stall_timeout", second, Duration::from_mins(10), d),
            time_limit: o.take_in("time_limit", second..=YEARS_TEN, d).map(|limit| limit.value),
            notify: notify(o, config, d),
            enabled: o.take_or("enabled", true, d),
            kind: kind?,
        };
        Some(common)
    }
}

fn take(
    o: &mut Options<'_>,
    key: &'static str,
    least: Duration,
    default: Duration,
    d: &mut Diagnostics,
) -> Duration {
    o.take_in_or(key, least..=YEARS_TEN, default, d)
}

fn blackout(o: &mut Options<'_>, zone: &TimeZone, d: &mut Diagnostics) -> Option<Blackout> {
    let mut whole = true;
    let mut windows = Vec::new();
    let written = o.take::<Vec<Located<String>>>("blackout", d)?;
    for text in written.value {
        match Window::parse(&text.value) {
            Ok(window) => windows.push(window),
            Err(error) => {
                d.error(&text.span, format!("`blackout`: {error}")).hint(error.hint);
                whole = false;
            }
        }
    }
    if !whole {
        return None;
    }
    match Blackout::new(windows, zone.clone()) {
        Ok(blackout) => blackout,
        Err(error) => {
            d.error(&written.span, format!("`blackout`: {error}")).hint(error.hint);
            None
        }
    }
}

fn after(
    name: &JobName,
    o: &mut Options<'_>,
    config: &Config,
    d: &mut Diagnostics,
) -> Vec<Located<JobName>> {
    let Some(named) = o.take::<Vec<Located<JobName>>>("after", d) else { return Vec::new() };
    if named.value.is_empty() {
        d.error(&named.span, "`after` names no job").hint("leave the key out");
    }
    let mut seen = BTreeSet::new();
    let mut after = Vec::new();
    for other in named.value {
        if other.value == *name {
            d.error(&other.span, "a job cannot run after itself").class(class::REFERENCE);
        } else if !seen.insert(other.value.clone()) {
            d.error(&other.span, format!("{} is named a second time", other.value))
                .class(class::CONFLICT);
        } else if config.job(&other, d).is_some() {
            after.push(other);
        }
    }
    after
}

fn notify(o: &mut Options<'_>, config: &Config, d: &mut Diagnostics) -> Option<Vec<NotifyName>> {
    let mut notifiers = Vec::new();
    for name in o.take::<Vec<Located<NotifyName>>>("notify", d)?.value {
        if notifiers.contains(&name.value) {
            d.error(&name.span, format!("{} is named a second time", name.value))
                .class(class::CONFLICT);
        } else if config.notifier(&name, d).is_some() {
            notifiers.push(name.value);
        }
    }
    Some(notifiers)
}

/// Reports jobs that wait for each other in a circle, each circle once, and jobs that wait for one
/// that is switched off.
pub fn check_order(jobs: &[JobCommon], d: &mut Diagnostics) {
    let by_name: BTreeMap<&JobName, &JobCommon> = jobs.iter().map(|job| (&job.name, job)).collect();
    for job in jobs.iter().filter(|job| job.enabled) {
        for other in &job.after {
            if by_name.get(&other.value).is_some_and(|other| !other.enabled) {
                d.warning(&other.span, format!("{} is not enabled", other.value))
                    .class(class::REFERENCE)
                    .hint(format!("{} will run only when it is told to", job.name));
            }
        }
    }
    let mut done = BTreeSet::new();
    for job in jobs {
        let mut path = Vec::new();
        walk(job, &by_name, &mut path, &mut done, d);
    }
}

/// Goes back along `after`, depth first. `path` is how we came here, `done` what was seen whole.
fn walk<'a>(
    start: &'a JobCommon,
    by_name: &BTreeMap<&JobName, &'a JobCommon>,
    path: &mut Vec<(&'a JobCommon, usize)>,
    done: &mut BTreeSet<&'a JobName>,
    d: &mut Diagnostics,
) {
    path.push((start, 0));
    while let Some((job, next)) = path.last_mut() {
        let job = *job;
        let Some(edge) = job.after.get(*next).filter(|_| !done.contains(&job.name)) else {
            done.insert(&job.name);
            path.pop();
            continue;
        };
        *next += 1;
        if let Some(from) = path.iter().position(|(seen, _)| seen.name == edge.value) {
            let mut circle: Vec<&str> =
                path[from..].iter().map(|(job, _)| job.name.as_str()).collect();
            circle.push(edge.value.as_str());
            d.error(&edge.span, format!("jobs wait for each other: {}", circle.join(" after ")))
                .class(class::REFERENCE)
                .hint("give one of them a schedule");
        } else if let Some(other) = by_name.get(&edge.value) {
            path.push((other, 0));
        }
    }
}
