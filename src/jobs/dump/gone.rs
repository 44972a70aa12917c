//! Databases that went away while the run was at another one: the list is minutes or hours old by the
//! time that the last of them has its turn. One that only a pattern meant is no failure when it is gone;
//! what there is in its place, under another name or made anew, is dumped.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{
        backup::Subject,
        failure::{Class, Failure},
        name::DatabaseName,
        pattern::{Reason, Selection},
        report::Report,
        target::Target,
    },
    jobs::{RunContext, choose, visit::Visit},
};

use super::{Dump, work::Work};

impl Dump {
    /// Looks at the server once more, where a database is gone that a pattern meant. `chosen` are those
    /// that this attempt began with.
    pub(super) async fn look_again(
        &self,
        work: &mut Work<'_>,
        chosen: &BTreeSet<DatabaseName>,
        report: &mut Report,
    ) {
        let gone = self.gone(work.cx, chosen, report);
        if gone.is_empty() || work.cx.task.cancel.is_cancelled() {
            return;
        }
        let targets: Vec<Target> = gone
            .iter()
            .flat_map(|name| self.targets(&Subject::Database(name.clone())))
            .filter(|target| work.cx.wants(target))
            .collect();
        let now = match self.ask(work.cx).await {
            Ok(now) => now,
            Err(failure) => {
                let server = self.server.name();
                tracing::warn!(%server, "databases are gone, and what is there now is not known: {failure}");
                missed(targets, &failure, work.cx, report);
                return;
            }
        };
        report.targets.retain(|it| !targets.contains(&it.target));
        let left_out: BTreeMap<DatabaseName, Reason> = now.left_out.into_iter().collect();
        let now: BTreeSet<DatabaseName> = now.chosen.into_iter().collect();
        for name in &gone - &now {
            let reason = left_out.get(&name);
            let subject = Subject::Database(name);
            report.samples.retain(|sample| sample.labels.get(1) != Some(&subject.label()));
            let left = targets.iter().filter(|it| it.subject.as_ref() == Some(&subject));
            report.targets.extend(left.cloned().map(|target| match reason {
                Some(reason) => choose::left_out(target, *reason),
                None => choose::gone(target),
            }));
        }
        let tried = work.cx.earlier.targets.iter().chain(&report.targets);
        let tried = tried.filter_map(|it| it.target.subject.as_ref()?.database().cloned());
        let tried: BTreeSet<DatabaseName> = tried.collect();
        let fresh = now.into_iter().filter(|name| gone.contains(name) || !tried.contains(name));
        let cx = RunContext { only: None, ..work.cx.clone() };
        let mut work = Work { cx: &cx, opened: work.opened.clone(), ..*work };
        for name in fresh {
            let subject = Subject::Database(name);
            work.subject(&subject, report).await;
            self.objective(&subject, &cx, report);
        }
    }

    /// Databases that a pattern meant and that are not there any more: when their turn came, or since an
    /// earlier attempt.
    fn gone(
        &self,
        cx: &RunContext,
        chosen: &BTreeSet<DatabaseName>,
        report: &Report,
    ) -> BTreeSet<DatabaseName> {
        let failed = report.failed().filter(|(_, failure)| failure.class == Class::DatabaseGone);
        let missed = cx.only.iter().flatten().filter(|target| {
            target
                .subject
                .as_ref()
                .and_then(Subject::database)
                .is_some_and(|it| !chosen.contains(it))
        });
        let names: BTreeSet<&DatabaseName> = failed
            .map(|(target, _)| target)
            .chain(missed)
            .filter_map(|target| target.subject.as_ref()?.database())
            .collect();
        names.into_iter().filter(|it| !choose::is_named(&self.patterns, it)).cloned().collect()
    }

    /// The databases that are there now: which of them the patterns choose, and why not the others.
    async fn ask(&self, cx: &RunContext) -> Result<Selection, Failure> {
        let look = cx.task.doing(format!("look again at server {}", self.server.name()));
        let visit = Visit::start(&self.server, look).await?;
        let chosen = visit.databases(&self.patterns).await;
        visit.end().await;
        chosen
    }

    fn targets(&self, subject: &Subject) -> Vec<Target> {
        self.repositories.iter().map(|handle| self.target(subject, handle.name())).collect()
    }
}

/// What an earlier attempt did not do, and this one cannot say to be gone: those that have no report yet.
fn missed(targets: Vec<Target>, failure: &Failure, cx: &RunContext, report: &mut Report) {
    for target in targets {
        if !report.targets.iter().any(|it| it.target == target) {
            report.targets.push(cx.ended(target, Err(failure.clone())));
        }
    }
}
