//! A configured server: how to connect to it, and with which client programs.

use std::{path::PathBuf, sync::Arc};

use crate::{
    config::ServerConfig,
    domain::{
        backup::BackupId,
        failure::{Class, During, Failure},
        name::ServerName,
    },
    sys::task::Task,
};

use super::{
    ConnParts, ConnSpec, Session,
    params::SpecError,
    service::Environment,
    spec::ChildEnv,
    tools::{Installed, Toolbox, choose},
};

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
    maintenance_database: String,
    bin_dir: Option<PathBuf>,
    toolbox: Arc<Toolbox>,
}

impl Server {
    /// Resolves the configuration as libpq would. Looks at files, never at the network.
    ///
    /// # Errors
    /// When a connection string, a service or a certificate cannot be used.
    pub fn new(
        config: &ServerConfig,
        environment: &Environment,
        toolbox: Arc<Toolbox>,
    ) -> Result<Self, SpecError> {
        let parts = ConnParts {
            conninfo: config.conninfo.as_ref().map(|conninfo| conninfo.value.clone()),
            service: config.service.clone(),
            // What stands in the table is all that counts, unless libpq's own means are named.
            environment: config.conninfo.is_some() || config.service.is_some(),
            host: config.host.clone(),
            port: config.port,
            user: config.user.clone(),
            dbname: config.database.clone(),
            password: config.password.clone(),
            password_file: config.password_file.clone(),
            passfile: config.passfile.clone(),
            sslmode: config.sslmode.map(|mode| mode.as_str().to_owned()),
            sslrootcert: config.sslrootcert.as_ref().map(|path| path.display().to_string()),
            sslcert: config.sslcert.clone(),
            sslkey: config.sslkey.clone(),
            connect_timeout: Some(config.connect_timeout),
            answer_timeout: Some(config.answer_timeout),
            options: config.options.clone(),
        };
        let spec = ConnSpec::resolve(&parts, environment)?;
        Ok(Self {
            name: config.name.clone(),
            maintenance_database: spec.dbname.clone(),
            maintenance: config.maintenance_user.as_ref().map(|user| {
                spec.as_role(user, config.maintenance_password.clone())
                    .with_password_file(config.maintenance_password_file.clone())
            }),
            spec,
            bin_dir: config.bin_dir.clone(),
            toolbox,
        })
    }

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
        &self.maintenance_database
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
        let spec = self.maintenance.as_ref().unwrap_or(&self.spec);
        Session::connect(spec, database, APPLICATION, task).await.during(task)
    }

    /// The role for maintenance: `maintenance_user`, else `user`.
    pub fn maintenance_role(&self) -> &str {
        &self.maintenance.as_ref().unwrap_or(&self.spec).user
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
