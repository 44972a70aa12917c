//! One attempt of a run: limits, cancellation, and whatever a job may do wrong, made a report.
//!
//! The runner cancels by token and then awaits; it never drops a job. A job that ignores its token
//! holds the run open, and `status` shows it.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        failure::{Class, Failure},
        finding::Finding,
        name::ServerName,
        report::{Outcome, Report, TargetReport},
        run::RunId,
        target::Target,
    },
    jobs::RunContext,
    sys::{clock::Clock, files, task::Task},
};

use super::table::Configured;

/// How often the limits are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// One attempt.
#[derive(Debug)]
pub struct Attempt {
    pub run: RunId,
    /// The job as it was when the run started.
    pub job: Arc<Configured>,
    /// Counted from 1.
    pub number: u32,
    /// The targets to do; none: all.
    pub only: Option<BTreeSet<Target>>,
    pub earlier: Report,
    pub dry_run: bool,
    pub task: Task,
    /// The folder in which the attempt gets its private folder.
    pub scratch_root: PathBuf,
}

impl Attempt {
    /// Runs it to its end.
    pub async fn run(self) -> Report {
        let scratch = self.scratch_root.join(self.run.to_string());
        if let Err(error) = files::create_private_dir_all(&scratch) {
            let doing = format!("make the scratch folder of {}", self.job.common.name);
            return Report::from_failure(Failure::from_error(Class::State, doing, &error));
        }
        let name = self.job.common.name.clone();
        let report = self.watched(scratch.clone()).await;
        if let Err(error) = std::fs::remove_dir_all(&scratch) {
            tracing::warn!(job = %name, %error, "cannot remove the scratch folder");
        }
        report
    }

    async fn watched(self, scratch: PathBuf) -> Report {
        let cx = RunContext {
            task: self.task.child(),
            run: self.run.clone(),
            attempt: self.number,
            only: self.only.clone(),
            earlier: self.earlier.clone(),
            dry_run: self.dry_run,
            max_age: self.job.max_age,
            scratch,
        };
        let task = cx.task.clone();
        let job = self.job.job.clone();
        let mut running = tokio::spawn(async move { job.run(&cx).await });
        let started = task.clock.now().mono;
        let mut limit: Option<Failure> = None;
        let result = loop {
            tokio::select! {
                result = &mut running => break result,
                // What is being cancelled, for whatever reason, has no limits left to exceed.
                () = tokio::time::sleep(WATCH_INTERVAL), if !task.cancel.is_cancelled() => {
                    limit = self.exceeded(started, &task).filter(|_| !task.cancel.is_cancelled());
                    if limit.is_some() {
                        task.cancel.cancel();
                    }
                }
            }
        };
        let report = match result {
            Ok(Ok(report)) => of_its_server(report, &self.job.job.servers()),
            Ok(Err(failure)) => self.before_any_target(failure),
            Err(error) => Report::from_failure(self.panicked(&error)),
        };
        match limit {
            Some(limit) => because_of(report, &limit),
            None => report,
        }
    }

    fn panicked(&self, error: &JoinError) -> Failure {
        let doing = format!("run job {}", self.job.common.name);
        Failure::from_error(Class::Internal, doing, error)
    }

    /// The limit that it has exceeded; `started` in monotonic time.
    fn exceeded(&self, started: Duration, task: &Task) -> Option<Failure> {
        let common = &self.job.common;
        let (stall, now) = (common.stall_timeout, task.clock.now().mono);
        let time_limit = common.time_limit.unwrap_or(self.job.kind.time_limit);
        let doing = || format!("run job {}: {}", common.name, task.progress.stage());
        if task.progress.silence(now) >= stall {
            let what = format!("nothing came for {} seconds", stall.as_secs());
            let hint = "what does it wait for? Look at pg_stat_activity on the server, or at the folder that it reads; \
                        stall_timeout sets the limit";
            return Some(Failure::new(Class::Stalled, doing(), what).hint(hint));
        }
        if now.saturating_sub(started) < time_limit {
            return None;
        }
        let what =
            format!("it took longer than its time limit of {} seconds", time_limit.as_secs());
        let hint = "what does it wait for? Look at pg_stat_activity on the server; time_limit sets the limit";
        Some(Failure::new(Class::TimeLimit, doing(), what).hint(hint))
    }

    fn before_any_target(&self, failure: Failure) -> Report {
        if failure.class == Class::Interrupted && self.task.cancel.is_cancelled() {
            return cancelled();
        }
        Report::from_failure(failure)
    }
}

/// What a job of one server found is about that server, unless it names something else.
fn of_its_server(mut report: Report, servers: &[ServerName]) -> Report {
    if let [server] = servers {
        let server = Target::server(server);
        let found = std::mem::take(&mut report.findings).into_iter();
        let named =
            |it: Finding| if it.target.repository.is_none() { it.within(&server) } else { it };
        report.findings = found.map(named).collect();
    }
    report
}

/// A report of a run that was cancelled before it had targets.
pub fn cancelled() -> Report {
    let target = TargetReport::new(Target::default(), Outcome::Cancelled);
    Report { targets: vec![target], ..Report::default() }
}

/// What was cancelled because a limit was exceeded has failed for that reason.
fn because_of(mut report: Report, limit: &Failure) -> Report {
    for target in &mut report.targets {
        if let Outcome::Cancelled = target.outcome {
            target.outcome = Outcome::Failed(limit.clone());
        }
    }
    let interrupted = |failure: &Failure| failure.class == Class::Interrupted;
    if report.failure.as_ref().is_some_and(interrupted) || report.targets.is_empty() {
        report.failure = Some(limit.clone());
    }
    report
}

/// A task for a run: cancelled with `all`, or alone.
pub fn task_of(all: &CancellationToken, clock: Arc<dyn Clock>) -> Task {
    Task::new(clock).cancelled_by(all.child_token())
}
