//! The series of jobs: made when jobs are configured, moved by what happens to their runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::PoisonError,
    time::Duration,
};

use jiff::Timestamp;

use super::{Metrics, builtin, seconds};
use crate::domain::{
    finding::Finding,
    job_memory::JobMemory,
    metric::MetricKind,
    name::{JobName, RepositoryName},
    report::{Sample, Verdict},
    run::EndedRun,
};

/// A job that is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSeries {
    pub name: JobName,
    pub kind: String,
    pub max_age: Option<Duration>,
    /// Whether it runs only when it is asked to.
    pub paused: bool,
    /// Since when it has been configured, as far as it is remembered.
    pub configured_at: Timestamp,
}

impl Metrics {
    /// Makes the series of the jobs and repositories that are configured now, and removes those
    /// of what is no longer. Values of what stays are kept; a job that changed its kind begins
    /// anew.
    pub fn configure(&self, jobs: &[JobSeries], repositories: &[RepositoryName]) {
        let mut known = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        *known = jobs.iter().map(|job| (job.name.clone(), job.clone())).collect();
        for (name, family) in &self.families {
            if family.desc().labels.first() == Some(&"job_name") || self.declared.contains(name) {
                family.retain(|labels| {
                    known.get(labels[0].as_str()).is_some_and(|job| job.kind == labels[1])
                });
            }
        }
        let repositories: BTreeSet<&str> =
            repositories.iter().map(RepositoryName::as_str).collect();
        self.configure_repositories(&repositories);
        for job in known.values() {
            self.create(job);
        }
    }

    fn create(&self, job: &JobSeries) {
        let base: [&dyn Display; 2] = [&job.name, &job.kind];
        self.set(&builtin::JOB_CONFIGURED, base, seconds(job.configured_at));
        self.set(&builtin::JOB_PAUSED, base, f64::from(u8::from(job.paused)));
        match job.max_age {
            Some(age) => self.set(&builtin::JOB_MAX_AGE, base, age.as_secs_f64()),
            None => {
                self.retain(builtin::JOB_MAX_AGE.0.name, |labels| labels[0] != job.name.as_str());
            }
        }
        for desc in [
            &builtin::JOB_LAST_SUCCESS,
            &builtin::JOB_LAST_COMPLETION,
            &builtin::JOB_LAST_DURATION,
            &builtin::JOB_RUNNING_SINCE,
            &builtin::JOB_NEXT_RUN,
            &builtin::JOB_RETRIES,
        ] {
            self.ensure(desc, base);
        }
        for verdict in Verdict::ALL {
            self.ensure(&builtin::JOB_RUNS, [&job.name, &job.kind, verdict]);
        }
        for reason in self.skip_reasons {
            self.ensure(&builtin::JOB_SKIPS, [&job.name, &job.kind, reason]);
        }
    }

    /// Runs `change` with the job's labels, unless the job is no longer configured. No scrape sees
    /// half of the change.
    fn with_job(&self, name: &JobName, change: impl FnOnce(&JobSeries)) {
        let jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = jobs.get(name) {
            change(job);
        }
    }

    /// Sets what is remembered of a job from before the process started. Call it after
    /// [`Metrics::configure`].
    pub fn restore(&self, name: &JobName, past: &JobMemory) {
        self.with_job(name, |job| {
            for (desc, at) in [
                (&builtin::JOB_LAST_SUCCESS, past.last_success),
                (&builtin::JOB_LAST_COMPLETION, past.last_completion),
            ] {
                if let Some(at) = at {
                    self.set(desc, [&job.name, &job.kind], seconds(at));
                }
            }
            if let Some(duration) = past.last_duration() {
                self.set(
                    &builtin::JOB_LAST_DURATION,
                    [&job.name, &job.kind],
                    duration.as_secs_f64(),
                );
            }
            self.ended_in(job, &past.targets);
            let gauges = past
                .samples
                .iter()
                .filter(|sample| self.kind_of(&sample.metric).is_some_and(MetricKind::is_gauge));
            gauges.for_each(|sample| self.take_sample(job, sample));
            self.found(job, &past.findings, true);
        });
    }

    /// A run was started.
    pub fn run_started(&self, name: &JobName, at: Timestamp) {
        self.with_job(name, |job| {
            self.set(&builtin::JOB_RUNNING_SINCE, [&job.name, &job.kind], seconds(at));
        });
    }

