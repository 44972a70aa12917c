//! A new configuration takes the place of the old one.

use std::collections::BTreeMap;

use super::{
    Life, Planner,
    event::{Action, EndCause},
    job::Job,
    spec::{JobSpec, Limits},
};
use crate::{
    domain::{name::JobName, run::RunId},
    sys::clock::Now,
};

impl Planner {
    pub(super) fn reload(
        &mut self,
        specs: Vec<JobSpec>,
        limits: Limits,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if self.life != Life::Up {
            return;
        }
        self.limits = limits;
        let mut old: BTreeMap<JobName, Job> = std::mem::take(&mut self.jobs);
        for spec in specs {
            let name = spec.name.clone();
            let job = match old.remove(&name) {
                Some(job) => job.reloaded(spec, now.wall),
                None => Job::new(spec, None, now.wall),
            };
            self.jobs.insert(name, job);
        }
        for run in self.withdrawn() {
            self.withdraw(&run, out);
        }
        out.extend(old.into_keys().map(|job| Action::Forget { job }));
    }

    /// Runs whose job is gone, or disabled without a person having asked for the run.
    fn withdrawn(&self) -> Vec<RunId> {
        let stays = |job: &JobName, run: &RunId| {
            let asked_for = self.runs.get(run).is_some_and(|run| run.trigger.request().is_some());
            self.jobs.get(job).is_some_and(|job| job.spec.enabled || asked_for)
        };
        let gone = self.active.iter().filter(|(job, run)| !stays(job, run));
        gone.map(|(_, run)| run.clone()).collect()
    }

    /// Ends a run that waits; lets one under way end, without another attempt.
    fn withdraw(&mut self, id: &RunId, out: &mut Vec<Action>) {
        match self.runs.get_mut(id) {
            Some(run) if run.phase.is_running() => run.last_attempt = true,
            _ => self.end(id, EndCause::Withdrawn, out),
        }
    }
}
