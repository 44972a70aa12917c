//! Before a dump: would it be whole? What refuses it, and what it will lack by somebody's leave.
//!
//! It is asked in the session that exports the snapshot next, as the role that pgkeep's pg_dump runs as,
//! with the role's and the database's own settings.

use crate::{
    checks::preflight::{self, Accepted, Judged},
    domain::{
        failure::{Class, During, Failure},
        scope::Scope,
    },
    postgres::{
        PgError, Session,
        preflight::{Facts, globals, hides_damage, read},
        scope,
    },
    sys::task::Task,
};

/// What a database's preflight brings.
#[derive(Debug, Clone)]
pub struct Preflight {
    pub facts: Facts,
    pub judged: Judged,
}

impl Preflight {
    /// Further options for pg_dump. What was accepted to be left out, or is no part of the selection,
    /// is no warning any more.
    pub fn options(&self) -> Vec<String> {
        let leaves_out =
            self.judged.accepted.contains("subscriptions") || self.facts.subscriptions_beside;
        leaves_out.then(|| "--no-subscriptions".to_owned()).into_iter().collect()
    }
}

/// Looks at the database of a session, for a dump of that scope.
///
/// # Errors
/// When the server does not answer.
pub async fn look(
    session: &Session,
    scope: &Scope,
    accepted: &Accepted,
    task: &Task,
) -> Result<Preflight, PgError> {
    let all = scope::with_children(session.queries(&task.cancel), scope).await?;
    let facts = read(session.queries(&task.cancel)).await?.within(&all);
    let judged = preflight::judge(&facts, accepted);
    Ok(Preflight { facts, judged })
}

/// The same, and refuses what a dump of it would lack.
///
/// # Errors
/// When the dump would fail or not be whole, with all that is in its way; when the server does not
/// answer.
pub async fn refuse(
    session: &Session,
    scope: &Scope,
    accepted: &Accepted,
    task: &Task,
) -> Result<Preflight, Failure> {
    if hides_damage(session.queries(&task.cancel)).await.during(task)? {
        let what = "zero_damaged_pages = on: rows of damaged pages would be left out, and lc_messages has \
                    the server say so in words that pgkeep does not know";
        return Err(task
            .failure(Class::Incomplete, what)
            .hint("set zero_damaged_pages = off, or lc_messages = 'C'"));
    }
    let preflight = look(session, scope, accepted, task).await.during(task)?;
    match preflight.judged.failure(task.phrase()) {
        Some(failure) => Err(failure),
        None => Ok(preflight),
    }
}

/// Refuses globals that could not be dumped as wanted.
///
/// # Errors
/// As [`refuse`].
pub async fn refuse_globals(
    session: &Session,
    role_passwords: bool,
    task: &Task,
) -> Result<(), Failure> {
    if !role_passwords {
        return Ok(());
    }
    let facts = globals(session.queries(&task.cancel), role_passwords).await.during(task)?;
    preflight::judge_globals(&facts, task.phrase())
}
