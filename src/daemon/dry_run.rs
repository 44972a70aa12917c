//! A dry run: a job decides and reports its plan, and changes nothing.
//!
//! It needs no daemon and no lock, since it writes nothing but its private scratch folder; so it
//! works beside a daemon that runs the very same job. What it sees may have changed by the time
//! that the job really runs: the job decides anew then.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        failure::{Class, Failure},
        report::Report,
        run::RunId,
    },
    sys::{clock::Clock, files, host},
};

use super::{
    runner::{self, Attempt},
    signals::{Signal, SignalStream},
    table::Configured,
};

/// Has the job decide: its report, and the signal that stopped it, if one did. The first signal cancels it.
///
/// # Errors
/// When signals cannot be taken, or there is no place for temporary files.
pub async fn run(
    job: Arc<Configured>,
    clock: Arc<dyn Clock>,
) -> Result<(Report, Option<Signal>), Failure> {
    let mut signals = SignalStream::new()?;
    let seed = host::random_u64().unwrap_or_default();
    let scratch = Scratch::new(seed)?;
    let all = CancellationToken::new();
    let attempt = Attempt {
        run: RunId::new(clock.now().wall, seed),
        job,
        number: 1,
        only: None,
        earlier: Report::default(),
        dry_run: true,
        task: runner::task_of(&all, clock),
        scratch_root: scratch.0.clone(),
    };
    let mut running = Box::pin(attempt.run());
    let mut stopped_by = None;
    loop {
        tokio::select! {
            report = &mut running => return Ok((report, stopped_by)),
            signal = signals.next() => {
                if signal.is_some_and(|signal| signal.exit_status().is_some()) {
                    stopped_by = signal;
                    all.cancel();
                }
            }
        }
    }
}

/// A private folder that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(seed: u64) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("pgkeep-{seed:016x}"));
        files::create_private_dir_all(&path).map_err(|error| {
            Failure::from_error(Class::State, "make a folder for temporary files", &error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "cannot remove the folder for temporary files");
        }
    }
}
