//! Whose backups they are: what is asked before a series is added to or pruned.
//!
//! Each manifest names the host that wrote it. A clone of that host, made with its configuration,
//! would go on in the same series, of another database by now, and prune the backups of the host
//! that it was made from. So the newest backup of a series says whose the series is, and whoever is
//! not its owner only reads it, until `adopt` in `[daemon]` says that it takes over. The rule is
//! [`crate::domain::owner`]; here is what it looks at. A copy changes no owner: any host may bring a series to
//! where it belongs to the same host as in the source.
//!
//! What can still go wrong: a clone with the machine id and the name of its original, whose server
//! was never promoted and has written more than the original's, is not known as one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use tokio::sync::Mutex;

use crate::{
    domain::{
        Timestamp,
        backup::{BackupId, Series},
        failure::{Class, Failure, IntoFailure, chain},
        finding::{CheckName, Finding, Severity},
        manifest::Owner,
        name::{RepositoryName, ServerName},
        owner::{Adoption, Past, Stranger, Whose, Written, judge},
        target::Target,
    },
    postgres::{Server, catalog, snapshot},
    repository::{
        ask::ask,
        listing::{Entry, Within},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
    sys::{files, host, task::Task},
};

/// Manifests that are tried, the newest first, where some cannot be read.
const TRIED_MAX: usize = 8;
/// Longest time for the question where a server is in its WAL. To connect has limits of its own.
const PAST_LIMIT: Duration = Duration::from_secs(30);
/// The folder in the state directory that remembers what was written, and more than such a file holds.
const REMEMBERED: &str = "written";
const REMEMBERED_MAX: u64 = 256;

/// Where a server is, with its system identifier; none of a standby, or where nobody may ask.
type Place = Option<(u64, Past)>;

/// This host, and whose backups it has taken over. It lives as long as a run.
#[derive(Debug)]
pub struct Owners {
    own: Owner,
    /// Whether its id is one that the state directory keeps, and so follows that.
    is_id_kept: bool,
    adopted: Vec<Adoption>,
    state_dir: PathBuf,
    /// Who can be asked.
    servers: BTreeMap<ServerName, Arc<Server>>,
    /// What they said last.
    places: Mutex<BTreeMap<ServerName, Place>>,
}

impl Owners {
    /// This host, what `adopt` lists, and the servers that can be asked where they are.
    ///
    /// # Errors
    /// Where the host has no id and none can be kept in `state_dir`.
    pub fn new(
        state_dir: &Path,
        adopted: Vec<Adoption>,
        servers: BTreeMap<ServerName, Arc<Server>>,
    ) -> Result<Self, Failure> {
        let own = host::owner(state_dir).map_err(|error| {
            Failure::from_error(Class::State, "find out which host this is", &error)
        })?;
        let state_dir = state_dir.to_owned();
        let is_id_kept = !host::has_machine_id();
        Ok(Self { own, is_id_kept, adopted, state_dir, servers, places: Mutex::default() })
    }

    /// This host.
    pub const fn own(&self) -> &Owner {
        &self.own
    }

    /// Whose a series is whose newest backup is `newest`.
    ///
    /// # Errors
    /// When the server that it is of cannot be asked.
    pub async fn whose(
        &self,
        repository: &Repository,
        series: &Series,
        newest: &Written,
        task: &Task,
    ) -> Result<Whose, Failure> {
        let without = self.whose_by_name(repository, series, newest);
        let is_settled =
            newest.owner.machine_id != self.own.machine_id || matches!(without, Whose::Strange(_));
        if is_settled || !self.servers.contains_key(&series.server) {
            return Ok(without);
        }
        let remembered = self.remembered(repository, series, newest);
        let judge = |past: Option<Past>| {
            judge(newest, &self.own, &self.adopted, remembered.as_ref(), past.as_ref())
        };
        match judge(self.past(series, false, task).await?) {
            // It may have gone on since it was asked, and that backup is newer.
            Whose::Strange(_) => Ok(judge(self.past(series, true, task).await?)),
            whose => Ok(whose),
        }
    }

    /// The same, where no server is asked.
    pub fn whose_by_name(
        &self,
        repository: &Repository,
        series: &Series,
        newest: &Written,
    ) -> Whose {
        let remembered = self.remembered(repository, series, newest);
        judge(newest, &self.own, &self.adopted, remembered.as_ref(), None)
    }

    /// Where the server of a series is, as it said last, or asked anew.
    async fn past(
        &self,
        series: &Series,
        anew: bool,
        task: &Task,
    ) -> Result<Option<Past>, Failure> {
        let Some(server) = self.servers.get(&series.server) else { return Ok(None) };
        let mut places = self.places.lock().await;
        if anew {
            places.remove(&series.server);
        }
        let known = places.get(&series.server).cloned();
        let place = if let Some(place) = known {
            place
        } else {
            // What failed may pass: it is asked again.
            let place = Box::pin(place_of(server, task)).await?;
            places.insert(series.server.clone(), place.clone());
            place
        };
        // A server that was made anew under its name is another one.
        Ok(place.filter(|(system_id, _)| *system_id == series.system_id).map(|(_, past)| past))
    }

    fn memory(&self, repository: &Repository, series: &Series) -> PathBuf {
        self.state_dir.join(REMEMBERED).join(repository.id()).join(series.path())
    }

    /// The newest backup that this state directory knows to have written. It is needed only where
    /// the host was renamed: whatever goes wrong here is as if nothing were known. Where the id is one
    /// that this directory keeps, it stands for the memory: containers get a name each time that they
    /// are made, and older versions remembered nothing.
    fn remembered(
        &self,
        repository: &Repository,
        series: &Series,
        newest: &Written,
    ) -> Option<BackupId> {
        let read = || {
            let path = self.memory(repository, series);
            let bytes = files::read_limited(&path, REMEMBERED_MAX).ok()?;
            std::str::from_utf8(&bytes).ok()?.trim_end().parse().ok()
        };
        read().or_else(|| self.is_id_kept.then(|| newest.id.clone()))
    }

    /// Remembers that a backup was written.
    pub fn remember(&self, repository: &Repository, series: &Series, id: &BackupId) {
        let path = self.memory(repository, series);
        let folder = path.parent().unwrap_or(&path);
        let written = files::create_private_dir_all(folder)
            .and_then(|()| files::write_atomic(&path, format!("{id}\n").as_bytes(), 0o600));
        if let Err(error) = written {
            let (repository, error) = (repository.name(), chain(&error));
            tracing::warn!(%repository, %id, error, "a backup that was written is not remembered: a change of the host's name would look like a clone");
        }
    }
}

async fn place_of(server: &Server, task: &Task) -> Result<Place, Failure> {
    let doing = format!("ask server {} where it is in its WAL", server.name());
    let session = server.connect(server.maintenance_database(), &task.doing(&*doing)).await?;
    let asked = async {
        let place = async {
            let Some(system_id) = catalog::system_id(session.queries(&task.cancel)).await? else {
                return Ok(None);
            };
            let past = snapshot::past(session.queries(&task.cancel)).await?;
            Ok(past.map(|past| (system_id, past)))
        };
        let place =
            place.await.map_err(|error: crate::postgres::PgError| error.into_failure(&*doing));
        session.close().await;
        place
    };
    tokio::time::timeout(PAST_LIMIT, asked).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", PAST_LIMIT.as_secs());
        Err(Failure::new(Class::Connection, &*doing, what))
    })
}

