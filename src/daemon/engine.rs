//! Carries out what the planner decides: starts attempts, keeps the journal, feeds the metrics,
//! answers who waits.
//!
//! The engine has no loop of its own. The daemon and `pgkeep run` without a daemon drive it with
//! events, and hand it the ends of attempts from [`Engine::ended`].

mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::view::RunningRun;
use crate::{
    domain::{
        failure::{Class, Failure},
        name::{JobName, RepositoryName},
        report::{Report, Verdict},
        run::{EndedRun, RequestId, RunId, Trigger},
        target::Target,
    },
    sys::{
        clock::{Clock, Now},
        task::Task,
    },
    telemetry::metrics::Metrics,
};

use super::{
    control::{Reply, ReplySender},
    journal::{Journal, RunRecord},
    notices::Notices,
    planner::{Action, EndCause, Event, JobSpec, Planner, Remembered},
    run_log,
    runner::{self, Attempt},
    table::{Configured, Table},
};

/// The end of one attempt.
#[derive(Debug)]
pub struct AttemptEnded {
    run: RunId,
    report: Report,
}

impl AttemptEnded {
    /// The repositories that it worked on.
    pub fn repositories(&self) -> impl Iterator<Item = RepositoryName> {
        self.report.targets.iter().filter_map(|report| report.target.repository.clone())
    }
}

/// A run that was started and has not ended.
#[derive(Debug)]
struct ActiveRun {
    job: Arc<Configured>,
    trigger: &'static str,
    attempts: u32,
    report: Report,
    task: Task,
    started: Now,
}

/// See the module's head.
#[derive(Debug)]
pub struct Engine {
    planner: Planner,
    table: Arc<Table>,
    journal: Journal,
    metrics: Arc<Metrics>,
    notices: Notices,
    clock: Arc<dyn Clock>,
    all: CancellationToken,
    runs: BTreeMap<RunId, ActiveRun>,
    ends: mpsc::UnboundedSender<AttemptEnded>,
    waiting: HashMap<RequestId, ReplySender>,
    by_run: HashMap<RunId, Vec<RequestId>>,
    next_request: u64,
    wake: Option<Duration>,
    exit: bool,
    changed: bool,
    /// Runs one job alone, without its schedule: what the planner would remember of it says nothing.
    alone: bool,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    pub table: Arc<Table>,
    pub journal: Journal,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    /// Makes run ids differ between processes.
    pub seed: u64,
}

impl Engine {
    /// An engine for the jobs of the table, or for the one job alone.
    pub fn new(
        parts: Parts,
        only: Option<&JobName>,
    ) -> (Self, mpsc::UnboundedReceiver<AttemptEnded>) {
        let Parts { table, journal, metrics, clock, seed } = parts;
        let (ends, ended) = mpsc::unbounded_channel();
        let mut specs = table.specs();
        if let Some(only) = only {
            // Nothing but the job itself: no schedule of its own, no job that runs after it.
            specs.retain(|spec| spec.name == *only);
            for spec in &mut specs {
                spec.schedule = None;
                spec.after.clear();
            }
        }
        let remembered = remembered(&journal, &specs);
        let planner = Planner::new(specs, table.limits(), remembered, clock.now(), seed);
        let engine = Self {
            planner,
            table,
            journal,
            notices: Notices::new(metrics.clone(), clock.clone()),
            metrics,
            clock,
            all: CancellationToken::new(),
            runs: BTreeMap::new(),
            ends,
            waiting: HashMap::new(),
            by_run: HashMap::new(),
            next_request: 0,
            wake: None,
            exit: false,
            changed: true,
            alone: only.is_some(),
        };
        engine.export();
        (engine, ended)
    }

    /// Hands the planner an event and does what it says.
    pub fn handle(&mut self, event: Event) {
        let now = self.clock.now();
        for action in self.planner.handle(event, now) {
            self.act(action, now);
        }
    }

