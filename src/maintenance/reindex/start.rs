//! Whether a build may start now, and what comes of it for the report.

use crate::{
    domain::{
        backup::Subject,
        failure::{Class, During, Failure},
        index::{Action, Planned},
        report::Figures,
    },
    postgres::indexes,
};

use super::{End, Work};

impl Work<'_> {
    /// Starts what is planned, if nothing is against it now.
    pub(super) async fn start(
        &mut self,
        it: &Planned<'_>,
        doing: &str,
        output: &mut Vec<String>,
    ) -> End {
        match self.try_start(it, doing, output).await {
            Ok(end) => end,
            Err(failure) => End::Tried(Err(failure)),
        }
    }

    async fn try_start(
        &mut self,
        it: &Planned<'_>,
        doing: &str,
        output: &mut Vec<String>,
    ) -> Result<End, Failure> {
        let cancel = &self.task.cancel;
        if cancel.is_cancelled() {
            return Err(Failure::new(Class::Interrupted, doing, "the run was cancelled"));
        }
        if self.orders.until.is_some_and(|until| self.task.clock.now().wall >= until) {
            return Ok(End::Skipped("the window is over: nothing new starts".to_owned()));
        }
        if let Some(lost) = &self.lost {
            return Err(Failure { doing: doing.to_owned(), ..lost.clone() });
        }
        if self.busy {
            return Ok(End::Skipped(BUSY.to_owned()));
        }
        self.task.progress.set_stage(format!("wait to {doing}"));
        let (limit, server) = (self.orders.lock_timeout, self.orders.server.name());
        let subject = Subject::Database(self.name.clone());
        let pass = self.orders.gate.enter_within(limit, server, &subject, self.task).await?;
        let Some(_pass) = pass else {
            self.busy = true;
            return Ok(End::Skipped(BUSY.to_owned()));
        };
        if let Err(failure) = self.reconnect(doing, self.task).await {
            self.lost = Some(failure.clone());
            return Err(failure);
        }
        let version = self.orders.facts.version_num;
        let activity = indexes::activity(self.session.queries(cancel), version).await;
        let activity = activity.during(doing)?;
        if let Some(hindrance) = activity.hindrance(it.index.table) {
            return Ok(End::Skipped(hindrance));
        }
        self.task.progress.set_stage(doing);
        match it.action {
            Action::Drop => {
                self.drop_debris(it.index, limit, doing, self.task).await?;
                Ok(End::Tried(Ok(Figures::default())))
            }
            _ => self.rebuild(it.index, &it.debris, doing, output).await,
        }
    }
}

/// Why nothing is done while another job has the database.
const BUSY: &str = "deferred: another job of pgkeep works on the database";
