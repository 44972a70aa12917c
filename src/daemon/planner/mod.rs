//! Decides what runs when. A plain struct: it gets events and the time, and answers with actions
//! that the daemon carries out. It does no I/O and asks no clock; the same events give the same
//! actions. [`Planner::handle`] may be called with [`Event::Tick`] as often as one likes.
//!
//! **Slots.** What is due is worked out from the wall clock at every event, not from timers: the
//! latest slot that is due and not yet dealt with. A job's jitter moves all of its slots by the same
//! time. Slots missed one after the other count as one: a slot noticed within [`GRACE`] of its time
//! is on time, one within the job's catch-up window becomes one late run, and an older one is
//! skipped as missed (once for all that were missed together). A job never catches up what was due
//! before it was first seen, or before its schedule was changed, by a reload or between two lives.
//!
//! **Clocks that step.** A forward step looks like a machine that slept. After a step back by no
//! more than [`CLOCK_SLACK`] no slot runs twice: the job is silent until the clock has caught up.
//! After a greater one (the clock had been in 2037) what lies in the future is set aside, also
//! after a restart, and slots count from now. It counts again if the clock leaps past it, so that a
//! machine that boots in 1970 does not repeat today's slots when NTP has set the clock.
//!
//! **Overlap.** A job has at most one run. A slot that comes due while that run is queued, under
//! way or waiting to be tried again is skipped and counted. A request is refused, unless the run waits to
//! be tried again: then the attempt starts at once, and its end answers the request.
//!
//! **What survives a restart** is [`Remembered`]. A slot is remembered as dealt with just before its
//! run starts or when it is skipped; one whose run is still queued at the end of the daemon's life
//! is open again in the next, and falls under the catch-up window.
//!
//! **Permits.** See [`permits`]: runs at once, per server, and memory; first come first served, and
//! who overtakes delays nobody.
//!
//! **Retry.** A run that failed, wholly or in part, is tried again if that may help, after a
//! back-off that doubles up to its limit, with the targets that failed. It waits by monotonic time
//! and holds nothing meanwhile. Cancelled and interrupted attempts are not tried again. Runs that
//! were asked for are retried like others. The verdict on a run is that of its attempts together: a
//! run that was partial and whose retry failed is partial.
//!
//! **`after`.** A job with `after = [a, b]` starts when each of them has ended, with something done,
//! since its own last start: partial is enough, a failure is not, and the next success counts. Ends
//! during its own run count for the next one. It may have a schedule as well. Cycles are refused by
//! the configuration; here they would run for ever.
//!
//! **Blackout.** In the windows of its blackout a job does not start by itself: its slots stay open, and the
//! latest of them is due when the window ends, as if that were its time; what is queued, after
//! others or to be tried again, waits for the end. A request starts at once, with its retries: it is a person's decision. One for a
//! run that waits for the end of the window makes that run its own.
//!
//! **Disabled** jobs do nothing by themselves, and a request still runs them. Slots and ends that
//! they sleep through are not made good.
//!
//! **Reload.** A job whose schedule is the same keeps its memory. Runs that wait, of jobs removed or
//! disabled, end (those asked for survive a disabling); runs under way end undisturbed but are not
//! tried again. What is queued starts under the new limits.
//!
//! **Drain.** Nothing starts any more, what waits is dropped, what runs is cancelled once, and the
//! last one's end brings [`Action::Exit`].
//!
//! What can still go wrong: a caller that acts on [`Action::Start`] before it has stored the
//! [`Action::Remember`] ahead of it may repeat a slot after a crash; one that loses a
//! [`Event::Finished`] keeps a job running, and its permits taken, for ever.

mod event;
mod job;
mod permits;
mod reload;
mod runs;
mod spec;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{
    domain::{
        name::JobName,
        run::{RunId, SkipReason, Trigger},
    },
    sys::clock::Now,
};

pub use event::{Action, EndCause, Event, Refusal};
pub use job::{CLOCK_SLACK, GRACE};
use job::{Due, Job};
pub use permits::Wait;
use runs::{Phase, Run};
pub use spec::{JobSpec, Limits, Remembered};
pub use status::{JobState, JobStatus};

/// Longest time between two looks at the wall clock, which may step while the monotonic one does
/// not.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Where the daemon stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Up,
    Draining,
    Over,
}

/// See the module's head.
#[derive(Debug)]
pub struct Planner {
    jobs: BTreeMap<JobName, Job>,
    /// Runs that have not ended. The job of one may have been removed since.
    runs: BTreeMap<RunId, Run>,
    active: BTreeMap<JobName, RunId>,
    limits: Limits,
    life: Life,
    /// Counts what enters the queue: the order in which it starts.
    places: u64,
    /// State of the generator that run ids come from.
    random: u64,
    /// Said at the next event.
    pending: Vec<Action>,
}

impl Planner {
    /// A planner at the start of the daemon. `remembered` is what the last life's
    /// [`Action::Remember`] said; `seed` makes the ids of runs differ from one life to the next.
    pub fn new(
        jobs: Vec<JobSpec>,
        limits: Limits,
        mut remembered: BTreeMap<JobName, Remembered>,
        now: Now,
        seed: u64,
    ) -> Self {
        let jobs: BTreeMap<JobName, Job> = jobs
            .into_iter()
            .map(|spec| {
                let name = spec.name.clone();
                let memory = remembered.remove(&name);
                (name, Job::new(spec, memory, now.wall))
            })
            .collect();
        Self {
            jobs,
            runs: BTreeMap::new(),
            active: BTreeMap::new(),
            limits,
            life: Life::Up,
            places: 0,
            random: seed,
            pending: remembered.into_keys().map(|job| Action::Forget { job }).collect(),
        }
    }

