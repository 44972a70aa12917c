//! The second attempt: what is still missing is copied from where the first delivered it, so that
//! the database is not read twice.
//!
//! A source serves only where its bytes may go: what is encrypted goes to the very same recipients
//! alone. Where no source serves, the database is dumped again: a second look at it is worth more
//! than a repository without a backup.

use std::sync::Arc;

use super::Attempt;
use crate::{
    backup::{
        copy::{self, CopyError},
        fanout::Delivered,
    },
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Class, Failure},
        manifest::Manifest,
        report::{Outcome, Report},
    },
    repository::repo::Repository,
};

impl Attempt<'_> {
    /// The repositories that an earlier attempt of this run reached with this subject.
    fn sources(&self, subject: &Subject) -> Vec<(Arc<Repository>, BackupId)> {
        let earlier = self.cx.earlier.targets.iter().filter_map(|report| {
            let done = report.outcome == Outcome::Succeeded;
            let same = report.target.subject.as_ref() == Some(subject);
            let id = report.figures.backup.clone().filter(|_| done && same)?;
            let opened = self.opened.get(report.target.repository.as_ref()?)?;
            Some((opened.as_ref().ok()?.clone(), id))
        });
        earlier.collect()
    }

    /// Copies what is missing. What no source can give stays in `wanted`; a source that is found
    /// damaged has failed after all.
    pub(super) async fn heal(
        &self,
        subject: &Subject,
        wanted: &mut Vec<Arc<Repository>>,
        report: &mut Report,
    ) -> Vec<Delivered> {
        let series = self.series(subject);
        let mut sources = self.sources(subject);
        let mut delivered = Vec::new();
        for target in std::mem::take(wanted) {
            loop {
                let Some(at) = serving(&sources, &target) else {
                    wanted.push(target);
                    break;
                };
                let (source, id) = &sources[at];
                match copy::copy_backup(source, &target, &series, id, &self.cx.task).await {
                    Ok(manifest) => delivered.push((target.name().clone(), Ok(manifest))),
                    Err(CopyError::Target(failure)) => {
                        let there = self.whole_in(&target, &series, id).await;
                        delivered.push((target.name().clone(), there.ok_or(failure)));
                    }
                    Err(CopyError::Source(failure)) => {
                        self.lost(subject, source, failure, report);
                        sources.remove(at);
                        continue;
                    }
                }
                break;
            }
        }
        delivered
    }

    /// The backup as it lies whole in a target that does not take it: an earlier attempt put its
    /// manifest there, and lost the answer.
    async fn whole_in(
        &self,
        target: &Repository,
        series: &Series,
        id: &BackupId,
    ) -> Option<Manifest> {
        if self.cx.task.cancel.is_cancelled() {
            return None;
        }
        let manifest = target.manifest(series, id).await.ok()?;
        let listed = target.look_at(series, id).await.ok()??;
        listed.check_sizes(&manifest).is_empty().then_some(manifest)
    }

    /// A source that did not serve.
    fn lost(&self, subject: &Subject, source: &Repository, failure: Failure, report: &mut Report) {
        if failure.class == Class::RepositoryDamaged {
            let source = self.job.target(subject, source.name());
            report.targets.push(self.cx.ended(source, Err(failure)));
        } else {
            let hint = failure.hint.as_deref();
            tracing::warn!(class = %failure.class, hint, "not copied: {failure}");
        }
    }
}

/// The last source whose bytes may go to the target.
fn serving(sources: &[(Arc<Repository>, BackupId)], target: &Repository) -> Option<usize> {
    let serves = |source: &Repository| source.recipients().passage(target.recipients()).is_some();
    sources.iter().rposition(|(source, _)| serves(source))
}