    /// Starts a job because somebody asked; replies go to `reply`.
    pub fn trigger(&mut self, job: JobName, reply: ReplySender) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, reply);
        self.handle(Event::Trigger { job, request });
    }

    /// Takes the end of an attempt.
    pub fn ended(&mut self, ended: AttemptEnded) {
        let Some(open) = self.runs.get_mut(&ended.run) else { return };
        run_log::attempt(&open.job, open.attempts, &ended.report);
        open.report.merge(ended.report);
        let retry_worth = open.report.failures().any(|failure| failure.class.is_worth_a_retry());
        let failed: BTreeSet<Target> = if open.report.failure.is_some() {
            BTreeSet::new()
        } else {
            open.report.failed().map(|(target, _)| target.clone()).collect()
        };
        let verdict = open.report.verdict();
        self.handle(Event::Finished { run: ended.run, verdict, failed, retry_worth });
    }

    fn act(&mut self, action: Action, now: Now) {
        match action {
            Action::Start { run, job, attempt, trigger, only } => {
                self.start(run, &job, attempt, &trigger, only, now);
            }
            Action::WillRetry { run, job, attempt, at } => {
                tracing::info!(%job, %run, next_attempt = attempt, %at, "will be tried again");
                self.metrics.run_retried(&job);
            }
            // Who waits for the run is known from its acceptance.
            Action::Ended { run, job, verdict, cause, .. } => {
                self.end(&run, &job, verdict, cause, now);
            }
            Action::Accepted { request, run } => {
                self.reply(request, Reply::Accepted { run: run.to_string() });
                self.by_run.entry(run).or_default().push(request);
            }
            Action::Refuse { request, reason } => {
                self.reply(request, Reply::Refused { reason: reason.to_string() });
                self.waiting.remove(&request);
            }
            Action::Skip { job, reason, slot } => {
                tracing::warn!(%job, %reason, %slot, "a run was left out");
                self.metrics.run_skipped(&job, reason.as_str());
            }
            Action::Remember { .. } if self.alone => {}
            Action::Remember { job, memory } => self.remember(&job, Some(&memory)),
            Action::Forget { job } => self.remember(&job, None),
            Action::CancelAll => self.all.cancel(),
            Action::Cancel { run } => {
                if let Some(open) = self.runs.get(&run) {
                    open.task.cancel.cancel();
                }
            }
            Action::WakeAt(at) => {
                self.wake = Some(at);
                return;
            }
            Action::Exit => self.exit = true,
        }
        self.changed = true;
    }

    fn remember(&self, job: &JobName, memory: Option<&Remembered>) {
        let stored = serde_json::to_value(memory)
            .map_err(|error| Failure::from_error(Class::Internal, "remember a schedule", &error))
            .and_then(|memory| self.journal.remember(job, memory));
        if let Err(failure) = stored {
            run_log::failure(&failure, "cannot keep the schedule's state");
        }
    }

    fn start(
        &mut self,
        run: RunId,
        name: &JobName,
        attempt: u32,
        trigger: &Trigger,
        only: Option<BTreeSet<Target>>,
        now: Now,
    ) {
        let known = self.runs.get(&run).map(|open| open.job.clone());
        let Some(job) = known.or_else(|| self.table.jobs.get(name).cloned()) else {
            // Unreachable as long as planner and table are swapped together.
            tracing::error!(job = %name, "the planner started a job that is not configured");
            return;
        };
        if attempt == 1 {
            self.record_start(&run, &job, trigger, now);
        }
        let open = self.runs.entry(run.clone()).or_insert_with(|| ActiveRun {
            job,
            trigger: trigger.as_str(),
            attempts: attempt,
            report: Report::default(),
            task: runner::task_of(&self.all, self.clock.clone()),
            started: now,
        });
        open.attempts = attempt;
        tracing::info!(job = %name, %run, attempt, trigger = trigger.as_str(), "starts");
        let attempt = Attempt {
            run: run.clone(),
            job: open.job.clone(),
            number: attempt,
            only,
            earlier: open.report.clone(),
            dry_run: false,
            task: open.task.clone(),
            scratch_root: self.scratch_root(),
        };
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let report = attempt.run().await;
            // The engine is gone only when the process ends.
            drop(ends.send(AttemptEnded { run, report }));
        });
    }

    fn record_start(&self, run: &RunId, job: &Configured, trigger: &Trigger, now: Now) {
        let name = &job.common.name;
        let (kind, trigger) = (job.kind.name, trigger.as_str());
        let record = RunRecord::started(name, kind, run.to_string(), trigger, now.wall);
        // A backup is worth more than its line in the journal: the run goes on.
        if let Err(failure) = self.journal.start(record) {
            run_log::failure(&failure, "cannot record the start of a run");
        }
        self.metrics.run_started(name, now.wall);
        self.notices.started(&self.table, job, run.as_str(), now.wall);
    }

    fn scratch_root(&self) -> PathBuf {
        self.table.daemon.state_dir.join("scratch")
    }

    fn end(&mut self, run: &RunId, job: &JobName, verdict: Verdict, cause: EndCause, now: Now) {
        let report = if let Some(open) = self.runs.remove(run) {
            self.close(run, open, verdict, now)
        } else {
            tracing::info!(%job, %run, ?cause, "ended before it started");
            Report::default()
        };
        for request in self.by_run.remove(run).unwrap_or_default() {
            let (run, report) = (run.to_string(), Box::new(report.clone()));
            self.reply(request, Reply::Ended { run, verdict, report });
            self.waiting.remove(&request);
        }
    }

    fn close(&mut self, run: &RunId, open: ActiveRun, verdict: Verdict, now: Now) -> Report {
        let job = &open.job.common.name;
        let took = now.mono.saturating_sub(open.started.mono).as_millis();
        let ended = EndedRun {
            run: run.to_string(),
            trigger: open.trigger.to_owned(),
            started: open.started.wall,
            ended: now.wall,
            took: Duration::from_millis(u64::try_from(took).unwrap_or(u64::MAX)),
            verdict,
            attempts: open.attempts,
            report: open.report,
        };
        run_log::end(job, &ended);
        self.metrics.run_ended(job, &ended);
        let previous = self.journal.job(job).last_verdict;
        self.notices.ended(&self.table, &self.journal, &open.job, &ended, previous);
        if let Err(failure) = self.journal.end(job, &ended) {
            run_log::failure(&failure, "cannot record the end of a run");
        }
        ended.report
    }

    fn reply(&self, request: RequestId, reply: Reply) {
        if let Some(sender) = self.waiting.get(&request) {
            // Who does not read its replies, or went away, does not hold up the engine.
            sender.send(reply);
        }
    }

    /// Tells everybody who waits how far the runs are.
    pub fn report_progress(&self) {
        if self.by_run.is_empty() {
            return;
        }
        for planned in self.planner.status() {
            let Some((run, stage, bytes)) = self.progress(&planned.state) else { continue };
            for request in self.by_run.get(run).into_iter().flatten() {
                self.reply(*request, Reply::Progress { stage: stage.clone(), bytes });
            }
        }
    }

    /// Runs on another table from now on; what runs already keeps what it has.
    pub fn swap(&mut self, table: Arc<Table>) {
        self.table = table;
        self.handle(Event::Reloaded(self.table.specs(), self.table.limits()));
        self.export();
    }

    /// Brings what only the planner knows up to date in the metrics.
    pub fn export(&self) {
        for status in self.planner.status() {
            self.metrics.next_run(&status.name, status.next);
        }
    }

    /// Tries again to write what the disk did not take.
    pub fn flush(&self) {
        if let Err(failure) = self.journal.flush() {
            run_log::failure(&failure, "cannot write the journal");
        }
        self.notices.settle(&self.journal);
    }

    /// Tells of runs that a killed process left behind.
    pub fn tell_interrupted(&self, runs: &[RunRecord]) {
        self.notices.interrupted(&self.table, &self.journal, runs);
    }

    /// Sends the notifications that wait, for a few seconds at most.
    pub async fn close_notices(&self) {
        self.notices.close(&self.journal).await;
    }
}

/// What the journal keeps for the planner.
fn remembered(journal: &Journal, specs: &[JobSpec]) -> BTreeMap<JobName, Remembered> {
    let mut remembered = BTreeMap::new();
    for spec in specs {
        let Some(memory) = journal.job(&spec.name).memory.filter(|memory| !memory.is_null()) else {
            continue;
        };
        match serde_json::from_value(memory) {
            Ok(memory) => {
                remembered.insert(spec.name.clone(), memory);
            }
            Err(error) => {
                tracing::warn!(job = %spec.name, %error, "the schedule's state cannot be read: begins anew");
            }
        }
    }
    remembered
}
