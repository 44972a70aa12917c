//! All metrics of the process: those of pgkeep, with the prefix `pgkeep_`, and `process_*`.
//!
//! Metrics cannot lie (DESIGN rule 7): every configured thing has its series from the start (0 =
//! never), series of what is no longer configured go, and what could not be measured has no sample.
//! A change of several series by one event is seen by a scrape whole or not at all.
//!
//! What can still go wrong: a caller that never calls. The times of the planner's last tick and of
//! each probe are exported for that.

mod backups;
pub mod builtin;
mod document;
mod family;
mod jobs;
mod notify;
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::{PoisonError, RwLock},
};

use jiff::Timestamp;
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};

pub use self::{
    backups::{RepositoryFacts, StoredBackups, datname_label},
    document::markdown,
    jobs::JobSeries,
    notify::Notified,
};
use self::{
    builtin::CORE,
    family::{Family, Labels, NotTaken},
};
use crate::domain::{
    metric::{Metric, MetricDesc, MetricKind},
    name::{JobName, NotifyName},
};

/// Prefix of every metric but `process_*`.
pub const PREFIX: &str = "pgkeep";
/// Series with a `datname` that one metric has at most, unless the configuration says otherwise.
pub const DATNAME_CAP_DEFAULT: usize = 1000;
/// Labels that go before those that a job kind declares.
const JOB_LABELS: &[&str] = &["job_name", "kind"];

/// The metrics of one job kind: its name and what it declares.
pub type KindMetrics = (&'static str, &'static [MetricDesc]);

/// What the metrics are made from.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub version: &'a str,
    pub kinds: &'a [KindMetrics],
    /// Every reason for which a due run may be skipped.
    pub skip_reasons: &'static [&'static str],
    /// Series with a `datname` that one metric has at most.
    pub datname_cap: usize,
}