/// Why a series is not this host's, in words that go on after its name.
pub fn reason(stranger: &Stranger, owner: &Owner) -> String {
    let Owner { machine_id, host } = owner;
    match stranger {
        Stranger::Machine => {
            format!("belong to another host, {host} (machine id {machine_id})")
        }
        Stranger::Host => format!(
            "were written by {host}, which has this host's machine id ({machine_id}) and another \
             name, and this state directory does not know of it"
        ),
        Stranger::Past(_) => format!(
            "were written by {host} (machine id {machine_id}) when the server was where this one never was"
        ),
    }
}

/// What a person has to do before this host may write the series whose newest backup `newest` is.
pub fn hint(stranger: &Stranger, newest: &Written, now: Timestamp) -> String {
    let Owner { machine_id, host } = &newest.owner;
    let (takes_over, adoption) = match stranger {
        Stranger::Machine => (format!("takes over from {host}"), machine_id.clone()),
        Stranger::Host => {
            (format!("was {host}, or takes over from it"), Adoption::of(newest, now).to_string())
        }
        Stranger::Past(_) => (
            "or its server was set back on purpose, or takes over".to_owned(),
            Adoption::of(newest, now).to_string(),
        ),
    };
    format!(
        "if this host {takes_over}, write adopt = [\"{adoption}\"] in [daemon] and run `pgkeep \
         reload`; if it is a copy of {host}, give it a repository, a prefix or a server name of its own"
    )
}

