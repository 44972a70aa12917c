//! The kind `dump`: databases by pattern, each by pg_dump in its own snapshot, then the globals,
//! into every repository of the job.

mod attempt;
mod gone;
mod heal;
mod options;
mod report;
mod role;
mod selection;

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
        courtesy::Courtesy,
        fanout::Compression,
        globals::{self, Parts},
        outcome::Repositories,
        owner::Owners,
    },
    checks::{self, preflight::Accepted},
    domain::{
        backup::Subject,
        failure::Failure,
        measure::Share,
        metric::metrics,
        name::{DatabaseName, RepositoryName, ServerName},
        owner::Adoption,
        pattern::DatabasePatterns,
        report::Report,
        scope::{Format, Scope, Scopes},
        target::Target,
    },
    postgres::Server,
    repository::{ask::ask, handle::Handle},
    sys::{gate::DatabaseGate, process::ChildSettings, task::Task},
};

use super::{Job, JobKind, Protects, RunContext, choose, visit::Visit};
use attempt::Attempt;

metrics! {
    METRICS:
    LAST_SUCCESS = Last "backup_last_success_timestamp_seconds" ["server", "datname", "repository"]
        "Time of the snapshot of the newest backup that this job delivered.";
    SELECTION_LAST_SUCCESS = Last "backup_selection_last_success_timestamp_seconds" ["server", "datname", "repository"]
        "Time of the snapshot of the newest selection of the database that this job delivered: it \
         leaves something out, and is no backup of the database.";
    LAST_SIZE = Last "backup_last_size_bytes" ["server", "datname", "repository"]
        "Stored bytes of the newest backup that this job delivered.";
    LAST_PLAIN = Last "backup_last_plain_bytes" ["server", "datname", "repository"]
        "Bytes of the newest backup as pg_dump wrote them.";
    LAST_ROWS = Last "backup_last_rows" ["server", "datname", "repository"]
        "Rows of table data in the newest backup.";
    MAX_AGE = Covered "backup_max_age_seconds" ["server", "datname", "repository"]
        "How old the newest backup may become: the job's own objective, for each database that its \
         last run that did something was to deliver; no series for what is gone.";
    BLOCKED_SESSIONS = Gauge "backup_last_blocked_sessions" ["server", "datname"]
        "Greatest number of sessions that waited at once behind the locks of the last run's backup, \
         directly or behind others; no series where nobody looked.";
    BLOCKED_SECONDS = Gauge "backup_last_blocked_seconds" ["server", "datname"]
        "Longest wait of a session behind the locks of the last run's backup.";
    XMIN_AGE = Gauge "backup_last_xmin_age_transactions" ["server", "datname"]
        "Greatest age, in transactions, of the xmin that the last run's backup held: dead rows \
         younger than that stayed.";
    SNAPSHOT_SECONDS = Gauge "backup_last_snapshot_seconds" ["server", "datname"]
        "How long the last run's backup held its snapshot, and with it the xmin.";
}

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "dump",
    summary: "Dumps databases and globals with pg_dump into repositories",
    time_limit: Duration::from_hours(24 * 7),
    metrics: METRICS,
    build: options::build,
};

struct Dump {
    server: Arc<Server>,
    patterns: DatabasePatterns,
    scopes: Scopes,
    format: Format,
    /// Further options of pg_dump that leave nothing out.
    form_options: Vec<String>,
    globals: bool,
    parts: Parts,
    repositories: Vec<Arc<Handle>>,
    compression: Compression,
    accepted: Accepted,
    lock_wait: Duration,
    role: role::Role,
    deferrable: Option<Duration>,
    courtesy: Courtesy,
    shrink: Option<Share>,
    children: ChildSettings,
    state_dir: PathBuf,
    gate: Arc<DatabaseGate>,
    adopted: Vec<Adoption>,
}

#[async_trait]
impl Job for Dump {
    fn servers(&self) -> Vec<ServerName> {
        vec![self.server.name().clone()]
    }

