//! What a repository holds, from one listing of names: one backup after the other, in bounded
//! memory, without a GET.

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use jiff::Timestamp;

use super::{
    layout::{self, Place},
    repo::Repository,
    store::{ObjectMeta, Store, StoreError, StoreErrorKind},
};
use crate::domain::{
    backup::{BackupId, Series},
    manifest::{MANIFEST_NAME, Manifest, StoredObject},
    name::ServerName,
    retention,
    suspicion::{ACKNOWLEDGED_NAME, MARK_NAME},
};

/// Which part of a repository to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Within {
    #[default]
    All,
    Server(ServerName),
    Series(Series),
    Backup(Series, BackupId),
}

impl Within {
    fn prefix(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Server(name) => name.to_string(),
            Self::Series(series) => series.path(),
            Self::Backup(series, id) => layout::folder(series, id),
        }
    }
}

/// One object in a backup's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    pub modified: Option<Timestamp>,
}

/// One backup as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub series: Series,
    pub id: BackupId,
    /// Whether its manifest is there. Without one it is no backup: garbage, or under way.
    pub complete: bool,
    /// All objects in its folder, in order of their names.
    pub objects: Vec<ListedObject>,
}

impl Listed {
    /// A backup of which nothing was listed yet.
    pub fn unseen(series: Series, id: BackupId) -> Self {
        Self { series, id, complete: false, objects: Vec::new() }
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }

    /// When its newest object was written; `None` where that is unknown of any.
    pub fn newest_modified(&self) -> Option<Timestamp> {
        let mut newest = None;
        for object in &self.objects {
            newest = newest.max(Some(object.modified?));
        }
        newest
    }

    /// Whether its time cannot be true at `now`, or could not when it was written: see
    /// [`retention::is_later`] and [`retention::is_ahead`].
    pub fn is_from_the_future(&self, now: Timestamp) -> bool {
        retention::is_later(&self.id, now) || self.is_ahead()
    }

    /// Whether its id is later than the store's clock allows.
    pub fn is_ahead(&self) -> bool {
        self.newest_modified().is_some_and(|at| retention::is_ahead(&self.id, at))
    }

    /// Compares what the manifest names with what is listed: a bucket's own rules delete data too.
    /// Before it is called damaged, [`Repository::problems`] asks for it.
    pub fn check_sizes(&self, manifest: &Manifest) -> Vec<SizeProblem> {
        let problem = |named: &StoredObject| {
            // There may be tens of thousands of volumes.
            let place = self.objects.binary_search_by(|object| object.name.cmp(&named.name));
            let found = place.ok().map(|place| self.objects[place].bytes);
            (found != Some(named.bytes)).then(|| SizeProblem {
                name: named.name.clone(),
                expected: named.bytes,
                found,
            })
        };
        let mut problems: Vec<SizeProblem> = manifest.stored().filter_map(problem).collect();
        // Without its mark it would be taken for a good one.
        if self.has_lost_its_mark(manifest) {
            problems.push(SizeProblem { name: MARK_NAME.to_owned(), expected: 0, found: None });
        }
        problems
    }
}

/// An object that is not as its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeProblem {
    pub name: String,
    pub expected: u64,
    /// Length that it has; `None`: it is missing.
    pub found: Option<u64>,
}

impl std::fmt::Display for SizeProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, expected, found } = self;
        match found {
            None => write!(f, "{name} is missing"),
            Some(found) => write!(f, "{name} has {found} bytes, the manifest says {expected}"),
        }
    }
}

impl Repository {
    /// What is wrong with a backup, at most `most` of it: by the objects themselves where the listing
    /// does not show them as its manifest says. People delete what they are told is damaged.
    ///
    /// # Errors
    /// The store's.
    pub async fn problems(
        &self,
        listed: &Listed,
        manifest: &Manifest,
        most: usize,
    ) -> Result<Vec<SizeProblem>, StoreError> {
        let mut problems = Vec::new();
        for problem in listed.check_sizes(manifest) {
            let key = layout::object_key(&listed.series, &listed.id, &problem.name);
            let found = self.store().head(&key).await?.map(|meta| meta.bytes);
            let is_right = if problem.name == MARK_NAME {
                found.is_some() || self.has(&listed.series, &listed.id, ACKNOWLEDGED_NAME).await?
            } else {
                found == Some(problem.expected)
            };
            if !is_right {
                problems.push(SizeProblem { found, ..problem });
            }
            if problems.len() >= most {
                break;
            }
        }
        Ok(problems)
    }
}

/// One step of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A backup, or what would become one.
    Backup(Listed),
    /// An object that is not ours; never touched.
    Foreign(ObjectMeta),
}

/// A whole listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Backups, complete or not, by series and id.
    pub backups: Vec<Listed>,
    pub foreign: u64,
}

impl Listing {
    /// Takes up one step.
    pub fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Backup(listed) => self.backups.push(listed),
            Entry::Foreign(_) => self.foreign += 1,
        }
    }
}

/// Groups a listing by backup. Keys come in order, so that one backup's objects follow each other: a
/// store that gives them otherwise, or twice, would show one backup as several, and one that begins
/// again would never end.
pub(super) fn list<'a>(
    store: &'a dyn Store,
    within: &Within,
) -> BoxStream<'a, Result<Entry, StoreError>> {
    let mut last: Option<String> = None;
    let objects = store.list(&within.prefix());
    let objects = objects.map(move |meta| in_order(&mut last, meta?)).boxed();
    let state = Some((objects, None::<Listed>));
    let groups = stream::try_unfold(state, |state| async move {
        let Some((mut objects, mut open)) = state else { return Ok(None) };
        while let Some(meta) = objects.try_next().await? {
            let out = take(&mut open, meta);
            if !out.is_empty() {
                return Ok(Some((out, Some((objects, open)))));
            }
        }
        let last: Vec<Entry> = open.map(Entry::Backup).into_iter().collect();
        Ok::<_, StoreError>(Some((last, None)))
    });
    groups.map_ok(|entries| stream::iter(entries).map(Ok)).try_flatten().boxed()
}

fn in_order(last: &mut Option<String>, meta: ObjectMeta) -> Result<ObjectMeta, StoreError> {
    if last.as_ref().is_some_and(|last| *last >= meta.key) {
        let what = format!("the store lists {} out of order, or twice", meta.key);
        return Err(StoreError::new(StoreErrorKind::Refused, "list the repository", what));
    }
    *last = Some(meta.key.clone());
    Ok(meta)
}

/// Adds an object to the open group, or closes that and opens another. Gives what is finished.
fn take(open: &mut Option<Listed>, meta: ObjectMeta) -> Vec<Entry> {
    let (series, id, name) = match layout::place(&meta.key) {
        Place::Marker => return Vec::new(),
        Place::Foreign => return vec![Entry::Foreign(meta)],
        Place::Backup { series, id, name } => (series, id, name),
    };
    let is_manifest = name == MANIFEST_NAME;
    let object = ListedObject { name, bytes: meta.bytes, modified: meta.modified };
    match open {
        Some(listed) if listed.id == id && listed.series == series => {
            listed.complete |= is_manifest;
            listed.objects.push(object);
            Vec::new()
        }
        _ => {
            let next = Listed { series, id, complete: is_manifest, objects: vec![object] };
            open.replace(next).map(Entry::Backup).into_iter().collect()
        }
    }
}