/// What is told of series in a repository that are not this host's; `consequence` is what comes of it.
pub fn finding(
    repository: &RepositoryName,
    series: &str,
    (stranger, newest): (&Stranger, &Written),
    consequence: &str,
    now: Timestamp,
) -> Finding {
    let severity = match stranger {
        Stranger::Machine => Severity::Warning,
        Stranger::Host | Stranger::Past(_) => Severity::Critical,
    };
    let reason = reason(stranger, &newest.owner);
    Finding::new(
        CheckName("backup-owner"),
        severity,
        format!("{repository}: {series} {reason}, and {consequence}"),
    )
    .hint(hint(stranger, newest, now))
    .about(Target::repository(repository).with_object(newest.owner.machine_id.clone()))
}

/// Why nothing is added to a series.
#[derive(Debug)]
pub enum Refusal {
    /// Its newest backup is another host's.
    Stranger(Stranger, Box<Written>, Failure),
    /// The repository does not say whose it is, or the task was cancelled.
    Unknown(Failure),
}

impl Refusal {
    /// What is reported.
    pub const fn failure(&self) -> &Failure {
        match self {
            Self::Stranger(_, _, failure) | Self::Unknown(failure) => failure,
        }
    }
}

/// Refuses to add to a series that belongs to another host. It costs a listing of the series, one
/// manifest, and at times a question to the server. The answer is the name that this host had before,
/// where it was renamed.
///
/// # Errors
/// When the newest backup is another host's, the repository or the server fails or does not answer in
/// time, or the task is cancelled.
pub async fn check(
    owners: &Owners,
    repository: &Repository,
    series: &Series,
    task: &Task,
) -> Result<Option<String>, Refusal> {
    let doing = format!("add a backup of {} to {}", series.subject, repository.name());
    let newest = ask(repository.name(), &doing, task, newest(repository, series, &doing)).await;
    let Some(newest) = newest.map_err(Refusal::Unknown)? else { return Ok(None) };
    match owners.whose(repository, series, &newest, task).await.map_err(Refusal::Unknown)? {
        Whose::Own => Ok(None),
        Whose::Renamed => Ok(Some(newest.owner.host)),
        Whose::Strange(stranger) => {
            let failure = refusal(&stranger, &newest, doing, task.clock.now().wall);
            Err(Refusal::Stranger(stranger, Box::new(newest), failure))
        }
    }
}

/// Why nothing is added to a series whose newest backup is `newest`.
pub fn refusal(stranger: &Stranger, newest: &Written, doing: String, now: Timestamp) -> Failure {
    let mut what = format!("the backups there {}", reason(stranger, &newest.owner));
    if let Stranger::Past(why) = stranger {
        what = format!("{what}: of the newest, {}, {why}", newest.id);
    }
    Failure::new(Class::Configuration, doing, what).hint(hint(stranger, newest, now))
}

/// Why and whose a series is in `target`, where it may not be copied there: neither this host's nor that
/// of whoever writes it in `source`. `ids` and `there` are the backups that each of them has, in order
/// of time. It costs at least one manifest, where the series is another host's two.
///
/// # Errors
/// When a repository cannot be read.
pub async fn stranger_in(
    owners: &Owners,
    (source, ids): (&Repository, &[BackupId]),
    (target, there): (&Repository, &BTreeSet<BackupId>),
    series: &Series,
) -> Result<Option<(Stranger, Written)>, StoreError> {
    let Some(newest) = of_newest(target, series, there.iter().rev()).await? else {
        return Ok(None);
    };
    let Whose::Strange(stranger) = owners.whose_by_name(target, series, &newest) else {
        return Ok(None);
    };
    let Some(from) = of_newest(source, series, ids.iter().rev()).await? else {
        return Ok(None);
    };
    // Whoever writes the source may have been renamed: the target then ends with what the source has.
    let is_same = from.owner.machine_id == newest.owner.machine_id
        && (from.owner.host == newest.owner.host || ids.binary_search(&newest.id).is_ok());
    Ok((!is_same).then_some((stranger, newest)))
}

