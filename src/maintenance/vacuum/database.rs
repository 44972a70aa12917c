//! One database: the linear story. connect → look at its tables → one statement for each that is
//! due, the most needed first → the database's own numbers.
//!
//! What can still go wrong: the server goes away in the middle. What is left is tried over a new
//! connection once; where there is none, the database has failed, and what was done stays done.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    domain::{
        Timestamp,
        failure::{During, Failure, IntoFailure},
        name::DatabaseName,
        relation::RelationName,
        vacuum::{Ask, Skip},
    },
    postgres::{PgError, Server, Session, catalog, locks, session::Limits},
    sys::task::Task,
};

use super::{
    Ended, Knobs,
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
    /// What, and to which tables.
    pub ask: Ask,
    /// How gently.
    pub knobs: Knobs,
    /// How long a table's lock is waited for.
    pub lock_timeout: Duration,
    /// `vacuum_cost_delay`: the pause after each `vacuum_cost_limit` of work.
    pub cost_delay: Duration,
    /// `vacuum_cost_limit`; none: the server's.
    pub cost_limit: Option<u32>,
}

/// What is wanted of one database.
#[derive(Debug)]
pub struct Call<'a> {
    /// The server.
    pub server: &'a Server,
    /// How.
    pub settings: &'a Settings,
    /// The tables (`schema.name`) that failed before; none: all that are due.
    pub only: Option<&'a BTreeSet<String>>,
    /// From when on nothing new is started.
    pub until: Option<Timestamp>,
    /// Decide, and change nothing.
    pub dry_run: bool,
}

/// What came of one database.
#[derive(Debug, Default)]
pub struct Done {
    /// Tables that are due.
    pub due: usize,
    /// The first of them, and why, the most needed first; only so many are named.
    pub plan: Vec<(RelationName, String)>,
    /// Tables that are not, and why; only so many are named.
    pub left: Vec<(RelationName, String)>,
    /// Tables that the patterns select.
    pub selected: usize,
    /// Tables that a pattern names and that are there.
    pub named: Vec<RelationName>,
    /// How each ended that was begun, or could not be.
    pub ended: Vec<(RelationName, Ended)>,
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
pub async fn database(call: &Call<'_>, name: &DatabaseName, task: &Task) -> Result<Done, Failure> {
    let doing = format!("vacuum database {name}");
    let fail = |error: PgError| error.into_failure(&*doing);
    let settings = call.settings;
    let session = open(call, name, &doing, task).await?;
    let cancel = &task.cancel;
    let (version, _) = catalog::version_and_role(session.queries(cancel)).await.map_err(fail)?;
    let chosen = facts::choose(session.queries(cancel), version, &settings.ask, call.only).await;
    let Chosen { due, skipped, left, selected, named } = chosen.map_err(fail)?;
    let ended = skipped.into_iter().map(|(table, skip, why)| (table, Ended::Skipped(skip, why)));
    let plan = due.iter().take(PLAN_MAX).map(|due| (due.relation.clone(), due.reason.clone()));
    let mut done = Done {
        due: due.len(),
        plan: plan.collect(),
        ended: ended.collect(),
        left,
        selected,
        named,
        ..Done::default()
    };
    if call.dry_run || due.is_empty() {
        session.close().await;
        return Ok(done);
    }
    // Nobody has to know how far it is: without a second connection it runs on.
    let watch = match call.server.connect_for_maintenance(name.as_str(), &task.doing(&*doing)).await
    {
        Ok(session) => Some(Watch { session, version }),
        Err(failure) => {
            tracing::debug!(%failure, "the progress will not be known");
            None
        }
    };
    let pid = session.backend_pid(cancel).await.map_err(fail)?;
    let mut work =
        Work { call, name, task, version, session, pid, watch, output: Output::default() };
    work.tables(&due, &mut done).await;
    work.finish(&mut done).await;
    Ok(done)
}

/// A session without limits but that on locks, and with the brake on.
async fn open(
    call: &Call<'_>,
    name: &DatabaseName,
    doing: &str,
    task: &Task,
) -> Result<Session, Failure> {
    let settings = call.settings;
    let session = call.server.connect_for_maintenance(name.as_str(), &task.doing(doing)).await?;
    let set = async {
        let limits = Limits { statement: Duration::ZERO, lock: settings.lock_timeout };
        session.set_limits(limits, &task.cancel).await?;
        let delay = format!("{}ms", settings.cost_delay.as_millis());
        let limit = settings.cost_limit.map(|limit| limit.to_string());
        let sql = "SELECT set_config('vacuum_cost_delay', $1, false), \
                   set_config('vacuum_cost_limit', \
                     coalesce($2, current_setting('vacuum_cost_limit')), false)";
        session.query(sql, &[&delay, &limit], &task.cancel).await
    };
    match set.await {
        Ok(_) => Ok(session),
        Err(error) => Err(error.into_failure(doing)),
    }
}

struct Work<'a> {
    call: &'a Call<'a>,
    name: &'a DatabaseName,
    task: &'a Task,
    version: u32,
    session: Session,
    pid: i32,
    watch: Option<Watch>,
    output: Output,
}

