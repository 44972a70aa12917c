//! Whether the end of a run is worth telling a person, and what they are told.
//!
//! [`decide`] compares how a run ended with what was told of the job before. A person hears of a
//! failure once, again when it spreads to other targets, again when it lasts, and of its end. The
//! same holds for findings. What was told is remembered in the journal, so that a restart between a
//! failure and the success after it loses nothing.
//!
//! What can still go wrong: what one check finds several times of one target is counted, not told apart.

mod body;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    finding::{Finding, Severity},
    named::named,
    report::{Report, Verdict},
    run::EndedRun,
};

pub use body::{Cause, LeftOut, Notice, Origin, TargetCounts, run_uuid};

/// Things that one job is remembered to have told of at most; more count as told.
const PRINTS_MAX: usize = 1000;
/// A nightly run ends at another second each night: what is to be repeated each 24 h is repeated
/// by a run that ends when these tenths of it have passed.
const REPEAT_SHARE: u32 = 9;

named! {
    /// What a person can be told of.
    #[derive(Default)]
    pub enum Event {
        /// A run was started.
        Start = "start",
        /// A run succeeded.
        Success = "success",
        /// A run failed, wholly or in part, or was interrupted.
        Failure = "failure",
        /// The first success after a failure.
        Recovery = "recovery",
        /// The findings have changed.
        Findings = "findings",
        /// A person tries whether it arrives.
        #[default]
        Test = "test",
    }
}

impl Event {
    /// The events that `on` can name, in the order in which they are listed.
    pub const CHOICES: &[Self] =
        &[Self::Failure, Self::Recovery, Self::Findings, Self::Success, Self::Start];
}

/// What one receiver wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub on: BTreeSet<Event>,
    /// Findings below this are not told.
    pub min_severity: Severity,
    /// What lasts is told again after so long; none: never.
    pub repeat: Option<Duration>,
    /// The receiver keeps count itself: each run that failed is told.
    pub each_run: bool,
}

/// Something that was told and is still so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ongoing {
    pub at: Timestamp,
    /// What it consists of: the start of a hash for each thing.
    pub prints: BTreeSet<u64>,
}

/// What one receiver was told of one job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The failure that has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Ongoing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Ongoing>,
}

/// What follows from the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is to be told; nothing: it is known, or not asked for.
    pub event: Option<Event>,
    /// What is to be remembered once it is told.
    pub memory: Memory,
}

/// Decides what is told of a run that ended. One run tells one thing: a failure or a recovery
/// carries the findings along. A run that was cancelled or skipped says nothing about how things are.
pub fn decide(memory: &Memory, run: &EndedRun, rules: &Rules) -> Decision {
    let EndedRun { verdict, ended: now, ref report, .. } = *run;
    let mut next = memory.clone();
    if matches!(verdict, Verdict::Cancelled | Verdict::Skipped) {
        return Decision { event: None, memory: next };
    }
    let wants = |event: Event| rules.on.contains(&event);
    let mut event = None;
    if verdict == Verdict::Succeeded {
        let was_failing = next.failing.take().is_some();
        event = [(Event::Recovery, was_failing), (Event::Success, true)]
            .into_iter()
            .find_map(|(event, holds)| (holds && wants(event)).then_some(event));
    } else {
        let (news, known) = still(memory.failing.as_ref(), failed(verdict, report), rules, now);
        next.failing = Some(known);
        if (news || rules.each_run) && wants(Event::Failure) {
            event = Some(Event::Failure);
        }
    }
    // A run that failed altogether has not looked: nothing is taken for healed.
    if verdict.did_something() {
        let found = found(report, rules.min_severity);
        let news = if found.is_empty() {
            next.found.take().is_some()
        } else {
            // Of what comes and goes, each return is news.
            let (news, known) = still(memory.found.as_ref(), found.clone(), rules, now);
            next.found = Some(Ongoing { prints: found, ..known });
            news
        };
        if news && wants(Event::Findings) && matches!(event, None | Some(Event::Success)) {
            event = Some(Event::Findings);
        }
    }
    Decision { event, memory: next }
}

/// Whether there is news in what holds now (something new, or it has lasted), and what is then
/// known: all that was so since it began.
fn still(
    known: Option<&Ongoing>,
    prints: BTreeSet<u64>,
    rules: &Rules,
    now: Timestamp,
) -> (bool, Ongoing) {
    let Some(known) = known else { return (true, Ongoing { at: now, prints }) };
    // A time from the future was told by a clock that has since been set right.
    let at = known.at.min(now);
    let age = now.duration_since(at);
    let lasted = rules.repeat.is_some_and(|repeat| {
        u128::try_from(age.as_millis()).unwrap_or(0) >= (repeat / 10 * REPEAT_SHARE).as_millis()
    });
    let news = lasted || !prints.is_subset(&known.prints);
    let mut all = prints.clone();
    all.extend(&known.prints);
    let prints = if all.len() > PRINTS_MAX { prints } else { all };
    (news, Ongoing { at: if news { now } else { at }, prints })
}

/// The targets that failed; the run itself where it failed beside them.
fn failed(verdict: Verdict, report: &Report) -> BTreeSet<u64> {
    let targets = report.failed().map(|(target, _)| target.to_string());
    let whole = report.failure.is_some() || report.failed().next().is_none();
    let run = whole.then(|| format!("the run {}", verdict == Verdict::Interrupted));
    bounded(targets.chain(run))
}

/// What is found from `min` on: which check, how bad, of what. Two of the same are two.
fn found(report: &Report, min: Severity) -> BTreeSet<u64> {
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let numbered = findings(report, min).map(|finding| {
        let Finding { check, severity, target, .. } = finding;
        let print = print(&format!("{check} {} {target}", severity.as_str()));
        let count = seen.entry(print).or_default();
        *count += 1;
        format!("{count} {print}")
    });
    bounded(numbered)
}

/// The findings from a severity on.
pub(super) fn findings(report: &Report, min: Severity) -> impl Iterator<Item = &Finding> {
    report.findings.iter().filter(move |finding| finding.severity >= min)
}

/// The start of a text's hash.
fn print(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Their hashes, the lowest of them where they are too many: the same ones each time.
fn bounded(texts: impl Iterator<Item = String>) -> BTreeSet<u64> {
    let mut prints = BTreeSet::new();
    for text in texts {
        prints.insert(print(&text));
        if prints.len() > PRINTS_MAX {
            prints.pop_last();
        }
    }
    prints
}
