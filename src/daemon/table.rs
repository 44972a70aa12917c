//! Wiring: from the configuration to everything that runs. Built whole, or not at all.
//!
//! A reload builds a new table and swaps it; running jobs hold the [`Arc`]s that they started
//! with. Building opens no connection and lists no bucket.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    config::{self, Config, Diagnostics, JobCommon, Located, Options, class},
    domain::{
        blackout::Blackout,
        name::{JobName, RepositoryName, ServerName},
        schedule::Schedule,
    },
    jobs::{self, Policies, Resources},
    postgres::{Server, service::Environment, tools::Toolbox},
    repository::{handle::Handle, kinds},
    sys::{clock::Clock, gate::DatabaseGate, process::ChildSettings},
};

use super::{
    control::SOCKET_NAME,
    planner::{JobSpec, Limits},
    receivers::{self, Notifiers},
};

pub use super::configured::Configured;

/// Everything that the daemon runs on, built from one state of the configuration.
#[derive(Debug)]
pub struct Table {
    pub daemon: config::Daemon,
    pub jobs: BTreeMap<JobName, Arc<Configured>>,
    pub servers: BTreeMap<ServerName, Arc<Server>>,
    pub repositories: BTreeMap<RepositoryName, Arc<Handle>>,
    pub notifiers: Notifiers,
}

/// What building needs beside the configuration.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The time now, for schedules that never match.
    pub now: Timestamp,
    pub clock: Arc<dyn Clock>,
    /// Shared by all tables: a job of the old table may still hold a database.
    pub gate: Arc<DatabaseGate>,
    pub toolbox: Arc<Toolbox>,
    pub environment: Environment,
}

/// A configuration with what was found wrong in it.
#[derive(Debug)]
pub struct Loaded {
    pub table: Option<Table>,
    pub diagnostics: Diagnostics,
    /// Where the daemon of this configuration keeps its socket; known even where the rest has
    /// errors.
    pub runtime_dir: Option<PathBuf>,
}

impl Loaded {
    /// All errors and warnings with file, line and caret.
    pub fn render(&self) -> String {
        self.diagnostics.render(false)
    }
}

/// Reads the configuration and builds everything. All errors are reported at once.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>, ground: &Ground) -> Loaded {
    let mut diagnostics = Diagnostics::new();
    let config = config::load(path, env, &mut diagnostics);
    let runtime_dir = match &config {
        Some(config) => Some(config.daemon.runtime_dir.clone()),
        None => runtime_dir_in_use(path),
    };
    let table = config.map(|config| build(&config, ground, &mut diagnostics));
    let table = table.filter(|_| !diagnostics.has_errors());
    Loaded { table, diagnostics, runtime_dir }
}

/// Where a daemon listens that was started before the configuration was broken.
fn runtime_dir_in_use(path: &Path) -> Option<PathBuf> {
    let dir = config::runtime_dir_of(path).unwrap_or_else(|| config::RUNTIME_DIR.into());
    dir.join(SOCKET_NAME).exists().then_some(dir)
}

fn build(config: &Config, ground: &Ground, d: &mut Diagnostics) -> Table {
    let servers = build_servers(config, ground, d);
    let repositories = build_repositories(config, ground, d);
    let daemon = config.daemon.clone();
    let resources = Resources {
        config,
        servers,
        repositories,
        children: ChildSettings {
            nice: daemon.nice,
            grace: daemon.grace,
            records: daemon.state_dir.join("children"),
        },
        state_dir: daemon.state_dir.clone(),
        gate: ground.gate.clone(),
        retention: Policies::read(config, d),
    };
    let notifiers = receivers::build(config, &resources.children, d);
    let jobs = build_jobs(&resources, &notifiers, ground.now, d);
    resources.retention.report_unused(config, d);
    receivers::check(config, &notifiers, &jobs, d);
    let Resources { servers, repositories, .. } = resources;
    Table { daemon, jobs, servers, repositories, notifiers }
}

fn build_servers(
    config: &Config,
    ground: &Ground,
    d: &mut Diagnostics,
) -> BTreeMap<ServerName, Arc<Server>> {
    let mut servers = BTreeMap::new();
    for (name, section) in &config.servers {
        let toolbox = ground.toolbox.clone();
        if let Some(server) = Server::read(name, section, &ground.environment, toolbox, d) {
            servers.insert(name.clone(), Arc::new(server));
        }
    }
    servers
}

fn build_repositories(
    config: &Config,
    ground: &Ground,
    d: &mut Diagnostics,
) -> BTreeMap<RepositoryName, Arc<Handle>> {
    let context =
        kinds::Context { state_dir: config.daemon.state_dir.clone(), clock: ground.clock.clone() };
    let mut repositories = BTreeMap::new();
    for (name, section) in &config.repositories {
        if let Some(handle) = kinds::build(name, section, &context, d) {
            repositories.insert(name.clone(), Arc::new(handle));
        }
    }
    repositories
}

fn build_jobs(
    resources: &Resources<'_>,
    notifiers: &Notifiers,
    now: Timestamp,
    d: &mut Diagnostics,
) -> BTreeMap<JobName, Arc<Configured>> {
    let mut jobs = BTreeMap::new();
    let mut commons = Vec::new();
    for (name, section) in &resources.config.jobs {
        let mut options = section.options();
        let common = JobCommon::read(name, &mut options, resources.config, d);
        commons.extend(common.clone());
        if let Some(job) = common.and_then(|common| build_job(common, options, resources, now, d)) {
            jobs.insert(name.clone(), job);
        }
    }
    config::check_order(&commons, d);
    inherit_max_age(&mut jobs);
    for job in jobs.values_mut() {
        job.notify = receivers::of(&job.common, notifiers);
    }
    jobs.into_iter().map(|(name, job)| (name, Arc::new(job))).collect()
}

