//! The kind `vacuum`: the tables that need it, one statement each, in databases by pattern.
//!
//! One target stands for a database, with its counts; tables that failed or were skipped are
//! targets of their own, so that a retry does those that failed and nothing else.

mod options;
mod report;
mod totals;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    domain::{
        backup::Subject,
        failure::{Class, During, Failure},
        metric::metrics,
        name::{DatabaseName, ServerName},
        pattern::{DatabasePatterns, Selection},
        report::{Outcome, Report, TargetReport},
        target::Target,
        vacuum::Mode,
    },
    maintenance::vacuum::{self, Orders, Settings},
    postgres::{Server, catalog},
    sys::gate::DatabaseGate,
};

use self::totals::Totals;
use super::{Job, JobKind, RunContext, choose, visit::Visit};

metrics! {
    METRICS:
    LAST_TABLES = Covered "vacuum_last_tables" ["server", "datname", "state"]
        "Tables of the last run by what became of them: vacuumed (or analyzed), skipped, failed, \
         not_reached (the maintenance window had ended).";
    OLDEST_XID_AGE = Gauge "vacuum_oldest_xid_age" ["server", "datname"]
        "Age of the oldest row that is not frozen, in transactions, at the end of the last run; of \
         every database of the server, also of those that allow no connections, but not of one that \
         is half dropped.";
    HELD_BACK_XMIN_AGE = Gauge "vacuum_held_back_xmin_age" ["server"]
        "Transactions whose dead rows could not be removed at the end of the last run, since a \
         session, a standby, a prepared transaction or a slot might still see them; 0 if nothing \
         does.";
}

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "vacuum",
    summary: "Vacuums and analyzes the tables that need it, the most needed first",
    time_limit: Duration::from_hours(24 * 7),
    metrics: METRICS,
    build: options::build,
};

/// What `mode` may be.
const MODES: [(&str, Mode); 5] = [
    ("vacuum", Mode::Vacuum),
    ("vacuum-analyze", Mode::VacuumAnalyze),
    ("analyze", Mode::Analyze),
    ("freeze", Mode::Freeze),
    ("full", Mode::Full),
];
/// Facts of one page of tables, the tables that are due, what the server said.
const MEMORY: u64 = 4 << 20;

struct Vacuum {
    server: Arc<Server>,
    databases: DatabasePatterns,
    settings: Settings,
    window: Option<Duration>,
    xmin_held_for: Duration,
    gate: Arc<DatabaseGate>,
}

#[async_trait]
impl Job for Vacuum {
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
        let selection = self.look(cx).await?;
        let targets = choose::refused_targets(&selection, self.server.name(), cx)?;
        let mut report = Report { targets, ..Report::default() };
        self.plan_databases(&selection, &mut report);
        let failed = !selection.problems.is_empty();
        let mut totals = Totals { failed, ..Totals::default() };
        for name in &selection.chosen {
            Box::pin(self.database(name, cx, &mut totals, &mut report)).await;
        }
        if !cx.task.cancel.is_cancelled() {
            self.conclude(cx, &totals, &mut report);
            if !cx.dry_run {
                self.measure(cx, &mut report).await;
            }
        }
        Ok(report)
    }
}

impl Vacuum {
    fn action(&self) -> &'static str {
        let mode = self.settings.rules.mode;
        MODES.iter().find(|(_, known)| *known == mode).map_or("", |(name, _)| *name)
    }

    /// The databases to work on.
    async fn look(&self, cx: &RunContext) -> Result<Selection, Failure> {
        let look = cx.task.doing(format!("look at server {}", self.server.name()));
        let visit = Visit::for_maintenance(&self.server, look).await?;
        let ask = visit.session.queries(&visit.task.cancel);
        let (_, standby) = catalog::version_and_role(ask).await.during(&visit.task)?;
        if standby {
            let what = "the server is a standby (recovery is in progress): nothing can be vacuumed";
            return Err(visit.task.failure(Class::Configuration, what).hint(
                "let `server` of the job be the primary: what is removed there goes from its \
                 standbys too",
            ));
        }
        let selection = visit.databases(&self.databases).await?;
        visit.end().await;
        Ok(selection)
    }

    /// One database, unless a retry is about others.
    async fn database(
        &self,
        name: &DatabaseName,
        cx: &RunContext,
        totals: &mut Totals,
        report: &mut Report,
    ) {
        let target = self.target(name, None);
        let tables = cx.only.as_ref().and_then(|only| tables_to_retry(only, &target));
        if tables.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
        let (only, dry_run) = (tables.as_ref(), cx.dry_run);
        let mut pass = None;
        if !dry_run {
            cx.task.progress.set_stage(format!("wait for another job on {name}"));
            let subject = Subject::Database(name.clone());
            match self.gate.enter(self.server.name(), &subject, &cx.task).await {
                Ok(entered) => pass = Some(entered),
                Err(failure) => return report.targets.push(cx.ended(target, Err(failure))),
            }
        }
        // The run was decided on at that time; it may have waited, and tried before.
        let until = self.window.map(|window| cx.run.time() + window);
        if !dry_run && until.is_some_and(|until| cx.task.clock.now().wall >= until) {
            totals.databases_not_reached += 1;
            // In a retry, what was done before stays done, and what failed has failed.
            if only.is_none() {
                let why = "the maintenance window had ended before it began".to_owned();
                report.targets.push(TargetReport::new(target, Outcome::Skipped(why)));
            }
            return;
        }
        cx.task.progress.set_stage(format!("{} {name}", self.action()));
        let settings = &self.settings;
        let orders = Orders { server: &self.server, settings, only, until, dry_run };
        match Box::pin(vacuum::database(&orders, name, &cx.task)).await {
            Ok(outcome) => {
                totals.add(&outcome);
                let part = report::Part { job: self, cx, name, whole: only.is_none() };
                part.report(outcome, report);
            }
            Err(failure) => {
                totals.failed = true;
                let tables =
                    tables.into_iter().flatten().map(|table| self.target(name, Some(table)));
                let mut failed: Vec<Target> = tables.collect();
                if failed.is_empty() {
                    failed.push(target);
                }
                report.targets.extend(failed.into_iter().map(|target| {
                    choose::failed(&self.databases, name, (target, failure.clone()), cx)
                }));
            }
        }
        drop(pass);
    }
}

/// The tables that a retry is about; none: the whole database.
fn tables_to_retry(only: &BTreeSet<Target>, database: &Target) -> Option<BTreeSet<String>> {
    if only.contains(database) {
        return None;
    }
    let of_it =
        |one: &&Target| (&one.subject, &one.server) == (&database.subject, &database.server);
    Some(only.iter().filter(of_it).filter_map(|one| one.object.clone()).collect())
}