impl Work<'_> {
    async fn tables(&mut self, due: &[Due], done: &mut Done) {
        for (at, table) in due.iter().enumerate() {
            if self.task.cancel.is_cancelled() {
                done.ended.push((table.relation.clone(), Ended::Cancelled));
                return;
            }
            if self.call.until.is_some_and(|until| self.task.clock.now().wall >= until) {
                done.not_reached = due.len() - at;
                let left = done.not_reached;
                self.output.say(&format!("the window is over: {left} tables were not begun"));
                return;
            }
            if let Err(failure) = self.reopen().await {
                done.failure = Some(failure);
                return;
            }
            let stage =
                format!("vacuum {}: {}, {} of {}", self.name, table.relation, at + 1, due.len());
            self.task.progress.set_stage(&*stage);
            let ended = self.table(table, &stage).await;
            done.ended.push((table.relation.clone(), ended));
        }
    }

    /// A new connection where the old one is gone.
    async fn reopen(&mut self) -> Result<(), Failure> {
        if !self.session.is_closed() {
            return Ok(());
        }
        let doing = format!("vacuum database {}", self.name);
        self.session = open(self.call, self.name, &doing, self.task).await?;
        let pid = self.session.backend_pid(&self.task.cancel).await;
        self.pid = pid.during(doing)?;
        Ok(())
    }

    async fn table(&mut self, table: &Due, stage: &str) -> Ended {
        let cancel = &self.task.cancel;
        let doing = format!("vacuum table {} of database {}", table.relation, self.name);
        let relation = match facts::now(self.session.queries(cancel), table.oid).await {
            Ok(Some((relation, false))) => relation,
            Ok(Some((_, true))) => {
                let why = "autovacuum is at it, and does not give way before it is done";
                return Ended::Skipped(Skip::AntiWraparound, why.to_owned());
            }
            Ok(None) => return Ended::Skipped(Skip::Gone, "it was dropped meanwhile".to_owned()),
            Err(error) => return outcome::of(&doing, Err(error), &[]),
        };
        let settings = self.call.settings;
        let mode = settings.ask.mode;
        let sql = statement(mode, table.partitioned, &settings.knobs, self.version, &relation);
        tracing::debug!(database = %self.name, sql, "next table");
        drop(self.session.take_notices());
        let ended = self.execute(&sql, stage).await;
        let (said, _) = self.session.take_notices();
        self.output.hear(&said);
        let mut ended = outcome::of(&doing, ended, &said);
        if let Ended::Skipped(Skip::Locked, why) = &mut ended
            && let Ok(holders) = locks::holders(self.session.queries(cancel), table.oid).await
            && !holders.is_empty()
        {
            *why = format!("{why}: {}", holders.join(", "));
        }
        if let Ended::Skipped(skip, why) = &ended {
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

    async fn finish(mut self, done: &mut Done) {
        let vacuumed = done.ended.iter().any(|(_, ended)| *ended == Ended::Done);
        let sql = database_stats(self.call.settings.ask.mode, self.version);
        if let Some(sql) = sql.filter(|_| vacuumed && !self.task.cancel.is_cancelled()) {
            // It is done in time by the next VACUUM, whoever runs it.
            if let Err(error) = self.session.execute(sql, &self.task.cancel).await {
                self.output.say(&format!("{sql}: {error}"));
            }
        }
        done.output = self.output.into_lines();
        self.session.close().await;
        if let Some(watch) = self.watch {
            watch.session.close().await;
        }
    }
}
