//! Whose backups they are.
//!
//! Each manifest names the host that wrote it. A clone of that host, made with its configuration,
//! would go on in the same series, of another database by now, and prune the backups of the host
//! that it was made from. So the newest backup of a series says whose the series is, and whoever is
//! not its owner only reads it, until `adopt` in `[daemon]` says that it takes over. A copy changes no
//! owner: any host may bring a series to where it belongs to the same host as in the source.
//!
//! What can still go wrong: a clone that kept its original's `/etc/machine-id` is not known as one.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
};

use futures_util::TryStreamExt as _;

use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure},
        manifest::Owner,
    },
    repository::{
        ask::ask,
        listing::{Entry, Within},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
    sys::{host, task::Task},
};

/// Manifests that are tried, the newest first, where some cannot be read.
const TRIED_MAX: usize = 8;

/// This host, and those whose backups it has taken over.
#[derive(Debug, Clone)]
pub struct Owners {
    own: Owner,
    adopted: BTreeSet<String>,
}

impl Owners {
    /// This host, and the machine ids that `adopt` lists.
    ///
    /// # Errors
    /// Where the host has no id and none can be kept in `state_dir`.
    pub fn new(state_dir: &Path, adopted: BTreeSet<String>) -> Result<Self, Failure> {
        let own = host::owner(state_dir).map_err(|error| {
            Failure::from_error(Class::State, "find out which host this is", &error)
        })?;
        Ok(Self { own, adopted })
    }

    /// This host.
    pub fn own(&self) -> &Owner {
        &self.own
    }

    /// Whether this host may write to and remove from a series of that owner.
    pub fn include(&self, owner: &Owner) -> bool {
        owner.machine_id == self.own.machine_id || self.adopted.contains(&owner.machine_id)
    }
}

/// What a person has to do before this host may write a series of `owner`.
pub fn hint(owner: &Owner) -> String {
    let Owner { machine_id, host } = owner;
    format!(
        "if this host takes over from {host}, write adopt = [\"{machine_id}\"] in [daemon]; if it \
         is a copy of {host}, give it a repository, a prefix or a server name of its own"
    )
}

/// Why nothing is added to a series.
#[derive(Debug)]
pub enum Refusal {
    /// Its newest backup is another host's.
    Stranger(Failure),
    /// The repository does not say whose it is, or the task was cancelled.
    Unknown(Failure),
}

impl Refusal {
    /// What is reported.
    pub const fn failure(&self) -> &Failure {
        match self {
            Self::Stranger(failure) | Self::Unknown(failure) => failure,
        }
    }
}

/// Refuses to add to a series that belongs to another host. It costs a listing of the series and
/// one manifest.
///
/// # Errors
/// When the newest backup is another host's, the repository fails or does not answer in time, or the task
/// is cancelled.
pub async fn check(
    owners: &Owners,
    repository: &Repository,
    series: &Series,
    task: &Task,
) -> Result<(), Refusal> {
    let doing = format!("add a backup of {} to {}", series.subject, repository.name());
    let asked = repository.in_time(&doing, newest(repository, series));
    let owner = ask(repository.name(), &doing, task, asked).await;
    match owner {
        Ok(Some(owner)) if !owners.include(&owner) => {
            Err(Refusal::Stranger(refusal(&owner, doing)))
        }
        Ok(_) => Ok(()),
        Err(failure) => Err(Refusal::Unknown(failure)),
    }
}

/// Why nothing is added to a series of `owner`.
pub fn refusal(owner: &Owner, doing: String) -> Failure {
    let Owner { machine_id, host } = owner;
    let what =
        format!("the backups there belong to another host: {host} (machine id {machine_id})");
    Failure::new(Class::Configuration, doing, what).hint(hint(owner))
}

