//! When the repositories and the servers are looked at, beside the runs: at intervals, after a
//! reload, and what a run has touched at its end.
//!
//! One look at a time; what comes up meanwhile is looked at after it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::name::RepositoryName,
    sys::{clock::Clock, task::Task},
    telemetry::metrics::Metrics,
};

use super::{
    probe,
    protection::{self, Unprotected},
    table::Table,
};

/// See the module's head.
#[derive(Debug)]
pub struct Watch {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    unprotected: Unprotected,
    touched: BTreeSet<RepositoryName>,
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
            touched: BTreeSet::new(),
            next: Duration::ZERO,
            next_sweep: Duration::ZERO,
            servers_due: true,
            repositories: None,
            servers: None,
        }
    }

    /// A run has worked on these.
    pub fn touched(&mut self, repositories: impl Iterator<Item = RepositoryName>) {
        self.touched.extend(repositories);
    }

    /// The configuration changed: all is to be looked at again. What is still under way looks with
    /// the old one: what it sees is not taken.
    pub fn everything(&mut self) {
        self.next = Duration::ZERO;
        self.servers_due = true;
        self.unprotected = Unprotected::default();
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
        if !all && !sweep && self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
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
        self.repositories = Some(tokio::spawn(async move {
            if sweep {
                probe::sweep(repositories.clone(), clock.clone()).await;
            }
            probe::probe(repositories, metrics, clock).await;
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
