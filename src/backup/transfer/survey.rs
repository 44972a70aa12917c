//! What a source has and what a target has of it, from listings of names alone.
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
        transfer::Holdings,
    },
    repository::{
        listing::{Entry, Listed, Within},
        repo::Repository,
        store::StoreError,
    },
};

/// Whose backups are meant.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Those read from these servers.
    pub servers: Vec<ServerName>,
    /// Those of these databases.
    pub patterns: DatabasePatterns,
    /// Whether globals are meant as well.
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

/// The complete backups of each series, in order of time.
pub type Stock = BTreeMap<Arc<Series>, Vec<BackupId>>;

/// Lists what a source has of the selection.
pub async fn stock(source: &Repository, selection: &Selection) -> Result<Stock, StoreError> {
    let mut stock = Stock::new();
    for server in &selection.servers {
        let mut entries = source.list(&Within::Server(server.clone()));
        while let Some(entry) = entries.try_next().await? {
            let Entry::Backup(Listed { series, id, complete: true, .. }) = entry else { continue };
            if let Some(ids) = stock.get_mut(&series) {
                ids.push(id);
            } else if selection.has(&series.subject) {
                stock.insert(Arc::new(series), vec![id]);
            }
        }
    }
    // A listing comes in the order of keys, which is that of time: here it is not left to trust.
    for ids in stock.values_mut() {
        ids.sort_unstable();
    }
    Ok(stock)
}

/// Lists what a target has of the stock, and of each series its newest that is not from the future
/// at `now`, whoever brought it.
pub async fn holdings(
    target: &Repository,
    selection: &Selection,
    stock: &Stock,
    now: Timestamp,
) -> Result<BTreeMap<Arc<Series>, Holdings>, StoreError> {
    let mut all: BTreeMap<Arc<Series>, Holdings> = BTreeMap::new();
    let mut newest: BTreeMap<Arc<Series>, BackupId> = BTreeMap::new();
    for server in &selection.servers {
        let mut entries = target.list(&Within::Server(server.clone()));
        while let Some(entry) = entries.try_next().await? {
            let Entry::Backup(Listed { series, id, complete, .. }) = entry else { continue };
            let Some((series, ids)) = stock.get_key_value(&series) else { continue };
            let counts = complete && id.time() <= now;
            if counts && newest.get(series).is_none_or(|newest| *newest < id) {
                newest.insert(Arc::clone(series), id.clone());
            }
            if ids.binary_search(&id).is_ok() {
                let holdings = all.entry(Arc::clone(series)).or_default();
                let set = if complete { &mut holdings.complete } else { &mut holdings.incomplete };
                set.insert(id);
            }
        }
    }
    for (series, id) in newest {
        all.entry(series).or_default().complete.insert(id);
    }
    Ok(all)
}
