//! What a backup does to others while it runs: who waits behind its locks, and how much of the xmin
//! horizon it holds back. A session of its own looks each second; by policy the backup gives way.
//!
//! What can still go wrong: there is no connection left for that session. The backup goes on then,
//! nobody is seen, and a finding says so; where it was to give way, that is a warning.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        blocking::{Held, Ledger, Names, WhenBlocking},
        failure::{Class, Failure, IntoFailure},
        finding::{CheckName, Finding, Severity},
    },
    postgres::{
        Server,
        blocking::{Watcher, names},
    },
    sys::task::Task,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two attempts at the session that looks.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the first look has once the backup is over.
const FIRST: Duration = Duration::from_secs(5);

const DOING: &str = "look who waits behind the backup";

/// What is done for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Courtesy {
    /// About sessions that wait behind the backup.
    pub when_blocking: WhenBlocking,
    /// Transactions by which the xmin may be held back before that is a finding.
    pub max_xmin_age: Option<u64>,
}

/// Looks who waits behind a backup.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    pub(super) server: &'a Server,
    /// `application_name` of the program's sessions: no other run has the same.
    pub(super) application: &'a str,
    /// The backend that holds the snapshot.
    pub(super) exporter: i32,
    pub(super) courtesy: Courtesy,
    pub(super) database: &'a str,
    /// Whether the session that looks would take pg_dump's connection: a CONNECTION LIMIT has room for the dump alone.
    pub(super) has_no_room: bool,
    /// Cancelled where the policy says so.
    pub(super) backup: &'a Task,
    /// Cancelled when the program has exited.
    pub(super) done: &'a CancellationToken,
}

/// What was seen of a backup.
#[derive(Debug, Default)]
pub(super) struct Observations {
    ledger: Ledger,
    /// The backup was cancelled for those who waited.
    gave_way: bool,
    /// Why there was no look at some time.
    trouble: Option<Failure>,
    /// How long the snapshot was held.
    snapshot: Duration,
    /// What the relations are called that somebody waited for.
    names: Names,
}

impl Watch<'_> {
    /// Looks until it is done.
    pub(super) async fn follow(&self) -> Observations {
        let Self { backup, done, .. } = self;
        let started = backup.clock.now().mono;
        let stage = backup.progress.stage();
        let mut seen = Observations::default();
        if self.has_no_room {
            seen.trouble = Some(no_room());
            done.cancelled().await;
        }
        while !done.is_cancelled() {
            if let Err(failure) = self.look_on(&mut seen, &stage, started).await
                && !done.is_cancelled()
            {
                tracing::debug!(%failure, "nobody looks who waits behind the backup");
                seen.trouble = Some(failure);
                tokio::select! {
                    () = done.cancelled() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
        seen.snapshot = self.since(started);
        backup.progress.set_stage(stage);
        seen
    }

    fn since(&self, started: Duration) -> Duration {
        self.backup.clock.now().mono.saturating_sub(started)
    }

    async fn look_on(
        &self,
        seen: &mut Observations,
        stage: &str,
        started: Duration,
    ) -> Result<(), Failure> {
        // The first look is made in any case: a backup may be over before it.
        let first = !seen.ledger.has_looked();
        let cancel = if first { self.backup.cancel.child_token() } else { self.done.clone() };
        let opening = self.backup.doing(DOING).cancelled_by(cancel);
        let late = async {
            self.done.cancelled().await;
            tokio::time::sleep(FIRST).await;
        };
        let looking = self.look_with(seen, stage, started, &opening);
        tokio::pin!(looking);
        tokio::select! {
            result = &mut looking => result,
            () = late => {
                opening.cancel.cancel();
                looking.await
            }
        }
    }

    async fn look_with(
        &self,
        seen: &mut Observations,
        stage: &str,
        started: Duration,
        task: &Task,
    ) -> Result<(), Failure> {
        let watcher = Watcher::open(self.server, task).await?;
        let result = loop {
            match watcher.look(self.exporter, self.application, &task.cancel).await {
                Ok(look) => seen.ledger.heed(look),
                Err(error) => break Err(error.into_failure(task)),
            }
            if self.done.is_cancelled() {
                break Ok(());
            }
            let held = seen.ledger.live(self.since(started));
            self.backup.progress.set_stage(format!("{stage} ({held})"));
            if !seen.gave_way && seen.ledger.gives_way(self.courtesy.when_blocking) {
                seen.gave_way = true;
                self.backup.cancel.cancel();
            }
            tokio::select! {
                () = self.done.cancelled() => break Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        };
        watcher.close().await;
        result
    }

    /// Asks what the relations are called, in a session in their database. Without an answer they
    /// go by their oids.
    pub(super) async fn name(&self, seen: &mut Observations, task: &Task) {
        let relations = seen.ledger.relations();
        if relations.is_empty() {
            return;
        }
        let task = task.doing("look up the names of relations");
        let Ok(session) = self.server.connect(self.database, &task).await else { return };
        match names(session.queries(&task.cancel), &relations).await {
            Ok(names) => seen.names = names,
            Err(error) => tracing::debug!(%error, "relations go by their oids"),
        }
        session.close().await;
    }
}

fn no_room() -> Failure {
    Failure::new(Class::Connection, DOING, "the CONNECTION LIMIT has room for the dump alone")
        .hint("raise it: ALTER ROLE … or ALTER DATABASE … CONNECTION LIMIT")
}

impl Observations {
    /// For metrics.
    pub(super) fn held(&self) -> Option<Held> {
        self.ledger.held(self.snapshot)
    }

    /// What is found of the backup of `subject`.
    pub(super) fn findings(&self, subject: &str, courtesy: Courtesy) -> Vec<Finding> {
        let mut found =
            self.ledger.findings(subject, self.snapshot, courtesy.max_xmin_age, &self.names);
        found.extend(self.trouble.as_ref().map(|failure| {
            let severity = match courtesy.when_blocking {
                WhenBlocking::Report => Severity::Info,
                WhenBlocking::CancelAfter(_) => Severity::Warning,
            };
            let what = format!(
                "nobody looked all the time who waited behind the backup of {subject}: {failure}"
            );
            Finding {
                hint: failure.hint.clone(),
                ..Finding::new(CheckName("not-watched"), severity, what)
            }
        }));
        found
    }

    /// The failure of the backup, as far as locks explain it.
    pub(super) fn explain(&self, failure: Failure, courtesy: Courtesy) -> Failure {
        if self.gave_way {
            let waited = self.ledger.waited(&self.names).unwrap_or_default();
            let what = format!("it gave way to those behind its locks: {waited}");
            return Failure::new(Class::Lock, failure.doing, what).hint(format!(
                "it is tried as often as `attempts` says; when_blocking = \"{}\" sets how long others wait",
                courtesy.when_blocking
            ));
        }
        if failure.class == Class::Lock
            && let Some(who) = self.ledger.in_the_way(&self.names)
        {
            let what = format!("{}; {who}", failure.what);
            return Failure { what, ..failure };
        }
        failure
    }
}
