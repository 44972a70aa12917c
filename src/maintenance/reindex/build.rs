//! One build: debris before, record, REINDEX, proof.

use std::time::Duration;

use crate::{
    domain::{
        failure::{Class, During, Failure, IntoFailure},
        index::{Build, Index},
        report::Figures,
    },
    postgres::{PgError, ident::qualified, indexes, notice::Notice, session::Limits},
    sys::task::Task,
};

use super::{Ending, Rebuilder, aftermath::CLEAN, deadline::Deadline};

impl Rebuilder<'_> {
    /// Rebuilds an index.
    ///
    /// # Errors
    /// When it was not rebuilt. What the build left behind is dropped, or told in `output`.
    pub(super) async fn rebuild(
        &mut self,
        index: &Index,
        debris: &[&Index],
        task: &Task,
        output: &mut Vec<String>,
    ) -> Result<Ending, Failure> {
        for left in debris {
            self.drop_debris(left, self.orders.lock_timeout, task).await?;
            output.push(format!("dropped {}, left behind by an earlier build", left.label()));
        }
        let known = self.table(index.table, task).await.during(task)?;
        if !known.iter().any(|it| it.oid == index.oid && it.label() == index.label()) {
            return Ok(Ending::Skipped("it was dropped or renamed meanwhile".to_owned()));
        }
        let ask = self.session.queries(&task.cancel);
        let before = indexes::size(ask, index.oid).await.during(task)?;
        let started = task.clock.now();
        let build = Build {
            system_id: self.orders.facts.system_id,
            database: self.database,
            table: index.table,
            index: index.oid,
            schema: index.schema.clone(),
            name: index.name.clone(),
            known: indexes::oids(&known),
            started_at: started.wall,
        };
        if self.orders.wishes.concurrently {
            self.write(&build, task)?;
        }
        if let Err(error) = self.reindex(index, task, output).await {
            self.failed(&build, error, task, output).await?;
        }
        // What is done is done, also where the run was cancelled meanwhile.
        let proof = Deadline::new(task, CLEAN);
        let mut figures = self.proof(index, before, &proof.task).await?;
        let taken = task.clock.now().mono.saturating_sub(started.mono).as_millis();
        figures.counts.insert("milliseconds".to_owned(), u64::try_from(taken).unwrap_or(0));
        Ok(Ending::Done(figures))
    }

    fn write(&self, build: &Build, task: &Task) -> Result<(), Failure> {
        self.orders.ledger.write(build).map_err(|error| {
            Failure::from_error(Class::State, task, &error)
                .hint("without a record nobody could say whose debris it is if the build breaks")
        })
    }

    pub(super) async fn table(&self, table: u32, task: &Task) -> Result<Vec<Index>, PgError> {
        let version = self.orders.facts.version_num;
        indexes::of_table(self.session.queries(&task.cancel), version, table).await
    }

    /// The statement itself, and what the server said to it.
    async fn reindex(
        &self,
        index: &Index,
        task: &Task,
        output: &mut Vec<String>,
    ) -> Result<(), PgError> {
        let how = if self.orders.wishes.concurrently { "CONCURRENTLY " } else { "" };
        let sql = format!("REINDEX INDEX {how}{}", qualified(&index.schema, &index.name));
        let result = self.execute(&sql, self.orders.lock_timeout, task).await;
        output.extend(self.session.take_notices().0.iter().flat_map(Notice::lines));
        result
    }

    /// Runs a statement that may take its time, but waits for each lock only so long.
    async fn execute(&self, sql: &str, lock: Duration, task: &Task) -> Result<(), PgError> {
        let limits = Limits { statement: Duration::ZERO, lock };
        self.session.set_limits(limits, &task.cancel).await?;
        let result = self.session.execute(sql, &task.cancel).await;
        // A session that is gone, or a run that is cancelled, says so at the next question.
        drop(self.session.set_limits(self.session.limits_of_questions(), &task.cancel).await);
        result
    }

    /// Drops an invalid index, if it is still the one that was looked at.
    ///
    /// # Errors
    /// When it is still there.
    pub(super) async fn drop_debris(
        &self,
        index: &Index,
        lock: Duration,
        task: &Task,
    ) -> Result<(), Failure> {
        let label = index.label();
        let fail = |error: PgError| {
            let mut failure = error.into_failure(task);
            failure.what = format!("cannot drop {label}, which is left behind: {}", failure.what);
            failure
        };
        let now = self.table(index.table, task).await.map_err(fail)?;
        let same = |it: &&Index| it.oid == index.oid && it.label() == label && !it.valid;
        if !now.iter().any(|it| same(&it)) {
            return Ok(());
        }
        let sql = format!("DROP INDEX CONCURRENTLY {}", qualified(&index.schema, &index.name));
        self.execute(&sql, lock, task).await.map_err(fail)?;
        tracing::info!(database = %self.name, index = label, "dropped what a build left behind");
        Ok(())
    }

    /// Holds that the index is whole and what it was before.
    async fn proof(
        &mut self,
        index: &Index,
        before: Option<u64>,
        task: &Task,
    ) -> Result<Figures, Failure> {
        let now = self.table(index.table, task).await.during(task)?;
        let wrong = |what: &str| {
            task.failure(Class::Sql, format!("REINDEX succeeded, but the index {what}"))
                .hint("look at it with \\d in psql, and at the server's log")
        };
        let Some(rebuilt) = now.iter().find(|it| it.label() == index.label()) else {
            return Err(wrong("is not there"));
        };
        if !rebuilt.is_whole() {
            return Err(wrong("is not valid"));
        }
        if self.orders.wishes.concurrently && rebuilt.oid == index.oid {
            return Err(wrong("is still the old one"));
        }
        let role = |it: &Index| (it.primary, it.exclusion, it.replica_identity);
        if rebuilt.definition != index.definition || role(rebuilt) != role(index) {
            return Err(wrong("is not what it was before"));
        }
        // It is rebuilt: a lock that its size waits for in vain must not have it rebuilt again.
        let after = indexes::size(self.session.queries(&task.cancel), rebuilt.oid)
            .await
            .unwrap_or_default();
        let sizes = [("bytes_before", before), ("bytes_after", after)];
        let less = before.zip(after).map(|(before, after)| before.saturating_sub(after));
        self.outcome.reclaimed += less.unwrap_or(0);
        Ok(sizes.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect())
    }
}