/// A job that runs after others is as fresh as the slowest of them, through chains of any length:
/// it starts when each of them has ended.
fn inherit_max_age(jobs: &mut BTreeMap<JobName, Configured>) {
    let of = |job: &Configured| {
        (job.max_age, job.common.after.iter().map(|after| after.value.clone()).collect())
    };
    let known: Ages = jobs.iter().map(|(name, job)| (name.clone(), of(job))).collect();
    let mut found = BTreeMap::new();
    for (name, job) in jobs {
        job.max_age = max_age_of(name, &known, &mut found);
    }
}

/// The own age of each job, and what it runs after.
type Ages = BTreeMap<JobName, (Option<Duration>, Vec<JobName>)>;

/// `found` keeps what was worked out. A circle is refused elsewhere, and must not hang us here: who
/// is being asked has nothing to give yet.
fn max_age_of(
    name: &JobName,
    known: &Ages,
    found: &mut BTreeMap<JobName, Option<Duration>>,
) -> Option<Duration> {
    if let Some(age) = found.get(name) {
        return *age;
    }
    let (own, after) = known.get(name)?;
    found.insert(name.clone(), None);
    let slowest = || after.iter().filter_map(|before| max_age_of(before, known, found)).max();
    let age = own.or_else(slowest);
    found.insert(name.clone(), age);
    age
}

fn build_job(
    common: JobCommon,
    mut options: Options<'_>,
    resources: &Resources<'_>,
    now: Timestamp,
    d: &mut Diagnostics,
) -> Option<Configured> {
    let asked = &common.kind;
    let Some(kind) = jobs::kind(&asked.value) else {
        let known = || jobs::KINDS.iter().map(|kind| kind.name);
        let hint = config::did_you_mean(&asked.value, known())
            .unwrap_or_else(|| format!("the kinds are {}", config::listed(known())));
        d.error(&asked.span, format!("there is no kind of job {:?}", asked.value))
            .class(class::REFERENCE)
            .hint(hint);
        return None;
    };
    let job = (kind.build)(&mut options, resources, d);
    options.finish(d);
    let schedule = match &common.schedule {
        None => None,
        Some(text) => Some(parse_schedule(text, common.timezone.clone(), now, d)?),
    };
    let job = job?;
    let max_age = common
        .max_age
        .or_else(|| default_max_age(schedule.as_ref()?, common.blackout.as_ref(), now));
    Some(Configured { common, kind, job, schedule, max_age, notify: Vec::new() })
}

fn parse_schedule(
    text: &Located<String>,
    zone: TimeZone,
    now: Timestamp,
    d: &mut Diagnostics,
) -> Option<Schedule> {
    match Schedule::parse(&text.value, zone, now) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            d.error(&text.span, error.to_string()).class(class::VALUE).maybe_hint(error.hint);
            None
        }
    }
}

/// Slots that are held against a blackout: a full week of every ten minutes.
const BLACKOUT_SLOTS: usize = 7 * 24 * 6;

/// The largest gap between two slots and a quarter of it, an hour at least: a nightly job may be
/// 30 hours old before it is stale. Where slots lie in a blackout, its longest stretch comes on top.
fn default_max_age(
    schedule: &Schedule,
    blackout: Option<&Blackout>,
    now: Timestamp,
) -> Option<Duration> {
    let gap = schedule.typical_gap(now)?;
    let late = blackout.filter(|blackout| {
        let mut slots = schedule.preview(BLACKOUT_SLOTS, now).into_iter();
        slots.any(|slot| blackout.ends(slot).is_some())
    });
    let gap = gap + late.map_or(Duration::ZERO, Blackout::longest);
    Some(gap + (gap / 4).max(Duration::from_hours(1)))
}

impl Table {
    /// The jobs as the planner knows them.
    pub fn specs(&self) -> Vec<JobSpec> {
        self.jobs.values().map(|job| job.spec()).collect()
    }

    /// The limits on what runs at once.
    pub fn limits(&self) -> Limits {
        Limits {
            running: usize::try_from(self.daemon.max_running).unwrap_or(usize::MAX),
            per_server: usize::try_from(self.daemon.max_running_per_server).unwrap_or(usize::MAX),
            memory: self.daemon.memory_budget.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_after_others_is_as_fresh_as_the_slowest() {
        let name = |text: &str| text.parse::<JobName>().unwrap();
        let hours = |hours| Some(Duration::from_hours(hours));
        let known: Ages = [
            ("nightly", hours(30), vec![]),
            ("weekly", hours(200), vec![]),
            ("copy", None, vec!["weekly"]),
            ("prune", None, vec!["nightly", "copy"]),
            ("manual", None, vec![]),
            ("a", None, vec!["b"]),
            ("b", None, vec!["a"]),
        ]
        .into_iter()
        .map(|(job, age, after)| (name(job), (age, after.into_iter().map(name).collect())))
        .collect();
        let age = |job: &str| max_age_of(&name(job), &known, &mut BTreeMap::new());
        assert_eq!(age("nightly"), hours(30));
        assert_eq!(age("prune"), hours(200), "it waits for the copy of the weekly dump");
        assert_eq!(age("manual"), None);
        assert_eq!(age("a"), None, "a circle ends");
    }
}
