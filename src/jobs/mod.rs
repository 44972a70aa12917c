//! The kinds of job: one file each, and one line in [`KINDS`].
//!
//! A kind reads its own options, declares its own metrics, and has its story told by `backup`, `maintenance`,
//! or `wal` with `checks`. Kinds know neither the scheduler nor Prometheus; nothing outside of
//! this folder knows a kind's name.

mod choose;
mod copy;
mod dump;
mod options;
mod prune;
mod reindex;
mod vacuum;
mod visit;
pub(crate) mod wal_check;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    checks::preflight::Accepted,
    config::{self, Config, Diagnostics, Located, Options, class},
    domain::{
        failure::Failure,
        metric::{MetricDesc, MetricKind},
        name::{RepositoryName, RetentionName, ServerName},
        pattern::DatabasePatterns,
        protection::Backed,
        report::{Figures, Outcome, Report, TargetReport},
        retention::Policy,
        run::RunId,
        scope::Scopes,
        target::Target,
    },
    postgres::Server,
    repository::handle::Handle,
    sys::{gate::DatabaseGate, process::ChildSettings, task::Task},
};

/// Every kind of job.
pub const KINDS: &[&JobKind] =
    &[&dump::KIND, &copy::KIND, &prune::KIND, &reindex::KIND, &vacuum::KIND, &wal_check::KIND];

/// One kind of job.
#[derive(Debug)]
pub struct JobKind {
    /// What `kind = "…"` says.
    pub name: &'static str,
    pub summary: &'static str,
    /// How long an attempt may take where the job does not say it: longer than any honest one.
    pub time_limit: Duration,
    /// The metrics that its runs bring samples for.
    pub metrics: &'static [MetricDesc],
    /// Reads the kind's own options and makes the job. Does no I/O on the network.
    pub build: fn(&mut Options<'_>, &Resources<'_>, &mut Diagnostics) -> Option<Arc<dyn Job>>,
}

/// What jobs are built from.
#[derive(Debug)]
pub struct Resources<'a> {
    /// The configuration, for references between its tables.
    pub config: &'a Config,
    pub servers: BTreeMap<ServerName, Arc<Server>>,
    pub repositories: BTreeMap<RepositoryName, Arc<Handle>>,
    pub children: ChildSettings,
    pub state_dir: PathBuf,
    /// One heavy job per database.
    pub gate: Arc<DatabaseGate>,
    pub retention: Policies,
}

impl Resources<'_> {
    /// The server that an option names. A name that is not configured is reported.
    pub fn server(&self, name: &Located<ServerName>, d: &mut Diagnostics) -> Option<Arc<Server>> {
        self.config.server(name, d)?;
        self.servers.get(&name.value).cloned()
    }

    /// The repository that an option names. A name that is not configured is reported.
    pub fn repository(
        &self,
        name: &Located<RepositoryName>,
        d: &mut Diagnostics,
    ) -> Option<Arc<Handle>> {
        self.config.repository(name, d)?;
        self.repositories.get(&name.value).cloned()
    }

    /// The retention policy that an option names. A name that is not configured is reported.
    pub fn policy(
        &self,
        name: &Located<RetentionName>,
        d: &mut Diagnostics,
    ) -> Option<Arc<Policy>> {
        self.config.retention(name, d)?;
        self.retention.get(&name.value)
    }
}

/// The configured retention policies, and which of them are in use.
#[derive(Debug, Default)]
pub struct Policies {
    policies: BTreeMap<RetentionName, Arc<Policy>>,
    used: RefCell<BTreeSet<RetentionName>>,
}

impl Policies {
    /// Reads all of them, whether a job names them or not.
    pub fn read(config: &Config, d: &mut Diagnostics) -> Self {
        let read = config.retention.iter().filter_map(|(name, section)| {
            let policy = config::read_policy(section, &config.daemon, d)?;
            Some((name.clone(), Arc::new(policy)))
        });
        Self { policies: read.collect(), used: RefCell::default() }
    }

    fn get(&self, name: &RetentionName) -> Option<Arc<Policy>> {
        self.used.borrow_mut().insert(name.clone());
        self.policies.get(name).cloned()
    }

