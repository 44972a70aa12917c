//! One attempt at the databases and the globals, one after the other.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::{
    backup::{
        dump::{self, Dumped, Source},
        globals,
        owner::{self, Owners},
    },
    domain::{
        backup::{Series, Subject},
        failure::Failure,
        report::{Report, TargetReport},
    },
    postgres::{catalog::ServerFacts, scope::Form, tools::Installed},
    repository::repo::Repository,
};

use super::{super::RunContext, Dump, Opened, report::figures};

/// What an attempt works with.
pub(super) struct Work<'a> {
    pub(super) job: &'a Dump,
    pub(super) cx: &'a RunContext,
    pub(super) facts: &'a ServerFacts,
    pub(super) tools: &'a Installed,
    pub(super) opened: &'a Opened,
    pub(super) owners: &'a Owners,
}

impl Work<'_> {
    /// One database or the globals, into every repository that is wanted and open.
    pub(super) async fn subject(&self, subject: &Subject, report: &mut Report) {
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
        let mut output = Vec::new();
        if !wanted.is_empty() {
            match self.dump(subject, &wanted).await {
                Ok(dumped) => {
                    report.findings.extend(dumped.findings);
                    self.held(subject, dumped.held, report);
                    delivered.extend(dumped.delivered);
                    output = dumped.output;
                }
                Err(failure) => {
                    let each = wanted.iter().map(|r| (r.name().clone(), Err(failure.clone())));
                    delivered.extend(each);
                }
            }
        }
        for (repository, result) in delivered {
            if let Ok(manifest) = &result {
                self.job.samples(subject, &repository, manifest, report);
            }
            let target = self.job.target(subject, &repository);
            let ended = self.cx.ended(target, result.map(|m| figures(&m)));
            report.targets.push(TargetReport { output: output.clone(), ..ended });
        }
    }

    pub(super) fn series(&self, subject: &Subject) -> Series {
        Series {
            server: self.job.server.name().clone(),
            system_id: self.facts.system_id,
            subject: subject.clone(),
            contents: self.job.contents(subject),
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
            scope: &job.scope,
            form: Form { format: job.format, options: &job.form_options },
            compression: job.compression,
            volume_parts: self.job.volume_parts(),
            accepted: &job.accepted,
            lock_wait: job.lock_wait,
            deferrable: job.deferrable,
            courtesy: job.courtesy,
            shrink: job.shrink,
            nice: job.children.nice,
            grace: job.children.grace,
            records: &job.children.records,
            scratch: &self.cx.scratch,
        };
        match subject {
            Subject::Database(name) => Box::pin(dump::database(&source, name, &self.cx.task)).await,
            Subject::Globals => globals::globals(&source, job.parts, &self.cx.task).await,
        }
    }
}
