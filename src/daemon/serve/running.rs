//! The daemon while it runs: one loop that hears everything, and what each thing that it hears does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{
    backup::acknowledge::Order,
    domain::{
        failure::{Class, Failure},
        name::JobName,
    },
    sys::{
        clock::Clock,
        lock::{Held, StateLock},
        time_limits,
    },
    telemetry::{http::Health, logging::LogHandle, metrics::Metrics},
};

use super::{
    super::{
        acknowledge,
        control::{ControlRequest, Reply, Request},
        engine::{AttemptEnded, Engine},
        planner::Event,
        receivers,
        reload::{self, Refused},
        signals::{self, Signal, SignalStream},
        status::{self, Status},
        systemd::{ServiceManager, Watchdog},
        table::{Ground, Table},
        watch::Watch,
    },
    DRAIN_MARGIN, Requests, Servers, end_within, series,
};

/// How often who waits for a run hears how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// The planner is asked at least so often, whatever the heartbeat does.
const WAKE_MAX: Duration = Duration::from_secs(30);
/// How often the state directory is looked at.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// A heartbeat that is this late has stopped; the timer of the select loop stands behind it.
const BEAT_LATE: Duration = Duration::from_secs(30);

/// The daemon while it runs.
pub(super) struct Daemon {
    pub(super) config: PathBuf,
    pub(super) ground: Ground,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) engine: Engine,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) notifier: ServiceManager,
    pub(super) watchdog: Option<Watchdog>,
    pub(super) log: LogHandle,
    pub(super) last_beat: Duration,
    pub(super) last_guard: Duration,
    pub(super) last_reload: Option<String>,
    /// When the end began, in monotonic time.
    pub(super) draining: Option<Duration>,
    pub(super) lock: StateLock,
    pub(super) watch: Watch,
}

impl Daemon {
    /// The only select loop.
    pub(super) async fn run(
        &mut self,
        signals: &mut SignalStream,
        requests: &mut Requests,
        beats: &mut mpsc::Receiver<()>,
        ended: &mut mpsc::UnboundedReceiver<AttemptEnded>,
        servers: &mut Servers,
    ) -> Result<(), Failure> {
        let mut died = Ok(());
        let mut progress = tokio::time::interval(time_limits::limit(PROGRESS_INTERVAL));
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A tick pings if the last ping is a quarter of the limit ago: two of these.
        let longest = self.watchdog.as_ref().map_or(WAKE_MAX, |dog| WAKE_MAX.min(dog.every() / 4));
        while !self.engine.is_done() {
            let now = self.clock.now().mono;
            let wake = self.engine.wake().map_or(longest, |at| at.saturating_sub(now)).min(longest);
            let left = self.left_to_drain(now);
            if left.is_some_and(|left| left.is_zero()) {
                return Err(self.hangs());
            }
            let wake = left.map_or(wake, |left| wake.min(left));
            tokio::select! {
                biased;
                signal = signals.next() => self.signal(signal),
                Some(end) = ended.recv() => {
                    self.watch.touched.add(end.repositories());
                    self.engine.ended(end);
                }
                Some(request) = requests.recv() => self.request(request),
                Some(()) = beats.recv() => {
                    self.last_beat = self.clock.now().mono;
                    self.tick();
                }
                () = tokio::time::sleep(wake) => self.tick(),
                _ = progress.tick() => self.engine.report_progress(),
                Some(server) = servers.join_next() => {
                    // Runs are never dropped in the middle, whatever the daemon ends of.
                    died = died.and(Err(server_died(&server)));
                    self.drain();
                }
            }
            self.after_each_event();
            if self.draining.is_none()
                && let Err(failure) = self.guard()
            {
                died = died.and(Err(failure));
                self.drain();
            }
        }
        died
    }

