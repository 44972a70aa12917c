//! One job's slots: which are due, which are dealt with.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::spec::{JobSpec, Remembered};
use crate::domain::{
    name::JobName,
    run::Trigger,
    schedule::{Schedule, jitter_offset},
};

/// A slot noticed no later than this is on time: three times the longest sleep of the daemon.
pub const GRACE: Duration = Duration::from_secs(90);
/// Steps back of the clock up to this never repeat a slot. It is ntpd's panic threshold (-g in
/// ntpd(8)): a running clock is not set by more unless somebody asks for it.
pub const CLOCK_SLACK: Duration = Duration::from_secs(1000);

/// `t` moved on by `by`, as far as time goes.
pub(super) fn plus(t: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    t.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn minus(t: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    t.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

/// A slot that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) slot: Timestamp,
    /// The slot with the job's jitter.
    pub(super) at: Timestamp,
    /// What it sets off; `None`: it was missed.
    pub(super) trigger: Option<Trigger>,
}

/// A job with its memory.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: JobSpec,
    /// What its jitter comes to.
    offset: Duration,
    memory: Remembered,
    /// Slots up to this moment have been acted on in this life. It runs ahead of what is
    /// remembered while a run is queued.
    taken: Timestamp,
    next: Option<Timestamp>,
    /// When jitter or blackout were changed by a reload: a slot whose time so moved into the past is not
    /// late.
    moved: Timestamp,
    /// What is remembered has changed since it was last said.
    dirty: bool,
}

/// The schedule that a job follows by itself.
fn followed(spec: &JobSpec) -> Option<&Schedule> {
    spec.schedule.as_ref().filter(|_| spec.enabled)
}

impl Job {
    /// A job at the start of the daemon, or one that a reload added.
    pub(super) fn new(spec: JobSpec, memory: Option<Remembered>, now: Timestamp) -> Self {
        let dirty = memory.is_none();
        let memory = memory.unwrap_or_else(|| Remembered {
            first_seen: now,
            handled: now,
            set_aside: None,
            schedule: followed(&spec).map(ToString::to_string),
            ended: std::collections::BTreeSet::new(),
        });
        let mut job = Self {
            offset: jitter_offset(&spec.name, spec.jitter),
            taken: memory.handled,
            next: None,
            moved: Timestamp::MIN,
            spec,
            memory,
            dirty,
        };
        job.adopt(now);
        job
    }

    /// The same job after a reload.
    pub(super) fn reloaded(mut self, spec: JobSpec, now: Timestamp) -> Self {
        let offset = jitter_offset(&spec.name, spec.jitter);
        if offset != self.offset || spec.blackout != self.spec.blackout {
            self.moved = now;
        }
        self.offset = offset;
        self.spec = spec;
        self.adopt(now);
        self
    }

    /// Fits the memory to the specification: a schedule that is not the remembered one starts
    /// afresh.
    fn adopt(&mut self, now: Timestamp) {
        let schedule = followed(&self.spec).map(ToString::to_string);
        if schedule != self.memory.schedule {
            self.memory.schedule = schedule;
            self.memory.handled = now;
            self.memory.set_aside = None;
            self.taken = now;
            self.dirty = true;
        }
        let (spec, known) = (&self.spec, self.memory.ended.len());
        self.memory.ended.retain(|job| spec.enabled && spec.after.contains(job));
        self.dirty |= self.memory.ended.len() != known;
        self.heed_clock(now);
        self.look_ahead();
    }

    /// Sets aside what lies in the future, and takes up again what no longer does.
    pub(super) fn heed_clock(&mut self, now: Timestamp) {
        let latest = plus(now, CLOCK_SLACK);
        self.moved = self.moved.min(now);
        if self.memory.first_seen > latest {
            self.memory.first_seen = now;
            self.dirty = true;
        }
        if self.taken > latest || self.memory.handled > latest {
            let future = self.taken.max(self.memory.handled);
            self.memory.set_aside = self.memory.set_aside.max(Some(future));
            self.memory.handled = self.memory.handled.min(now);
            self.taken = self.taken.min(now);
            self.dirty = true;
            self.look_ahead();
        }
        if let Some(aside) = self.memory.set_aside.filter(|aside| *aside <= now) {
            self.memory.set_aside = None;
            // Far past it: the clock leapt. Else it went there second by second, and the slots
            // that had been run when it was wrong are due now that it is right.
            if now > plus(aside, GRACE) {
                self.memory.handled = self.memory.handled.max(aside);
                self.taken = self.taken.max(aside);
            }
            self.dirty = true;
            self.look_ahead();
        }
    }

