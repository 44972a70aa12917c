//! A run's life: queued, under way, waiting to be tried again, over.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    Life, Planner,
    event::{Action, EndCause, Refusal},
    job::plus,
    permits::{Claim, Placed, Wait},
    spec::JobSpec,
};
use crate::{
    domain::{
        name::JobName,
        report::Verdict,
        run::{RequestId, RunId, SkipReason, Trigger},
        target::Target,
    },
    sys::clock::Now,
};

/// Where a run stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// It waits for permits.
    Queued { since: Timestamp, why: Wait },
    /// An attempt is under way, with these permits.
    Running { since: Timestamp, claim: Claim },
    /// It waits to be tried again, at this monotonic time.
    Waiting { until: Duration, at: Timestamp },
}

impl Phase {
    pub(super) const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// A run that has not ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: JobName,
    pub(super) trigger: Trigger,
    pub(super) phase: Phase,
    /// Attempts made, with the one under way.
    pub(super) attempts: u32,
    /// Further requests that its end answers.
    joined: Vec<RequestId>,
    /// There will be no retry: it was cancelled, or its job withdrawn.
    pub(super) last_attempt: bool,
    place: u64,
    only: Option<BTreeSet<Target>>,
    /// How the attempts that ended went together.
    verdict: Option<Verdict>,
}

/// How a run stands after another attempt. A retry has only the targets that failed before, so
/// what an earlier attempt got done still counts when a later one fails.
const fn together(before: Option<Verdict>, attempt: Verdict) -> Verdict {
    match (before, attempt) {
        (Some(Verdict::Partial), Verdict::Failed | Verdict::Skipped) => Verdict::Partial,
        (_, attempt) => attempt,
    }
}

/// The pause after so many attempts.
fn backoff(spec: &JobSpec, attempts: u32) -> Duration {
    let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    spec.backoff.saturating_mul(factor).min(spec.backoff_max)
}

impl Planner {
    /// Whether the job has a run that was never started.
    pub(super) fn is_unstarted(&self, job: &JobName) -> bool {
        let run = self.active.get(job).and_then(|id| self.runs.get(id));
        run.is_some_and(|run| run.attempts == 0)
    }

    /// A person asks for a run.
    pub(super) fn request(
        &mut self,
        job: JobName,
        request: RequestId,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let active = self.active.get(&job).and_then(|id| self.runs.get(id));
        let refusal = match (self.life, active.map(|run| &run.phase)) {
            (Life::Draining | Life::Over, _) => Some(Refusal::ShuttingDown),
            (Life::Up, _) if !self.jobs.contains_key(&job) => Some(Refusal::UnknownJob),
            (
                Life::Up,
                Some(Phase::Queued { why: Wait::Blackout(_), .. } | Phase::Waiting { .. }),
            ) => {
                return self.take_over(&job, request, now, out);
            }
            (Life::Up, Some(Phase::Running { .. })) => Some(Refusal::AlreadyRunning),
            (Life::Up, Some(Phase::Queued { .. })) => Some(Refusal::AlreadyQueued),
            (Life::Up, None) => None,
        };
        if let Some(reason) = refusal {
            out.push(Action::Refuse { request, reason });
            return;
        }
        let run = self.enqueue(job, Trigger::Manual(request), now);
        out.push(Action::Accepted { request, run });
    }

    /// Makes the run that waits for the end of a blackout, or for its next attempt, the request's own:
    /// it waits no longer. Where another request waits for that run, its end answers both.
    fn take_over(&mut self, job: &JobName, request: RequestId, now: Now, out: &mut Vec<Action>) {
        let place = self.next_place();
        let Some(id) = self.active.get(job) else { return };
        let Some(run) = self.runs.get_mut(id) else { return };
        if run.trigger.request().is_some() {
            run.joined.push(request);
        } else {
            run.trigger = Trigger::Manual(request);
        }
        run.place = place;
        run.phase = Phase::Queued { since: now.wall, why: Wait::Turn };
        out.push(Action::Accepted { request, run: id.clone() });
    }