    /// Warns of policies that no job asked for: nothing is removed by them.
    pub fn report_unused(&self, config: &Config, d: &mut Diagnostics) {
        let used = self.used.borrow();
        for name in self.policies.keys().filter(|name| !used.contains(*name)) {
            let Some(section) = config.retention.get(name) else { continue };
            d.warning(section.span(), format!("no job uses [retention.{name}]"))
                .class(class::REFERENCE)
                .hint("backups are removed only by a job that names the policy");
        }
    }
}

/// A configured piece of work.
#[async_trait]
pub trait Job: Send + Sync {
    /// The servers that it works on: they count towards the limit of runs per server.
    fn servers(&self) -> Vec<ServerName>;

    /// The most memory that a run takes, in bytes.
    fn memory(&self) -> u64;

    /// The databases that its runs back up; none for a job that makes no backups. What no job
    /// protects is counted and shown.
    fn protects(&self) -> Option<Protects> {
        None
    }

    /// Whether it can say what it would do: it then keeps to [`RunContext::dry_run`].
    fn has_dry_run(&self) -> bool {
        false
    }

    /// Whether a run may turn out to have nothing to do here. Nobody is told of its start then: no end
    /// would follow.
    fn may_skip(&self) -> bool {
        false
    }

    /// Makes one attempt. A target that fails does not stop the others.
    ///
    /// # Errors
    /// A failure that came before any target was tried: no server, no tool.
    async fn run(&self, cx: &RunContext) -> Result<Report, Failure>;
}

/// The databases of a server that a job backs up.
#[derive(Debug, Clone)]
pub struct Protects {
    pub server: Arc<Server>,
    /// Which of its databases. One that is excluded was thought of, and is not unprotected.
    pub patterns: DatabasePatterns,
    pub scopes: Scopes,
    /// Whether it backs up the globals, and then whether with the hashes of passwords.
    pub globals: Option<bool>,
    /// What it accepts to be left out.
    pub accepted: Accepted,
    pub repositories: Vec<RepositoryName>,
}

impl Protects {
    /// As it is held against the databases of the server.
    pub fn backed(&self) -> Backed {
        Backed { patterns: self.patterns.clone(), scopes: self.scopes.clone() }
    }
}

/// What one attempt is handed.
#[derive(Debug, Clone)]
pub struct RunContext {
    pub task: Task,
    /// The run; all its attempts share it.
    pub run: RunId,
    /// Counted from 1.
    pub attempt: u32,
    /// The targets to do: those that failed before. None: all.
    pub only: Option<BTreeSet<Target>>,
    /// What earlier attempts of the run brought.
    pub earlier: Report,
    /// Decide and report the plan, and change nothing.
    pub dry_run: bool,
    /// How old the last success of the job may become; none where it has no such objective.
    pub max_age: Option<Duration>,
    /// A private folder for this attempt, removed afterwards.
    pub scratch: PathBuf,
}

impl RunContext {
    /// Whether this attempt is to do the target.
    pub fn wants(&self, target: &Target) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(target))
    }

    /// A target with its outcome: cancelled where the failure is that the run was cancelled.
    pub fn ended(&self, target: Target, result: Result<Figures, Failure>) -> TargetReport {
        let (outcome, figures) = match result {
            Ok(figures) => (Outcome::Succeeded, figures),
            Err(failure) => (self.task.outcome(failure), Figures::default()),
        };
        TargetReport { figures, ..TargetReport::new(target, outcome) }
    }
}

/// What the kinds declare for the metrics.
pub fn metrics() -> Vec<(&'static str, &'static [MetricDesc])> {
    KINDS.iter().map(|kind| (kind.name, kind.metrics)).collect()
}

/// What sort of number a kind's metric is; none for a name that no kind declares.
pub fn metric_kind(name: &str) -> Option<MetricKind> {
    let metrics = KINDS.iter().flat_map(|kind| kind.metrics);
    metrics.into_iter().find(|metric| metric.name == name).map(|metric| metric.kind)
}

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static JobKind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own() {
        let names: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        let metrics: Vec<_> = KINDS.iter().flat_map(|kind| kind.metrics).map(|m| m.name).collect();
        let unique: BTreeSet<_> = metrics.iter().collect();
        assert_eq!(unique.len(), metrics.len(), "a metric belongs to one kind");
    }
}