    fn look_ahead(&mut self) {
        self.next = followed(&self.spec).and_then(|schedule| schedule.next_after(self.taken));
    }

    /// When the next slot is due, with jitter and blackout.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.next.map(|slot| self.released(plus(slot, self.offset)))
    }

    /// When the job is to be looked at: what is due already is not acted on before the blackout ends.
    pub(super) fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.next_due()?;
        Some(self.blackout_ends(now).filter(|_| due <= now).unwrap_or(due))
    }

    /// The moment, or the end of the blackout that it lies in.
    fn released(&self, t: Timestamp) -> Timestamp {
        self.blackout_ends(t).unwrap_or(t)
    }

    /// The end of the blackout, where there is one at that time.
    pub(super) fn blackout_ends(&self, t: Timestamp) -> Option<Timestamp> {
        self.spec.blackout.as_ref()?.ends(t)
    }

    /// The latest slot that is due and not yet acted on.
    pub(super) fn due(&self, now: Timestamp) -> Option<Due> {
        self.next_due().filter(|due| *due <= now)?;
        if self.blackout_ends(now).is_some() {
            return None;
        }
        let schedule = followed(&self.spec)?;
        let slot = schedule.latest_at_or_before(minus(now, self.offset), self.taken)?;
        let at = plus(slot, self.offset);
        let expected = self.released(at).max(self.moved);
        let trigger = if now <= plus(expected, GRACE) {
            Some(Trigger::Schedule { slot })
        } else if now <= self.catch_up_ends(expected) {
            Some(Trigger::CatchUp { slot })
        } else {
            None
        };
        Some(Due { slot, at, trigger })
    }

    /// Until when a slot that was expected then is made good. Where that falls into a blackout, its end
    /// is not too late.
    fn catch_up_ends(&self, expected: Timestamp) -> Timestamp {
        let limit = plus(expected, self.spec.catch_up);
        self.blackout_ends(limit).map_or(limit, |end| plus(end, GRACE))
    }

    /// Notes that the slot has been acted on in this life.
    pub(super) fn take(&mut self, slot: Timestamp) {
        self.taken = self.taken.max(slot);
        self.look_ahead();
    }

    /// Remembers what has been acted on beyond this life.
    pub(super) fn settle(&mut self) {
        if self.memory.handled < self.taken {
            self.memory.handled = self.taken;
            self.dirty = true;
        }
    }

    /// Notes that a run of the job starts: its slot is dealt with (also where the clock was set
    /// back or the schedule changed while it was queued), and what it waited for begins anew.
    pub(super) fn started(&mut self, slot: Option<Timestamp>, now: Timestamp) {
        if let Some(slot) = slot.filter(|slot| *slot <= now) {
            self.take(slot);
        }
        self.settle();
        self.forget_ends();
    }

    /// Notes that another job ended with something done.
    pub(super) fn heed_end(&mut self, other: &JobName) {
        if self.spec.enabled && self.spec.after.contains(other) {
            self.dirty |= self.memory.ended.insert(other.clone());
        }
    }

    /// What it waits for begins anew.
    pub(super) fn forget_ends(&mut self) {
        self.dirty |= !self.memory.ended.is_empty();
        self.memory.ended.clear();
    }

    /// Whether all that it runs after have ended.
    pub(super) fn may_follow(&self) -> bool {
        let after = &self.spec.after;
        self.spec.enabled
            && !after.is_empty()
            && after.iter().all(|job| self.memory.ended.contains(job))
    }

    /// What is to be stored, if it has changed since this was last asked.
    pub(super) fn unsaved(&mut self) -> Option<Remembered> {
        std::mem::take(&mut self.dirty).then(|| self.memory.clone())
    }
}
