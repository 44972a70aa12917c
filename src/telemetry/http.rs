//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`. A scrape runs no SQL and lists no bucket.
//!
//! Listening and serving are two steps, so that readiness is announced only once the port is ours.
//! There is no TLS and no password: the default address is loopback, and what is served holds no
//! secret. One request per connection, each bounded in time, a bounded number of them in all and from one
//! address: where there are too many, the oldest that has not sent its request makes room, so that clients
//! that dawdle keep no scraper out. The address is not to be open to the world all the same.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::map_request,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::metrics::Metrics;
use crate::sys::{
    clock::Clock,
    crowd::{Crowd, Place, Room},
    time_limits,
};

/// Time that a client has to send its request line and headers.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Time that a connection has in all; scrapers give up after 10 s by default (`scrape_timeout`).
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Connections at once, and of one address.
const ROOM: Room =
    Room { all: 256, of_one: 64, served_go: true, moment: Duration::from_millis(100) };
/// Time that connections under way have at the end.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// From this many series on, rendering leaves the async workers.
const SERIES_INLINE_MAX: usize = 500;
/// Pause after `accept` failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log says so, while it goes on.
const ACCEPT_TOLD: Duration = Duration::from_mins(1);
/// The text format's media type.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#basic-info>
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// Whether the process is alive and ready, as the endpoint says it.
#[derive(Debug)]
pub struct Health {
    clock: Arc<dyn Clock>,
    silence_max: Duration,
    /// Monotonic milliseconds of the planner's last tick, plus one; 0: none yet.
    last_tick: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    /// Not ready, and no tick yet. The planner counts as hung after `silence_max` without a tick.
    pub fn new(clock: Arc<dyn Clock>, silence_max: Duration) -> Arc<Self> {
        let (last_tick, ready) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { clock, silence_max, last_tick, ready })
    }

    /// The planner looked at what is due.
    pub fn planner_ticked(&self) {
        let millis = u64::try_from(self.clock.now().mono.as_millis()).unwrap_or(u64::MAX - 1);
        self.last_tick.store(millis + 1, Ordering::Relaxed);
    }

    /// Says whether the daemon takes work: from the end of its start until it drains.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether the planner ticked within the time that it has.
    pub fn is_alive(&self) -> bool {
        match self.last_tick.load(Ordering::Relaxed) {
            0 => false,
            tick => {
                let silence = self.clock.now().mono.saturating_sub(Duration::from_millis(tick - 1));
                silence <= self.silence_max
            }
        }
    }

    /// Whether the daemon takes work.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// What the endpoint serves.
#[derive(Debug, Clone)]
pub struct Served {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

/// A port that is ours, and not served yet.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens on an address.
pub async fn bind(address: SocketAddr) -> Result<Bound, BindError> {
    let error = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok(Bound { listener, address })
}

/// Serves until `stop` is cancelled; then ends the connections that are open, which takes at most
/// as long as one connection may.
pub async fn serve(bound: Bound, served: Served, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(served);
    let crowd: Crowd<IpAddr> = Crowd::new(ROOM);
    let connections = TaskTracker::new();
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = bound.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = crowd.admit(peer.ip().to_canonical()).await else { continue };
                connections.spawn(connection(stream, router.clone(), place, stop.clone()));
            }
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= ACCEPT_TOLD) {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    told = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    if timeout(time_limits::limit(DRAIN_TIME), connections.wait()).await.is_err() {
        tracing::debug!("HTTP connections were still open at the end");
    }
}

async fn connection(stream: TcpStream, router: Router, place: Place, stop: CancellationToken) {
    let place = Arc::new(place);
    let here = Arc::clone(&place);
    let router = router.layer(map_request(move |request: Request| {
        here.served();
        std::future::ready(request)
    }));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).keep_alive(false);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let whole = async {
        tokio::select! {
            result = served.as_mut() => return result,
            () = place.lost() => return Ok(()),
            () = stop.cancelled() => served.as_mut().graceful_shutdown(),
        }
        served.await
    };
    match timeout(CONNECTION_TIME, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection ended"),
        Err(_) => tracing::debug!("HTTP connection took too long"),
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    let rendered = if served.metrics.series() <= SERIES_INLINE_MAX {
        served.metrics.render()
    } else {
        let metrics = Arc::clone(&served.metrics);
        match tokio::task::spawn_blocking(move || metrics.render()).await {
            Ok(rendered) => rendered,
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    match rendered {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %crate::domain::failure::chain(&error), "cannot render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn healthz(State(served): State<Served>) -> Response {
    if served.health.is_alive() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the planner does not tick\n").into_response()
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    if served.health.is_ready() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::ManualClock;

    #[test]
    fn health_follows_the_planner() {
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let health = Health::new(clock.clone(), Duration::from_mins(1));
        assert!(!health.is_alive(), "no tick yet");
        health.planner_ticked();
        clock.advance(Duration::from_mins(1));
        assert!(health.is_alive());
        clock.step_to("2030-01-01T00:00:00Z".parse().unwrap());
        assert!(health.is_alive(), "a step of the wall clock is no silence");
        clock.advance(Duration::from_secs(1));
        assert!(!health.is_alive());
    }
}