    /// Whether the state directory is still ours: at each tick, and so before each run that a schedule
    /// starts.
    fn guard(&mut self) -> Result<(), Failure> {
        let now = self.clock.now().mono;
        if now.saturating_sub(self.last_guard) < GUARD_INTERVAL {
            return Ok(());
        }
        self.last_guard = now;
        match self.lock.check() {
            Ok(Held::Still) => Ok(()),
            Ok(Held::Again) => {
                tracing::warn!(
                    "the lock of the state directory was removed while this daemon held it; it was made anew"
                );
                Ok(())
            }
            Err(error) => {
                let failure = Failure::from_error(Class::State, "keep the state directory", &error)
                    .hint("stop the daemon before the state directory is moved or removed");
                tracing::error!(hint = failure.hint, "{failure}; the daemon ends");
                Err(failure)
            }
        }
    }

    /// How long the runs still have to end, once the daemon is being stopped.
    fn left_to_drain(&self, now: Duration) -> Option<Duration> {
        let limit = self.engine.table().daemon.grace + time_limits::limit(DRAIN_MARGIN);
        self.draining.map(|since| limit.saturating_sub(now.saturating_sub(since)))
    }

    /// What did not end. The next start finds it under way, and marks it.
    fn hangs(&self) -> Failure {
        let runs = self.engine.running();
        let what: Vec<_> = runs.iter().map(|run| format!("{} ({})", run.job, run.stage)).collect();
        let what = format!("these runs did not end in time, and are left: {}", what.join(", "));
        Failure::new(Class::Interrupted, "stop the daemon", what)
            .hint("does a filesystem hang? The next start marks them as interrupted, and clears up")
    }

