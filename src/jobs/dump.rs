//! The kind `dump`: databases by pattern, each by pg_dump in its own snapshot, then the globals,
//! into every repository of the job.

mod heal;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{
        dump::{self, Dumped, Source},
        fanout::Compression,
        globals,
        owner::{self, Owners},
    },
    config::{Diagnostics, Options},
    domain::{
        backup::{Series, Subject},
        failure::{Class, Failure},
        finding::{Finding, Severity},
        manifest::Manifest,
        metric::{MetricDesc, MetricKind},
        name::{RepositoryName, ServerName},
        pattern::{DatabasePatterns, Problem},
        report::{Figures, Report, Sample, Target},
    },
    postgres::{
        PgError, Server,
        catalog::{self, Database, ServerFacts},
        tools::Installed,
    },
    repository::{handle::Handle, repo::Repository},
    sys::host,
};

use super::{ChildSettings, Job, JobKind, Protects, Resources, RunContext, options};

const BY_DATABASE: &[&str] = &["server", "datname", "repository"];

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "dump",
    summary: "Dumps databases and globals with pg_dump into repositories",
    metrics: &[
        MetricDesc {
            name: "backup_last_success_timestamp_seconds",
            help: "Time of the snapshot of the newest backup that this job delivered.",
            kind: MetricKind::Last,
            labels: BY_DATABASE,
        },
        MetricDesc {
            name: "backup_last_size_bytes",
            help: "Stored bytes of the newest backup that this job delivered.",
            kind: MetricKind::Last,
            labels: BY_DATABASE,
        },
        MetricDesc {
            name: "backup_last_plain_bytes",
            help: "Bytes of the newest backup as pg_dump wrote them.",
            kind: MetricKind::Last,
            labels: BY_DATABASE,
        },
        MetricDesc {
            name: "backup_last_rows",
            help: "Rows of table data in the newest backup.",
            kind: MetricKind::Last,
            labels: BY_DATABASE,
        },
        MetricDesc {
            name: "backup_max_age_seconds",
            help: "How old the newest backup may become: the job's own objective, for each database \
                   that its last run that did something was to deliver; no series for what is gone.",
            kind: MetricKind::Covered,
            labels: BY_DATABASE,
        },
    ],
    build,
};

/// Highest level of zstd that may be asked for (zstd.h, ZSTD_maxCLevel without
/// `--ultra`).
const LEVEL_MAX: i32 = 19;
/// pg_dump takes whole milliseconds; 0 would mean no limit.
const LOCK_WAIT_MIN: Duration = Duration::from_millis(1);
/// While pg_dump waits for a lock, everybody who comes after it in the queue waits too.
const LOCK_WAIT_MAX: Duration = Duration::from_hours(1);
const LOCK_WAIT_DEFAULT: Duration = Duration::from_mins(1);
struct Dump {
    server: Arc<Server>,
    patterns: DatabasePatterns,
    globals: bool,
    role_passwords: bool,
    repositories: Vec<Arc<Handle>>,
    compression: Compression,
    lock_wait: Duration,
    children: ChildSettings,
    gate: Arc<crate::backup::gate::DatabaseGate>,
    adopted: BTreeSet<String>,
}

fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let repositories = options::repositories(o, "repositories", resources, d);
    let patterns = options::patterns(o, d);
    let globals = o.take_or("globals", true, d);
    let role_passwords = o.take_or("role_passwords", true, d);
    let level = o.take_in_or("compression_level", 1..=LEVEL_MAX, 3, d);
    let workers = o.take_in_or("workers", 1..=64, host::default_workers(), d);
    let lock_wait =
        o.take_in_or("lock_wait_timeout", LOCK_WAIT_MIN..=LOCK_WAIT_MAX, LOCK_WAIT_DEFAULT, d);
    Some(Arc::new(Dump {
        server: server?,
        patterns: patterns?,
        globals,
        role_passwords,
        repositories: repositories?,
        compression: Compression { level, workers },
        lock_wait,
        children: resources.children.clone(),
        gate: resources.gate.clone(),
        adopted: resources.config.daemon.adopt.clone(),
    }))
}

#[async_trait]
impl Job for Dump {
    fn servers(&self) -> Vec<ServerName> {
        vec![self.server.name().clone()]
    }

    fn memory(&self) -> u64 {
        let repositories: Vec<_> =
            self.repositories.iter().map(|handle| (handle.limits(), handle.recipients())).collect();
        self.compression.memory(&repositories)
    }

