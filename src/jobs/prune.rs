//! The kind `prune`: removes what a retention policy does not keep, in each of its repositories.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    backup::{
        owner::Owners,
        prune::{self, Done, Obstacle, Order, SeriesPlan, Steps},
    },
    config::{Diagnostics, Located, Options, class},
    domain::{
        backup::Series,
        failure::{Class, Failure},
        metric::metrics,
        name::{RepositoryName, RetentionName, ServerName},
        owner::Adoption,
        report::{Figures, Outcome, Report, TargetReport},
        retention::Policy,
        target::Target,
    },
    postgres::Server,
    repository::{ask::ask, handle::Handle, repo::Repository},
};

use super::{Job, JobKind, Resources, RunContext, options};

metrics! {
    METRICS:
    REMOVED_BACKUPS = Counter "prune_removed_backups_total" ["repository"]
        "Backups that this job removed.";
    REMOVED_BYTES = Counter "prune_removed_bytes_total" ["repository"]
        "Stored bytes of the backups that this job removed.";
    KEPT_BACKUPS = Gauge "prune_kept_backups" ["repository"]
        "Backups that the last run left, in the series that this job prunes.";
}

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "prune",
    summary: "Removes backups that a retention policy does not keep",
    time_limit: std::time::Duration::from_hours(24),
    metrics: METRICS,
    build,
};

/// What the facts about the backups of a series take, and the list of what goes: some 80 bytes for
/// each, for a hundred thousand.
const MEMORY: u64 = 8 << 20;
/// Lines of the plan in a report: a journal keeps a hundred reports of each job.
const STEPS_MAX: usize = 1000;
/// Lines about backups that were spared, of one series.
const SPARED_MAX: usize = 20;

struct Prune {
    repositories: Vec<Arc<Handle>>,
    policy: Arc<Policy>,
    servers: BTreeSet<ServerName>,
    max_remove: Option<u32>,
    adopted: Vec<Adoption>,
    /// What is asked where it is, so that a copy of it does not prune what is another's.
    asked: BTreeMap<ServerName, Arc<Server>>,
    state_dir: PathBuf,
}

fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let repositories = options::repositories(o, "repositories", resources, d);
    let policy = o.require::<RetentionName>("retention", d);
    let policy = policy.and_then(|name| resources.policy(&name, d));
    let servers = servers(o, resources, d);
    let max_remove = o.take_in("max_remove", 1..=u32::MAX, d).map(|most| most.value);
    Some(Arc::new(Prune {
        repositories: repositories?,
        policy: policy?,
        servers: servers?,
        max_remove,
        adopted: resources.config.daemon.adopt.clone(),
        asked: resources.servers.clone(),
        state_dir: resources.state_dir.clone(),
    }))
}

/// The servers whose series are meant: the configured ones, unless others are named. One that is
/// gone may be named, so that what it left is pruned.
fn servers(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<BTreeSet<ServerName>> {
    let configured = &resources.config.servers;
    if o.given("servers").is_none() {
        return Some(configured.keys().cloned().collect());
    }
    let named = o.take::<Vec<Located<ServerName>>>("servers", d)?;
    if named.value.is_empty() {
        d.error(&named.span, "`servers` names no server")
            .hint("leave the key out: the servers that are configured are meant then");
        return None;
    }
    for name in named.value.iter().filter(|name| !configured.contains_key(&name.value)) {
        d.warning(&name.span, format!("there is no [server.{}]", name.value))
            .class(class::REFERENCE)
            .hint("what it left in the repositories is pruned");
    }
    Some(named.value.into_iter().map(|name| name.value).collect())
}

#[async_trait]
impl Job for Prune {
    fn servers(&self) -> Vec<ServerName> {
        // It asks them next to nothing.
        Vec::new()
    }

    fn memory(&self) -> u64 {
        MEMORY
    }

    fn has_dry_run(&self) -> bool {
        true
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        let owners = Owners::new(&self.state_dir, self.adopted.clone(), self.asked.clone())?;
        let order = Order {
            policy: &self.policy,
            servers: &self.servers,
            owners: &owners,
            max_remove: self.max_remove,
            now: cx.task.clock.now().wall,
        };
        let work = self.repositories.iter().map(|handle| {
            let most = STEPS_MAX / self.repositories.len().max(1);
            let name = handle.name().clone();
            let steps = Steps::new(name.clone(), most);
            let work = Work { name, order: &order, cx, report: Report::default() };
            // All at once: one that hangs does not keep the others waiting.
            work.run(handle, steps)
        });
        let mut report = Report::default();
        for part in join_all(work).await {
            report.targets.extend(part.targets);
            report.plan.extend(part.plan);
            report.findings.extend(part.findings);
            report.samples.extend(part.samples);
        }
        Ok(report)
    }
}

/// One repository.
struct Work<'a> {
    name: RepositoryName,
    order: &'a Order<'a>,
    cx: &'a RunContext,
    report: Report,
}

