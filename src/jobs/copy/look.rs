//! A target before and after: what it has, and what was seen in it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use futures_util::future::join_all;

use crate::{
    backup::{
        owner::{self, Owners},
        transfer::{
            seen::Seen,
            survey::{self, Selection, Stock},
        },
    },
    domain::{
        backup::Series,
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        name::RepositoryName,
        target::Target,
        transfer::{Holdings, Stocked},
    },
    jobs::RunContext,
    repository::{ask::ask, handle::Handle, repo::Repository},
};

use super::report::{self, Tallies};

/// Series of which is asked at once whose they are.
const ASKED_AT_ONCE: usize = 8;

/// A target as it was before anything was done.
pub(super) struct Looked {
    /// None: nothing was ever stored there, and a dry run makes nothing.
    pub(super) repository: Option<Arc<Repository>>,
    pub(super) holdings: BTreeMap<Arc<Series>, Holdings>,
    pub(super) seen: Seen,
    /// Series that are another host's there, or of which that could not be found out.
    pub(super) refused: BTreeMap<Arc<Series>, Failure>,
    /// Why it is not known what was seen.
    forgot: Option<Failure>,
}

impl Looked {
    /// Opens and lists a target. A dry run makes no repository.
    pub(super) async fn at(
        handle: &Handle,
        folder: &Path,
        selection: &Selection,
        stock: &Stock,
        cx: &RunContext,
    ) -> Result<Self, Failure> {
        let opening = cx.task.doing(format!("open repository {}", handle.name()));
        let repository = if cx.dry_run {
            ask(handle.name(), &opening, handle.open_existing()).await?
        } else {
            Some(ask(handle.name(), &opening, handle.open()).await?)
        };
        let id = repository.as_ref().map(|repository| repository.id().to_owned());
        let id = id.unwrap_or_default();
        let path = folder.join(handle.name().as_str());
        let (mut seen, forgot) = match Seen::load(&path, &id) {
            Ok(seen) => (seen, None),
            Err(failure) => (Seen::empty(&path, &id), Some(failure)),
        };
        let mut holdings = BTreeMap::new();
        if let Some(repository) = &repository {
            let listing = cx.task.doing(format!("list repository {}", handle.name()));
            let listed = survey::holdings(repository, selection, stock, cx.task.clock.now().wall);
            holdings = ask(handle.name(), &listing, listed).await?;
        }
        seen.tell(stock, &mut holdings);
        Ok(Looked { repository, holdings, seen, refused: BTreeMap::new(), forgot })
    }
}

impl Looked {
    /// Finds out to which series nothing may be added, of those that have something missing.
    pub(super) async fn find_strangers(
        &mut self,
        source: &Repository,
        stock: &Stock,
        owners: &Owners,
        cx: &RunContext,
    ) {
        let Some(target) = self.repository.clone() else { return };
        let (target, holdings) = (&*target, &self.holdings);
        let asked: Vec<_> = stock
            .iter()
            .filter(|(series, _)| cx.wants(&report::target(target.name(), series)))
            .filter_map(|(series, stocked)| {
                Some((series, &*stocked.ids, &holdings.get(series)?.complete))
            })
            .filter(|(_, ids, there)| !ids.iter().all(|id| there.contains(id)))
            .collect();
        let mut refused = BTreeMap::new();
        for some in asked.chunks(ASKED_AT_ONCE) {
            let answers = some.iter().map(|(series, ids, there)| async move {
                let (from, to) = (source.name(), target.name());
                let task = &cx.task.doing(format!("copy {} from {from} to {to}", series.subject));
                let asked =
                    owner::stranger_in(owners, (source, ids), (target, there), series, task);
                let failure = match ask(to, task, asked).await {
                    Ok(None) => return None,
                    Ok(Some((stranger, newest))) => {
                        owner::refusal(&stranger, &newest, task, task.clock.now().wall)
                    }
                    Err(failure) => failure,
                };
                Some((Arc::clone(series), failure))
            });
            refused.extend(join_all(answers).await.into_iter().flatten());
        }
        self.refused = refused;
    }

    /// Writes down what was lost, before anything is brought: a run that is killed does not come to
    /// [`remember`]. That it cannot is said there.
    pub(super) fn keep_losses(&mut self) {
        if let Err(failure) = self.seen.save() {
            self.forgot.get_or_insert(failure);
        }
    }
}

/// Refuses a repository that is configured under two names: a backup would be copied onto itself.
pub(super) fn twice(
    name: &RepositoryName,
    looked: Looked,
    ids: &mut BTreeMap<String, RepositoryName>,
) -> Result<Looked, Failure> {
    let Some(repository) = &looked.repository else { return Ok(looked) };
    if let Some(other) = ids.get(repository.id()) {
        let what = format!("{name} and {other} are one repository ({})", repository.place());
        let doing = format!("copy to repository {name}");
        return Err(Failure::new(Class::Configuration, doing, what)
            .hint("look at the paths, buckets and prefixes of both"));
    }
    ids.insert(repository.id().to_owned(), name.clone());
    Ok(looked)
}

/// Writes down what is in a target now. That it cannot is a finding: nothing is lost by it but work.
pub(super) fn remember(
    name: &RepositoryName,
    mut looked: Looked,
    stock: &Stock,
    tallies: &Tallies,
) -> Option<Finding> {
    for (series, Stocked { ids, .. }) in stock {
        let Some(holdings) = looked.holdings.get(series) else { continue };
        let there = ids.iter().filter(|id| holdings.complete.contains(*id));
        there.for_each(|id| looked.seen.add(series, id));
    }
    tallies.brought(name).for_each(|(series, id)| looked.seen.add(series, id));
    let failure = match looked.seen.save() {
        Err(failure) => failure,
        Ok(()) => looked.forgot?,
    };
    let what = format!("what was seen in repository {name} is not known: {failure}");
    let hint = "what was removed there may be copied again; the state directory must be writable for \
                pgkeep's user";
    let finding = Finding::new(CheckName("copy-state"), Severity::Warning, what).hint(hint);
    Some(finding.about(Target::repository(name)))
}