    fn protects(&self) -> Option<Protects> {
        Some(Protects { server: self.server.clone(), patterns: self.patterns.clone() })
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        let owners = Owners::new(&self.children.state_dir, self.adopted.clone())?;
        let doing = format!("look at server {}", self.server.name());
        let fail = |error: PgError| error.into_failure(&*doing);
        let cancel = &cx.task.cancel;
        cx.task.progress.set_stage(&*doing);
        let maintenance = self.server.maintenance_database();
        let session = self.server.connect(maintenance, &doing, &cx.task).await?;
        let facts = catalog::server_facts(&session, cancel).await.map_err(fail)?;
        let databases = catalog::databases(&session, false, cancel).await.map_err(fail)?;
        session.close().await;
        let tools = self.server.tools(facts.major(), &cx.task).await?;
        let mut report = Report::default();
        report.findings.extend(newer_tools(&tools, &facts));
        let candidates: Vec<_> = databases.iter().map(Database::candidate).collect();
        let chosen = self.patterns.select(&candidates);
        for problem in &chosen.problems {
            self.problem(problem, cx, &mut report)?;
        }
        let opened = self.open_repositories(cancel).await;
        let mut subjects: Vec<Subject> = chosen.chosen.into_iter().map(Subject::Database).collect();
        if self.globals {
            subjects.push(Subject::Globals);
        }
        let work =
            Work { job: self, cx, facts: &facts, tools: &tools, opened: &opened, owners: &owners };
        for subject in &subjects {
            work.subject(subject, &mut report).await;
            self.objective(subject, cx, &mut report);
        }
        Ok(report)
    }
}

type Opened = BTreeMap<RepositoryName, Result<Arc<Repository>, Failure>>;

impl Dump {
    /// All at once: one that does not answer keeps neither the others waiting nor a cancellation.
    async fn open_repositories(&self, cancel: &CancellationToken) -> Opened {
        let open = self.repositories.iter().map(|handle| async move {
            let doing = format!("open repository {}", handle.name());
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    Err(Failure::new(Class::Interrupted, doing, "the run was cancelled"))
                }
                result = handle.open() => result.map_err(|error| error.into_failure(doing)),
            };
            (handle.name().clone(), result)
        });
        join_all(open).await.into_iter().collect()
    }

    /// Volumes that every repository of the job can take, also one that is away now: it is to be
    /// healed by copying them.
    fn volume_parts(&self) -> u32 {
        self.repositories.iter().map(|handle| handle.limits().max_parts).min().unwrap_or(u32::MAX)
    }

    fn target(&self, subject: &Subject, repository: &RepositoryName) -> Target {
        Target {
            server: Some(self.server.name().clone()),
            subject: Some(subject.clone()),
            repository: Some(repository.clone()),
            object: None,
        }
    }

    /// How old the newest backup of the subject may become, in each repository.
    fn objective(&self, subject: &Subject, cx: &RunContext, report: &mut Report) {
        let Some(max_age) = cx.max_age else { return };
        let (server, subject) = (self.server.name().to_string(), subject.label());
        let samples = self.repositories.iter().map(|handle| Sample {
            metric: "backup_max_age_seconds".to_owned(),
            labels: vec![server.clone(), subject.clone(), handle.name().to_string()],
            value: max_age.as_secs_f64(),
        });
        report.samples.extend(samples);
    }

    /// Something that the patterns ask for and the server does not have.
    ///
    /// # Errors
    /// When there is nothing to do at all.
    fn problem(
        &self,
        problem: &Problem,
        cx: &RunContext,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let server = self.server.name();
        let class = match problem {
            Problem::Missing(_) => Class::DatabaseGone,
            Problem::Named(..) | Problem::NothingSelected => Class::Configuration,
        };
        let hint = "look at `databases` and `exclude` of the job, and at `psql -l`";
        let failure = |doing: String| Failure::new(class, doing, problem.to_string()).hint(hint);
        let name = match problem {
            Problem::NothingSelected => {
                return Err(failure(format!("choose the databases of server {server}")));
            }
            Problem::Missing(name) => name.parse().ok(),
            Problem::Named(name, _) => Some(name.clone()),
        };
        // What cannot be a name is no target; it was asked for all the same.
        let Some(name) = name else {
            return Err(failure(format!("choose the databases of server {server}")));
        };
        let doing = format!("dump database {name}");
        self.failed(&Subject::Database(name), &failure(doing), cx, report);
        Ok(())
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

struct Work<'a> {
    job: &'a Dump,
    cx: &'a RunContext,
    facts: &'a ServerFacts,
    tools: &'a Installed,
    opened: &'a Opened,
    owners: &'a Owners,
}

