//! After a build that failed or was cancelled: did it succeed all the same, what did it leave
//! behind, and can that go?
//!
//! All of it has a deadline of its own, since the run may be cancelled. What is still there
//! afterwards is in the report, and in the ledger for the next run.

use std::time::Duration;

use crate::{
    domain::{
        failure::{Class, During, Failure, IntoFailure},
        index::{Build, DropDebris, Index, debris},
    },
    postgres::{PgError, indexes, locks},
    sys::task::Task,
};

use super::{
    Rebuilder,
    deadline::{Deadline, GRACE},
};

/// How long a failed build may clean up at once. Whatever it waited for is mostly still there: what
/// is left is tried again at the end of the run.
pub(super) const CLEAN: Duration = Duration::from_secs(30);
/// How long a cancelled build may clean up: somebody waits for the end. Far less than systemd gives
/// the service to stop (TimeoutStopSec in systemd/pgkeep.service).
const CLEAN_CANCELLED: Duration = Duration::from_secs(15);

impl Rebuilder<'_> {
    /// Cleans up after a build that failed.
    ///
    /// # Errors
    /// The failure of the build, unless the new index has taken the old one's place all the same.
    pub(super) async fn failed(
        &mut self,
        build: &Build,
        error: PgError,
        task: &Task,
        output: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let cancelled = task.cancel.is_cancelled();
        let deadline = Deadline::new(task, if cancelled { CLEAN_CANCELLED } else { CLEAN + GRACE });
        let task = &deadline.task;
        let mut failure = self.explain(error, build.table, task).await;
        if !self.orders.wishes.concurrently {
            return Err(failure);
        }
        match self.clean(build, task, output).await {
            Ok(true) => {
                output.push(format!("the index is rebuilt; only its old copy was left: {failure}"));
                Ok(())
            }
            Ok(false) => Err(failure),
            Err(trouble) => {
                output.push(trouble.to_string());
                failure.what = format!(
                    "{}; what the build left behind could not be looked after, the next run will",
                    failure.what
                );
                Err(failure)
            }
        }
    }

    /// The failure, with what a person needs to know here.
    async fn explain(&self, error: PgError, table: u32, task: &Task) -> Failure {
        let class = error.class();
        let failure = error.into_failure(task);
        match class {
            Class::Lock => {
                let who = self.in_the_way(table, task).await;
                let whom = if who.is_empty() {
                    String::new()
                } else {
                    format!("it waited for {}; ", who.join(", or "))
                };
                failure.hint(format!(
                    "{whom}end what holds the lock, run at another hour, or raise lock_timeout"
                ))
            }
            Class::Privilege => failure.hint(
                "name a role as maintenance_user that owns the table or is a member of its owner; \
                 from PostgreSQL 17 on, pg_maintain may rebuild, but only the owner may drop debris",
            ),
            _ => failure,
        }
    }

    /// Who holds a lock on the table, or whose transaction a concurrent build waits for.
    async fn in_the_way(&self, table: u32, task: &Task) -> Vec<String> {
        if self.session.is_closed() {
            return Vec::new();
        }
        let waited = self.orders.lock_timeout.mul_f64(0.9);
        let ask = self.session.queries(&task.cancel);
        let open = locks::open_for(ask, waited).await.unwrap_or_default();
        if open.is_empty() {
            // A role that may not see since when others' transactions are open.
            return locks::holders(ask, table).await.unwrap_or_default();
        }
        open
    }

    /// Drops what the build left behind. Whether the index is rebuilt all the same.
    async fn clean(
        &mut self,
        build: &Build,
        task: &Task,
        output: &mut Vec<String>,
    ) -> Result<bool, Failure> {
        self.reconnect(task).await?;
        let ask = self.session.queries(&task.cancel);
        let activity = indexes::activity(ask, self.orders.facts.version_num).await.during(task)?;
        let now = self.table(build.table, task).await.during(task)?;
        let rebuilt = now.iter().any(|it| {
            (&it.schema, &it.name) == (&build.schema, &build.name)
                && it.oid != build.index
                && it.is_whole()
        });
        if activity.is_building(build.table) {
            output.push("an index of the table is still being built by another process".to_owned());
            return Ok(rebuilt);
        }
        let left: Vec<&Index> = now
            .iter()
            .filter(|index| debris(index, &now).is_some_and(|found| found.is_of(build)))
            .collect();
        for index in left {
            let label = index.label();
            if self.orders.wishes.debris == DropDebris::None {
                output.push(format!("{label} is left behind"));
                continue;
            }
            match self.drop_debris(index, CLEAN.min(self.orders.lock_timeout), task).await {
                Ok(()) => output.push(format!("dropped {label}, which the build left behind")),
                Err(trouble) => {
                    output.push(format!("{}; it will be tried again", trouble.what));
                }
            }
        }
        Ok(rebuilt)
    }
}
