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
        backup::Subject,
        failure::{Class, During, Failure, IntoFailure},
        finding::Finding,
        index::{Action, Activity, Build, Index, Planned, Wishes, plan},
        name::DatabaseName,
        report::{Figures, Step},
        target::Target,
    },
    postgres::{PgError, Server, Session, catalog::ServerFacts, indexes},
    sys::{gate::DatabaseGate, task::Task},
};

pub use ledger::Ledger;

/// Lines that are kept of what was said about one index.
const OUTPUT_MAX: usize = 50;

/// What is to be done with a server's indexes.
#[derive(Debug)]
pub struct Orders<'a> {
    /// The server.
    pub server: &'a Server,
    /// What it is.
    pub facts: &'a ServerFacts,
    /// Which indexes, and how.
    pub wishes: &'a Wishes,
    /// How long each lock is waited for, and each transaction that has to end first.
    pub lock_timeout: Duration,
    /// When nothing new starts any more.
    pub until: Option<Timestamp>,
    /// One heavy job per database.
    pub gate: &'a DatabaseGate,
    /// The builds under way.
    pub ledger: &'a Ledger,
    /// The targets to do; none: all.
    pub only: Option<&'a BTreeSet<Target>>,
    /// Plan, and change nothing.
    pub dry_run: bool,
}

/// What came of one database.
#[derive(Debug, Default)]
pub struct Looked {
    /// What was to be done, and why.
    pub plan: Vec<Step>,
    /// What came of each target.
    pub done: Vec<Done>,
    /// What was found.
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

/// One target.
#[derive(Debug)]
pub struct Done {
    /// What it was about.
    pub target: Target,
    /// How it ended.
    pub end: End,
    /// What else is to be said of it, line by line.
    pub output: Vec<String>,
}

/// How a target ended.
#[derive(Debug)]
pub enum End {
    /// It was tried.
    Tried(Result<Figures, Failure>),
    /// It was left out, and why.
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
) -> Result<Looked, Failure> {
    let doing = format!("look at the indexes of database {name}");
    task.progress.set_stage(&*doing);
    let session = connect(orders.server, name, &doing, task).await?;
    let view = look(orders, &session, &doing, task).await?;
    let planned =
        plan(orders.wishes, orders.facts.version_num, &view.indexes, &view.activity, &view.builds);
    let mut work = Work {
        orders,
        name,
        task,
        session,
        database: view.database,
        busy: false,
        lost: None,
        looked: Looked::default(),
    };
    work.looked.labels = view.indexes.iter().map(Index::label).collect();
    work.looked.sees_all = view.activity.sees_all;
    work.looked.plan = planned.iter().map(|it| work.step(it, &view.activity)).collect();
    if !orders.dry_run {
        for it in &planned {
            work.one(it).await;
        }
        if !task.cancel.is_cancelled() {
            work.look_again(&doing).await;
        }
    }
    let Work { session, looked, .. } = work;
    session.close().await;
    Ok(looked)
}

/// A session as the role for maintenance. A role or a database that is read-only by its settings lets REINDEX
/// through, and not the DROP INDEX of what it left behind.
async fn connect(
    server: &Server,
    name: &DatabaseName,
    doing: &str,
    task: &Task,
) -> Result<Session, Failure> {
    let session = server.connect_for_maintenance(name.as_str(), &task.doing(doing)).await?;
    let writes = session.execute("SET default_transaction_read_only = off", &task.cancel).await;
    writes.map(|()| session).during(doing)
}

async fn look(
    orders: &Orders<'_>,
    session: &Session,
    doing: &str,
    task: &Task,
) -> Result<View, Failure> {
    let fail = |error: PgError| error.into_failure(doing);
    let (version, cancel) = (orders.facts.version_num, &task.cancel);
    let database = indexes::database_oid(session.queries(cancel)).await.map_err(fail)?;
    // Before the indexes: what is seen invalid and is not being built then is nobody's work.
    let before = indexes::activity(session.queries(cancel), version).await.map_err(fail)?;
    let named = &orders.wishes.named;
    let found = indexes::indexes(session.queries(cancel), version, named).await.map_err(fail)?;
    let mut activity = indexes::activity(session.queries(cancel), version).await.map_err(fail)?;
    activity.building.extend(before.building);
    let builds = orders
        .ledger
        .of(orders.facts.system_id, database)
        .map_err(|error| Failure::from_error(Class::State, doing, &error))?;
    Ok(View { database, indexes: found, activity, builds })
}

/// The work on one database.
struct Work<'a> {
    orders: &'a Orders<'a>,
    name: &'a DatabaseName,
    task: &'a Task,
    session: Session,
    database: u32,
    /// Another job had the database for longer than we waited.
    busy: bool,
    /// The server was gone, and a new session could not be had: the other targets are not tried.
    lost: Option<Failure>,
    looked: Looked,
}

impl Work<'_> {
    fn target(&self, object: Option<String>) -> Target {
        Target {
            server: Some(self.orders.server.name().clone()),
            subject: Some(Subject::Database(self.name.clone())),
            repository: None,
            object,
        }
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

    fn push(&mut self, target: Target, end: End, mut output: Vec<String>) {
        output.truncate(OUTPUT_MAX);
        self.looked.done.push(Done { target, end, output });
    }

    async fn one(&mut self, it: &Planned<'_>) {
        let target = self.target(Some(it.index.label()));
        if !self.wants(&target) {
            return;
        }
        let doing = match it.action {
            Action::Drop => format!("drop index {} of database {}", it.index.label(), self.name),
            _ => format!("rebuild index {} of database {}", it.index.label(), self.name),
        };
        match it.action {
            Action::Report(_) => {}
            Action::Skip => self.push(target, End::Skipped(it.reason.clone()), Vec::new()),
            Action::Refuse(class) => {
                let mut failure = Failure::new(class, doing, it.reason.clone());
                failure.hint.clone_from(&it.hint);
                self.push(target, End::Tried(Err(failure)), Vec::new());
            }
            Action::Drop | Action::Rebuild => {
                let mut output = Vec::new();
                let end = self.start(it, &doing, &mut output).await;
                self.push(target, end, output);
            }
        }
    }

    /// Opens the session anew where it is gone.
    async fn reconnect(&mut self, doing: &str, task: &Task) -> Result<(), Failure> {
        if self.session.is_closed() {
            self.session = connect(self.orders.server, self.name, doing, task).await?;
        }
        Ok(())
    }
}