/// Why the metrics could not be set up, or rendered.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A kind's declaration breaks the rules of [`MetricDesc::is_well_formed`].
    #[error("metric {0} is not well formed")]
    Malformed(&'static str),
    /// Two declarations of one name differ, or a kind took a name of the core.
    #[error("metric {0} is declared twice")]
    Conflict(&'static str),
    #[error("cannot register or render metrics")]
    Prometheus(#[from] prometheus::Error),
}

/// All metrics. Shared by reference; every method may be called from any thread.
#[derive(Debug)]
pub struct Metrics {
    process: Registry,
    families: BTreeMap<&'static str, Family>,
    declared: Vec<&'static str>,
    skip_reasons: &'static [&'static str],
    /// Written by whoever changes several series at once, read by the scrape.
    jobs: RwLock<BTreeMap<JobName, JobSeries>>,
    notifiers: RwLock<BTreeSet<NotifyName>>,
}

impl Metrics {
    /// Registers the core and what the job kinds declare.
    pub fn new(setup: &Setup<'_>) -> Result<Self, MetricsError> {
        let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
        for desc in CORE {
            families.insert(desc.name, Family::new(*desc, &[], setup.datname_cap));
        }
        let mut declared = Vec::new();
        for desc in setup.kinds.iter().flat_map(|(_, metrics)| metrics.iter()) {
            if !desc.is_well_formed() || desc.labels.iter().any(|name| JOB_LABELS.contains(name)) {
                return Err(MetricsError::Malformed(desc.name));
            }
            match families.get(desc.name) {
                Some(known) if declared.contains(&desc.name) && known.desc() == desc => {}
                Some(_) => return Err(MetricsError::Conflict(desc.name)),
                None => {
                    families.insert(desc.name, Family::new(*desc, JOB_LABELS, setup.datname_cap));
                    declared.push(desc.name);
                }
            }
        }
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        let skip_reasons = setup.skip_reasons;
        let (jobs, notifiers) = (RwLock::default(), RwLock::default());
        let metrics = Self { process, families, declared, skip_reasons, jobs, notifiers };
        metrics.set(&builtin::BUILD_INFO, [&setup.version], 1.0);
        for desc in CORE.iter().filter(|desc| desc.labels.is_empty()) {
            metrics.take(desc.name, |family| family.ensure(Vec::new()));
        }
        Ok(metrics)
    }

    /// The planner looked at what is due.
    pub fn planner_ticked(&self, at: Timestamp) {
        self.set(&builtin::PLANNER_LAST_TICK, [], seconds(at));
    }

    /// A heartbeat did not come in time.
    pub fn heartbeat_missed(&self) {
        self.add(&builtin::HEARTBEAT_MISSED, [], 1.0);
    }

    /// The configuration was loaded at `at`, or was refused.
    pub fn config_loaded(&self, at: Timestamp, accepted: bool) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        self.set(&builtin::CONFIG_LAST_RELOAD_SUCCESSFUL, [], f64::from(u8::from(accepted)));
        if accepted {
            self.set(&builtin::CONFIG_LAST_RELOAD_SUCCESS, [], seconds(at));
        }
    }

    /// What sort of number a job kind's metric is; `None` for a name that no kind declared.
    pub fn kind_of(&self, metric: &str) -> Option<MetricKind> {
        let name = self.declared.iter().find(|name| **name == metric)?;
        self.families.get(name).map(|family| family.desc().kind)
    }

    /// How many series there are, without `process_*`.
    pub fn series(&self) -> usize {
        self.families.values().map(Family::len).sum()
    }

    /// Everything in the text format of Prometheus, version 0.0.4. Does no I/O but reading
    /// `/proc/self`.
    pub fn render(&self) -> Result<String, MetricsError> {
        let mut text = String::new();
        {
            let _gate = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
            for family in self.families.values() {
                family.render(&mut text)?;
            }
        }
        TextEncoder::new().encode_utf8(&self.process.gather(), &mut text)?;
        Ok(text)
    }

    fn take(&self, name: &str, change: impl FnOnce(&Family) -> Result<(), NotTaken>) {
        let Some(family) = self.families.get(name) else {
            tracing::error!(metric = name, "no such metric is declared: please report this");
            return;
        };
        match change(family) {
            Ok(()) => {}
            Err(NotTaken::Cap) => {
                self.add(&builtin::DROPPED_SERIES, [], 1.0);
            }
            Err(why) => {
                tracing::error!(metric = name, ?why, "sample not taken: please report this");
            }
        }
    }

    fn set<const N: usize>(&self, metric: &Metric<N>, labels: [&dyn Display; N], value: f64) {
        self.take(metric.0.name, |family| family.set(values(labels), value));
    }

    fn add<const N: usize>(&self, metric: &Metric<N>, labels: [&dyn Display; N], by: f64) {
        self.take(metric.0.name, |family| family.add(values(labels), by));
    }

    fn ensure<const N: usize>(&self, metric: &Metric<N>, labels: [&dyn Display; N]) {
        self.take(metric.0.name, |family| family.ensure(values(labels)));
    }

    fn has<const N: usize>(&self, metric: &Metric<N>, labels: [&dyn Display; N]) -> bool {
        self.families.get(metric.0.name).is_some_and(|family| family.has(&values(labels)))
    }

    fn retain(&self, name: &str, keep: impl Fn(&[String]) -> bool) {
        if let Some(family) = self.families.get(name) {
            family.retain(keep);
        }
    }

    /// Removes the series of the core with values of a label that `keep` refuses.
    fn retain_by(&self, label: &str, keep: impl Fn(&str) -> bool) {
        for desc in CORE {
            if let Some(place) = desc.labels.iter().position(|name| *name == label) {
                self.retain(desc.name, |labels| keep(&labels[place]));
            }
        }
    }
}

fn values<const N: usize>(labels: [&dyn Display; N]) -> Labels {
    labels.iter().map(ToString::to_string).collect()
}

/// Seconds since the epoch, with fractions.
fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
