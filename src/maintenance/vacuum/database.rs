//! One database: the linear story. connect → look at its tables → one statement for each that is
//! due, the most needed first → the database's own numbers.
//!
//! What can still go wrong: the server goes away in the middle. What is left is tried over a new
//! connection once; where there is none, the database has failed, and what was done stays done.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    domain::{
        Timestamp,
        failure::{During, Failure},
        name::DatabaseName,
        relation::RelationName,
        vacuum::{Skip, VacuumRules},
    },
    postgres::{PgError, Server, Session, catalog, locks, session::Limits},
    sys::task::Task,
};

use super::{
    StatementOptions, TableOutcome,
    facts::{self, Chosen, Due},
    outcome,
    output::Output,
    statement::{database_stats, statement},
    watch::Watch,
};

/// Tables that are due and named in the plan; more are counted.
const PLAN_MAX: usize = 10_000;

/// How it is done.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rules: VacuumRules,
    pub options: StatementOptions,
    pub lock_timeout: Duration,
    /// `vacuum_cost_delay`: the pause after each `vacuum_cost_limit` of work.
    pub cost_delay: Duration,
    /// `vacuum_cost_limit`; none: the server's.
    pub cost_limit: Option<u32>,
}

/// What is wanted of one database.
#[derive(Debug)]
pub struct Orders<'a> {
    pub server: &'a Server,
    pub settings: &'a Settings,
    /// The tables (`schema.name`) that failed before; none: all that are due.
    pub only: Option<&'a BTreeSet<String>>,
    /// From when on nothing new is started.
    pub until: Option<Timestamp>,
    pub dry_run: bool,
}

/// What came of one database.
#[derive(Debug, Default)]
pub struct DatabaseOutcome {
    pub due: usize,
    /// The first of them, and why, the most needed first; only so many are named.
    pub plan: Vec<(RelationName, String)>,
    /// Tables that are not, and why; only so many are named.
    pub left: Vec<(RelationName, String)>,
    pub selected: usize,
    /// Tables that a pattern names and that are there.
    pub named: Vec<RelationName>,
    /// How each ended that was begun, or could not be.
    pub ended: Vec<(RelationName, TableOutcome)>,
    /// Tables that are due and were not begun, since the maintenance window had ended.
    pub not_reached: usize,
    /// What the server said, within bounds.
    pub output: Vec<String>,
    /// What stopped it before all were tried.
    pub failure: Option<Failure>,
}

/// Does one database.
///
/// # Errors
/// When nothing was tried: no connection, no answer from the catalogue.
pub async fn database(
    orders: &Orders<'_>,
    name: &DatabaseName,
    task: &Task,
) -> Result<DatabaseOutcome, Failure> {
    let task = &task.doing(format!("vacuum database {name}"));
    let session = open(orders, name, task).await?;
    let ask = session.queries(&task.cancel);
    let (version, _) = catalog::version_and_role(ask).await.during(task)?;
    let chosen = facts::choose(ask, version, &orders.settings.rules, orders.only).await;
    let Chosen { due, skipped, left, selected, named } = chosen.during(task)?;
    let skipped =
        skipped.into_iter().map(|(table, skip, why)| (table, TableOutcome::Skipped(skip, why)));
    let plan = due.iter().take(PLAN_MAX).map(|due| (due.relation.clone(), due.reason.clone()));
    let mut outcome = DatabaseOutcome {
        due: due.len(),
        plan: plan.collect(),
        ended: skipped.collect(),
        left,
        selected,
        named,
        ..DatabaseOutcome::default()
    };
    if orders.dry_run || due.is_empty() {
        session.close().await;
        return Ok(outcome);
    }
    // Nobody has to know how far it is: without a second connection it runs on.
    let watch = match orders.server.connect_for_maintenance(name.as_str(), task).await {
        Ok(session) => Some(Watch { session, version }),
        Err(failure) => {
            tracing::debug!(%failure, "the progress will not be known");
            None
        }
    };
    let pid = session.backend_pid(&task.cancel).await.during(task)?;
    let output = Output::default();
    let mut work = Vacuumer { orders, name, task, version, session, pid, watch, output };
    work.tables(&due, &mut outcome).await;
    work.finish(&mut outcome).await;
    Ok(outcome)
}

/// A session without limits but that on locks, and with the brake on.
async fn open(orders: &Orders<'_>, name: &DatabaseName, task: &Task) -> Result<Session, Failure> {
    let settings = orders.settings;
    let session = orders.server.connect_for_maintenance(name.as_str(), task).await?;
    let limits = Limits { statement: Duration::ZERO, lock: settings.lock_timeout };
    session.set_limits(limits, &task.cancel).await.during(task)?;
    let delay = format!("{}ms", settings.cost_delay.as_millis());
    let limit = settings.cost_limit.map(|limit| limit.to_string());
    let sql = "SELECT set_config('vacuum_cost_delay', $1, false), \
               set_config('vacuum_cost_limit', \
                 coalesce($2, current_setting('vacuum_cost_limit')), false)";
    let set = session.query(sql, &[&delay, &limit], &task.cancel).await;
    set.map(|_| session).during(task)
}

