//! Whether there is a connection pooler between us and the server that gives a session another
//! backend from one transaction to the next.
//!
//! Through such a pooler a session's settings, its locks and the cancel request reach whichever
//! backend is next. What is tried: each session has a backend of its own, and keeps it. Two
//! sessions that have the same one, or one whose backend changes while they take turns, prove a
//! pooler; so does a statement that was prepared and is not there. It is tried where the backend is not the
//! one that we were told of for cancel requests, and before any setting is made: that would stay behind for
//! other clients of the pool. The opposite is not proven for every pooler: one that holds on to a
//! backend for a whole session (PgBouncer's `session` mode) is not seen, and does no harm here.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::failure::Class;

use super::{PgError, Session};

/// Turns of the two sessions.
const ROUNDS: usize = 3;
/// How long all answers may take: a pooler may keep a session waiting for a free backend.
const ANSWER: Duration = Duration::from_secs(5);
const HINT: &str = "connect to the server itself: host and port of PostgreSQL, not of the pooler";

/// Holds that two sessions, opened alike, are on backends of their own.
///
/// # Errors
/// When they are not, or the server does not answer.
pub(super) async fn refuse_pooler(
    first: &Session,
    second: &Session,
    cancel: &CancellationToken,
) -> Result<(), PgError> {
    let token = cancel.child_token();
    let asked = shares_backends(first, second, &token);
    tokio::pin!(asked);
    let answer = tokio::select! {
        biased;
        answer = &mut asked => answer,
        () = tokio::time::sleep(ANSWER) => {
            token.cancel();
            asked.await
        }
    };
    let refused = |what: &str| PgError::new(Class::Configuration, what).with_hint(HINT);
    match answer {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused(
            "a connection pooler gives the session another backend from one transaction to the next",
        )),
        Err(PgError::Cancelled) if !cancel.is_cancelled() => Err(refused(
            "a second session gets no answer: there seems to be a connection pooler in between",
        )),
        Err(error) => Err(error),
    }
}

async fn shares_backends(
    first: &Session,
    second: &Session,
    cancel: &CancellationToken,
) -> Result<bool, PgError> {
    let (one, other) = (first.backend_pid(cancel).await?, second.backend_pid(cancel).await?);
    for _ in 0..ROUNDS {
        // Twice in turn: a pooler may hand out the backend that was idle last, or longest.
        for (session, own) in [(first, one), (first, one), (second, other), (second, other)] {
            if session.backend_pid(cancel).await? != own {
                return Ok(true);
            }
        }
    }
    Ok(one == other)
}
