//! The kind `vacuum`: the tables that need it, one statement each, in databases by pattern.
//!
//! One target stands for a database, with its counts; tables that failed or were skipped are
//! targets of their own, so that a retry does those that failed and nothing else.

mod conclude;
mod report;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    config::{Diagnostics, Located, Options, class},
    domain::{
        backup::Subject,
        failure::{Class, Failure, IntoFailure},
        metric::metrics,
        name::{DatabaseName, ServerName},
        pattern::{DatabasePatterns, Selection},
        relation::{RelationPattern, RelationPatterns},
        report::{Outcome, Report, TargetReport},
        units::ByteSize,
        vacuum::{Ask, Mode, Thresholds},
    },
    maintenance::vacuum::{self, Call, Knobs, Settings},
    postgres::{PgError, Server, catalog},
    sys::gate::DatabaseGate,
};

use super::{Job, JobKind, Resources, RunContext, choose, options};

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
    build,
};

/// What `mode` may be.
const MODES: [(&str, Mode); 5] = [
    ("vacuum", Mode::Vacuum),
    ("vacuum-analyze", Mode::VacuumAnalyze),
    ("analyze", Mode::Analyze),
    ("freeze", Mode::Freeze),
    ("full", Mode::Full),
];
/// The server takes whole milliseconds, and 0 would mean no limit.
const LOCK_TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Whoever wants a lock that ours conflicts with waits behind us as long as we wait.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_hours(1);
const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Limits of `vacuum_cost_delay` and `vacuum_cost_limit` (guc_tables.c); 2 ms is what autovacuum
/// does.
const COST_DELAY_MAX: Duration = Duration::from_millis(100);
const COST_DELAY_DEFAULT: Duration = Duration::from_millis(2);
const COST_LIMIT_MAX: u32 = 10_000;
/// `MAX_PARALLEL_WORKER_LIMIT` (bgworker_internals.h).
const PARALLEL_MAX: u32 = 1024;
/// `MIN_BAS_VAC_RING_SIZE_KB` and `MAX_BAS_VAC_RING_SIZE_KB` (miscadmin.h).
const BUFFERS: std::ops::RangeInclusive<ByteSize> = ByteSize::kib(128)..=ByteSize::gib(16);
/// Facts of one page of tables, the tables that are due, what the server said.
const MEMORY: u64 = 4 << 20;
const YEAR: Duration = Duration::from_hours(24 * 366);

struct Vacuum {
    server: Arc<Server>,
    databases: DatabasePatterns,
    settings: Settings,
    window: Option<Duration>,
    xmin_held_for: Duration,
    gate: Arc<DatabaseGate>,
}

fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let databases = options::patterns(o, d);
    let mode = o.given("mode");
    let mode = match mode {
        Some(_) => o.one_of("mode", &MODES, d),
        None => Some(Located { value: Mode::VacuumAnalyze, span: o.span() }),
    };
    let include = options::relations(o, "tables", &["*.*"], d);
    let exclude = options::relations(o, "exclude_tables", &[], d);
    let thresholds = thresholds(o, mode.as_ref().map(|mode| mode.value), d);
    let fits =
        mode.as_ref().is_none_or(|mode| fits(o, mode, databases.as_ref(), include.as_ref(), d));
    let knobs = Knobs {
        truncate: o.take_or("truncate", false, d),
        parallel: o.take_in_or("parallel", 0..=PARALLEL_MAX, 0, d),
        buffer_usage_limit: o.take_in("buffer_usage_limit", BUFFERS, d).map(|size| size.value),
    };
    let lock_timeout =
        o.take_in_or("lock_timeout", LOCK_TIMEOUT_MIN..=LOCK_TIMEOUT_MAX, LOCK_TIMEOUT_DEFAULT, d);
    let cost_delay =
        o.take_in_or("cost_delay", Duration::ZERO..=COST_DELAY_MAX, COST_DELAY_DEFAULT, d);
    let cost_limit = o.take_in("cost_limit", 1..=COST_LIMIT_MAX, d).map(|limit| limit.value);
    let window = o.take_in("window", Duration::from_secs(1)..=YEAR, d).map(|window| window.value);
    let xmin_held_for =
        o.take_in_or("xmin_held_for", Duration::ZERO..=YEAR, Duration::from_hours(1), d);
    let tables = RelationPatterns { include: include?, exclude: exclude? };
    let ask = Ask { mode: mode?.value, tables, thresholds };
    fits.then_some(())?;
    Some(Arc::new(Vacuum {
        server: server?,
        databases: databases?,
        settings: Settings { ask, knobs, lock_timeout, cost_delay, cost_limit },
        window,
        xmin_held_for,
        gate: resources.gate.clone(),
    }))
}

