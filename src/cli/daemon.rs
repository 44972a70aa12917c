//! `pgkeep daemon`: runs in the foreground until SIGTERM.

use std::os::unix::fs::MetadataExt as _;

use crate::{
    daemon::{
        serve::{self, Start},
        signals,
        state_dir::{StateDir, TakeError},
        table::Table,
    },
    domain::failure::{Class, Failure},
    sys::{clock::Clock as _, process::scarce},
    telemetry::logging::{self, LogHandle, LogSettings},
};

use super::{Cli, Outcome, Stop, exit::Exit, runtime};

pub(super) fn daemon(cli: &Cli) -> Outcome {
    let table = cli.table()?;
    let log = start_log(&table)?;
    let state = take(cli, &table)?;
    let ground = cli.ground();
    let config = cli.config.clone();
    end_within(&table)?;
    let start = Start { config, table, state, ground, clock: cli.clock.clone(), log };
    let runtime = runtime()?;
    let served = runtime.block_on(serve::serve(start));
    served?;
    Ok(Exit::Done)
}

/// From now on a signal ends this process in a limited time.
///
/// # Errors
/// When there is no thread or descriptor left.
pub(super) fn end_within(table: &Table) -> Result<(), Stop> {
    signals::end_within(serve::end_within(table.daemon.grace))
        .map_err(|error| Failure::from_error(Class::State, "take signals", &scarce(error)).into())
}

/// Starts the log as the configuration says.
///
/// # Errors
/// When `PGKEEP_LOG` cannot be read.
pub(super) fn start_log(table: &Table) -> Result<LogHandle, Stop> {
    let settings = LogSettings { format: table.daemon.log_format, level: table.daemon.log_level };
    logging::init(settings)
        .map_err(|error| Failure::from_error(Class::Configuration, "start the log", &error).into())
}

/// Takes the state directory of the table for work in place of a daemon, as its owner.
///
/// # Errors
/// Exit code 6 where it is another user's, or another pgkeep has it.
pub(super) fn take_own(cli: &Cli, table: &Table, doing: &str) -> Result<StateDir, Stop> {
    let path = &table.daemon.state_dir;
    let refuse = |what: String| {
        let failure = Failure::new(Class::State, doing, what)
            .hint("run this as the owner of the state directory, or start the daemon");
        Stop::Failed(Exit::Refused, failure)
    };
    match std::fs::metadata(path) {
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            return Err(refuse(format!("{} belongs to another user", path.display())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(refuse(format!("{}: {error}", path.display())));
        }
        _ => {}
    }
    take(cli, table)
}

/// Takes the state directory of the table.
///
/// # Errors
/// Exit code 6 where another pgkeep has it.
pub(super) fn take(cli: &Cli, table: &Table) -> Result<StateDir, Stop> {
    let daemon = &table.daemon;
    let now = cli.clock.now().wall;
    StateDir::take(&daemon.state_dir, daemon.history, daemon.grace, now).map_err(
        |error| match error {
            TakeError::Locked(failure) => Stop::Failed(Exit::Refused, failure),
            TakeError::Failed(failure) => Stop::failed(failure),
        },
    )
}
