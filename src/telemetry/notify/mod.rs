//! Telling people: `[notify.NAME]`. The kinds of receiver, one file each and one line in [`KINDS`];
//! what they have in common stands here.
//!
//! Telling is never in the way of a run: [`Notifier::send`] puts a notice into a bounded queue and
//! returns. A task per receiver sends one after the other and tries again; a receiver that hangs
//! holds up its own queue alone. A notice may arrive twice (the answer to the first was lost): `run`
//! and `event` of its body say so. What can still go wrong: notices that wait when the process is
//! killed are lost; those of failures and findings are then told after the next run.

mod address;
mod client;
mod command;
mod healthchecks;
mod outbox;
mod webhook;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::outbox::Queue;
pub use self::outbox::{Letter, Post, Sent, Told};
use crate::{
    config::{Config, Diagnostics, Located, Options, Section, class, did_you_mean, listed},
    domain::{
        failure::{Class, Failure},
        finding::Severity,
        name::{JobName, NotifyName},
        notice::{Event, Notice, Rules},
    },
    sys::process::ChildSettings,
};

/// Every kind of receiver.
const KINDS: &[&NotifyKind] = &[&webhook::KIND, &command::KIND, &healthchecks::KIND];

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A receiver that needs longer hangs.
const TIMEOUT_MAX: Duration = Duration::from_mins(5);
/// Attempts for one notice: with waits of 10, 20, 40 and 80 s they take some minutes.
const ATTEMPTS: u32 = 5;
/// The wait before the second attempt; it doubles.
const BACKOFF: Duration = Duration::from_secs(10);
/// What lasts is told again after so long.
const REPEAT: Duration = Duration::from_hours(24);
/// Longer is a slip of the pen.
const YEAR: Duration = Duration::from_hours(24 * 366);

/// One kind of receiver.
#[derive(Debug)]
pub struct NotifyKind {
    /// What `kind = "…"` says.
    pub name: &'static str,
    /// The events that it can be told of.
    pub events: &'static [Event],
    /// Those that it is told of unless `on` says otherwise.
    pub default: &'static [Event],
    /// It keeps count of the runs of one job by itself: each one is told, and nothing twice.
    pub counts_runs: bool,
    /// Reads the kind's own options. Does no I/O on the network.
    pub build: fn(&mut Options<'_>, &Context, &mut Diagnostics) -> Option<Arc<dyn Channel>>,
}

/// What building needs beside the options.
#[derive(Debug, Clone)]
pub struct Context {
    pub children: ChildSettings,
}

/// The way to a receiver.
#[async_trait]
pub trait Channel: Send + Sync + fmt::Debug {
    /// Tries once to deliver, within `limit`; gives up at once when `stop` is cancelled.
    ///
    /// # Errors
    /// When it was not delivered, or nobody knows whether it was. No text holds a secret.
    async fn deliver(
        &self,
        notice: &Notice,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Undelivered>;
}

/// Why a notice was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Undelivered {
    /// What went wrong; without secrets.
    pub what: String,
    pub hint: Option<String>,
    pub again: Again,
}

/// Whether trying again is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Yes,
    /// It is, and the receiver said when.
    After(Duration),
    /// It is not: somebody has to change something.
    No,
}

impl Undelivered {
    fn new(again: Again, what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None, again }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Taking longer than the limit.
    fn late(whom: impl fmt::Display, limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        Self::new(Again::Yes, format!("{whom}: no answer within {seconds} seconds"))
            .hint("`timeout` sets the limit")
    }

    /// Being stopped.
    fn stopped() -> Self {
        Self::new(Again::No, "pgkeep was stopped")
    }
}

/// One receiver of notifications, ready to be sent to.
#[derive(Debug)]
pub struct Notifier {
    pub name: NotifyName,
    pub kind: &'static NotifyKind,
    pub rules: Rules,
    /// The jobs that it names; none: it covers all.
    pub jobs: Option<Vec<Located<JobName>>>,
    timeout: Duration,
    attempts: u32,
    backoff: Duration,
    channel: Arc<dyn Channel>,
    queue: Queue,
}

