//! What a source has and what a target has of it, from listings of names alone. Only where a listing
//! shows nothing of a backup but its manifest the target is asked for the rest: people delete what
//! they are told is damaged.
//!
//! Memory: some hundred bytes for each backup that the source has of the selection.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use crate::{
    domain::{
        backup::{BackupId, Series, Subject},
        name::ServerName,
        pattern::{DatabasePatterns, Glob},
        transfer::{Holdings, Stocked},
    },
    repository::{
        listing::{Entry, Listed, Within},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
};

/// Whose backups are meant.
#[derive(Debug, Clone)]
pub struct Selection {
    pub servers: Vec<ServerName>,
    pub patterns: DatabasePatterns,
    pub globals: bool,
}

impl Selection {
    /// Whether backups of the subject are meant.
    pub fn has(&self, subject: &Subject) -> bool {
        let Some(name) = subject.database() else { return self.globals };
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name.as_str()));
        any(&self.patterns.include) && !any(&self.patterns.exclude)
    }
}

/// The complete backups of each series.
pub type Stock = BTreeMap<Arc<Series>, Stocked>;

/// Lists what a source has of the selection.
pub async fn stock(source: &Repository, selection: &Selection) -> Result<Stock, StoreError> {
    let mut stock = Stock::new();
    for server in &selection.servers {
        let mut entries = source.list(&Within::Server(server.clone()));
        while let Some(entry) = entries.try_next().await? {
            let Entry::Backup(listed) = entry else { continue };
            if !listed.complete || !selection.has(&listed.series.subject) {
                continue;
            }
            let in_doubt = listed.is_suspicious();
            let Listed { series, id, .. } = listed;
            if !stock.contains_key(&series) {
                stock.insert(Arc::new(series.clone()), Stocked::default());
            }
            let Some(stocked) = stock.get_mut(&series) else { continue };
            if in_doubt {
                stocked.in_doubt.insert(id.clone());
            }
            stocked.ids.push(id);
        }
    }
    // A listing comes in the order of keys, which is that of time: here it is not left to trust.
    for stocked in stock.values_mut() {
        stocked.ids.sort_unstable();
    }
    Ok(stock)
}

/// The newest backup of a series in a target, and the newest that is not in doubt: by their names, since
/// nothing is removed for them.
#[derive(Default)]
struct Newest {
    any: Option<BackupId>,
    trusted: Option<BackupId>,
}

/// What is there of a backup of which a listing shows the manifest alone.
enum Left {
    /// Some of what its manifest names: the listing left it out.
    Data,
    /// Its manifest alone.
    Manifest,
    /// Not even that.
    Nothing,
}

async fn left_of(target: &Repository, series: &Series, id: &BackupId) -> Result<Left, StoreError> {
    let manifest = match target.manifest(series, id).await {
        Ok(manifest) => manifest,
        Err(ManifestProblem::Missing) => return Ok(Left::Nothing),
        Err(ManifestProblem::Invalid(_)) => return Ok(Left::Manifest),
        Err(ManifestProblem::Store(error)) => return Err(error),
    };
    for object in manifest.stored() {
        if target.has(series, id, &object.name).await? {
            return Ok(Left::Data);
        }
    }
    Ok(Left::Manifest)
}

/// Lists what a target has of the stock, and of each series its newest that is not from the future
/// at `now`, and the newest that is not in doubt, whoever brought them.
pub async fn holdings(
    target: &Repository,
    selection: &Selection,
    stock: &Stock,
    now: Timestamp,
) -> Result<BTreeMap<Arc<Series>, Holdings>, StoreError> {
    let mut all: BTreeMap<Arc<Series>, Holdings> = BTreeMap::new();
    let mut newest: BTreeMap<Arc<Series>, Newest> = BTreeMap::new();
    for server in &selection.servers {
        let mut entries = target.list(&Within::Server(server.clone()));
        while let Some(entry) = entries.try_next().await? {
            let Entry::Backup(listed) = entry else { continue };
            let Some((series, stocked)) = stock.get_key_value(&listed.series) else { continue };
            let (whole, in_doubt) = (listed.complete && listed.has_data(), listed.is_suspicious());
            let is_future = listed.is_from_the_future(now);
            let Listed { id, complete, .. } = listed;
            if whole && !is_future {
                let newest = newest.entry(Arc::clone(series)).or_default();
                newest.any = newest.any.take().max(Some(id.clone()));
                if !in_doubt {
                    newest.trusted = newest.trusted.take().max(Some(id.clone()));
                }
            }
            if stocked.ids.binary_search(&id).is_ok() {
                let holdings = all.entry(Arc::clone(series)).or_default();
                if in_doubt {
                    holdings.in_doubt.insert(id.clone());
                }
                let set = match complete {
                    true if whole => &mut holdings.complete,
                    true => match left_of(target, series, &id).await? {
                        Left::Data => &mut holdings.complete,
                        Left::Manifest => &mut holdings.damaged,
                        Left::Nothing => continue,
                    },
                    false => &mut holdings.incomplete,
                };
                set.insert(id);
            }
        }
    }
    for (series, Newest { any, trusted }) in newest {
        let holdings = all.entry(series).or_default();
        if any != trusted {
            holdings.in_doubt.extend(any.clone());
        }
        holdings.complete.extend(any.into_iter().chain(trusted));
    }
    Ok(all)
}
