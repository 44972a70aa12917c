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

mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Mutex;

pub use self::told::{Refusal, finding, refusal};
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, During, Failure, chain},
        manifest::Owner,
        name::ServerName,
        owner::{Adoption, Past, Stranger, Whose, Written, judge},
    },
    postgres::{PgError, Server, catalog, snapshot},
    repository::{
        ask::ask,
        listing::Listed,
        newest::{Criteria, Newest, Verdict},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
    sys::{files, host, task::Task},
};

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
    servers: BTreeMap<ServerName, Arc<Server>>,
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
    let task = &task.doing(format!("ask server {} where it is in its WAL", server.name()));
    let session = server.connect(server.maintenance_database(), task).await?;
    let asked = async {
        let place = async {
            let Some(system_id) = catalog::system_id(session.queries(&task.cancel)).await? else {
                return Ok(None);
            };
            let past = snapshot::past(session.queries(&task.cancel)).await?;
            Ok(past.map(|past| (system_id, past)))
        };
        let place: Result<Place, PgError> = place.await;
        session.close().await;
        place.during(task)
    };
    tokio::time::timeout(PAST_LIMIT, asked).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", PAST_LIMIT.as_secs());
        Err(task.failure(Class::Connection, what))
    })
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
    let task = &task.doing(format!("add a backup of {} to {}", series.subject, repository.name()));
    let now = task.clock.now().wall;
    let newest = async {
        let newest = Newest::of(repository, series, WHOEVER, now).await?;
        written(repository, newest, Some(task)).await
    };
    let newest = ask(repository.name(), task, newest).await;
    let Some(newest) = newest.map_err(Refusal::Unknown)? else { return Ok(None) };
    match owners.whose(repository, series, &newest, task).await.map_err(Refusal::Unknown)? {
        Whose::Own => Ok(None),
        Whose::Renamed => Ok(Some(newest.owner.host)),
        Whose::Strange(stranger) => {
            let failure = refusal(&stranger, &newest, task, now);
            Err(Refusal::Stranger(stranger, Box::new(newest), failure))
        }
    }
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
    task: &Task,
) -> Result<Option<(Stranger, Written)>, StoreError> {
    let now = task.clock.now().wall;
    let named = Newest::among(series, there, WHOEVER, now);
    let Some(newest) = written(target, named, None).await? else { return Ok(None) };
    let Whose::Strange(stranger) = owners.whose_by_name(target, series, &newest) else {
        return Ok(None);
    };
    let named = Newest::among(series, ids, WHOEVER, now);
    let Some(from) = written(source, named, None).await? else { return Ok(None) };
    // Whoever writes the source may have been renamed: the target then ends with what the source has.
    let is_same = from.owner.machine_id == newest.owner.machine_id
        && (from.owner.host == newest.owner.host || ids.binary_search(&newest.id).is_ok());
    Ok((!is_same).then_some((stranger, newest)))
}

/// Whoever wrote a backup from the future wrote there, too: it counts where no other does.
const WHOEVER: Criteria =
    Criteria { future: true, manifest_alone: true, trusted: false, proof: None, until: None };

/// What the first manifest says that can be read; none where there is none. Whether it is in doubt is not
/// asked. Where others wait, as a dump does, the time for each is limited.
async fn written(
    repository: &Repository,
    mut newest: Newest,
    waits: Option<&Task>,
) -> Result<Option<Written>, StoreError> {
    while let Some(Listed { series, id, .. }) = newest.pop() {
        let asked = async { Ok(repository.manifest(&series, &id).await) };
        let manifest = match waits {
            Some(task) => repository.in_time(task.phrase(), asked).await?,
            None => asked.await?,
        };
        match manifest {
            Ok(manifest) => return Ok(Some(manifest.into())),
            Err(ManifestProblem::Store(error)) => {
                if let Verdict::Refused(error) = Verdict::of(error)? {
                    return Err(error);
                }
            }
            Err(_) => {}
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