    /// Puts a new run of an idle job at the end of the queue.
    pub(super) fn enqueue(&mut self, job: JobName, trigger: Trigger, now: Now) -> RunId {
        let mut id = RunId::new(now.wall, self.next_random());
        while self.runs.contains_key(&id) {
            id = RunId::new(now.wall, self.next_random());
        }
        self.active.insert(job.clone(), id.clone());
        let run = Run {
            job,
            trigger,
            phase: Phase::Queued { since: now.wall, why: Wait::Turn },
            attempts: 0,
            joined: Vec::new(),
            last_attempt: false,
            place: self.next_place(),
            only: None,
            verdict: None,
        };
        self.runs.insert(id.clone(), run);
        id
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to keep ids apart.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next_place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// Puts the runs whose pause is over at the end of the queue.
    pub(super) fn take_due_retries(&mut self, now: Now) {
        let pause = |run: &Run| match run.phase {
            Phase::Waiting { until, .. } if until <= now.mono => Some(until),
            _ => None,
        };
        let mut due: Vec<(Duration, RunId)> =
            self.runs.iter().filter_map(|(id, run)| Some((pause(run)?, id.clone()))).collect();
        due.sort();
        for (_, id) in due {
            let place = self.next_place();
            if let Some(run) = self.runs.get_mut(&id) {
                run.place = place;
                run.phase = Phase::Queued { since: now.wall, why: Wait::Turn };
            }
        }
    }

    /// Starts what has its permits, in the order of the queue.
    pub(super) fn start_what_fits(&mut self, now: Now, out: &mut Vec<Action>) {
        let mut queue: Vec<(u64, RunId, Claim)> = Vec::new();
        for (id, run) in &self.runs {
            if matches!(run.phase, Phase::Queued { .. }) {
                queue.push((run.place, id.clone(), self.claim(&run.job)));
            }
        }
        queue.sort_unstable_by_key(|(place, ..)| *place);
        let mut ahead: Vec<Placed<'_>> = Vec::new();
        for (place, id, claim) in &queue {
            if let Some(until) = self.blackout_ends(id, now) {
                // It stands in nobody's way meanwhile.
                self.says(id, Wait::Blackout(until));
                continue;
            }
            let running: Vec<Placed<'_>> = self.runs.values().filter_map(Run::held).collect();
            let refusal = self.limits.refusal(&running, &ahead, claim);
            let Some(why) = refusal else {
                self.start(id, claim.clone(), now, out);
                continue;
            };
            ahead.push(Placed { place: *place, claim });
            self.says(id, why);
        }
    }

    fn says(&mut self, id: &RunId, why: Wait) {
        if let Some(Run { phase: Phase::Queued { why: said, .. }, .. }) = self.runs.get_mut(id) {
            *said = why;
        }
    }

    /// The end of the blackout that the run has to wait for. One that was asked for waits for none.
    fn blackout_ends(&self, id: &RunId, now: Now) -> Option<Timestamp> {
        let run = self.runs.get(id).filter(|run| run.trigger.request().is_none())?;
        self.jobs.get(&run.job)?.blackout_ends(now.wall)
    }

    fn claim(&self, job: &JobName) -> Claim {
        self.jobs.get(job).map_or_else(Claim::default, |job| Claim {
            servers: job.spec.servers.clone(),
            memory: job.spec.memory,
        })
    }

    fn start(&mut self, id: &RunId, claim: Claim, now: Now, out: &mut Vec<Action>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.attempts += 1;
        run.phase = Phase::Running { since: now.wall, claim };
        if run.attempts == 1
            && let Some(job) = self.jobs.get_mut(&run.job)
        {
            job.started(run.trigger.slot(), now.wall);
            let unsaved = job.unsaved();
            out.extend(unsaved.map(|memory| Action::Remember { job: run.job.clone(), memory }));
        }
        out.push(Action::Start {
            run: id.clone(),
            job: run.job.clone(),
            attempt: run.attempts,
            trigger: run.trigger.clone(),
            only: run.only.clone(),
        });
    }

    /// An attempt ended.
    pub(super) fn finished(
        &mut self,
        id: &RunId,
        verdict: Verdict,
        failed: BTreeSet<Target>,
        retry_worth: bool,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.phase.is_running()) else { return };
        run.verdict = Some(together(run.verdict, verdict));
        let spec = self.jobs.get(&run.job).map(|job| &job.spec).filter(|spec| {
            self.life == Life::Up
                && retry_worth
                && matches!(verdict, Verdict::Failed | Verdict::Partial)
                && !run.last_attempt
                && run.attempts < spec.attempts
        });
        let Some(spec) = spec else {
            self.end(id, EndCause::Finished, out);
            return;
        };
        if !failed.is_empty() {
            run.only = Some(failed);
        }
        let pause = backoff(spec, run.attempts);
        let at = plus(now.wall, pause);
        run.phase = Phase::Waiting { until: now.mono.saturating_add(pause), at };
        let (job, attempt) = (run.job.clone(), run.attempts + 1);
        out.push(Action::WillRetry { run: id.clone(), job, attempt, at });
    }

    /// A person wants the run to stop.
    pub(super) fn cancel(&mut self, id: &RunId, out: &mut Vec<Action>) {
        match self.runs.get_mut(id) {
            Some(run) if run.phase.is_running() => {
                run.last_attempt = true;
                out.push(Action::Cancel { run: id.clone() });
            }
            _ => self.end(id, EndCause::Cancelled, out),
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self, id: &RunId, cause: EndCause, out: &mut Vec<Action>) {
        let Some(run) = self.runs.remove(id) else { return };
        self.active.remove(&run.job);
        let verdict = run.verdict.unwrap_or(Verdict::Cancelled);
        let mut requests: Vec<RequestId> =
            run.trigger.request().into_iter().chain(run.joined).collect();
        if cause == EndCause::ShuttingDown && run.attempts == 0 {
            let reason = Refusal::ShuttingDown;
            out.extend(requests.drain(..).map(|request| Action::Refuse { request, reason }));
            if let Some(slot) = run.trigger.slot() {
                let reason = SkipReason::ShuttingDown;
                out.push(Action::Skip { job: run.job.clone(), reason, slot });
            }
        } else if let Some(job) = self.jobs.get_mut(&run.job) {
            job.settle();
            if run.attempts == 0 && matches!(run.trigger, Trigger::After(_)) {
                job.forget_ends();
            }
        }
        if verdict.did_something() {
            self.jobs.values_mut().for_each(|job| job.heed_end(&run.job));
        }
        out.push(Action::Ended {
            run: id.clone(),
            job: run.job,
            verdict,
            attempts: run.attempts,
            cause,
            requests,
        });
    }
}

impl Run {
    /// What it holds, while it is under way.
    fn held(&self) -> Option<Placed<'_>> {
        match &self.phase {
            Phase::Running { claim, .. } => Some(Placed { place: self.place, claim }),
            Phase::Queued { .. } | Phase::Waiting { .. } => None,
        }
    }
}