/// The newest backup of a series; none where there is none whose manifest can be read. Others wait: the
/// time between two answers is limited, and not the whole, which a long series may take.
async fn newest(
    repository: &Repository,
    series: &Series,
    doing: &str,
) -> Result<Option<Written>, StoreError> {
    let mut newest: VecDeque<BackupId> = VecDeque::new();
    let within = Within::Series(series.clone());
    let mut entries = repository.list_in_time(&within);
    while let Some(entry) = entries.try_next().await? {
        match entry {
            Entry::Backup(listed) if listed.complete => newest.push_back(listed.id),
            _ => {}
        }
        if newest.len() > TRIED_MAX {
            newest.pop_front();
        }
    }
    for id in newest.iter().rev() {
        let written = repository.in_time(doing, written(repository, series, id)).await?;
        if written.is_some() {
            return Ok(written);
        }
    }
    Ok(None)
}

/// The first of these whose manifest can be read.
async fn of_newest<'a>(
    repository: &Repository,
    series: &Series,
    newest_first: impl Iterator<Item = &'a BackupId> + Send,
) -> Result<Option<Written>, StoreError> {
    for id in newest_first.take(TRIED_MAX) {
        let written = written(repository, series, id).await?;
        if written.is_some() {
            return Ok(written);
        }
    }
    Ok(None)
}

/// What the manifest of a backup says; none where it cannot be read.
async fn written(
    repository: &Repository,
    series: &Series,
    id: &BackupId,
) -> Result<Option<Written>, StoreError> {
    match repository.manifest(series, id).await {
        Ok(manifest) => Ok(Some(manifest.into())),
        Err(ManifestProblem::Store(error)) => Err(error),
        Err(ManifestProblem::Missing | ManifestProblem::Invalid(_)) => Ok(None),
    }
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
        let adoption = |id: &&str| Adoption { machine_id: (*id).to_owned(), until: None };
        let adopted = adopted.iter().map(adoption).collect();
        let (servers, places) = (BTreeMap::new(), Mutex::default());
        let state_dir = "/nonexistent".into();
        Owners { own, is_id_kept: false, adopted, state_dir, servers, places }
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
        let Refusal::Stranger(Stranger::Machine, _, refused) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(refused.class, Class::Configuration);
        assert!(refused.what.contains(OTHER) && refused.what.contains("db1"), "{refused}");
        let hint = refused.hint.unwrap();
        assert!(hint.contains("adopt") && hint.contains(OTHER), "{hint}");
        check(&owners(&[OTHER]), &repository, &series, &task).await.unwrap();

        // The next one is ours, and then damaged: what is older counts again.
        backup(&repository, &ids[1]).await;
        let key = layout::manifest_key(&series, &ids[1]);
        let text = String::from_utf8(store.lose(&key).unwrap().to_vec()).unwrap();
        store.plant(&key, text.replace(OTHER, &"1".repeat(32)).replace("db1", "db2"), now);
        check(&mine, &repository, &series, &task).await.unwrap();
        store.plant(&key, "{", now);
        check(&mine, &repository, &series, &task).await.unwrap_err();
    }

    /// A container that was made anew with the state directory of an older version.
    #[tokio::test]
    async fn an_id_that_the_state_directory_keeps_needs_no_memory() {
        let task = Task::new(SystemClock::new());
        let (repository, _) = repository().await;
        let id = BackupId::new(task.clock.now().wall, 1);
        let series = backup(&repository, &id).await.series;
        let mut mine = owners(&[]);
        mine.own.machine_id = OTHER.to_owned();
        let refused = check(&mine, &repository, &series, &task).await.unwrap_err();
        assert!(matches!(refused, Refusal::Stranger(Stranger::Host, ..)), "{refused:?}");
        mine.is_id_kept = true;
        let was = check(&mine, &repository, &series, &task).await.unwrap();
        assert_eq!(was.as_deref(), Some("db1"));
        // With a memory, that decides: somebody else wrote after it.
        let state = tempfile::tempdir().unwrap();
        mine.state_dir = state.path().to_owned();
        let earlier = id.time() - jiff::SignedDuration::from_hours(1);
        mine.remember(&repository, &series, &BackupId::new(earlier, 1));
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
