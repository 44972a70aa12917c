//! The daemon's life: start, the one select loop, the orderly end.
//!
//! Everything long-lived is started here and waited for here; any of it ending early is fatal, and
//! named. READY is said only when signals are taken and both sockets listen.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::acknowledge::Order,
    config::LogLevel,
    domain::{
        failure::{Class, Failure},
        name::{JobName, RepositoryName},
        run::SkipReason,
    },
    sys::{clock::Clock, files, host},
    telemetry::{
        http::{self, Health, Served},
        logging::LogHandle,
        metrics::{DATNAME_CAP_DEFAULT, JobPast, JobSeries, Metrics, Setup},
    },
};

use super::{
    acknowledge,
    control::{ControlRequest, ControlServer, Reply, Request, SOCKET_NAME},
    engine::{AttemptEnded, Engine, Parts},
    ground::StateDir,
    heartbeat::Heartbeat,
    journal::{Journal, RunRecord},
    notify::{Notifier, Watchdog},
    planner::Event,
    protection,
    reload::{self, Refused},
    signals::{Signal, SignalStream},
    status::{self, Status},
    table::{Ground, Table},
    watch::Watch,
};

/// Where, in the runtime folder, the address of the listener is written.
pub(super) const ADDRESS_FILE: &str = "http.addr";
/// How often who waits for a run hears how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// The planner is asked at least so often, whatever the heartbeat does.
const WAKE_MAX: Duration = Duration::from_secs(30);
/// Without a tick of the planner for so long, `/healthz` says that the daemon hangs.
const PLANNER_SILENCE_MAX: Duration = Duration::from_mins(2);
/// A heartbeat that is this late has stopped; the timer of the select loop stands behind it.
const BEAT_LATE: Duration = Duration::from_secs(30);
/// Runs of a job that are searched for the last one that did something: its findings stand until
/// another looks.
const FINDINGS_RUNS: usize = 32;
/// Requests that wait for the loop.
const REQUESTS: usize = 64;

/// What the daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration's path, read again at each reload.
    pub config: PathBuf,
    /// What was built from it.
    pub table: Table,
    /// The state directory.
    pub state: StateDir,
    /// What tables are built on.
    pub ground: Ground,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Changes the level of the log.
    pub log: LogHandle,
}

struct Daemon {
    config: PathBuf,
    ground: Ground,
    clock: Arc<dyn Clock>,
    engine: Engine,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    notifier: Notifier,
    watchdog: Option<Watchdog>,
    log: LogHandle,
    last_beat: Duration,
    last_reload: Option<String>,
    draining: bool,
    watch: Watch,
}

/// Runs until SIGTERM or SIGINT, and then until every run has ended.
///
/// # Errors
/// When a socket cannot be had, or something long-lived ended early.
pub async fn serve(start: Start) -> Result<(), Failure> {
    let Start { config, table, state, ground, clock, log } = start;
    let mut signals = SignalStream::new()
        .map_err(|error| Failure::from_error(Class::State, "take signals", &error))?;
    let metrics = Arc::new(metrics(&table, &state.journal, &clock)?);
    let health = Health::new(clock.clone(), PLANNER_SILENCE_MAX);
    let stop = CancellationToken::new();
    let mut servers = Servers::new();
    listen_http(&table, &metrics, &health, &stop, &mut servers).await?;
    let mut requests = listen_control(&table, &stop, &mut servers)?;
    let (heartbeat, mut beats) = Heartbeat::start()
        .await
        .map_err(|error| Failure::from_error(Class::Internal, "start the heartbeat", &error))?;
    let StateDir { journal, interrupted, lock: _lock } = state;
    let seed = host::random_u64().unwrap_or_default();
    let table = Arc::new(table);
    let parts = Parts { table, journal, metrics: metrics.clone(), clock: clock.clone(), seed };
    let (engine, mut ended) = Engine::new(parts, None);
    engine.tell_interrupted(&interrupted);
    let mut daemon = Daemon {
        config,
        ground,
        engine,
        metrics: metrics.clone(),
        health,
        notifier: Notifier::from_env(),
        watchdog: Watchdog::from_env(),
        log,
        last_beat: clock.now().mono,
        last_reload: None,
        draining: false,
        watch: Watch::new(metrics, clock.clone()),
        clock,
    };
    daemon.tick();
    daemon.health.set_ready(true);
    daemon.notifier.ready(&daemon.status_line());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    let result =
        daemon.run(&mut signals, &mut requests, &mut beats, &mut ended, &mut servers).await;
    daemon.health.set_ready(false);
    daemon.notifier.stopping("stopping");
    if let Err(error) = heartbeat.stop().await {
        tracing::debug!(%error, "the heartbeat did not stop");
    }
    stop.cancel();
    while servers.join_next().await.is_some() {}
    daemon.watch.stop().await;
    daemon.engine.close_notices().await;
    daemon.engine.flush();
    tracing::info!("stopped");
    result
}

/// The long-lived servers, each with its name.
type Servers = tokio::task::JoinSet<&'static str>;

/// The metrics with every series that the configuration and the journal know of.
fn metrics(table: &Table, journal: &Journal, clock: &Arc<dyn Clock>) -> Result<Metrics, Failure> {
    let setup = Setup {
        version: env!("CARGO_PKG_VERSION"),
        kinds: &crate::jobs::metrics(),
        skip_reasons: SkipReason::NAMES,
        datname_cap: DATNAME_CAP_DEFAULT,
    };
    let metrics = Metrics::new(&setup)
        .map_err(|error| Failure::from_error(Class::Internal, "set up metrics", &error))?;
    let now = clock.now().wall;
    configure(&metrics, table, journal, now);
    metrics.config_loaded(now, true);
    Ok(metrics)
}

