//! Rebuilding indexes: the story of one database.
//!
//! look → plan → one after the other: may it start now? → debris, record, build, proof → look again.
//! A build that fails cleans up after itself ([`aftermath`]); what it could not clean is tried once more
//! at the end, and by the next run, which knows from the [`Ledger`] whose debris it is.
//!
//! What can still go wrong: a killed pgkeep leaves its backend building, since a server notices that
//! its client is gone only when it next writes to it. The next run leaves such a table alone.

mod aftermath;
mod again;
mod build;
mod deadline;
mod ledger;
mod start;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::{
    domain::{
        failure::{Class, During, Failure},
        finding::Finding,
        index::{Action, Activity, Build, Index, Planned, Wishes, plan},
        name::DatabaseName,
        report::{Figures, Outcome, Step, TargetReport},
        target::Target,
    },
    postgres::{Server, Session, catalog::ServerFacts, indexes},
    sys::{gate::DatabaseGate, task::Task},
};

pub use ledger::Ledger;

/// Lines that are kept of what was said about one index.
const OUTPUT_MAX: usize = 50;

/// What is to be done with a server's indexes.
#[derive(Debug)]
pub struct Orders<'a> {
    pub server: &'a Server,
    pub facts: &'a ServerFacts,
    pub wishes: &'a Wishes,
    /// How long each lock is waited for, and each transaction that has to end first.
    pub lock_timeout: Duration,
    /// When nothing new starts any more.
    pub until: Option<Timestamp>,
    pub gate: &'a DatabaseGate,
    pub ledger: &'a Ledger,
    /// The targets to do; none: all.
    pub only: Option<&'a BTreeSet<Target>>,
    pub dry_run: bool,
}

/// What came of one database.
#[derive(Debug, Default)]
pub struct DatabaseOutcome {
    pub plan: Vec<Step>,
    pub targets: Vec<TargetReport>,
    pub findings: Vec<Finding>,
    /// Invalid indexes that are left; none where that is not known.
    pub invalid: Option<usize>,
    /// Bytes by which the rebuilt indexes became smaller.
    pub reclaimed: u64,
    /// The indexes that were looked at, as patterns see them.
    pub labels: Vec<String>,
    /// Whether the role sees what other sessions do.
    pub sees_all: bool,
}

/// How a target ended that did not fail.
enum Ending {
    Done(Figures),
    Skipped(String),
}

/// What a database looks like.
struct View {
    database: u32,
    indexes: Vec<Index>,
    activity: Activity,
    builds: Vec<Build>,
}

/// Works on one database.
///
/// # Errors
/// When the database could not be looked at; nothing was done then.
pub async fn database(
    orders: &Orders<'_>,
    name: &DatabaseName,
    task: &Task,
) -> Result<DatabaseOutcome, Failure> {
    let task = &task.doing(format!("look at the indexes of database {name}"));
    task.progress.set_stage(task.phrase());
    let session = connect(orders.server, name, task).await?;
    let view = look(orders, &session, task).await?;
    let planned =
        plan(orders.wishes, orders.facts.version_num, &view.indexes, &view.activity, &view.builds);
    let mut work = Rebuilder {
        orders,
        name,
        task,
        session,
        database: view.database,
        busy: false,
        lost: None,
        outcome: DatabaseOutcome::default(),
    };
    work.outcome.labels = view.indexes.iter().map(Index::label).collect();
    work.outcome.sees_all = view.activity.sees_all;
    work.outcome.plan = planned.iter().map(|it| work.step(it, &view.activity)).collect();
    if !orders.dry_run {
        for it in &planned {
            work.one(it).await;
        }
        if !task.cancel.is_cancelled() {
            work.look_again().await;
        }
    }
    work.session.close().await;
    Ok(work.outcome)
}

/// A session as the role for maintenance. A role or a database that is read-only by its settings lets REINDEX
/// through, and not the DROP INDEX of what it left behind.
async fn connect(server: &Server, name: &DatabaseName, task: &Task) -> Result<Session, Failure> {
    let session = server.connect_for_maintenance(name.as_str(), task).await?;
    let writes = session.execute("SET default_transaction_read_only = off", &task.cancel).await;
    writes.map(|()| session).during(task)
}