struct Vacuumer<'a> {
    orders: &'a Orders<'a>,
    name: &'a DatabaseName,
    task: &'a Task,
    version: u32,
    session: Session,
    pid: i32,
    watch: Option<Watch>,
    output: Output,
}

impl Vacuumer<'_> {
    async fn tables(&mut self, due: &[Due], outcome: &mut DatabaseOutcome) {
        for (at, table) in due.iter().enumerate() {
            if self.task.cancel.is_cancelled() {
                outcome.ended.push((table.relation.clone(), TableOutcome::Cancelled));
                return;
            }
            if self.orders.until.is_some_and(|until| self.task.clock.now().wall >= until) {
                outcome.not_reached = due.len() - at;
                let left = outcome.not_reached;
                self.output.say(&format!(
                    "the maintenance window has ended: {left} tables were not begun"
                ));
                return;
            }
            if let Err(failure) = self.reopen().await {
                outcome.failure = Some(failure);
                return;
            }
            let stage =
                format!("vacuum {}: {}, {} of {}", self.name, table.relation, at + 1, due.len());
            self.task.progress.set_stage(&*stage);
            let ended = self.table(table, &stage).await;
            outcome.ended.push((table.relation.clone(), ended));
        }
    }

    /// A new connection where the old one is gone.
    async fn reopen(&mut self) -> Result<(), Failure> {
        if !self.session.is_closed() {
            return Ok(());
        }
        self.session = open(self.orders, self.name, self.task).await?;
        self.pid = self.session.backend_pid(&self.task.cancel).await.during(self.task)?;
        Ok(())
    }

    async fn table(&mut self, table: &Due, stage: &str) -> TableOutcome {
        let doing = format!("vacuum table {} of database {}", table.relation, self.name);
        let task = &self.task.doing(doing);
        let ask = self.session.queries(&task.cancel);
        let relation = match facts::now(ask, table.oid).await {
            Ok(Some((relation, false))) => relation,
            Ok(Some((_, true))) => {
                let why = "autovacuum is vacuuming it, and does not give way before it is done";
                return TableOutcome::Skipped(Skip::AntiWraparound, why.to_owned());
            }
            Ok(None) => {
                return TableOutcome::Skipped(Skip::Gone, "it was dropped meanwhile".to_owned());
            }
            Err(error) => return outcome::of(task, Err(error), &[]),
        };
        let settings = self.orders.settings;
        let mode = settings.rules.mode;
        let sql = statement(mode, table.partitioned, &settings.options, self.version, &relation);
        tracing::debug!(database = %self.name, sql, "next table");
        drop(self.session.take_notices());
        let ended = self.execute(&sql, stage).await;
        let (said, _) = self.session.take_notices();
        self.output.hear(&said);
        let mut ended = outcome::of(task, ended, &said);
        if let TableOutcome::Skipped(Skip::Locked, why) = &mut ended
            && let Ok(holders) = locks::holders(ask, table.oid).await
            && !holders.is_empty()
        {
            *why = format!("{why}: {}", holders.join(", "));
        }
        if let TableOutcome::Skipped(skip, why) = &ended {
            self.output.say(&format!("{relation}: skipped, {skip}: {why}"));
        }
        ended
    }

    /// Runs the statement while the other session looks how far it is.
    async fn execute(&self, sql: &str, stage: &str) -> Result<(), PgError> {
        let over = self.task.cancel.child_token();
        let statement = async {
            let ended = self.session.execute(sql, &self.task.cancel).await;
            over.cancel();
            ended
        };
        let follow = async {
            if let Some(watch) = &self.watch {
                watch.follow(self.pid, stage, self.task, &over).await;
            }
        };
        tokio::join!(statement, follow).0
    }

    async fn finish(mut self, outcome: &mut DatabaseOutcome) {
        let vacuumed = outcome.ended.iter().any(|(_, ended)| *ended == TableOutcome::Done);
        let sql = database_stats(self.orders.settings.rules.mode, self.version);
        if let Some(sql) = sql.filter(|_| vacuumed && !self.task.cancel.is_cancelled()) {
            // It is done in time by the next VACUUM, whoever runs it.
            if let Err(error) = self.session.execute(sql, &self.task.cancel).await {
                self.output.say(&format!("{sql}: {error}"));
            }
        }
        outcome.output = self.output.into_lines();
        self.session.close().await;
        if let Some(watch) = self.watch {
            watch.session.close().await;
        }
    }
}
