//! Whether a build may start now, and what comes of it for the report.

use crate::{
    domain::{
        backup::Subject,
        failure::{During, Failure},
        index::{Action, Planned},
        report::Figures,
    },
    postgres::indexes,
    sys::task::Task,
};

use super::{Ending, Rebuilder};

impl Rebuilder<'_> {
    /// Starts what is planned, if nothing is against it now.
    pub(super) async fn start(
        &mut self,
        it: &Planned<'_>,
        task: &Task,
        output: &mut Vec<String>,
    ) -> Result<Ending, Failure> {
        task.check()?;
        if self.orders.until.is_some_and(|until| task.clock.now().wall >= until) {
            return Ok(Ending::Skipped(
                "the maintenance window has ended: nothing new starts".to_owned(),
            ));
        }
        if let Some(lost) = &self.lost {
            return Err(Failure { doing: task.into(), ..lost.clone() });
        }
        if self.busy {
            return Ok(Ending::Skipped(BUSY.to_owned()));
        }
        task.progress.set_stage(format!("wait to {}", task.phrase()));
        let (limit, server) = (self.orders.lock_timeout, self.orders.server.name());
        let subject = Subject::Database(self.name.clone());
        let pass = self.orders.gate.enter_within(limit, server, &subject, task).await?;
        let Some(_pass) = pass else {
            self.busy = true;
            return Ok(Ending::Skipped(BUSY.to_owned()));
        };
        if let Err(failure) = self.reconnect(task).await {
            self.lost = Some(failure.clone());
            return Err(failure);
        }
        let ask = self.session.queries(&task.cancel);
        let activity = indexes::activity(ask, self.orders.facts.version_num).await.during(task)?;
        if let Some(hindrance) = activity.hindrance(it.index.table) {
            return Ok(Ending::Skipped(hindrance));
        }
        task.progress.set_stage(task.phrase());
        if it.action == Action::Drop {
            self.drop_debris(it.index, limit, task).await?;
            return Ok(Ending::Done(Figures::default()));
        }
        self.rebuild(it.index, &it.debris, task, output).await
    }
}

/// Why nothing is done while another job has the database.
const BUSY: &str = "deferred: another job of pgkeep works on the database";
