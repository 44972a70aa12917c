//! Which backups of a series stay.
//!
//! The rules are restic's, as its manual gives them under "Removing snapshots according to a
//! policy": a backup stays if any rule keeps it. `keep_daily = 7` keeps the newest backup of each of
//! the last seven days that have one, whether or not these days follow each other; where there are
//! fewer, the oldest backup stays too, so that history grows until the rule is satisfied.
//! `keep_within` counts back from the newest backup, not from now: a series that is no longer
//! written does not melt away.
//!
//! Beside the rules there are floors, which no configuration lowers: the newest whole backup of a
//! series, the newest verified and the newest drilled stay, and while the newest ones are suspicious
//! (see [`super::suspicion`]) the last one that is not. What cannot be counted on counts for
//! nothing: a backup from the future or a damaged one stays, and pushes no other out.
//!
//! What can still go wrong: somebody who can write to the repository adds backups until the good
//! ones are no longer among the last of anything. Only a store that refuses deletion helps.

mod reason;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

pub use self::reason::{Reason, Reasons};
use super::backup::BackupId;

/// The clocks of two hosts may differ by so much.
const HOSTS_SKEW: SignedDuration = SignedDuration::from_mins(10);
/// The clock of a store may be behind that of a host by so much: those that keep local time as if it were
/// UTC are by up to 14 hours.
const STORE_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// The spans of the calendar of which the newest backup stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// No span: each backup for itself.
    Each,
    /// `:00` to `:59`. An hour that the clock shows twice is two hours.
    Hour,
    /// 00:00 to 23:59.
    Day,
    /// Monday to Sunday, as in ISO 8601.
    Week,
    /// The first to the last.
    Month,
    /// January to December.
    Year,
}

/// How far back a rule reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// So many spans that have a backup.
    Count(u32),
    Unlimited,
    /// So long before the newest backup.
    Within(Duration),
}

/// One rule of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Of what the newest stays.
    pub period: Period,
    pub limit: Limit,
}

/// Keeps each backup of a time: it stands beside all other rules.
const KEEP_WITHIN: &str = "keep_within";

/// Every rule: its key in the configuration, of what the newest stays, and whether it reaches back a time
/// rather than a number of spans. In the order in which the reasons of a backup are said.
pub const RULES: [(&str, Period, bool); 12] = [
    ("keep_last", Period::Each, false),
    ("keep_hourly", Period::Hour, false),
    ("keep_daily", Period::Day, false),
    ("keep_weekly", Period::Week, false),
    ("keep_monthly", Period::Month, false),
    ("keep_yearly", Period::Year, false),
    (KEEP_WITHIN, Period::Each, true),
    ("keep_within_hourly", Period::Hour, true),
    ("keep_within_daily", Period::Day, true),
    ("keep_within_weekly", Period::Week, true),
    ("keep_within_monthly", Period::Month, true),
    ("keep_within_yearly", Period::Year, true),
];

impl Rule {
    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        let own = (self.period, matches!(self.limit, Limit::Within(_)));
        RULES
            .iter()
            .find(|(_, period, within)| (*period, *within) == own)
            .map_or("", |(key, ..)| key)
    }

    /// Whether it keeps anything.
    const fn keeps(self) -> bool {
        match self.limit {
            Limit::Count(count) => count > 0,
            Limit::Within(duration) => !duration.is_zero(),
            Limit::Unlimited => true,
        }
    }
}

/// A policy whose rules keep nothing: it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no rule of the policy keeps anything")]
pub struct KeepsNothing;

/// What `[retention.NAME]` says.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    zone: TimeZone,
}

impl Policy {
    /// A policy of these rules, whose days begin at midnight in `zone`.
    ///
    /// # Errors
    /// Where no rule keeps anything.
    pub fn new(
        rules: impl IntoIterator<Item = Rule>,
        zone: TimeZone,
    ) -> Result<Self, KeepsNothing> {
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| rule.keeps()).collect();
        if rules.is_empty() { Err(KeepsNothing) } else { Ok(Self { rules, zone }) }
    }
}

/// How far a backup can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Its manifest is there.
    Complete,
    /// Its manifest is there, and it is known to be damaged.
    Damaged,
    /// It has no manifest: it is under way, or garbage. Not retention's.
    Incomplete,
}

/// A proof that was added to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Every stored byte was read back and parsed.
    Verified,
    /// PostgreSQL was booted on it.
    Drilled,
}

impl Proof {
    /// What the name of an object in a backup's folder proves: `proof-<time>-<kind>.json`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (_, kind) = name.strip_prefix("proof-")?.strip_suffix(".json")?.rsplit_once('-')?;
        match kind {
            "verify" | "verified" => Some(Self::Verified),
            "drill" | "drilled" => Some(Self::Drilled),
            _ => None,
        }
    }
}

/// One backup of a series, as retention sees it. A plan over a hundred thousand backups holds as many
/// of these: flags and an id in place, nothing on the heap.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    /// How far it can be counted on.
    pub standing: Standing,
    /// Whether every byte was read back.
    pub verified: bool,
    pub drilled: bool,
    pub held: bool,
    /// Whether its id is later than the store's clock allows: [`is_ahead`].
    pub ahead: bool,
    /// Whether something seems to be missing in it, and nobody has acknowledged that.
    pub suspicious: bool,
}

impl Candidate {
    /// Whether its time cannot be true at `now`, or could not when it was written.
    pub fn is_from_the_future(&self, now: Timestamp) -> bool {
        self.ahead || is_later(&self.id, now)
    }

    /// Whether it pushes older ones out, and can be the one that stays whatever happens.
    pub fn counts(&self, now: Timestamp) -> bool {
        self.standing == Standing::Complete && !self.is_from_the_future(now)
    }
}