impl Notifier {
    /// Whether it covers a job that names no receivers of its own.
    pub fn covers(&self, job: &JobName) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.iter().any(|named| named.value == *job))
    }

    /// Delivers one notice here and now, with a single attempt: for whoever tries it out.
    ///
    /// # Errors
    /// When it was not delivered.
    pub async fn try_once(&self, notice: &Notice) -> Result<(), Failure> {
        let never = CancellationToken::new();
        let delivered = self.channel.deliver(notice, self.timeout, &never).await;
        delivered.map_err(|error| Failure {
            class: Class::Notification,
            doing: format!("notify {}", self.name),
            what: error.what,
            hint: error.hint,
        })
    }
}

/// Reads one `[notify.NAME]`.
pub fn build(
    name: &NotifyName,
    section: &Section,
    config: &Config,
    context: &Context,
    d: &mut Diagnostics,
) -> Option<Notifier> {
    let mut o = section.options();
    let asked = o.require::<String>("kind", d)?;
    let Some(kind) = KINDS.iter().find(|kind| kind.name == asked.value) else {
        let known = || KINDS.iter().map(|kind| kind.name);
        let hint = did_you_mean(&asked.value, known())
            .unwrap_or_else(|| format!("the kinds are {}", listed(known())));
        d.error(&asked.span, format!("there is no kind of notification {:?}", asked.value))
            .class(class::REFERENCE)
            .hint(hint);
        return None;
    };
    let second = Duration::from_secs(1);
    let on = events(kind, &mut o, d);
    let rules = rules(kind, on, &mut o, d);
    let jobs = jobs(&mut o, config, d);
    let timeout = o.take_in_or("timeout", second..=TIMEOUT_MAX, TIMEOUT, d);
    let attempts = o.take_in_or("attempts", 1..=20, ATTEMPTS, d);
    let backoff = o.take_in_or("retry_backoff", second..=outbox::BACKOFF_MAX, BACKOFF, d);
    let channel = (kind.build)(&mut o, context, d);
    o.finish(d);
    Some(Notifier {
        name: name.clone(),
        kind,
        rules,
        jobs,
        timeout,
        attempts,
        backoff,
        channel: channel?,
        queue: Queue::default(),
    })
}

/// The events of `on`; each one that is wrong is reported at its place.
fn events(kind: &NotifyKind, o: &mut Options<'_>, d: &mut Diagnostics) -> BTreeSet<Event> {
    let Some(named) = o.take::<Vec<Located<String>>>("on", d) else {
        return kind.default.iter().copied().collect();
    };
    if named.value.is_empty() {
        d.error(&named.span, "`on` names no event").hint("leave the table out");
    }
    let mut events = BTreeSet::new();
    for text in named.value {
        let known = || kind.events.iter().map(|event| event.as_str());
        if let Some(event) = kind.events.iter().find(|event| event.as_str() == text.value) {
            events.insert(*event);
            continue;
        }
        let hint = did_you_mean(&text.value, known())
            .unwrap_or_else(|| format!("write {}", listed(known())));
        let what = format!("kind {:?} is not told of {:?}", kind.name, text.value);
        d.error(&text.span, what).hint(hint);
    }
    events
}

fn rules(
    kind: &NotifyKind,
    on: BTreeSet<Event>,
    o: &mut Options<'_>,
    d: &mut Diagnostics,
) -> Rules {
    let mut rules =
        Rules { on, min_severity: Severity::Warning, repeat: None, each_run: kind.counts_runs };
    if kind.counts_runs {
        return rules;
    }
    let choices = [Severity::Info, Severity::Warning, Severity::Critical]
        .map(|severity| (severity.as_str(), severity));
    if let Some(least) = o.one_of("min_severity", &choices, d) {
        rules.min_severity = least.value;
    }
    let repeat = o.take_in_or("repeat", Duration::ZERO..=YEAR, REPEAT, d);
    rules.repeat = (!repeat.is_zero()).then_some(repeat);
    rules
}

fn jobs(
    o: &mut Options<'_>,
    config: &Config,
    d: &mut Diagnostics,
) -> Option<Vec<Located<JobName>>> {
    let named = o.take::<Vec<Located<JobName>>>("jobs", d)?;
    if named.value.is_empty() {
        d.error(&named.span, "`jobs` names no job").hint("leave the key out to cover all jobs");
    }
    Some(named.value.into_iter().filter(|job| config.job(job, d).is_some()).collect())
}
