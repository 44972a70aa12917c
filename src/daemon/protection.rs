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

use crate::{
    domain::{
        failure::Failure,
        name::{DatabaseName, ServerName},
        pattern::{DatabasePatterns, unprotected},
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

/// The databases of each server that no job backs up, as last seen.
#[derive(Debug, Clone, Default)]
pub struct Unprotected(Arc<Mutex<BTreeMap<ServerName, Vec<DatabaseName>>>>);

impl Unprotected {
    /// What was seen last.
    pub fn seen(&self) -> BTreeMap<ServerName, Vec<DatabaseName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what was seen. Says whether it is news.
    fn put(&self, server: &ServerName, found: Option<Vec<DatabaseName>>) -> bool {
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

/// A server with the patterns of all jobs that back up its databases.
#[derive(Debug, Clone)]
pub struct Protected {
    server: Arc<Server>,
    patterns: Vec<DatabasePatterns>,
}

/// The servers that the jobs of a table back up.
pub fn protected(table: &Table) -> Vec<Protected> {
    let mut servers: BTreeMap<ServerName, Protected> = BTreeMap::new();
    for job in table.jobs.values().filter(|job| job.common.enabled) {
        let Some(protects) = job.job.protects() else { continue };
        let server = protects.server;
        let known = servers
            .entry(server.name().clone())
            .or_insert_with(|| Protected { server, patterns: Vec::new() });
        if protects.scope.is_whole() {
            known.patterns.push(protects.patterns);
        }
    }
    servers.into_values().collect()
}

/// The names of the servers that the jobs of a table back up.
pub fn names(table: &Table) -> Vec<ServerName> {
    protected(table).iter().map(|known| known.server.name().clone()).collect()
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
                let found = unprotected(&candidates, &known.patterns);
                metrics.server_probed(name, now, Some(found.len()));
                let databases: Vec<&str> = found.iter().map(DatabaseName::as_str).collect();
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
    let session = server.connect(server.maintenance_database(), DOING, task).await?;
    let databases = catalog::databases(&session, false, &task.cancel).await;
    session.close().await;
    databases.map_err(|error| error.into_failure(DOING))
}
