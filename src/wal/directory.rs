//! An archive in a folder.
//!
//! The walk runs on a thread that may block: a filesystem that hangs holds up that thread and not the
//! run, which its stall limit then ends. Names are taken up one by one, in the order of the
//! filesystem; none is kept.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::archive::{HISTORY_MAX, ListError, Listed, read_history};
use crate::{
    domain::{
        failure::{Class, Failure},
        text::shell_word,
        wal::{ArchivedFile, Inventory, Noted, SegmentName, Sizes, WalFile},
    },
    sys::{files, task::Task},
};

/// Folders in folders that are entered: pgBackRest has four.
const DEPTH_MAX: usize = 8;
/// Entries between two signs of life.
const STEP: u64 = 4096;
/// A file that is too short and was written less than so many seconds ago may still grow: it is not
/// there yet.
const BEING_WRITTEN: i64 = 120;
/// Walks of one folder at a time. A network filesystem without its server holds each of them for good,
/// and what else runs where it may block (names of hosts, local repositories) needs threads, too.
const WALKS_MAX: usize = 4;
/// The folder of every ext filesystem that only root may enter.
const LOST_AND_FOUND: &str = "lost+found";

/// Looks through a folder.
pub(super) async fn list(
    root: &Path,
    mut seen: Inventory,
    task: &Task,
) -> Result<Listed, ListError> {
    seen = Inventory::new(seen.size(), seen.sizes());
    let now = task.clock.now().wall;
    let take = move |walk: &Walk| {
        walk.folder(&walk.root, 0, &mut |path, name| {
            note(&mut seen, path, name, now)?;
            Ok(true)
        })?;
        Ok(Listed { seen, resume: None })
    };
    in_background(root, task, take).await
}

/// Whether a segment is there.
pub(super) async fn holds(
    root: &Path,
    segment: SegmentName,
    task: &Task,
) -> Result<bool, ListError> {
    let look = move |walk: &Walk| {
        let mut found = false;
        walk.folder(&walk.root, 0, &mut |_, name| {
            let file = ArchivedFile::parse(name).map(|archived| archived.file);
            found |= file == Some(WalFile::Segment(segment));
            Ok(!found)
        })?;
        Ok(found)
    };
    in_background(root, task, look).await
}

fn note(seen: &mut Inventory, path: &Path, name: &str, now: Timestamp) -> Result<(), Trouble> {
    // What is not WAL needs no look at its length.
    let bytes = match ArchivedFile::parse(name) {
        None => 0,
        Some(_) => match fs::metadata(path) {
            Ok(facts) if !facts.is_file() => return Ok(()),
            Ok(facts) if facts.len() < seen.size().bytes() && is_young(&facts, now) => {
                if is_unfinished(name, facts.len(), seen.sizes()) {
                    return Ok(());
                }
                facts.len()
            }
            Ok(facts) => facts.len(),
            // Removed since: by retention, mostly.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Trouble::Io(path.to_owned(), error)),
        },
    };
    let Noted::History(timeline) = seen.add(name, bytes) else { return Ok(()) };
    match files::read_limited(path, HISTORY_MAX) {
        Ok(bytes) => {
            if let Some(history) = read_history(&bytes) {
                seen.add_history(timeline, history);
            }
            Ok(())
        }
        // Only histories are opened, and only they tell how timelines hang together: where they are
        // closed to us, the archive is. `cp` keeps mode 0600, which masks an ACL.
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
            Err(Trouble::Io(path.to_owned(), error.source))
        }
        Err(_) => Ok(()),
    }
}

/// Whether a file was written just now: a plain `cp` may still be at it. A clock that goes after ours
/// makes it younger, not older.
fn is_young(facts: &fs::Metadata, now: Timestamp) -> bool {
    let Some(modified) = facts.modified().ok().and_then(|at| Timestamp::try_from(at).ok()) else {
        return false;
    };
    now.duration_since(modified) < SignedDuration::from_secs(BEING_WRITTEN)
}

/// Whether a segment that is too short may become a whole one. Where lengths tell nothing, only an empty
/// one may.
fn is_unfinished(name: &str, bytes: u64, sizes: Sizes) -> bool {
    ArchivedFile::parse(name).is_some_and(|archived| {
        let tells = sizes == Sizes::Exact && !archived.changed;
        matches!(archived.file, WalFile::Segment(_)) && (tells || bytes == 0)
    })
}

enum Trouble {
    Io(PathBuf, io::Error),
    Cancelled,
}

struct Walk {
    root: PathBuf,
    cancel: CancellationToken,
    /// Somebody waits for signs of life.
    alive: mpsc::Sender<()>,
}

type Visit<'a> = dyn FnMut(&Path, &str) -> Result<bool, Trouble> + 'a;

