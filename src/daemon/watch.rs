//! When the repositories and the servers are looked at, beside the runs: at intervals, after a
//! reload, and what a run has touched at its end.
//!
//! One look at a time at each repository; what comes up meanwhile is looked at after it. One that does not
//! answer holds up no look at another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::name::RepositoryName,
    sys::{clock::Clock, task::Task},
    telemetry::metrics::Metrics,
};

use super::{
    probe::{self, Suspicious},
    protection::{self, Unprotected},
    table::Table,
};

/// Repositories that were changed since they were last looked at.
#[derive(Debug, Clone, Default)]
pub struct Touched(Arc<Mutex<BTreeSet<RepositoryName>>>);

impl Touched {
    /// These were changed.
    pub fn add(&self, repositories: impl Iterator<Item = RepositoryName>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(repositories);
    }

    fn take(&self) -> BTreeSet<RepositoryName> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Watch {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    /// The databases that no job backs up.
    pub unprotected: Unprotected,
    pub suspicious: Suspicious,
    /// For whoever changes repositories.
    pub touched: Touched,
    next: Duration,
    next_sweep: Duration,
    servers_due: bool,
    /// Repositories in which leftovers are to be looked for.
    to_sweep: BTreeSet<RepositoryName>,
    repositories: BTreeMap<RepositoryName, JoinHandle<()>>,
    servers: Option<JoinHandle<()>>,
}

impl Watch {
    /// Everything is due.
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            metrics,
            clock,
            cancel: CancellationToken::new(),
            unprotected: Unprotected::default(),
            suspicious: Suspicious::default(),
            touched: Touched::default(),
            next: Duration::ZERO,
            next_sweep: Duration::ZERO,
            servers_due: true,
            to_sweep: BTreeSet::new(),
            repositories: BTreeMap::new(),
            servers: None,
        }
    }

    /// The configuration changed: all is to be looked at again. What is still under way looks with
    /// the old one: what it sees is not taken.
    pub fn everything(&mut self) {
        self.next = Duration::ZERO;
        self.servers_due = true;
        self.unprotected = Unprotected::default();
        self.suspicious = Suspicious::default();
    }

    /// Starts what is due at monotonic time `now`, unless a look of its sort is still under way.
    pub fn tick(&mut self, now: Duration, table: &Table) {
        self.look_at_repositories(now, table);
        if self.servers_due && !is_busy(self.servers.as_ref()) {
            self.servers_due = false;
            self.look_at_servers(table);
        }
    }

    fn look_at_repositories(&mut self, now: Duration, table: &Table) {
        let names = || table.repositories.keys().cloned();
        if now >= self.next || now >= self.next_sweep {
            self.next = now + probe::INTERVAL;
            self.servers_due = true;
            self.touched.add(names());
        }
        if now >= self.next_sweep {
            self.next_sweep = now + probe::SWEEP_INTERVAL;
            self.to_sweep = names().collect();
        }
        self.repositories.retain(|_, look| !look.is_finished());
        let (busy, due): (BTreeSet<_>, BTreeSet<_>) =
            self.touched.take().into_iter().partition(|name| self.repositories.contains_key(name));
        self.touched.add(busy.into_iter());
        for name in due {
            let Some(handle) = table.repositories.get(&name).cloned() else { continue };
            let sweep = self.to_sweep.remove(&name);
            let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
            let suspicious = self.suspicious.clone();
            let look = tokio::spawn(async move {
                if sweep {
                    probe::sweep(&handle, &*clock).await;
                }
                probe::probe(&handle, &metrics, &suspicious, &*clock).await;
            });
            self.repositories.insert(name, look);
        }
    }

    fn look_at_servers(&mut self, table: &Table) {
        let task = Task::new(self.clock.clone()).cancelled_by(self.cancel.child_token());
        let (metrics, seen) = (self.metrics.clone(), self.unprotected.clone());
        let servers = protection::protected(table);
        self.servers = Some(tokio::spawn(protection::look(servers, metrics, seen, task)));
    }

    /// Ends what is under way.
    pub async fn stop(&mut self) {
        self.cancel.cancel();
        for (_, look) in std::mem::take(&mut self.repositories) {
            // Only reads, and deletes of garbage: nothing that needs an orderly end.
            look.abort();
        }
        if let Some(servers) = self.servers.take()
            && let Err(error) = servers.await
        {
            tracing::debug!(%error, "looking at the servers did not end well");
        }
    }
}

fn is_busy(handle: Option<&JoinHandle<()>>) -> bool {
    handle.is_some_and(|handle| !handle.is_finished())
}