    /// A run makes another attempt.
    pub fn run_retried(&self, name: &JobName) {
        self.with_job(name, |job| self.add(&builtin::JOB_RETRIES, [&job.name, &job.kind], 1.0));
    }

    /// A run was due and not started; `reason` is one of those of the setup.
    pub fn run_skipped(&self, name: &JobName, reason: &str) {
        self.with_job(name, |job| {
            self.add(&builtin::JOB_SKIPS, [&job.name, &job.kind, &reason], 1.0);
        });
    }

    /// When the schedule will start the job next.
    pub fn next_run(&self, name: &JobName, at: Option<Timestamp>) {
        self.with_job(name, |job| {
            self.set(&builtin::JOB_NEXT_RUN, [&job.name, &job.kind], at.map_or(0.0, seconds));
        });
    }

    /// A run ended. An interrupted, cancelled or skipped one sets neither the last success nor the last
    /// completion, and brings no samples.
    pub fn run_ended(&self, name: &JobName, run: &EndedRun) {
        self.with_job(name, |job| {
            self.set(&builtin::JOB_RUNNING_SINCE, [&job.name, &job.kind], 0.0);
            self.add(&builtin::JOB_RUNS, [&job.name, &job.kind, &run.verdict], 1.0);
            for failure in run.report.failures() {
                self.add(&builtin::JOB_FAILURES, [&job.name, &job.kind, &failure.class], 1.0);
            }
            if run.verdict.completes() {
                self.completed(job, run);
            }
        });
    }

    fn completed(&self, job: &JobSeries, run: &EndedRun) {
        self.set(&builtin::JOB_LAST_COMPLETION, [&job.name, &job.kind], seconds(run.ended));
        if run.verdict == Verdict::Succeeded {
            self.set(&builtin::JOB_LAST_SUCCESS, [&job.name, &job.kind], seconds(run.ended));
        }
        self.set(&builtin::JOB_LAST_DURATION, [&job.name, &job.kind], run.took.as_secs_f64());
        self.ended_in(job, &run.report.target_counts());
        let looked = run.verdict.did_something();
        self.found(job, &run.report.findings, looked);
        self.sampled(job, &run.report.samples, looked);
    }

    fn ended_in(&self, job: &JobSeries, targets: &BTreeMap<String, u64>) {
        for (state, count) in targets {
            self.set(&builtin::JOB_LAST_TARGETS, [&job.name, &job.kind, &state], *count as f64);
        }
    }

    /// Findings of a run that did something replace those of the run before; one that failed
    /// altogether has not looked, so that nothing is taken for healed.
    fn found(&self, job: &JobSeries, findings: &[Finding], looked: bool) {
        let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for finding in findings {
            *counts.entry((&finding.check, finding.severity.as_str())).or_default() += 1;
        }
        if looked {
            self.retain(builtin::FINDINGS.0.name, |labels| labels[0] != job.name.as_str());
        }
        for ((check, severity), count) in counts {
            self.set(
                &builtin::FINDINGS,
                [&job.name, &job.kind, &check, &severity],
                f64::from(count),
            );
        }
    }

    fn sampled(&self, job: &JobSeries, samples: &[Sample], looked: bool) {
        let fresh: BTreeSet<(&str, &[String])> =
            samples.iter().map(|s| (s.metric.as_str(), s.labels.as_slice())).collect();
        for name in &self.declared {
            if self.kind_of(name).is_some_and(|kind| !kind.stays(looked)) {
                self.retain(name, |labels| {
                    labels[0] != job.name.as_str() || fresh.contains(&(*name, &labels[2..]))
                });
            }
        }
        for sample in samples {
            self.take_sample(job, sample);
        }
    }

    fn take_sample(&self, job: &JobSeries, sample: &Sample) {
        let Some(kind) = self.kind_of(&sample.metric) else {
            tracing::error!(metric = sample.metric, "no job kind declares it: please report this");
            return;
        };
        let mut labels = super::values([&job.name, &job.kind]);
        labels.extend(sample.labels.iter().cloned());
        self.take(&sample.metric, |family| match kind {
            MetricKind::Counter => family.add(labels, sample.value),
            _ => family.set(labels, sample.value),
        });
    }
}
