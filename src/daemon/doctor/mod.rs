//! `pgkeep doctor`: a look at everything that the configuration names, before a night shows what is
//! wrong with it. It changes nothing but a scratch object in each repository, takes no lock, and runs
//! beside a daemon.
//!
//! What can still go wrong: rights that only the daemon's own user has or lacks, where another user asks.

mod host;
pub(super) mod repository;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use serde::Serialize;

use super::table::{Configured, Table};
use crate::{
    checks::doctor::LineReport,
    codec::identity::Identities,
    domain::{
        failure::Failure,
        finding::{Finding, Severity},
        name::{JobName, RepositoryName, ServerName},
    },
    jobs::Protects,
    sys::task::Task,
};

/// What is to be looked at.
#[derive(Debug, Default)]
pub struct Asked {
    pub config: PathBuf,
    pub server: Option<ServerName>,
    pub job: Option<JobName>,
    /// Secret keys to try on what is encrypted.
    pub identities: Option<Identities>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it belongs to: `server main`, `repository local`, `this host`.
    pub group: String,
    /// What it is: `connection`, `space`, `database app`.
    pub label: String,
    /// `ok`, or the severity of the worst finding.
    pub state: &'static str,
    pub text: String,
    pub findings: Vec<Finding>,
}

impl Item {
    fn new(group: &str, label: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            group: group.to_owned(),
            label: label.into(),
            state: "ok",
            text: text.into(),
            findings: Vec::new(),
        }
    }

    /// The same with findings.
    fn with(mut self, findings: Vec<Finding>) -> Self {
        self.findings = findings;
        self.state = self.worst().map_or("ok", Severity::as_str);
        self
    }

    /// Something that could not be done: its class is the check's name.
    fn failed(group: &str, label: impl Into<String>, failure: Failure) -> Self {
        let Failure { class, doing, what, hint } = failure;
        let finding = Finding::new(class.as_str(), Severity::Critical, what);
        Self::new(group, label, doing).with(vec![Finding { hint, ..finding }])
    }

    fn of(group: &str, looked: LineReport) -> Self {
        Self::new(group, looked.label, looked.state).with(looked.findings)
    }

    /// The severity of the worst finding.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// A job that makes backups, with what it takes.
#[derive(Debug)]
struct Backing {
    job: Arc<Configured>,
    protects: Protects,
}

/// Looks at everything that is asked for; `show` gets each thing as soon as it was looked at. It ends
/// early where the task is cancelled.
pub async fn look(table: &Table, asked: &Asked, task: &Task, mut show: impl FnMut(Item)) {
    let only = |name: &ServerName| asked.server.as_ref().is_none_or(|only| only == name);
    let jobs = table.jobs.values().filter(|job| match &asked.job {
        Some(only) => job.common.name == *only,
        None => job.common.enabled,
    });
    let backing: Vec<Backing> = jobs
        .clone()
        .filter_map(|job| Some(Backing { protects: job.job.protects()?, job: job.clone() }))
        .filter(|backing| only(backing.protects.server.name()))
        .collect();
    let of_job: BTreeSet<ServerName> = jobs.flat_map(|job| job.job.servers()).collect();
    // Bytes of the databases that go to each repository.
    let mut sizes = BTreeMap::new();
    for (name, server) in &table.servers {
        let wanted = only(name) && (asked.job.is_none() || of_job.contains(name));
        if wanted && !task.cancel.is_cancelled() {
            server::look(server, table, &backing, &mut sizes, task, &mut show).await;
        }
    }
    let to: BTreeSet<&RepositoryName> =
        backing.iter().flat_map(|it| &it.protects.repositories).collect();
    let narrowed = asked.job.is_some() || asked.server.is_some();
    for (name, handle) in &table.repositories {
        if (!narrowed || to.contains(name)) && !task.cancel.is_cancelled() {
            let bytes = sizes.get(name).copied().unwrap_or(0);
            repository::look(handle, bytes, asked.identities.as_ref(), task, &mut show).await;
        }
    }
    if !narrowed && !task.cancel.is_cancelled() {
        host::look(table, &asked.config, &mut show).await;
    }
}
