//! Walking through the folders of a local store: listing and sweeping.

use std::{
    collections::BinaryHeap,
    fs::{self, File, ReadDir},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
    vec,
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};

use super::files::{Root, TEMP_PREFIX, blocking, is_link, linked, meta_of, modified};
use crate::{
    repository::{
        key,
        store::{ObjectMeta, StoreError, Swept},
    },
    sys::files::open_plain,
};

/// Names of one folder that are held at once. A longer folder is read several times.
const NAMES_AT_ONCE: usize = if cfg!(test) { 100 } else { 16 << 10 };
/// Objects that one step of a listing yields.
const PAGE_OBJECTS: usize = 512;

/// Lists the objects below `prefix` in order.
pub(super) fn list(
    root: Arc<Root>,
    prefix: &str,
) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
    let prefix = prefix.trim_end_matches('/').to_owned();
    let doing = format!("list {}", root.path.join(&prefix).display());
    let start = Some((root, prefix, None::<Walk>));
    let pages = stream::try_unfold(start, move |state| {
        let doing = doing.clone();
        async move {
            let Some((root, prefix, walk)) = state else { return Ok(None) };
            let here = Arc::clone(&root);
            blocking(&here, &doing, move || {
                let mut walk = match walk {
                    Some(walk) => walk,
                    None => Walk::start(&root, &prefix)?,
                };
                let page = walk.page(&root)?;
                let next = (!walk.folders.is_empty()).then_some((root, prefix, Some(walk)));
                Ok(Some((page, next)))
            })
            .await
        }
    });
    pages
        .flat_map(|page| match page {
            Ok(page) => stream::iter(page.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        })
        .boxed()
}

/// Where a listing stands: the folders from the start down to the present one.
#[derive(Debug)]
struct Walk {
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Key of what lies in it, up to the name: `a/b/`, or nothing for the root.
    key: String,
    /// The next names, in order; folders end with `/`.
    names: vec::IntoIter<String>,
    /// The last of `names`, where the folder has more.
    more_after: Option<String>,
}

impl Walk {
    fn start(root: &Root, prefix: &str) -> Result<Self, StoreError> {
        root.check()?;
        if prefix.is_empty() {
            return Ok(Self {
                folders: Folder::open(root.path.clone(), String::new())
                    .map_err(|error| root.error(&error))?
                    .into_iter()
                    .collect(),
            });
        }
        let path = root.path_of(prefix)?;
        if is_link(&path) && path.is_dir() {
            return Err(linked(&path));
        }
        let is_file = fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_file());
        let folder = if is_file {
            // The prefix is an object's key: a folder that holds just that.
            let (above, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
            let key = if above.is_empty() { String::new() } else { format!("{above}/") };
            let names = vec![name.to_owned()].into_iter();
            Some(Folder { path: root.path.join(above), key, names, more_after: None })
        } else {
            Folder::open(path, format!("{prefix}/")).map_err(|error| root.error(&error))?
        };
        Ok(Self { folders: folder.into_iter().collect() })
    }

    /// The next objects. Goes on as long as `folders` is not empty.
    fn page(&mut self, root: &Root) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut page = Vec::new();
        while let Some(folder) = self.folders.last_mut() {
            if page.len() >= PAGE_OBJECTS {
                break;
            }
            match folder.step().map_err(|error| root.error(&error))? {
                Step::Object(object) => page.push(object),
                Step::Down(below) => self.folders.push(below),
                Step::Nothing => {}
                Step::Up => drop(self.folders.pop()),
            }
        }
        Ok(page)
    }
}

enum Step {
    Object(ObjectMeta),
    Down(Folder),
    Nothing,
    Up,
}

impl Folder {
    /// Reads a folder; `None` where there is none.
    fn open(path: PathBuf, key: String) -> io::Result<Option<Self>> {
        let mut folder = Self { path, key, names: Vec::new().into_iter(), more_after: None };
        match folder.read(None) {
            Ok(()) => Ok(Some(folder)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes up the names that come next after `after`: the smallest ones, since the system gives
    /// them in no order.
    fn read(&mut self, after: Option<&str>) -> io::Result<()> {
        let mut heap = BinaryHeap::new();
        self.more_after = None;
        let mut is_more = false;
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Some(mut name) =
                entry.file_name().into_string().ok().filter(|n| key::is_segment(n))
            else {
                continue;
            };
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            if kind.is_dir() {
                // `a/…` sorts behind `a-b` and `a.b`: the slash counts.
                name.push('/');
            } else if !kind.is_file() {
                let path = entry.path();
                if kind.is_symlink() && path.is_dir() {
                    let path = path.display();
                    tracing::warn!(%path, "a symbolic link is not followed: what lies behind it is not listed");
                }
                continue;
            }
            if after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            heap.push(name);
            if heap.len() > NAMES_AT_ONCE {
                heap.pop();
                is_more = true;
            }
        }
        let names = heap.into_sorted_vec();
        self.more_after = names.last().filter(|_| is_more).cloned();
        self.names = names.into_iter();
        Ok(())
    }

    fn step(&mut self) -> io::Result<Step> {
        let Some(name) = self.names.next() else {
            let Some(after) = self.more_after.take() else { return Ok(Step::Up) };
            return match self.read(Some(&after)) {
                Ok(()) => Ok(Step::Nothing),
                Err(error) if is_gone(&error) => Ok(Step::Up),
                Err(error) => Err(error),
            };
        };
        let key = format!("{}{name}", self.key);
        let path = self.path.join(&name);
        if name.ends_with('/') {
            return Ok(Self::open(path, key)?.map_or(Step::Nothing, Step::Down));
        }
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_file() => Ok(Step::Object(meta_of(&key, &facts))),
            Ok(_) => Ok(Step::Nothing),
            Err(error) if is_gone(&error) => Ok(Step::Nothing),
            Err(error) => Err(error),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Removes hidden files that no process holds open any more and that are old enough.
pub(super) fn sweep(root: &Root, min_age: Duration, now: Timestamp) -> Result<Swept, StoreError> {
    root.check()?;
    let mut swept = Swept::default();
    let open = |path: &Path| fs::read_dir(path);
    let mut folders: Vec<ReadDir> = vec![open(&root.path).map_err(|error| root.error(&error))?];
    while let Some(folder) = folders.last_mut() {
        let Some(entry) = folder.next() else {
            folders.pop();
            continue;
        };
        let entry = entry.map_err(|error| root.error(&error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && key::is_segment(&name) {
            match open(&entry.path()) {
                Ok(below) => folders.push(below),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(root.error(&error)),
            }
        } else if kind.is_file() && name.starts_with(TEMP_PREFIX) {
            let bytes = sweep_file(root, &entry.path(), min_age, now)
                .map_err(|error| root.error(&error))?;
            swept.uploads += u64::from(bytes.is_some());
            swept.bytes += bytes.unwrap_or(0);
        }
    }
    Ok(swept)
}

/// Removes one hidden file, if it may go; gives its length.
fn sweep_file(
    root: &Root,
    path: &Path,
    min_age: Duration,
    now: Timestamp,
) -> io::Result<Option<u64>> {
    let file: File = match open_plain(path, false) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let facts = file.metadata()?;
    let min_age = SignedDuration::try_from(min_age).unwrap_or(SignedDuration::MAX);
    let is_old = modified(&facts).is_some_and(|at| now.duration_since(at) >= min_age);
    // Whoever writes it holds the lock; where locks do not work, nothing is known: spare it.
    if !is_old || file.try_lock().is_err() {
        return Ok(None);
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    root.remove_empty_folders(path);
    Ok(Some(facts.len()))
}