/// When a table is due. What the mode does not do cannot be asked for.
fn thresholds(o: &mut Options<'_>, mode: Option<Mode>, d: &mut Diagnostics) -> Thresholds {
    let of_vacuum = ["min_dead_tuples", "min_dead_ratio", "xid_age", "not_vacuumed_for"];
    let of_analyze = ["min_changed_tuples", "not_analyzed_for"];
    for (keys, done, verb) in [
        (&of_vacuum[..], mode.is_none_or(Mode::vacuums), "vacuums"),
        (&of_analyze[..], mode.is_none_or(Mode::analyzes), "analyzes"),
    ] {
        for key in keys.iter().filter(|_| !done) {
            if let Some(span) = o.given(key) {
                d.error(&span, format!("`{key}` is for a mode that {verb}")).class(class::CONFLICT);
            }
        }
    }
    let second = Duration::from_secs(1);
    Thresholds {
        min_dead_tuples: o.take_in("min_dead_tuples", 1..=u64::MAX, d).map(|n| n.value),
        min_dead_ratio: o.take_in("min_dead_ratio", 0.0..=1.0, d).map(|n| n.value),
        xid_age: o.take_in("xid_age", 1..=u64::MAX, d).map(|n| n.value),
        not_vacuumed_for: o.take_in("not_vacuumed_for", second..=10 * YEAR, d).map(|n| n.value),
        min_changed_tuples: o.take_in("min_changed_tuples", 1..=u64::MAX, d).map(|n| n.value),
        not_analyzed_for: o.take_in("not_analyzed_for", second..=10 * YEAR, d).map(|n| n.value),
    }
}

