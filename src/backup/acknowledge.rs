//! A person says that suspicious backups are as they should be.
//!
//! list every repository → find what is meant → write one small object beside each manifest. Nothing
//! is ever written over: who said it first stays. A repository that is away is a failure of its own,
//! and the others are done: there, the backup stays in doubt until it is acknowledged again.
//!
//! What can still go wrong: the backup is pruned between the listing and the writing. What is then
//! left lies in no backup, and is swept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{TryStreamExt as _, future::join_all};
use serde::{Deserialize, Serialize};

use super::owner::{self, Owners};
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, During, Failure},
        name::{RepositoryName, ServerName},
        owner::Whose,
        suspicion::{Acknowledgement, Meant},
    },
    repository::{
        handle::Handle,
        listing::{Entry, Listed, Within},
        repo::Repository,
        store::StoreError,
    },
};

/// Longest time for one repository.
const LIMIT: Duration = Duration::from_mins(2);
/// Backups that an answer names where a word means several.
const NAMED_MAX: usize = 10;

/// What is to be acknowledged.
#[derive(Debug)]
pub struct Order {
    /// Ids or their beginnings, and series.
    pub words: Vec<String>,
    /// In this repository; none: in all.
    pub repository: Option<RepositoryName>,
    pub by: Acknowledgement,
}

/// One copy of a backup that is acknowledged now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub id: BackupId,
    pub server: ServerName,
    pub subject: String,
    pub repository: RepositoryName,
    pub before: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    pub acknowledged: Vec<Line>,
    /// Words that mean no suspicious backup, or several with different ids: word and reason.
    pub unmatched: Vec<(String, String)>,
    pub failures: Vec<Failure>,
}

/// What one repository has of what is meant.
type Found = (Arc<Repository>, Vec<(usize, Listed)>);

/// Acknowledges what is meant in every repository that has it.
pub async fn acknowledge(
    repositories: &BTreeMap<RepositoryName, Arc<Handle>>,
    order: &Order,
    owners: &Owners,
) -> Acknowledged {
    let mut done = Acknowledged::default();
    let wanted =
        |name: &&RepositoryName| order.repository.as_ref().is_none_or(|only| only == *name);
    let handles = repositories.iter().filter(|(name, _)| wanted(name)).map(|(_, handle)| handle);
    let looks = handles.map(|handle| find(handle, &order.words));
    let mut found: Vec<Found> = Vec::new();
    for looked in join_all(looks).await {
        match looked {
            Ok(some) => found.extend(some),
            Err(failure) => done.failures.push(failure),
        }
    }
    let meant = choose(&order.words, &found, &mut done);
    let writes = found.iter().map(|(repository, copies)| {
        let ours = copies.iter().filter(|(_, listed)| meant.contains(&listed.id));
        let unique: BTreeMap<_, _> = ours.map(|(_, it)| ((it.series.path(), &it.id), it)).collect();
        write(repository, unique.into_values().collect(), &order.by, owners)
    });
    for (lines, failures) in join_all(writes).await {
        done.acknowledged.extend(lines);
        done.failures.extend(failures);
    }
    let key = |line: &Line| (line.server.clone(), line.subject.clone(), line.id.clone());
    done.acknowledged.sort_by_key(|line| (key(line), line.repository.clone()));
    done
}

/// Every backup in a repository that was suspicious and that a word means, with the word's number.
async fn find(handle: &Handle, words: &[String]) -> Result<Option<Found>, Failure> {
    let doing = &*format!("list repository {}", handle.name());
    let late = format!("no answer within {} s", LIMIT.as_secs());
    match tokio::time::timeout(LIMIT, find_all(handle, words)).await {
        Ok(found) => found.during(doing),
        Err(_) => Err(Failure::new(Class::RepositorySlow, doing, late)),
    }
}

async fn find_all(handle: &Handle, words: &[String]) -> Result<Option<Found>, StoreError> {
    let Some(repository) = handle.open_existing().await? else { return Ok(None) };
    let words: Vec<Meant<'_>> = words.iter().map(|word| Meant::read(word)).collect();
    let mut copies = Vec::new();
    let mut entries = repository.list_in_time(&Within::All);
    while let Some(entry) = entries.try_next().await? {
        let Entry::Backup(listed) = entry else { continue };
        if !listed.complete || !listed.was_suspicious() {
            continue;
        }
        let means = |word: &Meant<'_>| match word {
            // Of a series only what is in doubt now.
            Meant::Series(_) => listed.is_suspicious() && word.is(&listed.series, &listed.id),
            Meant::Backup(_) => word.is(&listed.series, &listed.id),
        };
        let numbers = words.iter().enumerate().filter(|(_, word)| means(word));
        copies.extend(numbers.map(|(number, _)| (number, listed.clone())));
    }
    drop(entries);
    Ok(Some((repository, copies)))
}

/// The ids that the words mean. A word that means none, or whose id is not unique, is told.
fn choose(words: &[String], found: &[Found], done: &mut Acknowledged) -> BTreeSet<BackupId> {
    let mut meant = BTreeSet::new();
    for (number, word) in words.iter().enumerate() {
        let copies = found.iter().flat_map(|(_, copies)| copies);
        let of_word = copies.filter(|(of, _)| *of == number).map(|(_, listed)| &listed.id);
        let ids: BTreeSet<&BackupId> = of_word.collect();
        let is_id = matches!(Meant::read(word), Meant::Backup(_));
        let reason = match ids.len() {
            0 => "no suspicious backup is meant by it".to_owned(),
            several if several > 1 && is_id => {
                let names: Vec<_> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                format!("several begin so: {}", names.join(", "))
            }
            _ => {
                meant.extend(ids.into_iter().cloned());
                continue;
            }
        };
        done.unmatched.push((word.clone(), reason));
    }
    meant
}

async fn write(
    repository: &Repository,
    copies: Vec<&Listed>,
    by: &Acknowledgement,
    owners: &Owners,
) -> (Vec<Line>, Vec<Failure>) {
    let (mut lines, mut failures) = (Vec::new(), Vec::new());
    for Listed { series, id, .. } in copies {
        match write_one(repository, series, id, by, owners).await {
            Ok(is_news) => lines.push(Line {
                id: id.clone(),
                server: series.server.clone(),
                subject: series.subject.to_string(),
                repository: repository.name().clone(),
                before: !is_news,
            }),
            Err(failure) => failures.push(failure),
        }
    }
    (lines, failures)
}

/// Says whether it is news. A series of another host is that host's to judge.
async fn write_one(
    repository: &Repository,
    series: &Series,
    id: &BackupId,
    by: &Acknowledgement,
    owners: &Owners,
) -> Result<bool, Failure> {
    let doing = &*format!("acknowledge {} {id} in {}", series.subject, repository.name());
    let work = async {
        let written = repository.manifest(series, id).await.during(doing)?.into();
        if let Whose::Strange(stranger) = owners.whose_by_name(repository, series, &written) {
            return Err(owner::refusal(&stranger, &written, doing, by.at));
        }
        repository.acknowledge(series, id, by).await.during(doing)
    };
    let late = |_| Err(Failure::new(Class::RepositorySlow, doing, "it does not answer"));
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(late)
}