impl Work<'_> {
    /// One database or the globals, into every repository that is wanted and open.
    async fn subject(&self, subject: &Subject, report: &mut Report) {
        let mut wanted = Vec::new();
        for (name, opened) in self.opened {
            let target = self.job.target(subject, name);
            if !self.cx.wants(&target) {
                continue;
            }
            match opened {
                Ok(repository) => wanted.push(repository.clone()),
                Err(failure) => {
                    report.targets.push(self.cx.ended(target, Err(failure.clone())));
                }
            }
        }
        self.keep_own(subject, &mut wanted, report).await;
        if wanted.is_empty() {
            return;
        }
        self.cx.task.progress.set_stage(format!("dump {subject}"));
        let mut delivered = self.heal(subject, &mut wanted, report).await;
        if !wanted.is_empty() {
            match self.dump(subject, &wanted).await {
                Ok(dumped) => {
                    report.findings.extend(dumped.findings);
                    delivered.extend(dumped.delivered);
                }
                Err(failure) => {
                    let each = wanted.iter().map(|r| (r.name().clone(), Err(failure.clone())));
                    delivered.extend(each);
                }
            }
        }
        for (repository, result) in delivered {
            if let Ok(manifest) = &result {
                self.samples(subject, &repository, manifest, report);
            }
            let target = self.job.target(subject, &repository);
            report.targets.push(self.cx.ended(target, result.map(|m| figures(&m))));
        }
    }

    fn series(&self, subject: &Subject) -> Series {
        Series {
            server: self.job.server.name().clone(),
            system_id: self.facts.system_id,
            subject: subject.clone(),
            contents: "all".to_owned(),
        }
    }

    /// Takes the repositories away in which the series is another host's.
    async fn keep_own(
        &self,
        subject: &Subject,
        wanted: &mut Vec<Arc<Repository>>,
        report: &mut Report,
    ) {
        let series = self.series(subject);
        let checks = wanted.iter().map(|it| owner::check(self.owners, it, &series, &self.cx.task));
        let mut checked = join_all(checks).await.into_iter();
        wanted.retain(|repository| match checked.next() {
            Some(Err(failure)) => {
                let target = self.job.target(subject, repository.name());
                report.targets.push(self.cx.ended(target, Err(failure)));
                false
            }
            _ => true,
        });
    }

    async fn dump(&self, subject: &Subject, wanted: &[Arc<Repository>]) -> Result<Dumped, Failure> {
        let job = self.job;
        let _pass = job.gate.enter(job.server.name(), subject, &self.cx.task).await?;
        let source = Source {
            server: &job.server,
            facts: self.facts,
            tools: self.tools,
            owner: self.owners.own(),
            repositories: wanted,
            compression: job.compression,
            volume_parts: self.job.volume_parts(),
            lock_wait: job.lock_wait,
            nice: job.children.nice,
            grace: job.children.grace,
            records: &job.children.records,
            scratch: &self.cx.scratch,
        };
        match subject {
            Subject::Database(name) => dump::database(&source, name, &self.cx.task).await,
            Subject::Globals => globals::globals(&source, job.role_passwords, &self.cx.task).await,
        }
    }

    fn samples(
        &self,
        subject: &Subject,
        repository: &RepositoryName,
        manifest: &Manifest,
        report: &mut Report,
    ) {
        let at = manifest.snapshot.at.as_duration().as_secs_f64();
        let values = [
            ("backup_last_success_timestamp_seconds", at),
            ("backup_last_size_bytes", manifest.stored_bytes() as f64),
            ("backup_last_plain_bytes", manifest.plain.bytes as f64),
            ("backup_last_rows", manifest.totals.rows as f64),
        ];
        let server = self.job.server.name().to_string();
        let labels = vec![server, subject.label(), repository.to_string()];
        report.samples.extend(values.map(|(metric, value)| Sample {
            metric: metric.to_owned(),
            labels: labels.clone(),
            value,
        }));
    }
}

/// pg_dump of a newer major version can read the server; what it writes may not restore into one
/// of the server's own version.
fn newer_tools(tools: &Installed, facts: &ServerFacts) -> Option<Finding> {
    let (tool, server) = (tools.version.major, facts.major());
    (tool > server).then(|| Finding {
        check: "tool-version".to_owned(),
        severity: Severity::Warning,
        what: format!(
            "PostgreSQL {server} is dumped with the pg_dump of {tool}: restoring needs {tool}"
        ),
        hint: Some(format!("install the client programs of PostgreSQL {server}, or set bin_dir")),
    })
}

/// What is counted of a backup that was made.
fn figures(manifest: &Manifest) -> Figures {
    let taken = manifest.finished_at.duration_since(manifest.started_at).as_millis();
    let counts = [
        ("plain_bytes", manifest.plain.bytes),
        ("stored_bytes", manifest.stored_bytes()),
        ("rows", manifest.totals.rows),
        ("tables", manifest.totals.tables),
        ("large_objects", manifest.totals.large_objects),
        ("milliseconds", u64::try_from(taken).unwrap_or(0)),
    ];
    Figures {
        backup: Some(manifest.id.clone()),
        counts: counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
    }
}
