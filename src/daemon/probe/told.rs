//! What a sweep did, in lines that people read: how much, and the names of the first.

use crate::{
    domain::{name::RepositoryName, text},
    repository::{garbage::SweepReport, listing::Listed},
};

/// Folders that one line names; more are counted.
const NAMED_MAX: usize = 10;

/// Tells what a sweep removed, what it left, and what it could not remove.
pub(super) fn swept(repository: &RepositoryName, report: &SweepReport) {
    let SweepReport { removed, unlisted, failed, .. } = report;
    if !removed.is_empty() {
        let bytes: u64 = removed.iter().map(Listed::bytes).sum();
        let (count, folders) = (removed.len(), names(removed.iter()));
        tracing::warn!(
            %repository, count, bytes, folders,
            hint = "runs that were killed leave such data; it was older than a day",
            "removed data without a manifest"
        );
    }
    if !unlisted.is_empty() {
        let (count, folders) = (unlisted.len(), names(unlisted.iter()));
        tracing::warn!(
            %repository, count, folders,
            hint = "the listings of the store, or of a proxy before it, leave out what is there: \
                    what they do not show is not copied, counted or pruned",
            "the store did not list the manifests of backups that have one; nothing was removed"
        );
    }
    if let Some((_, error)) = failed.first() {
        let (count, folders) = (failed.len(), names(failed.iter().map(|(listed, _)| listed)));
        let hint = error.hint.as_deref();
        tracing::warn!(%repository, count, folders, %error, hint, "cannot remove data without a manifest");
    }
}

fn names<'a>(folders: impl Iterator<Item = &'a Listed>) -> String {
    text::some(folders.map(|listed| format!("{}/{}", listed.series.path(), listed.id)), NAMED_MAX)
}
