//! The kind `copy`: brings the backups of one repository to others, so that what was dumped to a disk
//! lies off-site as well. What is missing there is copied whole, the newest of every series first.
//!
//! Its targets are databases (and globals) in repositories, not single backups: a report stays short
//! however many backups there are, and a retry looks at the repositories again.

mod look;
mod plan;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    backup::{
        owner::Owners,
        transfer::{
            self,
            survey::{self, Selection, Stock},
        },
    },
    codec::encrypt::Encrypt,
    config::{Diagnostics, Located, Options, class},
    domain::{
        backup::Series,
        failure::Failure,
        finding::{CheckName, Finding, Severity},
        metric::metrics,
        name::{RepositoryName, ServerName},
        owner::Adoption,
        pattern::Glob,
        report::{Report, Step, TargetReport},
        target::Target,
        transfer::{Decision, Holdings, Limits, decide},
    },
    repository::{ask::ask, handle::Handle, store},
};

use self::{
    look::{Looked, remember, twice},
    plan::Plan,
    report::Tallies,
};
use super::{Job, JobKind, Resources, RunContext, options};

metrics! {
    METRICS:
    OLDEST_PENDING = Gauge "copy_oldest_pending_timestamp_seconds" ["repository"]
        "Snapshot time of the oldest backup that waits to be copied after the last run; 0 if none \
         waits; no series where the last run could not look.";
    PENDING = Gauge "copy_pending" ["repository"]
        "Backups that wait to be copied after the last run; no series where it could not look.";
    COPIED_BACKUPS = Counter "copied_backups_total" ["repository"]
        "Backups that were copied to the repository.";
    COPIED_BYTES = Counter "copied_bytes_total" ["repository"]
        "Stored bytes of the backups that were copied to the repository.";
}

/// The kind's row in the table. What waits is a plain gauge: where a target could not be listed it is
/// not known, and neither an old 0 nor an old time may stand for it.
pub(super) const KIND: JobKind = JobKind {
    name: "copy",
    summary: "Copies backups from one repository to others",
    time_limit: Duration::from_hours(24 * 7),
    metrics: METRICS,
    build,
};

/// What a listing takes: some hundred bytes for each backup, so that this is 80 000 of them.
const LISTING_BYTES: u64 = 8 << 20;
/// Limits on age that are longer are slips of the pen.
const YEARS_TEN: Duration = Duration::from_hours(24 * 3660);

struct CopyJob {
    from: Arc<Handle>,
    to: Vec<Arc<Handle>>,
    selection: Selection,
    limits: Limits,
    parallel: usize,
    /// The folder where it is kept what was seen in the targets.
    seen: PathBuf,
    /// Who this host is may have to be kept there.
    state_dir: PathBuf,
    adopted: Vec<Adoption>,
}

fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let from = o.require::<RepositoryName>("from", d);
    let to = options::repositories(o, "to", resources, d);
    if let (Some(from), Some(_)) = (&from, &to) {
        apart(o, from, d);
    }
    let source = from.and_then(|name| resources.repository(&name, d));
    let servers = servers(o, resources, d);
    let patterns = options::patterns(o, d);
    let globals = o.take_or("globals", true, d);
    let newest = o.take_in("newest", 1..=usize::MAX, d).map(|newest| newest.value);
    let within = o.take_in("within", Duration::from_secs(1)..=YEARS_TEN, d).map(|age| age.value);
    let parallel = o.take_in_or("parallel", 1..=8, 1, d);
    let name = o.section().rsplit('.').next().unwrap_or_default();
    Some(Arc::new(CopyJob {
        from: source?,
        to: to?,
        selection: Selection { servers: servers?, patterns: patterns?, globals },
        limits: Limits { newest, within },
        parallel,
        seen: resources.state_dir.join("copied").join(name),
        state_dir: resources.state_dir.clone(),
        adopted: resources.config.daemon.adopt.clone(),
    }))
}