    fn memory(&self) -> u64 {
        let repositories: Vec<_> =
            self.repositories.iter().map(|handle| (handle.limits(), handle.recipients())).collect();
        let beside = if self.globals { globals::BESIDE_BYTES } else { 0 };
        self.compression.memory(&repositories) + beside
    }

    fn may_skip(&self) -> bool {
        self.role.may_skip()
    }

    fn protects(&self) -> Option<Protects> {
        Some(Protects {
            server: self.server.clone(),
            patterns: self.patterns.clone(),
            scopes: self.scopes.clone(),
            globals: self.globals.then_some(self.parts.role_passwords),
            accepted: self.accepted.clone(),
            repositories: self.repositories.iter().map(|it| it.name().clone()).collect(),
        })
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        let servers = BTreeMap::from([(self.server.name().clone(), Arc::clone(&self.server))]);
        let owners = Owners::new(&self.state_dir, self.adopted.clone(), servers)?;
        let look = cx.task.doing(format!("look at server {}", self.server.name()));
        let visit = Visit::start(&self.server, look).await?;
        let facts = visit.facts().await?;
        let chosen = visit.databases(&self.patterns).await?;
        let (said, _) = visit.session.take_notices();
        if let Some(reason) = self.role.skips(&facts) {
            visit.end().await;
            return Ok(Report::left_out(reason));
        }
        let deferrable = self.deferrable.is_some();
        let fit = self.role.check(&visit.session, &facts, deferrable, &visit.task).await;
        visit.end().await;
        let behind = fit?;
        let tools = self.server.tools(facts.major(), &cx.task).await?;
        let mut report = Report::default();
        report.findings.extend(behind);
        report.findings.extend(checks::login::LOGIN.findings(&said));
        report.findings.extend(report::newer_tools(&tools, &facts));
        report.findings.extend(report::closed(&chosen));
        report.findings.extend(selection::unused(&self.scopes, &chosen, &self.accepted.by));
        for problem in &chosen.problems {
            let (name, failure) = choose::refused(problem, self.server.name())?;
            self.failed(&Subject::Database(name), &failure, cx, &mut report);
        }
        let opened = self.open_repositories(&cx.task).await;
        let chosen: BTreeSet<DatabaseName> = chosen.chosen.into_iter().collect();
        let mut attempt =
            Attempt { job: self, cx, facts: &facts, tools: &tools, opened, owners: &owners };
        for name in &chosen {
            attempt.subject(&Subject::Database(name.clone()), &mut report).await;
        }
        Box::pin(self.look_again(&mut attempt, &chosen, &mut report)).await;
        if self.globals {
            attempt.subject(&Subject::Globals, &mut report).await;
        }
        Ok(report)
    }
}

impl Dump {
    /// All at once: one that does not answer keeps neither the others waiting nor a cancellation.
    async fn open_repositories(&self, task: &Task) -> Repositories {
        task.progress.set_stage("open the repositories");
        let open = self.repositories.iter().map(|handle| async move {
            let doing = format!("open repository {}", handle.name());
            let result = ask(handle.name(), &task.doing(doing.as_str()), handle.open()).await;
            (handle.name().clone(), result)
        });
        join_all(open).await.into_iter().collect()
    }

    /// Volumes that every repository of the job can take, also one that is away now: it is to be
    /// healed by copying them.
    fn volume_parts(&self) -> u32 {
        self.repositories.iter().map(|handle| handle.limits().max_parts).min().unwrap_or(u32::MAX)
    }

    /// What is dumped of a database; of the globals it is always everything.
    fn scope(&self, subject: &Subject) -> &Scope {
        subject.database().map_or_else(|| self.scopes.general(), |name| self.scopes.of(name))
    }

    fn target(&self, subject: &Subject, repository: &RepositoryName) -> Target {
        Target::subject(subject).on(self.server.name()).in_repository(repository)
    }

    /// The same failure in every repository of the job that is still wanted.
    fn failed(&self, subject: &Subject, failure: &Failure, cx: &RunContext, report: &mut Report) {
        for handle in &self.repositories {
            let target = self.target(subject, handle.name());
            if cx.wants(&target) {
                report.targets.push(cx.ended(target, Err(failure.clone())));
            }
        }
    }
}
