//! The state directory, taken into possession: private, locked, and cleared of what a killed
//! process left behind.

use std::{path::Path, time::Duration};

use jiff::Timestamp;

use crate::{
    domain::failure::{Class, Failure},
    sys::{
        files,
        lock::{LockError, StateLock},
        process::reap_leftovers,
        trust::{self, Untrusted},
    },
};

use super::journal::{Journal, JournalSettings, Opened, RunRecord};

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    pub journal: Journal,
    /// Runs that a killed process left behind: they are over.
    pub interrupted: Vec<RunRecord>,
    pub lock: StateLock,
}

/// Why a state directory could not be taken.
#[derive(Debug)]
pub enum TakeError {
    Locked(Failure),
    Failed(Failure),
}

impl StateDir {
    /// Makes the directory where it is missing, locks it, and clears it: children of a killed
    /// daemon are ended, scratch folders removed, runs marked as
    /// interrupted.
    ///
    /// # Errors
    /// See [`TakeError`].
    pub fn take(
        path: &Path,
        history: u32,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Self, TakeError> {
        let doing = format!("take the state directory {}", path.display());
        let failed = |error: &(dyn std::error::Error + 'static)| {
            TakeError::Failed(Failure::from_error(Class::State, &doing, error))
        };
        files::create_private_dir_all(path).map_err(|error| failed(&error))?;
        trust::check_folder(path).map_err(|error| {
            let failure = Failure::from_error(Class::State, &doing, &error);
            TakeError::Failed(failure.hint(match error {
                Untrusted::Owner { .. } => {
                    "run pgkeep as the user whom the folder belongs to".to_owned()
                }
                error => error.hint(),
            }))
        })?;
        let lock = StateLock::acquire(path).map_err(|error| match error {
            LockError::Held { .. } => {
                let failure = Failure::from_error(Class::State, &doing, &error);
                TakeError::Locked(failure.hint("one pgkeep at a time may use a state directory"))
            }
            LockError::File(_) => failed(&error),
        })?;
        let records = path.join("children");
        files::create_private_dir_all(&records).map_err(|error| failed(&error))?;
        for child in reap_leftovers(&records, grace).map_err(|error| failed(&error))? {
            tracing::warn!(
                program = child.program,
                pgid = child.pgid,
                "ended a program that a killed pgkeep left behind"
            );
        }
        clear_scratch(&path.join("scratch")).map_err(|error| failed(&error))?;
        let settings = JournalSettings {
            keep_runs: usize::try_from(history).unwrap_or(usize::MAX),
            kind_of: crate::jobs::metric_kind,
        };
        let (journal, opened) = Journal::open(path, settings, now).map_err(TakeError::Failed)?;
        log(&opened);
        Ok(Self { journal, interrupted: opened.interrupted, lock })
    }
}

/// Says in the log what was found wrong at the start.
fn log(opened: &Opened) {
    for finding in &opened.findings {
        let hint = finding.hint.as_deref();
        tracing::warn!(check = finding.check, hint, "{}", finding.what);
    }
    for run in &opened.interrupted {
        tracing::warn!(job = %run.job, run = run.run, "a run was interrupted: the process ended in the middle of it");
    }
}

fn clear_scratch(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