/// VACUUM FULL is for tables and databases that somebody wrote down, and takes no knobs.
fn fits(
    o: &mut Options<'_>,
    mode: &Located<Mode>,
    databases: Option<&DatabasePatterns>,
    tables: Option<&Vec<RelationPattern>>,
    d: &mut Diagnostics,
) -> bool {
    if mode.value != Mode::Full {
        return true;
    }
    let before = d.error_count();
    let named = tables.is_none_or(|all| all.iter().all(|one| one.literal().is_some()))
        && databases.is_none_or(|all| all.include.iter().all(|one| one.literal().is_some()));
    if !named {
        d.error(
            &mode.span,
            "VACUUM FULL needs its databases and tables by name, without wildcards",
        )
        .class(class::CONFLICT)
        .hint(
            "it writes each table anew under an ACCESS EXCLUSIVE lock: nobody can read it \
                 until that is done, and the disk holds it twice. Name them: databases = \
                 [\"app\"], tables = [\"public.log\"]; to remove dead rows no such lock is needed",
        );
    }
    for key in ["truncate", "parallel", "buffer_usage_limit", "cost_delay", "cost_limit"] {
        if let Some(span) = o.given(key) {
            d.error(&span, format!("`{key}` does nothing to VACUUM FULL")).class(class::CONFLICT);
        }
    }
    d.error_count() == before
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
        let mut report = Report::default();
        for problem in &selection.problems {
            let (name, failure) = choose::refused(problem, self.server.name())?;
            let target = self.target(&name, None);
            if cx.wants(&target) {
                report.targets.push(cx.ended(target, Err(failure)));
            }
        }
        self.plan_databases(&selection, &mut report);
        let mut totals = conclude::Totals {
            failed: !selection.problems.is_empty(),
            ..conclude::Totals::default()
        };
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
        let mode = self.settings.ask.mode;
        MODES.iter().find(|(_, known)| *known == mode).map_or("", |(name, _)| *name)
    }

    /// The databases to work on.
    async fn look(&self, cx: &RunContext) -> Result<Selection, Failure> {
        let doing = format!("look at server {}", self.server.name());
        let fail = |error: PgError| error.into_failure(&*doing);
        let cancel = &cx.task.cancel;
        cx.task.progress.set_stage(&*doing);
        let maintenance = self.server.maintenance_database();
        let session =
            self.server.connect_for_maintenance(maintenance, &cx.task.doing(&*doing)).await?;
        let (_, standby) =
            catalog::version_and_role(session.queries(cancel)).await.map_err(fail)?;
        if standby {
            let what = "the server is a standby (recovery is in progress): nothing can be vacuumed";
            return Err(Failure::new(Class::Configuration, doing, what).hint(
                "let `server` of the job be the primary: what is removed there goes from its \
                 standbys too",
            ));
        }
        let databases = catalog::databases(session.queries(cancel), false).await.map_err(fail)?;
        session.close().await;
        Ok(choose::databases(&self.databases, &databases))
    }

    /// One database, unless a retry is about others.
    async fn database(
        &self,
        name: &DatabaseName,
        cx: &RunContext,
        totals: &mut conclude::Totals,
        report: &mut Report,
    ) {
        let target = self.target(name, None);
        let tables: Option<BTreeSet<String>> = match &cx.only {
            Some(only) if !only.contains(&target) => Some(
                only.iter()
                    .filter(|one| one.subject == target.subject && one.server == target.server)
                    .filter_map(|one| one.object.clone())
                    .collect(),
            ),
            _ => None,
        };
        if tables.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
        // The run was decided on at that time; it may have waited, and tried before.
        let until = self.window.map(|window| cx.run.time() + window);
        let is_over = || until.is_some_and(|until| cx.task.clock.now().wall >= until);
        let _pass = if cx.dry_run {
            None
        } else {
            cx.task.progress.set_stage(format!("wait for another job on {name}"));
            let subject = Subject::Database(name.clone());
            match self.gate.enter(self.server.name(), &subject, &cx.task).await {
                Ok(pass) => Some(pass),
                Err(failure) => return report.targets.push(cx.ended(target, Err(failure))),
            }
        };
        if is_over() && !cx.dry_run {
            totals.databases_not_reached += 1;
            if tables.is_some() {
                // What was done before stays done, and what failed has failed.
                return;
            }
            let why = "the maintenance window had ended before it began".to_owned();
            return report.targets.push(TargetReport::new(target, Outcome::Skipped(why)));
        }
        cx.task.progress.set_stage(format!("{} {name}", self.action()));
        let (only, dry_run) = (tables.as_ref(), cx.dry_run);
        let settings = &self.settings;
        let call = Call { server: &self.server, settings, only, until, dry_run };
        match Box::pin(vacuum::database(&call, name, &cx.task)).await {
            Ok(done) => {
                totals.add(&done);
                let part = report::Part { job: self, cx, name, whole: only.is_none() };
                part.report(done, report);
            }
            Err(failure) => {
                totals.failed = true;
                let failed = match tables {
                    Some(tables) => {
                        tables.into_iter().map(|t| self.target(name, Some(t))).collect()
                    }
                    None => vec![target],
                };
                let ended = failed.into_iter().map(|target| {
                    choose::failed(&self.databases, name, (target, failure.clone()), cx)
                });
                report.targets.extend(ended);
            }
        }
    }
}
