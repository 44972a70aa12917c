//! When the repositories and the servers are looked at, beside the runs: at intervals, after a
//! reload, and what a run has touched at its end.
//!
//! One look at a time; what comes up meanwhile is looked at after it.

use std::{
    collections::BTreeSet,
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
    unprotected: Unprotected,
    suspicious: Suspicious,
    touched: Touched,
    next: Duration,
    next_sweep: Duration,
    servers_due: bool,
    repositories: Option<JoinHandle<()>>,
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
            repositories: None,
            servers: None,
        }
    }

    /// A run has worked on these.
    pub fn touched(&self, repositories: impl Iterator<Item = RepositoryName>) {
        self.touched.add(repositories);
    }

    /// For work beside the runs that changes repositories.
    pub fn toucher(&self) -> Touched {
        self.touched.clone()
    }

    /// Backups in doubt.
    pub fn suspicious(&self) -> &Suspicious {
        &self.suspicious
    }

    /// The configuration changed: all is to be looked at again. What is still under way looks with
    /// the old one: what it sees is not taken.
    pub fn everything(&mut self) {
        self.next = Duration::ZERO;
        self.servers_due = true;
        self.unprotected = Unprotected::default();
        self.suspicious = Suspicious::default();
    }

    /// The databases that no job backs up.
    pub fn unprotected(&self) -> &Unprotected {
        &self.unprotected
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
        if is_busy(self.repositories.as_ref()) {
            return;
        }
        let (all, sweep) = (now >= self.next, now >= self.next_sweep);
        let touched = self.touched.take();
        if !all && !sweep && touched.is_empty() {
            return;
        }
        let mut repositories = table.repositories.clone();
        if all || sweep {
            self.next = now + probe::INTERVAL;
            self.servers_due = true;
        } else {
            repositories.retain(|name, _| touched.contains(name));
        }
        if sweep {
            self.next_sweep = now + probe::SWEEP_INTERVAL;
        }
        let (metrics, clock) = (self.metrics.clone(), self.clock.clone());
        let suspicious = self.suspicious.clone();
        self.repositories = Some(tokio::spawn(async move {
            if sweep {
                probe::sweep(repositories.clone(), clock.clone()).await;
            }
            probe::probe(repositories, metrics, suspicious, clock).await;
        }));
    }

    fn look_at_servers(&mut self, table: &Table) {
        let task = Task { cancel: self.cancel.child_token(), ..Task::new(self.clock.clone()) };
        let (metrics, seen) = (self.metrics.clone(), self.unprotected.clone());
        let servers = protection::protected(table);
        self.servers = Some(tokio::spawn(protection::look(servers, metrics, seen, task)));
    }

    /// Ends what is under way.
    pub async fn stop(&mut self) {
        self.cancel.cancel();
        if let Some(repositories) = self.repositories.take() {
            // Only reads, and deletes of garbage: nothing that needs an orderly end.
            repositories.abort();
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