impl Walk {
    /// Visits every file below a folder; goes on as long as `visit` says so.
    fn folder(&self, folder: &Path, depth: usize, visit: &mut Visit<'_>) -> Result<bool, Trouble> {
        let at = |error| Trouble::Io(folder.to_owned(), error);
        for (count, entry) in (0_u64..).zip(fs::read_dir(folder).map_err(at)?) {
            if count % STEP == 0 {
                self.sign_of_life()?;
            }
            let entry = entry.map_err(at)?;
            let name = entry.file_name();
            // No name of WAL is anything but ASCII.
            let name = name.to_string_lossy();
            let kind = entry.file_type().map_err(at)?;
            let goes_on = if kind.is_dir() {
                let entered = depth < DEPTH_MAX && !name.starts_with('.') && name != LOST_AND_FOUND;
                !entered || self.below(&entry.path(), depth + 1, visit)?
            } else {
                visit(&entry.path(), &name)?
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A folder that may go away meanwhile, as those of pgBackRest and Barman do when they are empty.
    fn below(&self, folder: &Path, depth: usize, visit: &mut Visit<'_>) -> Result<bool, Trouble> {
        match self.folder(folder, depth, visit) {
            Err(Trouble::Io(path, error))
                if error.kind() == io::ErrorKind::NotFound && path == folder =>
            {
                Ok(true)
            }
            result => result,
        }
    }

    fn sign_of_life(&self) -> Result<(), Trouble> {
        if self.cancel.is_cancelled() {
            return Err(Trouble::Cancelled);
        }
        // A full queue holds a sign that nobody has looked at yet.
        self.alive.try_send(()).ok();
        Ok(())
    }
}

/// Walks under way, by their folder: also those that nobody waits for any more.
static WALKS: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

/// Held by a walk until its thread has ended.
struct Turn(PathBuf);

impl Turn {
    fn take(root: &Path) -> Option<Self> {
        let mut walks = WALKS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = walks.entry(root.to_owned()).or_default();
        if *count >= WALKS_MAX {
            return None;
        }
        *count += 1;
        Some(Self(root.to_owned()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut walks = WALKS.lock().unwrap_or_else(PoisonError::into_inner);
        let left = walks.remove(&self.0).unwrap_or_default().saturating_sub(1);
        if left > 0 {
            walks.insert(self.0.clone(), left);
        }
    }
}

/// Runs a walk where it may block. Its silence counts towards the stall limit.
async fn in_background<T: Send + 'static>(
    root: &Path,
    task: &Task,
    work: impl FnOnce(&Walk) -> Result<T, Trouble> + Send + 'static,
) -> Result<T, ListError> {
    let task = &task.doing(format!("list the WAL archive {}", root.display()));
    let Some(turn) = Turn::take(root) else {
        let what = format!("{WALKS_MAX} earlier looks at it have not ended: its filesystem hangs");
        let failure = task
            .failure(Class::RepositoryUnavailable, what)
            .hint("the filesystem has trouble: look at the kernel's log");
        return Err(ListError::Failed(failure));
    };
    let (alive, mut signs) = mpsc::channel(1);
    let walk = Walk { root: root.to_owned(), cancel: task.cancel.clone(), alive };
    let mut running = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&walk)
    });
    loop {
        task.progress.wait_begins(task.clock.now().mono);
        let ended = tokio::select! {
            biased;
            () = task.cancel.cancelled() => None,
            result = &mut running => Some(result),
            Some(()) = signs.recv() => continue,
        };
        task.progress.wait_ends();
        return match ended {
            None | Some(Ok(Err(Trouble::Cancelled))) => Err(ListError::Failed(task.cancelled())),
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(Trouble::Io(path, error)))) => Err(explain(task, root, &path, &error)),
            Some(Err(error)) => {
                Err(ListError::Failed(Failure::from_error(Class::Internal, task, &error)))
            }
        };
    }
}

fn explain(task: &Task, root: &Path, path: &Path, error: &io::Error) -> ListError {
    let what = format!("{}: {error}", path.display());
    let (path, root) = (path.display(), shell_word(&root.display().to_string()));
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "let the user that pgkeep runs as read it: setfacl -R -m u:pgkeep:rX -m d:u:pgkeep:rX \
             {root} (and x on the folders above it), with `&& chmod g+r {root}/%f` at the end of \
             archive_command for what comes later, or put the user into the group that owns \
             {path} and give that group r-x. The tool that writes the archive may have a check of \
             its own (pgbackrest check, barman check)"
        ),
        io::ErrorKind::NotFound => {
            format!("is the filesystem of {root} mounted? {path} is not there")
        }
        io::ErrorKind::NotADirectory => format!("`archive` names a folder; {root} is none"),
        _ => {
            let failure = task
                .failure(Class::RepositoryUnavailable, what)
                .hint("the filesystem has trouble: look at the kernel's log");
            return ListError::Failed(failure);
        }
    };
    ListError::Unreadable { what, hint }
}
