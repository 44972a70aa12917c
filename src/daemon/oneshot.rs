//! One run of one job without a daemon, on the same engine.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        failure::{Class, Failure},
        name::JobName,
    },
    jobs,
    sys::{clock::Clock, host, time_limits},
    telemetry::metrics::{Metrics, Setup},
};

use super::{
    control::{Reply, ReplySender},
    engine::{Engine, Parts},
    planner::Event,
    signals::{Signal, SignalStream},
    state_dir::StateDir,
    table::Table,
};

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What came of the run, and the signal that stopped it, if one did.
pub type Ran = (Option<Reply>, Option<Signal>);

/// Runs the job to its end; every reply goes to `show`. The first signal cancels it.
///
/// # Errors
/// When signals cannot be taken.
pub async fn run(
    table: Table,
    state: StateDir,
    job: &JobName,
    clock: Arc<dyn Clock>,
    mut show: impl FnMut(&Reply),
) -> Result<Ran, Failure> {
    let mut signals = SignalStream::new()?;
    let setup = Setup { version: "", kinds: &jobs::metrics(), skip_reasons: &[], datname_cap: 1 };
    let metrics = Metrics::new(&setup)
        .map_err(|error| Failure::from_error(Class::Internal, "set up metrics", &error))?;
    let seed = host::random_u64().unwrap_or_default();
    let parts = Parts {
        table: Arc::new(table),
        journal: state.journal,
        metrics: Arc::new(metrics),
        clock: clock.clone(),
        seed,
    };
    let (mut engine, mut ended) = Engine::new(parts, Some(job));
    engine.tell_interrupted(&state.interrupted);
    let (sender, mut replies) = ReplySender::channel();
    engine.trigger(job.clone(), sender);
    let mut progress = tokio::time::interval(time_limits::limit(PROGRESS_INTERVAL));
    let mut last = None;
    let mut stopped_by = None;
    let ran = loop {
        let wake =
            engine.wake().map_or(PROGRESS_INTERVAL, |at| at.saturating_sub(clock.now().mono));
        tokio::select! {
            Some(end) = ended.recv() => engine.ended(end),
            Some(reply) = replies.recv() => {
                show(&reply);
                let over = reply.is_last();
                last = Some(reply);
                if over {
                    break (last, stopped_by);
                }
            }
            signal = signals.next() => if signal.is_some_and(|signal| signal.exit_status().is_some()) {
                stopped_by = signal;
                engine.handle(Event::Drain);
            },
            _ = progress.tick() => engine.report_progress(),
            () = tokio::time::sleep(wake) => engine.handle(Event::Tick),
        }
        if engine.is_done() && replies.is_empty() {
            break (last, stopped_by);
        }
    };
    engine.close_notices().await;
    Ok(ran)
}