impl Work<'_> {
    /// The repository as a whole: a target where it could not be looked at.
    fn whole(&self) -> Target {
        Target::repository(&self.name)
    }

    /// The targets of this repository that failed before; none: all are wanted.
    fn only(&self) -> Option<BTreeSet<&Target>> {
        let of_this = |target: &&Target| target.repository.as_ref() == Some(&self.name);
        let only = self.cx.only.as_ref()?.iter().filter(of_this).collect::<BTreeSet<_>>();
        Some(only)
    }

    async fn run(mut self, handle: &Handle, steps: Steps) -> Report {
        if self.only().is_some_and(|only| only.is_empty()) {
            return self.report;
        }
        match self.look_and_act(handle, steps).await {
            Ok(()) => self.settle(),
            Err(failure) => {
                let target = self.whole();
                self.report.targets.push(self.cx.ended(target, Err(failure)));
            }
        }
        self.report
    }

    async fn look_and_act(&mut self, handle: &Handle, steps: Steps) -> Result<(), Failure> {
        let opening = self.cx.task.doing(format!("open repository {}", self.name));
        let opened = ask(&self.name, &opening, handle.open_existing()).await?;
        // Nothing was ever stored there.
        let Some(repository) = opened else { return Ok(()) };
        let survey = prune::survey(&repository, self.order, steps, &self.cx.task).await?;
        self.report.findings = survey.findings;
        self.report.plan = survey.steps.finish();
        self.act(&repository, &survey.series).await;
        Ok(())
    }

    async fn act(&mut self, repository: &Repository, plans: &[SeriesPlan]) {
        let only: Option<BTreeSet<Target>> =
            self.only().map(|only| only.into_iter().cloned().collect());
        let wants = |target: &Target, whole: &Target| {
            only.as_ref().is_none_or(|only| only.contains(target) || only.contains(whole))
        };
        let whole = self.whole();
        let (mut removed, mut bytes, mut kept) = (0, 0, 0);
        let mut lost: Option<Failure> = None;
        for plan in plans {
            let target = self.target(&plan.series);
            kept += plan.kept + plan.remove.len() as u64;
            if !wants(&target, &whole) {
                continue;
            }
            if let Some(held) = &plan.held {
                self.held(target, plan, held);
            } else if !self.cx.dry_run {
                let done = match &lost {
                    // It would not answer now either.
                    Some(failure) if !plan.remove.is_empty() => {
                        Done { failure: Some(failure.clone()), ..Done::default() }
                    }
                    _ => prune::carry_out(repository, plan, &self.cx.task).await,
                };
                removed += done.removed;
                bytes += done.bytes;
                lost = lost.or_else(|| done.failure.clone().filter(|it| is_lost(it.class)));
                self.done(target, plan, done);
            }
        }
        if !self.cx.dry_run {
            self.samples(removed, bytes, kept - removed);
        }
    }

    fn target(&self, series: &Series) -> Target {
        // A server that was made anew under its name has series of its own.
        let object = format!("{}/{}", series.system_id, series.contents);
        Target::series(series).in_repository(&self.name).with_object(object)
    }

    /// Nothing of the series goes.
    fn held(&mut self, target: Target, plan: &SeriesPlan, held: &Obstacle) {
        let failed = |class, hint| {
            let doing = format!("prune {} in {}", plan.series.subject, self.name);
            Outcome::Failed(Failure::new(class, doing, held.to_string()).hint(hint))
        };
        let outcome = match held {
            Obstacle::TooMany { .. } => failed(
                Class::Configuration,
                "look at the plan with --dry-run; if it is right, raise max_remove",
            ),
            Obstacle::Refused(_) => failed(
                Class::RepositoryRefused,
                "let the repository's user read every manifest.json, and move none to an archive class",
            ),
            Obstacle::Stranger(_) | Obstacle::NoneWhole if self.cx.dry_run => return,
            Obstacle::Stranger(_) | Obstacle::NoneWhole => Outcome::Skipped(held.to_string()),
        };
        let figures = Figures::from_iter([("kept", plan.kept)]);
        self.report.targets.push(TargetReport { figures, ..TargetReport::new(target, outcome) });
    }

    fn done(&mut self, target: Target, plan: &SeriesPlan, done: Done) {
        let planned = plan.remove.len() as u64;
        let counts = [
            ("kept", plan.kept + planned.saturating_sub(done.removed)),
            ("removed", done.removed),
            ("removed_bytes", done.bytes),
            ("spared", done.spared.len() as u64),
        ];
        if done.removed > 0 {
            let (repository, series) = (&self.name, plan.series.path());
            let (removed, bytes) = (done.removed, done.bytes);
            tracing::info!(%repository, series, removed, bytes, "removed backups");
        }
        let mut output: Vec<String> = done
            .spared
            .iter()
            .take(SPARED_MAX)
            .map(|(id, why)| format!("{id} was not removed: {why}"))
            .collect();
        if let Some(more) = done.spared.len().checked_sub(SPARED_MAX + 1) {
            output.push(format!("and {} more were not removed", more + 1));
        }
        let result = done.failure.map_or_else(|| Ok(Figures::default()), Err);
        let ended = self.cx.ended(target, result);
        self.report.targets.push(TargetReport {
            figures: Figures::from_iter(counts),
            output,
            ..ended
        });
    }

    /// What failed before and was not found again is done: there is nothing of it left to prune.
    fn settle(&mut self) {
        let Some(only) = self.only() else { return };
        let known: BTreeSet<&Target> = self.report.targets.iter().map(|it| &it.target).collect();
        let rest = only.into_iter().filter(|target| !known.contains(target)).cloned();
        let rest: Vec<_> = rest.map(|it| TargetReport::new(it, Outcome::Succeeded)).collect();
        self.report.targets.extend(rest);
    }

    fn samples(&mut self, removed: u64, bytes: u64, kept: u64) {
        let name: &dyn Display = &self.name;
        self.report.samples.extend([
            REMOVED_BACKUPS.sample([name], removed as f64),
            REMOVED_BYTES.sample([name], bytes as f64),
            KEPT_BACKUPS.sample([name], kept as f64),
        ]);
    }
}

/// Whether the repository as a whole does not answer, so that the next series would only wait.
const fn is_lost(class: Class) -> bool {
    matches!(class, Class::RepositoryUnavailable | Class::RepositorySlow | Class::Interrupted)
}
