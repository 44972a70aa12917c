//! One heavy job per database at a time: a dump holds back VACUUM and REINDEX, and they it.
//!
//! The planner cannot know this limit, since which databases a pattern means is found out in the
//! run. So a run waits here, for one database at a time, and never holds two: no deadlock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::OwnedMutexGuard;

use crate::{
    domain::{backup::Subject, failure::Failure, name::ServerName},
    sys::task::Task,
};

type Locks = HashMap<(ServerName, Subject), Arc<tokio::sync::Mutex<()>>>;

/// Who works on which database.
#[derive(Debug, Default)]
pub struct DatabaseGate {
    locks: Mutex<Locks>,
}

/// Held while a heavy job works on a database.
#[derive(Debug)]
#[must_use = "the database is free again as soon as this is dropped"]
pub struct Pass {
    _held: OwnedMutexGuard<()>,
}

impl DatabaseGate {
    /// Waits until no other heavy job works on the database.
    ///
    /// # Errors
    /// When the task is cancelled first.
    pub async fn enter(
        &self,
        server: &ServerName,
        subject: &Subject,
        task: &Task,
    ) -> Result<Pass, Failure> {
        tokio::select! {
            held = self.lock(server, subject).lock_owned() => Ok(Pass { _held: held }),
            () = task.cancel.cancelled() => Err(interrupted(subject, task)),
        }
    }

    /// As [`DatabaseGate::enter`], but not for longer than `limit`: none where another job still
    /// works on the database then. For work that can be left for another day.
    ///
    /// # Errors
    /// When the task is cancelled first.
    pub async fn enter_within(
        &self,
        limit: Duration,
        server: &ServerName,
        subject: &Subject,
        task: &Task,
    ) -> Result<Option<Pass>, Failure> {
        tokio::select! {
            biased;
            held = self.lock(server, subject).lock_owned() => Ok(Some(Pass { _held: held })),
            () = task.cancel.cancelled() => Err(interrupted(subject, task)),
            () = tokio::time::sleep(limit) => Ok(None),
        }
    }

    fn lock(&self, server: &ServerName, subject: &Subject) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Locks that nobody holds or waits for are forgotten, so that databases which come and go
        // do not pile up.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry((server.clone(), subject.clone())).or_default().clone()
    }
}

fn interrupted(subject: &Subject, task: &Task) -> Failure {
    task.doing(format!("wait for another job on {subject}")).cancelled()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure::Class;
    use crate::sys::clock::SystemClock;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let gate = DatabaseGate::default();
        let task = Task::new(SystemClock::new());
        let server = "main".parse().unwrap();
        let subject = Subject::Globals;
        let first = gate.enter(&server, &subject, &task).await.unwrap();
        let mut second = Box::pin(gate.enter(&server, &subject, &task));
        assert!(futures_util::poll!(&mut second).is_pending());
        let other = gate.enter(&"other".parse().unwrap(), &subject, &task).await;
        assert!(other.is_ok(), "another server's database is another database");
        let limit = Duration::from_millis(1);
        assert!(gate.enter_within(limit, &server, &subject, &task).await.unwrap().is_none());
        drop(first);
        drop(second.await.unwrap());
        let free = gate.enter_within(Duration::ZERO, &server, &subject, &task).await.unwrap();
        assert!(free.is_some(), "what is free is had at once");
        drop(free);
        let third = gate.enter(&server, &subject, &task).await.unwrap();
        let waiting = gate.enter(&server, &subject, &task);
        task.cancel.cancel();
        assert_eq!(waiting.await.unwrap_err().class, Class::Interrupted);
        drop(third);
    }
}
