//! Questions to a repository while others wait: each has a limit, can be cancelled, and is named while it
//! is waited for.

use std::{pin::pin, time::Duration};

use super::store::{StoreError, StoreErrorKind};
use crate::{
    domain::{
        failure::{During, Failure},
        name::RepositoryName,
    },
    sys::task::Task,
};

/// How long a repository has for one question where others wait, unless the configuration says otherwise
/// (`answer_timeout`): a dump to the other repositories, the answer that a person wants. It is out then; the next
/// attempt asks again.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to a question; or, after `limit`, what the store has been failing with meanwhile.
///
/// # Errors
/// The question's own, and [`StoreErrorKind::Unavailable`] where it took too long.
pub async fn within<T>(
    limit: Duration,
    doing: &str,
    trouble: impl Fn() -> Option<StoreError>,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut question = pin!(question);
    tokio::select! {
        biased;
        answer = &mut question => answer,
        () = tokio::time::sleep(limit) => Err(match trouble() {
            Some(error) => {
                let what = format!("{} (given up after {limit:?})", error.what);
                StoreError { what, ..error }
            }
            None => StoreError::new(
                StoreErrorKind::Unavailable,
                doing,
                format!("no answer within {limit:?}"),
            )
            .hint(
                "is it up, and can this host reach it? Look at the network and `endpoint`, or at the mount. One that \
                 needs longer takes a larger `answer_timeout`",
            ),
        }),
    }
}

/// The answer to a question that a run asks, unless the run is cancelled. Meanwhile `status` says what is
/// waited for.
///
/// # Errors
/// The question's own, and that the task was cancelled.
pub async fn ask<T>(
    name: &RepositoryName,
    task: &Task,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, Failure> {
    let _waits = task.progress.waits_for(format!("repository {name}"));
    task.unless_cancelled(question).await?.during(task)
}
