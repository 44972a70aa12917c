//! Calls to the daemon, and what becomes of its answers.

use std::{path::Path, time::Duration};

use crate::{
    daemon::{
        control::{CallError, ConnectError, ControlClient, Reply, Request, SOCKET_NAME},
        table::Loaded,
    },
    domain::failure::{Class, Failure},
    sys::time_limits,
};

use super::{Stop, exit::Exit, runtime};

/// The daemon of this configuration; none where none is up.
///
/// # Errors
/// Exit code 6 where one is up and does not let us in: never a second runner.
pub(super) async fn connect(runtime_dir: &Path) -> Result<Option<ControlClient>, Stop> {
    match ControlClient::connect(&runtime_dir.join(SOCKET_NAME)).await {
        Ok(client) => Ok(Some(client)),
        Err(ConnectError::NotRunning(_)) => Ok(None),
        Err(error @ ConnectError::Denied(_)) => {
            let failure = Failure::from_error(Class::State, "reach the daemon", &error)
                .hint("run this as the daemon's user, or as root");
            Err(Stop::Failed(Exit::Refused, failure))
        }
        Err(error) => Err(Failure::from_error(Class::State, "reach the daemon", &error).into()),
    }
}

/// How long the daemon's loop may take over what it answers by itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// [`ANSWER_LIMIT`], as it holds here.
pub(super) fn answer_limit() -> Duration {
    time_limits::limit(ANSWER_LIMIT)
}

/// Asks the daemon, which has to be up, for something that has one answer; `hint` says what to do where
/// none is.
///
/// # Errors
/// When none is up, or no answer comes within `limit`.
pub(super) fn ask_running(
    loaded: &Loaded,
    request: &Request,
    doing: &str,
    limit: Duration,
    hint: &str,
) -> Result<Reply, Stop> {
    let Some(runtime_dir) = &loaded.runtime_dir else {
        return Err(Stop::Configuration(loaded.render()));
    };
    runtime()?.block_on(async {
        let Some(client) = connect(runtime_dir).await? else {
            let failure = Failure::new(Class::State, doing, "no daemon is running");
            return Err(failure.hint(hint).into());
        };
        ask(client, request, doing, limit).await
    })
}

/// Asks for something that has one answer.
///
/// # Errors
/// When none comes within `limit`.
pub(super) async fn ask(
    client: ControlClient,
    request: &Request,
    doing: &str,
    limit: Duration,
) -> Result<Reply, Stop> {
    let fail = |error| failed(doing, &error);
    let call = async { client.call(request).await?.last(limit).await };
    tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Silent(limit))).map_err(fail)
}

pub(super) fn failed(doing: &str, error: &CallError) -> Stop {
    let failure = Failure::from_error(Class::State, doing, error);
    Stop::failed(match error {
        CallError::Silent(_) => failure.hint(
            "it is there and hangs: was it stopped (`ps` shows T), or does a disk not answer (D)? \
             Look at `journalctl -u pgkeep`; `systemctl restart pgkeep` ends it",
        ),
        _ => failure,
    })
}

/// The daemon's answer where it did not do what it was asked for. A refusal has exit code 6.
pub(super) fn not_done(doing: &str, reply: Option<Reply>) -> Stop {
    match reply {
        Some(Reply::Refused { reason }) => {
            Stop::Failed(Exit::Refused, Failure::new(Class::State, doing, reason))
        }
        Some(Reply::Failed(failure)) => failure.into(),
        _ => Failure::new(Class::State, doing, "the daemon gave no answer").into(),
    }
}
