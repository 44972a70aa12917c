//! The daemon's life: start, the one select loop ([`running`]), the orderly end.
//!
//! Everything long-lived is started here and waited for here; any of it ending early is fatal, and
//! named. READY is said only when signals are taken and both sockets listen.

mod running;
mod series;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::running::Daemon;
use crate::{
    domain::failure::{Class, Failure},
    sys::{clock::Clock, files, host, time_limits},
    telemetry::{
        http::{self, Health, Served},
        logging::LogHandle,
        metrics::Metrics,
    },
};

use super::{
    control::{ControlRequest, ControlServer, SOCKET_NAME},
    engine::{Engine, Parts},
    heartbeat::Heartbeat,
    signals::SignalStream,
    state_dir::StateDir,
    systemd::{ServiceManager, Watchdog},
    table::{Ground, Table},
    watch::Watch,
};

/// Where, in the runtime folder, the address of the listener is written.
pub(super) const ADDRESS_FILE: &str = "http.addr";
/// Without a tick of the planner for so long, `/healthz` says that the daemon hangs.
const PLANNER_SILENCE_MAX: Duration = Duration::from_mins(2);
/// How much longer than the children's grace runs have to end once the daemon is being stopped. One that has
/// not ended by then hangs.
pub(super) const DRAIN_MARGIN: Duration = Duration::from_secs(10);
/// How long everything else has to end after that.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How much longer than the children's grace the end of the daemon may take, whatever hangs.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// Requests that wait for the loop.
const REQUESTS: usize = 64;

/// What the daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration's path, read again at each reload.
    pub config: PathBuf,
    pub table: Table,
    pub state: StateDir,
    pub ground: Ground,
    pub clock: Arc<dyn Clock>,
    pub log: LogHandle,
}

/// How long the end of the daemon may take, whatever hangs, where its children have that grace.
pub fn end_within(grace: Duration) -> Duration {
    grace + time_limits::limit(STOP_MARGIN)
}

/// Runs until SIGTERM or SIGINT, and then until every run has ended; for one that hangs no longer than the
/// grace and a little more.
///
/// # Errors
/// When a socket cannot be had, something long-lived ended early, or a run did not end.
pub async fn serve(start: Start) -> Result<(), Failure> {
    let Start { config, table, state, ground, clock, log } = start;
    let mut signals = SignalStream::new()?;
    let metrics = Arc::new(series::new(&table, &state.journal, &clock)?);
    let health = Health::new(clock.clone(), PLANNER_SILENCE_MAX);
    let stop = CancellationToken::new();
    let mut servers = Servers::new();
    listen_http(&table, &metrics, &health, &stop, &mut servers).await?;
    let mut requests = listen_control(&table, &stop, &mut servers)?;
    let (heartbeat, mut beats) = Heartbeat::start()
        .await
        .map_err(|error| Failure::from_error(Class::Internal, "start the heartbeat", &error))?;
    let StateDir { journal, interrupted, lock } = state;
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
        notifier: ServiceManager::from_env(),
        watchdog: Watchdog::from_env(),
        log,
        last_beat: clock.now().mono,
        last_guard: Duration::ZERO,
        last_reload: None,
        draining: None,
        lock,
        watch: Watch::new(metrics, clock.clone()),
        clock,
    };
    daemon.tick();
    daemon.health.set_ready(true);
    daemon.notifier.ready(&daemon.status_line());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    let result =
        daemon.run(&mut signals, &mut requests, &mut beats, &mut ended, &mut servers).await;
    end(&mut daemon, heartbeat, &stop, &mut servers).await;
    result
}

/// Ends everything beside the runs, in a limited time.
async fn end(
    daemon: &mut Daemon,
    heartbeat: Heartbeat,
    stop: &CancellationToken,
    servers: &mut Servers,
) {
    daemon.health.set_ready(false);
    daemon.notifier.stopping("stopping");
    let all = async {
        if let Err(error) = heartbeat.stop().await {
            tracing::debug!(%error, "the heartbeat did not stop");
        }
        stop.cancel();
        while servers.join_next().await.is_some() {}
        daemon.watch.stop().await;
        daemon.engine.close_notices().await;
    };
    let end_limit = time_limits::limit(END_LIMIT);
    if tokio::time::timeout(end_limit, all).await.is_err() {
        tracing::warn!("not everything ended within {end_limit:?}: it is left");
    }
    daemon.engine.flush();
    tracing::info!("stopped");
}

/// The long-lived servers, each with its name.
type Servers = tokio::task::JoinSet<&'static str>;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual and the unit's `TimeoutStopSec=` build on it.
    #[test]
    fn the_end_takes_half_a_minute_longer_than_the_grace_at_most() {
        assert_eq!(end_within(Duration::from_secs(7)), Duration::from_secs(37));
        assert!(DRAIN_MARGIN + END_LIMIT < STOP_MARGIN);
        assert_eq!((DRAIN_MARGIN.as_secs(), END_LIMIT.as_secs()), (10, 15));
    }
}