    pub(super) fn tick(&mut self) {
        self.engine.handle(Event::Tick);
        let now = self.clock.now();
        if now.mono.saturating_sub(self.last_beat) > BEAT_LATE {
            self.last_beat = now.mono;
            self.metrics.heartbeat_missed();
        }
        self.metrics.planner_ticked(now.wall);
        self.engine.export();
        self.engine.flush();
        self.health.planner_ticked();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.tick(now, &self.notifier);
        }
        if self.draining.is_some() {
            self.notifier.extend_timeout(WAKE_MAX * 2);
            return;
        }
        self.watch.tick(now.mono, self.engine.table());
    }

    fn signal(&mut self, signal: Option<Signal>) {
        match signal {
            Some(Signal::Reload) => {
                // What came of it is logged, exported, and shown by the notifier.
                drop(self.reload());
            }
            Some(Signal::Dump) => tracing::info!(status = ?self.status(), "status"),
            Some(Signal::ToggleDebug) => match self.log.toggle_debug() {
                Ok(on) => tracing::info!(debug = on, "the level of the log was changed"),
                Err(error) => tracing::warn!(%error, "cannot change the level of the log"),
            },
            Some(Signal::Terminate | Signal::Interrupt) | None => self.drain(),
        }
    }

    fn drain(&mut self) {
        if self.draining.is_some() {
            return;
        }
        tracing::info!("stopping: running jobs are cancelled; a second signal kills at once");
        self.draining = Some(self.clock.now().mono);
        self.health.set_ready(false);
        self.notifier.stopping("cancelling what runs");
        self.engine.handle(Event::Drain);
    }

    /// Reads the configuration again.
    fn reload(&mut self) -> Result<usize, Refused> {
        if self.draining.is_some() {
            let summary = "the daemon is being stopped".to_owned();
            tracing::info!("reload refused: {summary}");
            return Err(Refused { text: format!("error: {summary}\n"), summary });
        }
        self.notifier.reloading();
        let now = self.clock.now().wall;
        let ground = Ground { now, ..self.ground.clone() };
        let result = match reload::reload(&self.config, &ground, self.engine.table()) {
            Ok(table) => Ok(self.swap(table, now)),
            Err(refused) => {
                self.metrics.config_loaded(now, false);
                tracing::error!(
                    "reload refused, the old configuration runs on: {}",
                    refused.summary
                );
                self.last_reload = Some(refused.summary.clone());
                Err(refused)
            }
        };
        self.notifier.ready(&self.status_line());
        result
    }

    fn swap(&mut self, table: Table, now: Timestamp) -> usize {
        let jobs = table.jobs.len();
        series::configure(&self.metrics, &table, self.engine.journal(), now);
        if let Err(error) = self.log.set_level(table.daemon.log_level) {
            tracing::warn!(%error, "cannot change the level of the log");
        }
        signals::set_end(end_within(table.daemon.grace));
        self.engine.swap(Arc::new(table));
        self.metrics.config_loaded(now, true);
        self.last_reload = None;
        self.watch.everything();
        tracing::info!(jobs, "the configuration was read again");
        jobs
    }

    fn request(&mut self, request: ControlRequest) {
        let ControlRequest { request, reply, uid } = request;
        let answer = match request {
            Request::Run { job } => {
                self.engine.trigger(job, reply);
                return;
            }
            Request::Acknowledge { words, repository } => {
                let by = acknowledge::by(uid, self.clock.now().wall);
                let order = Order { words, repository, by };
                acknowledge::start(self.engine.table(), order, self.watch.touched.clone(), reply);
                return;
            }
            Request::Notify { name } => {
                let now = self.clock.now().wall;
                receivers::start_test(&self.engine.table().notifiers, name, now, reply);
                return;
            }
            Request::Cancel { job } => self.cancel(&job),
            Request::Status => json(&self.status()).map_or_else(Reply::Failed, Reply::Status),
            Request::Reload => match self.reload() {
                Ok(1) => Reply::Done("1 job".to_owned()),
                Ok(jobs) => Reply::Done(format!("{jobs} jobs")),
                // Not `Refused`: that says that the caller may not ask.
                Err(refused) => {
                    Reply::Failed(Failure::new(Class::Configuration, "reload", refused.text))
                }
            },
        };
        reply.send(answer);
    }

    fn cancel(&mut self, job: &JobName) -> Reply {
        let running = self.engine.running();
        let Some(run) = running.into_iter().find(|run| run.job == *job) else {
            return Reply::Refused { reason: format!("job {job} is not running") };
        };
        let text = format!("run {} of {job} is being cancelled", run.run);
        self.engine.handle(Event::CancelRun(run.run));
        Reply::Done(text)
    }

    fn status(&self) -> Status {
        let seen = self.watch.unprotected.seen();
        let in_part = seen.iter().filter(|(_, it)| !it.in_part.is_empty());
        let in_part = in_part.map(|(name, it)| (name.clone(), it.in_part.clone()));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            stopping: self.draining.is_some(),
            reload_refused: self.last_reload.clone(),
            running: self.engine.running(),
            in_part: in_part.collect(),
            unprotected: seen.into_iter().map(|(name, it)| (name, it.none)).collect(),
            suspicious: self.watch.suspicious.seen(),
            jobs: status::jobs(&self.engine),
        }
    }

    pub(super) fn status_line(&self) -> String {
        let running = self.engine.running();
        let names: Vec<_> = running.iter().map(|run| run.job.to_string()).collect();
        let mut line = match names.len() {
            0 => match self.engine.table().jobs.len() {
                1 => "1 job, none running".to_owned(),
                jobs => format!("{jobs} jobs, none running"),
            },
            _ => format!("running {}", names.join(", ")),
        };
        if let Some(refused) = &self.last_reload {
            line = format!("{line}; last reload refused: {refused}");
        }
        line
    }

    fn after_each_event(&mut self) {
        if self.engine.take_changed() {
            self.notifier.status(&self.status_line());
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::from_error(Class::Internal, "answer", &error))
}

fn server_died(server: &Result<&'static str, tokio::task::JoinError>) -> Failure {
    let what = match server {
        Ok(name) => format!("the {name} ended"),
        Err(error) => format!("a server ended: {error}"),
    };
    Failure::new(Class::Internal, "run the daemon", what)
}
