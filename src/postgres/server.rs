//! A configured server: how to connect to it, and with which client programs.

use std::{path::PathBuf, sync::Arc};

use crate::{
    domain::{
        backup::BackupId,
        failure::{Class, During, Failure},
        name::ServerName,
    },
    sys::task::Task,
};

use super::{
    ConnSpec, Session,
    spec::ChildEnv,
    tools::{Installed, Toolbox, choose},
};

mod read;

/// `application_name` of our own sessions.
const APPLICATION: &str = "pgkeep";

/// The `application_name` of programs that work on the backup `id`, by which they are found among the
/// server's sessions: `pgkeep 20261121T021500Z-k3f9q2x7`. The server keeps 63 bytes of it.
pub fn application(id: &BackupId) -> String {
    format!("{APPLICATION} {id}")
}

/// One `[server.NAME]`.
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    spec: ConnSpec,
    maintenance: Option<ConnSpec>,
    bin_dir: Option<PathBuf>,
    toolbox: Arc<Toolbox>,
}

impl Server {
    /// Its name in the configuration.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// How to connect.
    pub fn spec(&self) -> &ConnSpec {
        &self.spec
    }

    /// The database for what concerns the whole cluster.
    pub fn maintenance_database(&self) -> &str {
        &self.spec.dbname
    }

    /// Opens a session.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect(&self, database: &str, task: &Task) -> Result<Session, Failure> {
        Session::connect(&self.spec, database, APPLICATION, task).await.during(task)
    }

    /// Opens a session as the role for maintenance: `maintenance_user`, else `user`.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_for_maintenance(
        &self,
        database: &str,
        task: &Task,
    ) -> Result<Session, Failure> {
        Session::connect(self.maintenance_spec(), database, APPLICATION, task).await.during(task)
    }

    /// How to connect as the role for maintenance.
    pub fn maintenance_spec(&self) -> &ConnSpec {
        self.maintenance.as_ref().unwrap_or(&self.spec)
    }

    /// The role for maintenance: `maintenance_user`, else `user`.
    pub fn maintenance_role(&self) -> &str {
        &self.maintenance_spec().user
    }

    /// The installed client programs for a server of that major version.
    ///
    /// # Errors
    /// When there are none, or only older ones.
    pub async fn tools(&self, major: u32, task: &Task) -> Result<Installed, Failure> {
        let path = std::env::var_os("PATH");
        let inventory =
            self.toolbox.look(self.bin_dir.as_deref(), path.as_deref(), &task.cancel).await?;
        choose(&inventory, major).cloned()
    }

    /// The environment of a client program that connects to where `session` is.
    ///
    /// # Errors
    /// As [`Server::child_env_as`].
    pub fn child_env(&self, session: &Session) -> Result<ChildEnv, Failure> {
        self.child_env_as(session, APPLICATION)
    }

    /// The same, with an `application_name` of its own; see [`application`].
    ///
    /// # Errors
    /// When a password file cannot be read, or does not fit into the program's own.
    pub fn child_env_as(&self, session: &Session, application: &str) -> Result<ChildEnv, Failure> {
        self.spec
            .child_env(session.endpoint(), session.dbname(), application)
            .map_err(|error| Failure::from_error(Class::State, "prepare a client program", &error))
    }
}
