//! The kind `reindex`: rebuilds indexes that are named, or invalid, one after the other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    config::{Diagnostics, Options},
    domain::{
        backup::Subject,
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        index::{DropDebris, Wishes, refusal},
        metric::metrics,
        name::{DatabaseName, ServerName},
        pattern::{DatabasePatterns, Glob},
        report::{Report, Step},
        target::Target,
        text,
    },
    maintenance::reindex::{self, DatabaseOutcome, Ledger, Orders},
    postgres::{Server, catalog::ServerFacts},
    sys::{gate::DatabaseGate, task::Task},
};

use super::{Job, JobKind, Resources, RunContext, choose, options, visit::Visit};

metrics! {
    METRICS:
    INVALID = Gauge "indexes_invalid" ["server", "datname"]
        "Invalid indexes that the last run left in the database, debris included; not those that were \
         being built.";
    RECLAIMED = Counter "reindex_reclaimed_bytes_total" ["server", "datname"]
        "Bytes by which rebuilt indexes became smaller.";
}

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "reindex",
    summary: "Rebuilds indexes that are named or invalid, and clears away what builds left behind",
    time_limit: Duration::from_hours(24 * 7),
    metrics: METRICS,
    build,
};

/// A concurrent build waits for every transaction that could use the index, and one that gives up
/// leaves an invalid index behind: minutes, not seconds.
const LOCK_CONCURRENTLY: Duration = Duration::from_mins(5);
/// While a build that is not concurrent waits for its lock, everybody who comes after it waits too.
const LOCK_EXCLUSIVE: Duration = Duration::from_secs(10);
const LOCK_MIN: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_hours(24);
/// Plans and reports of a database with as many indexes as are taken.
const MEMORY: u64 = 16 << 20;

struct Reindex {
    server: Arc<Server>,
    patterns: DatabasePatterns,
    wishes: Wishes,
    lock_timeout: Duration,
    window: Option<Duration>,
    gate: Arc<DatabaseGate>,
    ledger: Ledger,
}

fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let patterns = options::patterns(o, d);
    let named = options::globs(o, "indexes", &[], d);
    let invalid = o.take_or("invalid", false, d);
    if named.as_ref().is_some_and(Vec::is_empty) && !invalid {
        d.error(o.span(), "the job has no indexes to rebuild")
            .hint("name some, indexes = [\"public.orders_pkey\"], or set invalid = true");
    }
    let concurrently = o.take_or("concurrently", true, d);
    let lock = if concurrently { LOCK_CONCURRENTLY } else { LOCK_EXCLUSIVE };
    let lock_timeout = o.take_in_or("lock_timeout", LOCK_MIN..=DAY, lock, d);
    let window = o.take_in("window", Duration::from_secs(1)..=DAY, d).map(|window| window.value);
    let choices =
        [("own", DropDebris::Own), ("matching", DropDebris::Matching), ("none", DropDebris::None)];
    let debris = o.one_of("drop_debris", &choices, d).map(|choice| choice.value);
    Some(Arc::new(Reindex {
        server: server?,
        patterns: patterns?,
        wishes: Wishes { named: named?, invalid, concurrently, debris: debris.unwrap_or_default() },
        lock_timeout,
        window,
        gate: resources.gate.clone(),
        ledger: Ledger::new(&resources.state_dir),
    }))
}

#[async_trait]
impl Job for Reindex {
    fn servers(&self) -> Vec<ServerName> {
        vec![self.server.name().clone()]
    }

    fn memory(&self) -> u64 {
        MEMORY
    }