/// Whose a series is in `target`, where it may not be copied there: neither this host's nor that of
/// whoever writes it in `source`. `ids` and `there` are the backups that each of them has, in order
/// of time. It costs at least one manifest, where the series is another host's two.
///
/// # Errors
/// When a repository cannot be read.
pub async fn stranger_in(
    owners: &Owners,
    (source, ids): (&Repository, &[BackupId]),
    (target, there): (&Repository, &BTreeSet<BackupId>),
    series: &Series,
) -> Result<Option<Owner>, StoreError> {
    let Some(owner) = of_newest(target, series, there.iter().rev()).await? else {
        return Ok(None);
    };
    if owners.include(&owner) {
        return Ok(None);
    }
    let from = of_newest(source, series, ids.iter().rev()).await?;
    let is_other = from.is_some_and(|from| from.machine_id != owner.machine_id);
    Ok(is_other.then_some(owner))
}

/// Who wrote the newest backup of a series; none where there is no backup of which that can be
/// read.
async fn newest(repository: &Repository, series: &Series) -> Result<Option<Owner>, StoreError> {
    let mut newest: VecDeque<BackupId> = VecDeque::new();
    let within = Within::Series(series.clone());
    let mut entries = repository.list(&within);
    while let Some(entry) = entries.try_next().await? {
        match entry {
            Entry::Backup(listed) if listed.complete => newest.push_back(listed.id),
            _ => {}
        }
        if newest.len() > TRIED_MAX {
            newest.pop_front();
        }
    }
    of_newest(repository, series, newest.iter().rev()).await
}

/// Who wrote the first of these of which that can be read.
async fn of_newest<'a>(
    repository: &Repository,
    series: &Series,
    newest_first: impl Iterator<Item = &'a BackupId> + Send,
) -> Result<Option<Owner>, StoreError> {
    for id in newest_first.take(TRIED_MAX) {
        match repository.manifest(series, id).await {
            Ok(manifest) => return Ok(Some(manifest.owner)),
            Err(ManifestProblem::Store(error)) => return Err(error),
            Err(ManifestProblem::Missing | ManifestProblem::Invalid(_)) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        backup::copy::tests::{backup, repository},
        repository::layout,
        sys::clock::SystemClock,
    };

    /// The owner of the backups that the tests make.
    pub(crate) const OTHER: &str = "00000000000000000000000000000000";

    /// Another host than the one of the backups that the tests make, and what it adopts.
    pub(crate) fn owners(adopted: &[&str]) -> Owners {
        let own = Owner { machine_id: "1".repeat(32), host: "db2".to_owned() };
        Owners { own, adopted: adopted.iter().map(|&id| id.to_owned()).collect() }
    }

    #[tokio::test]
    async fn the_newest_backup_that_can_be_read_says_whose_the_series_is() {
        let task = Task::new(SystemClock::new());
        let (repository, store) = repository().await;
        let now = task.clock.now().wall;
        let ids = [
            BackupId::new(now - jiff::SignedDuration::from_hours(2), 1),
            BackupId::new(now - jiff::SignedDuration::from_hours(1), 2),
        ];
        let series = backup(&repository, &ids[0]).await.series;
        let mine = owners(&[]);
        let refused = check(&mine, &repository, &series, &task).await.unwrap_err();
        let Refusal::Stranger(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.class, Class::Configuration);
        assert!(refused.what.contains(OTHER) && refused.what.contains("db1"), "{refused}");
        let hint = refused.hint.unwrap();
        assert!(hint.contains("adopt") && hint.contains(OTHER), "{hint}");
        check(&owners(&[OTHER]), &repository, &series, &task).await.unwrap();

        // The next one is ours, and then damaged: what is older counts again.
        backup(&repository, &ids[1]).await;
        let key = layout::manifest_key(&series, &ids[1]);
        let text = String::from_utf8(store.lose(&key).unwrap().to_vec()).unwrap();
        store.plant(&key, text.replace(OTHER, &"1".repeat(32)), now);
        check(&mine, &repository, &series, &task).await.unwrap();
        store.plant(&key, "{", now);
        check(&mine, &repository, &series, &task).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_series_that_is_new_is_everybodys() {
        let task = Task::new(SystemClock::new());
        let (repository, _) = repository().await;
        let series = Series::from_path("main/7/app/all").unwrap();
        check(&owners(&[]), &repository, &series, &task).await.unwrap();
    }
}
