//! What opens a run at a server: a session with its maintenance database, and what the kinds ask there.

use crate::{
    domain::{
        failure::{During, Failure},
        pattern::{DatabasePatterns, Selection},
    },
    postgres::{
        Server, Session,
        catalog::{self, ServerFacts},
    },
    sys::task::Task,
};

use super::choose;

/// A session with a server's maintenance database, for one task: its failures say what that was doing.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) session: Session,
    pub(super) task: Task,
}

impl Visit {
    /// Connects as the server's `user`. The phrase of the task becomes the stage: `look at server main`.
    pub(super) async fn start(server: &Server, task: Task) -> Result<Self, Failure> {
        task.progress.set_stage(task.phrase());
        let session = server.connect(server.maintenance_database(), &task).await?;
        Ok(Self { session, task })
    }

    /// The same as the role for maintenance.
    pub(super) async fn for_maintenance(server: &Server, task: Task) -> Result<Self, Failure> {
        task.progress.set_stage(task.phrase());
        let database = server.maintenance_database();
        let session = server.connect_for_maintenance(database, &task).await?;
        Ok(Self { session, task })
    }

    pub(super) async fn facts(&self) -> Result<ServerFacts, Failure> {
        catalog::server_facts(self.session.queries(&self.task.cancel)).await.during(&self.task)
    }

    /// The databases that the patterns choose among those of the server.
    pub(super) async fn databases(
        &self,
        patterns: &DatabasePatterns,
    ) -> Result<Selection, Failure> {
        let databases = catalog::databases(self.session.queries(&self.task.cancel), false).await;
        Ok(choose::databases(patterns, &databases.during(&self.task)?))
    }

    pub(super) async fn end(self) {
        self.session.close().await;
    }
}