    fn has_dry_run(&self) -> bool {
        true
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        // The window of a retry is that of its run.
        let until = self.window.and_then(|window| cx.run.time().checked_add(window).ok());
        let look = cx.task.doing(format!("look at server {}", self.server.name()));
        let visit = Visit::for_maintenance(&self.server, look).await?;
        let facts = visit.facts().await?;
        let chosen = visit.databases(&self.patterns).await?;
        let fits = self.fits(&facts, &visit.task);
        visit.end().await;
        fits?;
        let targets = choose::refused_targets(&chosen, self.server.name(), cx)?;
        let mut report = Report { targets, ..Report::default() };
        let orders = Orders {
            server: &self.server,
            facts: &facts,
            wishes: &self.wishes,
            lock_timeout: self.lock_timeout,
            until,
            gate: &self.gate,
            ledger: &self.ledger,
            only: cx.only.as_ref(),
            dry_run: cx.dry_run,
        };
        let mut totals = Totals { whole: chosen.problems.is_empty(), ..Totals::default() };
        for name in &chosen.chosen {
            if has_work(name, cx) {
                let outcome = Box::pin(reindex::database(&orders, name, &cx.task)).await;
                self.add(name, outcome, &mut totals, cx, &mut report);
            }
            if cx.task.cancel.is_cancelled() {
                break;
            }
        }
        self.missing(&totals, cx, &mut report);
        report.findings.extend(totals.hidden.then(|| self.hidden()));
        Ok(report)
    }
}

/// Whether a target of the database is wanted.
fn has_work(name: &DatabaseName, cx: &RunContext) -> bool {
    let subject = Some(Subject::Database(name.clone()));
    cx.only.as_ref().is_none_or(|only| only.iter().any(|target| target.subject == subject))
}

/// What all databases brought together.
#[derive(Default)]
struct Totals {
    labels: BTreeSet<String>,
    /// Whether every database was looked at.
    whole: bool,
    /// Whether the role does not see in one of them what others do.
    hidden: bool,
}

impl Reindex {
    /// Whether the server can do what is asked for at all.
    fn fits(&self, facts: &ServerFacts, task: &Task) -> Result<(), Failure> {
        if facts.in_recovery {
            return Err(task
                .failure(Class::Configuration, "the server is a standby")
                .hint("REINDEX runs on the primary; the standby follows it"));
        }
        match refusal(facts.version_num, self.wishes.concurrently) {
            Some((what, hint)) => {
                let what = format!("the server is PostgreSQL {}: {what}", facts.version);
                Err(task.failure(Class::Configuration, what).hint(hint))
            }
            None => Ok(()),
        }
    }

    /// What came of one database.
    fn add(
        &self,
        name: &DatabaseName,
        outcome: Result<DatabaseOutcome, Failure>,
        totals: &mut Totals,
        cx: &RunContext,
        report: &mut Report,
    ) {
        let server = self.server.name();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => {
                totals.whole = false;
                let target = Target::database(name).on(server);
                let failed = choose::failed(&self.patterns, name, (target, failure), cx);
                return report.targets.push(failed);
            }
        };
        totals.labels.extend(outcome.labels);
        totals.hidden |= !outcome.sees_all;
        report.plan.extend(outcome.plan);
        report.findings.extend(outcome.findings);
        report.targets.extend(outcome.targets);
        let datname = Subject::Database(name.clone()).label();
        let invalid = outcome.invalid.map(|count| INVALID.sample([server, &datname], count as f64));
        let reclaimed = RECLAIMED.sample([server, &datname], outcome.reclaimed as f64);
        report.samples.extend(invalid);
        report.samples.extend((outcome.reclaimed > 0).then_some(reclaimed));
    }

    /// Indexes that are named and that no database has.
    fn missing(&self, totals: &Totals, cx: &RunContext, report: &mut Report) {
        if !totals.whole || cx.only.is_some() || cx.task.cancel.is_cancelled() {
            return;
        }
        let literal = self.wishes.named.iter().filter_map(Glob::literal);
        for name in literal.filter(|name| !totals.labels.contains(name)) {
            let what = "no database that the job works on has such an index";
            let target = Target::server(self.server.name()).with_object(&name);
            if cx.dry_run {
                let (action, reason) = ("refuse".to_owned(), what.to_owned());
                report.plan.push(Step { target, action, reason });
                continue;
            }
            let failure = Failure::new(Class::Configuration, format!("rebuild index {name}"), what)
                .hint("write it as schema.index, case and all, without quotation marks of SQL");
            report.targets.push(cx.ended(target, Err(failure)));
        }
    }

    fn hidden(&self) -> Finding {
        let role = self.server.maintenance_role();
        let what = format!(
            "role {role} of server {} does not see what other roles do: dumps of others do not defer a \
             build",
            self.server.name()
        );
        Finding::new(CheckName("hidden-sessions"), Severity::Info, what)
            .hint(format!("GRANT pg_read_all_stats TO {}", text::sql_ident(role)))
    }
}
