//! Asks the servers from time to time which databases they have, and compares that with what the
//! jobs back up: a database that was made last week and that no pattern includes is otherwise
//! found out about when it is needed.
//!
//! Only servers that a job backs up are asked. What can still go wrong: a job whose patterns
//! include the database, and which has never run; the job's own age tells that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;

use crate::{
    domain::{
        failure::{During, Failure},
        name::{DatabaseName, JobName, ServerName},
        protection::{Backed, Protection},
        scope::{Coverage, Scope},
        units::format_duration,
    },
    postgres::{
        Server,
        catalog::{self, Database},
    },
    sys::task::Task,
    telemetry::metrics::Metrics,
};

use super::table::Table;

/// Longest time for one server, beside its `connect_timeout`.
const LIMIT: Duration = Duration::from_secs(30);

/// The databases of each server that no job backs up, or only in part, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Unprotected(Arc<Mutex<BTreeMap<ServerName, Protection>>>);

impl Unprotected {
    /// What was seen last.
    pub fn seen(&self) -> BTreeMap<ServerName, Protection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what was seen. Says whether it is news.
    fn put(&self, server: &ServerName, found: Option<Protection>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            None => known.remove(server).is_some(),
            Some(found) => known.insert(server.clone(), found.clone()).unwrap_or_default() != found,
        }
    }

    fn retain(&self, servers: &[Protected]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| servers.iter().any(|server| server.server.name() == name));
    }
}

/// A server with what all jobs back up of its databases.
#[derive(Debug, Clone)]
pub struct Protected {
    server: Arc<Server>,
    jobs: Vec<Backed>,
}

/// The servers that the jobs of a table back up.
pub fn protected(table: &Table) -> Vec<Protected> {
    let mut servers: BTreeMap<ServerName, Protected> = BTreeMap::new();
    for job in table.jobs.values().filter(|job| job.common.enabled) {
        let Some(protects) = job.job.protects() else { continue };
        let backed = protects.backed();
        let server = protects.server;
        let known = servers
            .entry(server.name().clone())
            .or_insert_with(|| Protected { server, jobs: Vec::new() });
        known.jobs.push(backed);
    }
    servers.into_values().collect()
}

/// The names of the servers that the jobs of a table back up.
pub fn names(table: &Table) -> Vec<ServerName> {
    protected(table).iter().map(|known| known.server.name().clone()).collect()
}

/// What a job's selection costs, in plain words.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    pub job: JobName,
    /// Of which databases it makes selections, as the configuration has it.
    pub databases: String,
    pub selection: Scope,
    pub contents: String,
    pub means: String,
}

/// What the selections of a table's jobs cost.
pub fn costs(table: &Table) -> Vec<Cost> {
    let mut costs = Vec::new();
    for job in table.jobs.values().filter(|job| job.common.enabled) {
        let Some(protects) = job.job.protects() else { continue };
        let general = protects.scopes.general();
        let include = protects.patterns.include.iter().map(|it| format!("{:?}", it.as_str()));
        let general = (include.collect::<Vec<_>>().join(", "), general);
        let own = protects.scopes.own().iter();
        let own = own.map(|own| (format!("{:?}", own.pattern.as_str()), &own.scope));
        for (databases, scope) in std::iter::once(general).chain(own) {
            if let Some(means) = means(scope, job.max_age) {
                let (job, selection) = (job.common.name.clone(), scope.clone());
                costs.push(Cost { job, databases, selection, contents: scope.series(), means });
            }
        }
    }
    costs
}

/// What follows from a selection; nothing from a whole backup.
fn means(scope: &Scope, max_age: Option<Duration>) -> Option<String> {
    let counts = match scope.coverage() {
        Coverage::Whole => return None,
        Coverage::AllBut => "`pgkeep status` shows them as backed up in part",
        Coverage::Only => {
            "what is not named is in no backup: `pgkeep status` shows them as backed up in part, and \
             PgkeepDatabaseInPart alerts"
        }
    };
    let late = max_age.map_or_else(
        || "nothing tells when they are late (set max_age)".to_owned(),
        |age| {
            format!(
                "that they are late only the job's own max_age ({}) tells",
                format_duration(age)
            )
        },
    );
    Some(format!(
        "these are not the databases' backups, but series of their own that leave something out: a \
         restore takes them only when they are asked for by name, and the metrics and alerts of a \
         database's newest backup do not look at them; {late}; unless another job backs up all of the \
         databases, {counts}"
    ))
}

/// Asks every server once, one after the other.
pub async fn look(servers: Vec<Protected>, metrics: Arc<Metrics>, seen: Unprotected, task: Task) {
    seen.retain(&servers);
    for known in servers {
        let name = known.server.name();
        let asked = bounded(&known.server, &task).await;
        if task.cancel.is_cancelled() {
            return;
        }
        let now = task.clock.now().wall;
        match asked {
            Ok(databases) => {
                let candidates: Vec<_> = databases.iter().map(Database::candidate).collect();
                let found = Protection::of(&candidates, &known.jobs);
                metrics.server_probed(name, now, Some(&found));
                let databases: Vec<&str> = found.none.iter().map(DatabaseName::as_str).collect();
                let databases = databases.join(", ");
                if seen.put(name, Some(found)) && !databases.is_empty() {
                    let hint = "include them in a job, or name them in its `exclude`";
                    tracing::info!(server = %name, databases, hint, "no job backs these up");
                }
            }
            Err(failure) => {
                metrics.server_probed(name, now, None);
                seen.put(name, None);
                let (class, hint) = (failure.class, failure.hint.as_deref());
                // The time of the last success tells it to whoever is to act.
                tracing::info!(server = %name, %class, hint, "{failure}");
            }
        }
    }
}

/// The databases, or an error within the limit. Cancelled, not dropped: a dropped statement goes on
/// in the server.
async fn bounded(server: &Server, task: &Task) -> Result<Vec<Database>, Failure> {
    let task = task.child();
    let mut asking = Box::pin(ask(server, &task));
    let limit = server.spec().connect_timeout + LIMIT;
    tokio::select! {
        result = &mut asking => result,
        () = tokio::time::sleep(limit) => {
            task.cancel.cancel();
            asking.await
        }
    }
}

async fn ask(server: &Server, task: &Task) -> Result<Vec<Database>, Failure> {
    const DOING: &str = "look for databases without a backup";
    let session = server.connect(server.maintenance_database(), &task.doing(DOING)).await?;
    let databases = catalog::databases(session.queries(&task.cancel), false).await;
    session.close().await;
    databases.during(DOING)
}