async fn look(orders: &Orders<'_>, session: &Session, task: &Task) -> Result<View, Failure> {
    let (version, ask) = (orders.facts.version_num, session.queries(&task.cancel));
    let database = indexes::database_oid(ask).await.during(task)?;
    // Before the indexes: what is seen invalid and is not being built then is nobody's work.
    let before = indexes::activity(ask, version).await.during(task)?;
    let found = indexes::indexes(ask, version, &orders.wishes.named).await.during(task)?;
    let mut activity = indexes::activity(ask, version).await.during(task)?;
    activity.building.extend(before.building);
    let builds = orders.ledger.of(orders.facts.system_id, database);
    let builds = builds.map_err(|error| Failure::from_error(Class::State, task, &error))?;
    Ok(View { database, indexes: found, activity, builds })
}

/// The work on one database.
struct Rebuilder<'a> {
    orders: &'a Orders<'a>,
    name: &'a DatabaseName,
    task: &'a Task,
    session: Session,
    database: u32,
    /// Another job had the database for longer than we waited.
    busy: bool,
    /// The server was gone, and a new session could not be had: the other targets are not tried.
    lost: Option<Failure>,
    outcome: DatabaseOutcome,
}

impl Rebuilder<'_> {
    fn target(&self, object: Option<String>) -> Target {
        let server = Some(self.orders.server.name().clone());
        Target { server, object, ..Target::database(self.name) }
    }

    /// Whether the target was asked for, alone or with its whole database.
    fn wants(&self, target: &Target) -> bool {
        let whole = self.target(None);
        self.orders.only.is_none_or(|only| only.contains(target) || only.contains(&whole))
    }

    /// A line of the plan. What hinders a build now may have ended when its turn comes.
    fn step(&self, it: &Planned<'_>, activity: &Activity) -> Step {
        let acts = matches!(it.action, Action::Rebuild | Action::Drop);
        let hindrance = activity.hindrance(it.index.table).filter(|_| acts);
        let mut reason = it.reason.clone();
        if it.action == Action::Rebuild {
            reason = format!("{reason}; about {} bytes", it.index.bytes);
        }
        for debris in &it.debris {
            reason = format!("{reason}; drops {} before", debris.label());
        }
        let action = if hindrance.is_some() { "defer" } else { it.action.as_str() };
        Step {
            target: self.target(Some(it.index.label())),
            action: action.to_owned(),
            reason: hindrance.unwrap_or(reason),
        }
    }

    fn push(&mut self, target: Target, ended: Result<Ending, Failure>, mut output: Vec<String>) {
        output.truncate(OUTPUT_MAX);
        let (outcome, figures) = match ended {
            Ok(Ending::Done(figures)) => (Outcome::Succeeded, figures),
            Ok(Ending::Skipped(why)) => (Outcome::Skipped(why), Figures::default()),
            Err(failure) => (self.task.outcome(failure), Figures::default()),
        };
        self.outcome.targets.push(TargetReport { target, outcome, figures, output });
    }

    async fn one(&mut self, it: &Planned<'_>) {
        let target = self.target(Some(it.index.label()));
        if !self.wants(&target) {
            return;
        }
        let verb = if matches!(it.action, Action::Drop) { "drop" } else { "rebuild" };
        let doing = format!("{verb} index {} of database {}", it.index.label(), self.name);
        let task = &self.task.doing(doing);
        let mut output = Vec::new();
        let ended = match it.action {
            Action::Report(_) => return,
            Action::Skip => Ok(Ending::Skipped(it.reason.clone())),
            Action::Refuse(class) => {
                Err(Failure { hint: it.hint.clone(), ..task.failure(class, &it.reason) })
            }
            Action::Drop | Action::Rebuild => self.start(it, task, &mut output).await,
        };
        self.push(target, ended, output);
    }

    /// Opens the session anew where it is gone.
    async fn reconnect(&mut self, task: &Task) -> Result<(), Failure> {
        if self.session.is_closed() {
            self.session = connect(self.orders.server, self.name, task).await?;
        }
        Ok(())
    }
}