/// What the journal knows of a job that has just got its series.
fn restore(metrics: &Metrics, journal: &Journal, name: &JobName) {
    let known = journal.job(name);
    let looked = |run: &RunRecord| run.end().is_some_and(|end| end.verdict.did_something());
    let looked = journal.newest(name, FINDINGS_RUNS, looked);
    let found = looked.and_then(|run| Some(run.end()?.report.findings.clone()));
    metrics.restore(
        name,
        &JobPast {
            last_success: known.last_success,
            last_completion: known.last_completion,
            last_duration: known.last_duration(),
            targets: known.targets,
            samples: known.samples,
            findings: found.unwrap_or_default(),
        },
    );
}

async fn listen_http(
    table: &Table,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    stop: &CancellationToken,
    servers: &mut Servers,
) -> Result<(), Failure> {
    let Some(listen) = table.daemon.listen else { return Ok(()) };
    let bound = http::bind(listen).await.map_err(|error| {
        Failure::from_error(Class::State, "listen for scrapes", &error)
            .hint("is another daemon running? `listen` in [daemon] sets the address")
    })?;
    let address = bound.address();
    let doing = "write the listener's address";
    let fail = |error| Failure::from_error(Class::State, doing, &error);
    files::create_private_dir_all(&table.daemon.runtime_dir).map_err(fail)?;
    let path = table.daemon.runtime_dir.join(ADDRESS_FILE);
    files::write_atomic(&path, format!("{address}\n").as_bytes(), 0o644).map_err(fail)?;
    tracing::info!(%address, "listening for scrapes");
    let served = Served { metrics: metrics.clone(), health: health.clone() };
    let stop = stop.clone();
    servers.spawn(async move {
        http::serve(bound, served, stop).await;
        "metrics listener"
    });
    Ok(())
}

type Requests = mpsc::Receiver<ControlRequest>;

fn listen_control(
    table: &Table,
    stop: &CancellationToken,
    servers: &mut Servers,
) -> Result<Requests, Failure> {
    let path = table.daemon.runtime_dir.join(SOCKET_NAME);
    let server = ControlServer::bind(&path)
        .map_err(|error| Failure::from_error(Class::State, "open the control socket", &error))?;
    let (sender, requests) = mpsc::channel(REQUESTS);
    let stop = stop.clone();
    servers.spawn(async move {
        server.serve(sender, stop).await;
        "control socket"
    });
    Ok(requests)
}

/// Makes the series of all jobs, with what the journal knows of them: a job may come back that was
/// taken out. Since when each has been configured is remembered.
fn configure(metrics: &Metrics, table: &Table, journal: &Journal, now: Timestamp) {
    let since = |name: &JobName| {
        journal.configured(name, now).unwrap_or_else(|failure| {
            tracing::warn!(%failure, "cannot remember since when a job has been configured");
            now
        })
    };
    let series: Vec<JobSeries> = table
        .jobs
        .values()
        .map(|job| JobSeries {
            name: job.common.name.clone(),
            kind: job.kind.name.to_owned(),
            max_age: job.max_age,
            configured_at: since(&job.common.name),
        })
        .collect();
    let repositories: Vec<RepositoryName> = table.repositories.keys().cloned().collect();
    metrics.configure(&series, &repositories);
    metrics.configure_servers(&protection::names(table));
    metrics.configure_notifiers(table.notifiers.keys());
    for name in table.jobs.keys() {
        restore(metrics, journal, name);
    }
}

impl Daemon {
    /// The only select loop.
    async fn run(
        &mut self,
        signals: &mut SignalStream,
        requests: &mut Requests,
        beats: &mut mpsc::Receiver<()>,
        ended: &mut mpsc::UnboundedReceiver<AttemptEnded>,
        servers: &mut Servers,
    ) -> Result<(), Failure> {
        let mut died = Ok(());
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A tick pings if the last ping is a quarter of the limit ago: two of these.
        let longest = self.watchdog.as_ref().map_or(WAKE_MAX, |dog| WAKE_MAX.min(dog.every() / 4));
        while !self.engine.is_done() {
            let now = self.clock.now().mono;
            let wake = self.engine.wake().map_or(longest, |at| at.saturating_sub(now)).min(longest);
            tokio::select! {
                biased;
                signal = signals.next() => self.signal(signal),
                Some(end) = ended.recv() => {
                    self.watch.touched(end.repositories());
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
        }
        died
    }

    fn tick(&mut self) {
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
        if self.draining {
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
        if self.draining {
            return;
        }
        tracing::info!("stopping: running jobs are cancelled; a second signal kills at once");
        self.draining = true;
        self.health.set_ready(false);
        self.notifier.stopping("cancelling what runs");
        self.engine.handle(Event::Drain);
    }

    /// Reads the configuration again.
    fn reload(&mut self) -> Result<usize, Refused> {
        if self.draining {
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
        configure(&self.metrics, &table, self.engine.journal(), now);
        if let Err(error) = self.log.set_level(level(table.daemon.log_level)) {
            tracing::warn!(%error, "cannot change the level of the log");
        }
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
                acknowledge::start(self.engine.table(), order, self.watch.toucher(), reply);
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
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            stopping: self.draining,
            reload_refused: self.last_reload.clone(),
            running: self.engine.running(),
            unprotected: self.watch.unprotected().seen(),
            suspicious: self.watch.suspicious().seen(),
            jobs: status::jobs(&self.engine),
        }
    }

    fn status_line(&self) -> String {
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

/// The level of the log that the configuration asks for.
pub fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}

fn server_died(server: &Result<&'static str, tokio::task::JoinError>) -> Failure {
    let what = match server {
        Ok(name) => format!("the {name} ended"),
        Err(error) => format!("a server ended: {error}"),
    };
    Failure::new(Class::Internal, "run the daemon", what)
}
