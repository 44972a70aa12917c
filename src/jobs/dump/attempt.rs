//! One attempt at the databases and the globals, one after the other.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::{
    backup::{
        dump, globals,
        look_up::look_up,
        outcome::{BackupOutcome, Repositories},
        owner::{self, Owners, Refusal},
        plan::DumpPlan,
    },
    domain::{
        backup::{Series, Subject},
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        name::RepositoryName,
        report::{Report, TargetReport},
        target::Target,
    },
    postgres::{catalog::ServerFacts, scope::Form, tools::Installed},
    repository::repo::Repository,
    sys::host,
};

use super::{super::RunContext, Dump, report::figures};

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) job: &'a Dump,
    pub(super) cx: &'a RunContext,
    pub(super) facts: &'a ServerFacts,
    pub(super) tools: &'a Installed,
    /// One that does not answer is out from then on.
    pub(super) opened: Repositories,
    pub(super) owners: &'a Owners,
}

impl Attempt<'_> {
    /// One database or the globals, into every repository that is wanted and open.
    pub(super) async fn subject(&mut self, subject: &Subject, report: &mut Report) {
        if self.opened.keys().any(|name| self.cx.wants(&self.job.target(subject, name))) {
            self.deliver(subject, report).await;
        }
        self.job.objective(subject, self.cx, report);
    }

    async fn deliver(&mut self, subject: &Subject, report: &mut Report) {
        let (mut wanted, asked) = self.destinations(subject, report).await;
        if wanted.is_empty() {
            return;
        }
        self.cx.task.progress.set_stage(format!("dump {subject}"));
        let mut delivered = self.heal(subject, &mut wanted, report).await;
        let mut output = Vec::new();
        if !wanted.is_empty() {
            match self.dump(subject, &wanted, &asked).await {
                Ok(outcome) => {
                    let about = Target::subject(subject);
                    report
                        .findings
                        .extend(outcome.findings.into_iter().map(|it| it.within(&about)));
                    self.held(subject, outcome.held, report);
                    delivered.extend(outcome.delivered);
                    output = outcome.output;
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
                if let Some(Ok(opened)) = self.opened.get(&repository) {
                    report.findings.extend(look_up(opened, manifest, &self.cx.task).await);
                    self.owners.remember(opened, &manifest.series, &manifest.id);
                }
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

    /// The repositories that this attempt writes to, and all that are asked for the last backup:
    /// a series that is another host's is neither written to nor compared with, and one that cannot be
    /// opened hides no backup if this host never stored one there.
    async fn destinations(
        &mut self,
        subject: &Subject,
        report: &mut Report,
    ) -> (Vec<Arc<Repository>>, Repositories) {
        let series = &self.series(subject);
        self.cx.task.progress.set_stage(format!("look who owns the backups of {subject}"));
        let checks = self.opened.iter().map(async |(name, opened)| {
            let check = async {
                let repository = opened.clone().map_err(Refusal::Unknown)?;
                let was = owner::check(self.owners, &repository, series, &self.cx.task).await?;
                Ok::<_, Refusal>((repository, was))
            };
            (name.clone(), check.await)
        });
        let checked: Vec<_> = join_all(checks).await;
        let (mut wanted, mut asked) = (Vec::new(), Repositories::new());
        for (name, checked) in checked {
            let target = self.job.target(subject, &name);
            let is_wanted = self.cx.wants(&target);
            match checked {
                Ok((repository, was)) => {
                    if is_wanted {
                        wanted.push(Arc::clone(&repository));
                        if let Some(was) = was {
                            tell(renamed(&was), report);
                        }
                    }
                    asked.insert(name, Ok(repository));
                }
                Err(refusal) => {
                    if is_wanted {
                        let failure = refusal.failure().clone();
                        report.targets.push(self.cx.ended(target, Err(failure)));
                    }
                    let why = self.refused(&name, refusal, series, report);
                    asked.extend(why.map(|failure| (name, Err(failure))));
                }
            }
        }
        (wanted, asked)
    }

    /// Tells of a repository that takes no backup of the series. Gives why it cannot be asked for the
    /// last one, where it may have one of this host.
    fn refused(
        &mut self,
        name: &RepositoryName,
        refusal: Refusal,
        series: &Series,
        report: &mut Report,
    ) -> Option<Failure> {
        match refusal {
            Refusal::Unknown(failure) => {
                if let Class::RepositoryUnavailable | Class::RepositorySlow = failure.class {
                    // Asked again for each database, one that is away would hold up each.
                    self.opened.insert(name.clone(), Err(failure.clone()));
                }
                self.may_hold(name).then_some(failure)
            }
            Refusal::Stranger(why, newest, _) => {
                let now = self.cx.task.clock.now().wall;
                let of = format!("backups of server {}", series.server);
                let end = "nothing is added to them";
                tell(owner::finding(name, &of, (&why, &*newest), end, now), report);
                None
            }
        }
    }

    /// Whether this host may have stored backups there.
    fn may_hold(&self, name: &RepositoryName) -> bool {
        let mut handles = self.job.repositories.iter();
        handles.find(|handle| handle.name() == name).is_none_or(|handle| handle.is_known())
    }

    async fn dump(
        &self,
        subject: &Subject,
        wanted: &[Arc<Repository>],
        asked: &Repositories,
    ) -> Result<BackupOutcome, Failure> {
        let job = self.job;
        let _pass = job.gate.enter(job.server.name(), subject, &self.cx.task).await?;
        let plan = DumpPlan {
            server: &job.server,
            facts: self.facts,
            tools: self.tools,
            owner: self.owners.own(),
            repositories: wanted,
            asked,
            patterns: &job.patterns,
            scope: job.scope(subject),
            form: Form { format: job.format, options: &job.form_options },
            compression: job.compression,
            volume_parts: self.job.volume_parts(),
            accepted: &job.accepted,
            lock_wait: job.lock_wait,
            deferrable: job.deferrable,
            courtesy: job.courtesy,
            shrink: job.shrink,
            children: &job.children,
            scratch: &self.cx.scratch,
        };
        match subject {
            Subject::Database(name) => Box::pin(dump::database(&plan, name, &self.cx.task)).await,
            Subject::Globals => globals::globals(&plan, job.parts, &self.cx.task).await,
        }
    }
}

/// Tells what concerns many databases, once.
fn tell(finding: Finding, report: &mut Report) {
    if !report.findings.iter().any(|it| it.is(&finding)) {
        report.findings.push(finding);
    }
}

/// This host wrote the newest backups under the name `was`. Its next ones bear the new name.
fn renamed(was: &str) -> Finding {
    let own = host::hostname();
    let what = format!(
        "this host was called {was} when it wrote its last backups; it is {own} now, and goes on"
    );
    Finding::new(CheckName("host-renamed"), Severity::Warning, what).hint(format!(
        "nothing has to be done, unless {was} still runs and this host is a copy of it: then give this \
         one a repository, a prefix or a server name of its own"
    ))
}