    /// Takes note of an event and says what to do, in this order.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut out = std::mem::take(&mut self.pending);
        if self.life == Life::Over {
            if let Event::Trigger { job, request } = event {
                self.request(job, request, now, &mut out);
            }
            return out;
        }
        for job in self.jobs.values_mut() {
            job.heed_clock(now.wall);
        }
        if self.life == Life::Up && event != Event::Drain {
            self.take_due_slots(now, &mut out);
        }
        match event {
            Event::Tick => {}
            Event::Trigger { job, request } => self.request(job, request, now, &mut out),
            Event::Finished { run, verdict, failed, retry_worth } => {
                self.finished(&run, verdict, failed, retry_worth, now, &mut out);
            }
            Event::Reloaded(jobs, limits) => self.reload(jobs, limits, now, &mut out),
            Event::CancelRun(run) => self.cancel(&run, &mut out),
            Event::Drain => self.drain(&mut out),
        }
        if self.life == Life::Up {
            // A reload may have moved slots to before now.
            self.take_due_slots(now, &mut out);
            self.take_due_retries(now);
            self.take_followers(now);
            self.start_what_fits(now, &mut out);
        }
        self.save(&mut out);
        self.say_what_next(now, &mut out);
        out
    }

    /// When the job's next slot is due, jitter included; `None` for a job that is unknown,
    /// disabled or without a schedule.
    pub fn next_run(&self, job: &JobName) -> Option<Timestamp> {
        self.jobs.get(job)?.next_due()
    }

    fn take_due_slots(&mut self, now: Now, out: &mut Vec<Action>) {
        let mut due: Vec<(Due, JobName)> = self
            .jobs
            .iter()
            .filter_map(|(name, job)| Some((job.due(now.wall)?, name.clone())))
            .collect();
        due.sort_by_key(|(due, _)| due.at);
        for (due, name) in due {
            let unstarted = self.is_unstarted(&name);
            let busy = self.active.contains_key(&name);
            let Some(job) = self.jobs.get_mut(&name) else { continue };
            job.take(due.slot);
            let skip = match (busy, due.trigger) {
                (true, _) => SkipReason::Overlap,
                (false, None) => SkipReason::Missed,
                (false, Some(trigger)) => {
                    self.enqueue(name, trigger, now);
                    continue;
                }
            };
            if !unstarted {
                job.settle();
            }
            out.push(Action::Skip { job: name, reason: skip, slot: due.slot });
        }
    }

    fn take_followers(&mut self, now: Now) {
        let ready: Vec<(JobName, Trigger)> = self
            .jobs
            .iter()
            .filter(|(name, job)| job.may_follow() && !self.active.contains_key(*name))
            .map(|(name, job)| (name.clone(), Trigger::After(job.spec.after.clone())))
            .collect();
        for (name, trigger) in ready {
            self.enqueue(name, trigger, now);
        }
    }

    fn drain(&mut self, out: &mut Vec<Action>) {
        if self.life != Life::Up {
            return;
        }
        self.life = Life::Draining;
        let waiting: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.phase.is_running())
            .map(|(id, _)| id.clone())
            .collect();
        for run in waiting {
            self.end(&run, EndCause::ShuttingDown, out);
        }
        out.push(Action::CancelAll);
    }

    /// Everything about jobs that has changed and is to outlive the process.
    fn save(&mut self, out: &mut Vec<Action>) {
        for (name, job) in &mut self.jobs {
            if let Some(memory) = job.unsaved() {
                out.push(Action::Remember { job: name.clone(), memory });
            }
        }
    }

    fn say_what_next(&mut self, now: Now, out: &mut Vec<Action>) {
        match self.life {
            Life::Over => {}
            Life::Draining if self.runs.is_empty() => {
                self.life = Life::Over;
                out.push(Action::Exit);
            }
            Life::Draining => out.push(Action::WakeAt(now.mono + LONGEST_SLEEP)),
            Life::Up => out.push(Action::WakeAt(self.wake_at(now))),
        }
    }

    /// The next monotonic moment at which something may be due.
    fn wake_at(&self, now: Now) -> Duration {
        let retries = self.runs.values().filter_map(|run| match run.phase {
            Phase::Waiting { until, .. } => Some(until),
            Phase::Queued { .. } | Phase::Running { .. } => None,
        });
        let windows = self.runs.values().filter_map(|run| match run.phase {
            Phase::Queued { why: Wait::Blackout(until), .. } => Some(until),
            _ => None,
        });
        let slots = self.jobs.values().filter_map(|job| job.next_look(now.wall));
        let by_wall = slots.chain(windows).map(|due| {
            let ahead = Duration::try_from(due.duration_since(now.wall)).unwrap_or(Duration::ZERO);
            now.mono.saturating_add(ahead)
        });
        retries.chain(by_wall).fold(now.mono + LONGEST_SLEEP, Duration::min).max(now.mono)
    }
}