/// Whether a backup's id is later than its newest object, which was written at `written` by the store's
/// clock: the clock that named it was wrong.
pub fn is_ahead(id: &BackupId, written: Timestamp) -> bool {
    id.time().duration_since(written) > STORE_SKEW
}

/// Whether a backup's id is later than clocks that differ allow at `now`.
pub fn is_later(id: &BackupId, now: Timestamp) -> bool {
    id.time().duration_since(now) > HOSTS_SKEW
}

/// Decides about the backups of one series, given in any order: why each stays, in the order in
/// which they were given. One without a reason goes.
///
/// Planning again after the removal removes nothing more.
pub fn plan(policy: &Policy, candidates: &[Candidate], now: Timestamp) -> Vec<Reasons> {
    let mut reasons: Vec<Reasons> =
        candidates.iter().map(|candidate| apart(candidate, now)).collect();
    let counts = |at: &usize| candidates[*at].counts(now);
    let mut counted: Vec<usize> = (0..candidates.len()).filter(counts).collect();
    // Ids are in the order of time.
    counted.sort_unstable_by(|a, b| candidates[*b].id.cmp(&candidates[*a].id));
    let is = |property: fn(&Candidate) -> bool| {
        counted.iter().copied().find(|at| property(&candidates[*at]))
    };
    let floors = [
        (Reason::Newest, is(|_| true)),
        (Reason::NewestVerified, is(|candidate| candidate.verified)),
        (Reason::NewestDrilled, is(|candidate| candidate.drilled)),
        (Reason::BeforeSuspicious, last_trusted(candidates, &counted)),
    ];
    for (reason, at) in floors {
        if let Some(at) = at {
            reasons[at].add(reason);
        }
    }
    let time = |at: usize| candidates[at].id.time();
    let Some(newest) = counted.first().map(|at| time(*at)) else { return reasons };
    let mut open: Vec<Open> = policy.rules.iter().map(|rule| Open::new(*rule, newest)).collect();
    for (number, at) in counted.iter().enumerate() {
        let moment = Moment::new(time(*at), &policy.zone, number);
        let is_oldest = number + 1 == counted.len();
        for rule in &mut open {
            if let Some(reason) = rule.take(&moment, is_oldest) {
                reasons[*at].add(reason);
            }
        }
    }
    reasons
}

/// The newest backup that is not suspicious, where newer ones are: they do not take its place until
/// somebody has looked at them. `counted` is in order, the newest first.
fn last_trusted(candidates: &[Candidate], counted: &[usize]) -> Option<usize> {
    let newest = counted.first()?;
    if !candidates[*newest].suspicious {
        return None;
    }
    counted.iter().copied().find(|at| !candidates[*at].suspicious)
}

/// Why a backup stays whatever the rules say.
fn apart(candidate: &Candidate, now: Timestamp) -> Reasons {
    let mut reasons = Reasons::default();
    if candidate.standing == Standing::Incomplete {
        reasons.add(Reason::Incomplete);
        return reasons;
    }
    if candidate.standing == Standing::Damaged {
        reasons.add(Reason::Damaged);
    }
    if candidate.is_from_the_future(now) {
        reasons.add(Reason::Future);
    }
    if candidate.held {
        reasons.add(Reason::Held);
    }
    reasons
}

/// A time as the calendar of a zone has it.
struct Moment {
    at: Timestamp,
    number: usize,
    civil: jiff::civil::DateTime,
    /// Seconds east of Greenwich.
    offset: i32,
}

impl Moment {
    fn new(at: Timestamp, zone: &TimeZone, number: usize) -> Self {
        let offset = zone.to_offset(at);
        Self { at, number, civil: offset.to_datetime(at), offset: offset.seconds() }
    }

    /// A number that all moments of one span have, and no others.
    fn span(&self, period: Period) -> (i64, i64) {
        let (year, month) = (i64::from(self.civil.year()), i64::from(self.civil.month()));
        let day = i64::from(self.civil.day()) + 100 * (month + 100 * year);
        match period {
            Period::Each => (i64::try_from(self.number).unwrap_or(i64::MAX), 0),
            Period::Hour => (i64::from(self.civil.hour()) + 100 * day, i64::from(self.offset)),
            Period::Day => (day, 0),
            Period::Week => {
                let week = self.civil.date().iso_week_date();
                (i64::from(week.week()) + 100 * i64::from(week.year()), 0)
            }
            Period::Month => (month + 100 * year, 0),
            Period::Year => (year, 0),
        }
    }
}

/// A rule on its way from the newest backup to the oldest.
struct Open {
    rule: Rule,
    /// Spans that it may still keep one of; none: any number.
    left: Option<u32>,
    /// What is not later than this is out of its reach.
    after: Option<Timestamp>,
    /// The span of which it kept one last.
    last: Option<(i64, i64)>,
}

impl Open {
    fn new(rule: Rule, newest: Timestamp) -> Self {
        let (left, after) = match rule.limit {
            Limit::Count(count) => (Some(count), None),
            Limit::Unlimited => (None, None),
            Limit::Within(duration) => {
                let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
                (None, newest.checked_sub(duration).ok())
            }
        };
        Self { rule, left, after, last: None }
    }

    /// Whether it keeps the next older backup, and as what.
    fn take(&mut self, moment: &Moment, is_oldest: bool) -> Option<Reason> {
        if self.left == Some(0) || self.after.is_some_and(|after| moment.at <= after) {
            return None;
        }
        let span = moment.span(self.rule.period);
        let is_new = self.last != Some(span);
        if !is_new && !is_oldest {
            return None;
        }
        self.last = Some(span);
        self.left = self.left.map(|left| left - 1);
        Some(if is_new { Reason::Rule(self.rule.key()) } else { Reason::OldestOf(self.rule.key()) })
    }
}
