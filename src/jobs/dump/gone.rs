//! Databases that went away while the run was at another one: the list is minutes or hours old by the
//! time that the last of them has its turn. One that only a pattern meant is no failure when it is gone;
//! what there is in its place, under another name or made anew, is dumped.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{
        backup::Subject,
        failure::Failure,
        name::DatabaseName,
        pattern::{Reason, Selection},
        report::Report,
        target::Target,
    },
    jobs::{RunContext, choose, visit::Visit},
};

use super::{Attempt, Dump};

impl Dump {
    /// Looks at the server once more, where a database is gone that a pattern meant. `chosen` are those
    /// that this attempt began with.
    pub(super) async fn look_again(
        &self,
        attempt: &mut Attempt<'_>,
        chosen: &BTreeSet<DatabaseName>,
        report: &mut Report,
    ) {
        let gone = self.gone(attempt.cx, chosen, report);
        if gone.is_empty() || attempt.cx.task.cancel.is_cancelled() {
            return;
        }
        let targets: Vec<Target> = gone
            .iter()
            .flat_map(|name| self.targets(&Subject::Database(name.clone())))
            .filter(|target| attempt.cx.wants(target))
            .collect();
        let now = match self.ask(attempt.cx).await {
            Ok(now) => now,
            Err(failure) => {
                let server = self.server.name();
                tracing::warn!(%server, "databases are gone, and what is there now is not known: {failure}");
                return missed(targets, &failure, attempt.cx, report);
            }
        };
        let left_out: BTreeMap<DatabaseName, Reason> = now.left_out.into_iter().collect();
        let now: BTreeSet<DatabaseName> = now.chosen.into_iter().collect();
        report.targets.retain(|it| !targets.contains(&it.target));
        for target in targets {
            let Some(name) = database(&target).filter(|name| !now.contains(*name)) else {
                continue;
            };
            let label = Subject::Database(name.clone()).label();
            report.samples.retain(|sample| sample.labels.get(1) != Some(&label));
            let reason = left_out.get(name).copied();
            report.targets.push(choose::skipped(target, reason));
        }
        let tried = attempt.cx.earlier.targets.iter().chain(&report.targets);
        let tried: BTreeSet<_> = tried.filter_map(|it| database(&it.target).cloned()).collect();
        let fresh = now.into_iter().filter(|name| gone.contains(name) || !tried.contains(name));
        let cx = RunContext { only: None, ..attempt.cx.clone() };
        let mut attempt = Attempt { cx: &cx, opened: attempt.opened.clone(), ..*attempt };
        for name in fresh {
            attempt.subject(&Subject::Database(name), report).await;
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
        let failed = report.failed().filter_map(|(target, failure)| {
            database(target).filter(|name| choose::is_gone(&self.patterns, name, failure))
        });
        let is_missed = |name: &&DatabaseName| {
            !chosen.contains(*name) && !choose::is_named(&self.patterns, name)
        };
        let missed = cx.only.iter().flatten().filter_map(database).filter(is_missed);
        failed.chain(missed).cloned().collect()
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

fn database(target: &Target) -> Option<&DatabaseName> {
    target.subject.as_ref()?.database()
}

/// What an earlier attempt did not do, and this one cannot say to be gone: those that have no report yet.
fn missed(targets: Vec<Target>, failure: &Failure, cx: &RunContext, report: &mut Report) {
    for target in targets {
        if !report.targets.iter().any(|it| it.target == target) {
            report.targets.push(cx.ended(target, Err(failure.clone())));
        }
    }
}