/// Reports the source among the targets.
fn apart(o: &mut Options<'_>, from: &Located<RepositoryName>, d: &mut Diagnostics) {
    let Some(to) = o.take::<Vec<Located<RepositoryName>>>("to", d) else { return };
    for name in to.value.iter().filter(|name| name.value == from.value) {
        d.error(&name.span, format!("repository {} is copied to itself", name.value))
            .class(class::CONFLICT)
            .related(&from.span, "it is the source")
            .hint("name another repository in `to`");
    }
}

/// The servers whose backups are meant: all that are configured where none is named.
fn servers(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Vec<ServerName>> {
    let Some(key) = o.given("servers") else {
        let all: Vec<ServerName> = resources.config.servers.keys().cloned().collect();
        if all.is_empty() {
            d.error(o.span(), "there is no [server.NAME] whose backups could be copied")
                .class(class::REFERENCE);
        }
        return Some(all);
    };
    let named = o.take::<Vec<Located<ServerName>>>("servers", d)?.value;
    if named.is_empty() {
        d.error(&key, "`servers` names no server").hint("leave it out to copy those of all");
    }
    let known = |name: &Located<ServerName>| {
        resources.config.server(name, d)?;
        Some(name.value.clone())
    };
    // All are looked up before any is given up, so that each is reported.
    let known: Vec<Option<ServerName>> = named.iter().map(known).collect();
    let known: BTreeSet<ServerName> = known.into_iter().collect::<Option<_>>()?;
    Some(known.into_iter().collect())
}

#[async_trait]
impl Job for CopyJob {
    /// It asks no server: it counts towards no server's limit.
    fn servers(&self) -> Vec<ServerName> {
        Vec::new()
    }

    fn memory(&self) -> u64 {
        let limits: Vec<store::Limits> = self.to.iter().map(|handle| handle.limits()).collect();
        let encrypting = if self.to.iter().any(|to| !to.recipients().is_empty()) {
            self.parallel as u64 * Encrypt::BYTES
        } else {
            0
        };
        transfer::memory(&limits, self.parallel) + encrypting + LISTING_BYTES
    }

    fn has_dry_run(&self) -> bool {
        true
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        let owners = Owners::new(&self.state_dir, self.adopted.clone(), BTreeMap::new())?;
        let from = self.from.name();
        let mut report = Report::default();
        cx.task.progress.set_stage(format!("list repository {from}"));
        let doing = format!("open repository {from}");
        let source = ask(from, &cx.task.doing(&*doing), self.from.open_existing()).await?;
        let stock = match &source {
            Some(source) => {
                let doing = format!("list repository {from}");
                ask(from, &cx.task.doing(&*doing), survey::stock(source, &self.selection)).await?
            }
            None => Stock::new(),
        };
        report.findings.extend(self.nothing_of(&stock));
        let source_id = source.as_ref().map(|source| source.id().to_owned());
        let mut tallies = Tallies::new(from.clone());
        let mut plan = Plan::default();
        let mut opened = Vec::new();
        let mut ids: BTreeMap<String, RepositoryName> = BTreeMap::new();
        ids.extend(source_id.map(|id| (id, from.clone())));
        for (name, looked) in self.look(&stock, cx).await {
            match looked.and_then(|looked| twice(&name, looked, &mut ids)) {
                Ok(mut looked) => {
                    if let Some(source) = &source {
                        looked.find_strangers(source, &stock, &owners, cx).await;
                    }
                    self.plan(&name, &mut looked, &stock, cx, &mut tallies, &mut plan);
                    if !cx.dry_run {
                        looked.keep_losses();
                    }
                    opened.push((name, looked));
                }
                Err(failure) if stock.is_empty() => report.failure = Some(failure),
                Err(failure) => report.targets.extend(unreachable(&name, &stock, &failure, cx)),
            }
        }
        report.plan = plan.steps();
        if cx.dry_run {
            return Ok(report);
        }
        if let Some(source) = &source {
            let done = transfer::bring(source, plan.items(), self.parallel, &cx.task).await;
            for (item, brought) in done {
                tallies.take(&item, brought);
            }
        }
        for (name, looked) in opened {
            report.findings.extend(remember(&name, looked, &stock, &tallies));
            report.samples.extend(tallies.samples(&name));
        }
        tallies.into_report(&mut report);
        Ok(report)
    }
}

impl CopyJob {
    /// Opens and lists all targets at once: one that does not answer keeps no other waiting.
    async fn look(
        &self,
        stock: &Stock,
        cx: &RunContext,
    ) -> Vec<(RepositoryName, Result<Looked, Failure>)> {
        cx.task.progress.set_stage("list the repositories to copy to");
        let looks = self.to.iter().map(|handle| async move {
            let looked = Looked::at(handle, &self.seen, &self.selection, stock, cx).await;
            (handle.name().clone(), looked)
        });
        join_all(looks).await
    }

    /// Decides about every backup of the source, for one target.
    fn plan(
        &self,
        name: &RepositoryName,
        looked: &mut Looked,
        stock: &Stock,
        cx: &RunContext,
        tallies: &mut Tallies,
        plan: &mut Plan,
    ) {
        let now = cx.task.clock.now().wall;
        let none = Holdings::default();
        for (series, stocked) in stock {
            let holdings = looked.holdings.get(series).unwrap_or(&none);
            let target = report::target(name, series);
            let leave = |reason| Step { target: target.clone(), action: "leave".into(), reason };
            let wanted = cx.wants(&target);
            tallies.open(name, series, wanted);
            let refused = looked.refused.get(series);
            if let Some(failure) = refused {
                tallies.refused(name, series, failure);
                plan.leave(leave(failure.what.clone()));
            }
            let mut left: BTreeMap<_, usize> = BTreeMap::new();
            for decided in decide(stocked, holdings, &self.limits, now) {
                tallies.decided(name, series, &decided);
                let (decision, id) = (decided.decision, &decided.id);
                // Once the folder of a damaged one is gone, it is missing, not removed.
                if refused.is_none() && matches!(decision, Decision::Lost | Decision::Damaged) {
                    looked.seen.forget(series, id);
                    if decision == Decision::Damaged {
                        tallies.found_damaged(name, series, &decided);
                    }
                }
                if !wanted || (refused.is_some() && decision.brings()) {
                    continue;
                }
                if decision.brings() {
                    let unfinished = holdings.incomplete.contains(id);
                    plan.bring(name, series, decided, looked.repository.clone(), unfinished);
                } else {
                    *left.entry(decision).or_default() += 1;
                }
            }
            for (decision, count) in left {
                let backups = if count == 1 { "backup" } else { "backups" };
                plan.leave(leave(format!("{count} {backups}: {decision}")));
            }
        }
    }

    /// What was asked for and the source has nothing of.
    fn nothing_of(&self, stock: &Stock) -> Vec<Finding> {
        let from = self.from.name();
        let finding = |what: String| {
            Finding::new(CheckName("copy-source-empty"), Severity::Warning, what)
                .hint(format!("does a job dump to {from}? Look at `pgkeep list`"))
                .about(Target::repository(from))
        };
        if stock.is_empty() {
            return vec![finding(format!(
                "repository {from} holds no backup that could be copied"
            ))];
        }
        let has = |name: &String| {
            let database = |series: &Series| series.subject.database().map(ToString::to_string);
            stock.keys().any(|series| database(series).as_ref() == Some(name))
        };
        let named = self.selection.patterns.include.iter().filter_map(Glob::literal);
        let missing = named.filter(|name| !has(name));
        missing
            .map(|name| {
                let what = format!("repository {from} holds no backup of database {name}");
                finding(what).about(Target::repository(from).with_object(name))
            })
            .collect()
    }
}

/// Every target in a repository that cannot be reached or used.
fn unreachable(
    name: &RepositoryName,
    stock: &Stock,
    failure: &Failure,
    cx: &RunContext,
) -> Vec<TargetReport> {
    let targets: BTreeSet<Target> =
        stock.keys().map(|series| report::target(name, series)).collect();
    let wanted = targets.into_iter().filter(|target| cx.wants(target));
    wanted.map(|target| cx.ended(target, Err(failure.clone()))).collect()
}

#[cfg(test)]
mod tests;
