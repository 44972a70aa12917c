//! Which copies this host has begun to write and not ended: a small file for each, in the state directory.
//!
//! A copy whose process was killed leaves data without a manifest. Nobody else can tell whether its writer
//! still lives, and waits; this host can, by the note that its earlier process left: only one at a time
//! has the state directory.
//!
//! What can still go wrong: a note that could not be written, or was lost, costs an hour's wait. Another
//! host that found the leftover, waited, removed it and writes the very same backup there anew is taken for
//! the dead one; its copy then fails, or is found missing by its sizes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::{
    codec::hex,
    domain::{
        backup::{BackupId, Series},
        failure::chain,
    },
    sys::files::{self, FileError},
};

/// A note of a copy of which nothing is left is of no use; a copy that takes longer is not told apart.
const KEPT: Duration = Duration::from_hours(24 * 30);

/// The notes about one repository; none are kept where there is no folder.
#[derive(Debug, Clone, Default)]
pub(super) struct Begun {
    folder: Option<PathBuf>,
}

impl Begun {
    /// Those in `folder`, which is made when it is needed.
    pub(super) fn within(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// The note of one copy, which need not be there.
    pub(super) fn note(&self, series: &Series, id: &BackupId) -> Note {
        let series = series.path();
        let digest = hex(&Sha256::digest(series.as_bytes()));
        let name = format!("{id}-{}", &digest[..16]);
        let path = self.folder.as_ref().map(|folder| folder.join(name));
        Note { path, text: format!("{series}/{id}\n"), written: false }
    }
}

/// That a copy was begun.
#[derive(Debug)]
pub(super) struct Note {
    path: Option<PathBuf>,
    text: String,
    written: bool,
}

impl Note {
    /// Whether it was written, by this process or an earlier one.
    pub(super) fn is_there(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.is_file())
    }

    /// Writes it, once, before anything of the copy can be seen. That this cannot be done keeps nothing
    /// from being stored.
    pub(super) async fn write(&mut self) {
        let Some(path) = self.path.clone().filter(|_| !self.written) else { return };
        self.written = true;
        let text = self.text.clone();
        let write = move || write(&path, &text);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            let error = chain(&error);
            tracing::warn!(%error, "a copy is not noted: what a kill leaves of it stays for an hour");
        }
    }

    /// Removes it: nothing of the copy is left without a manifest.
    pub(super) async fn remove(&self) {
        let Some(path) = self.path.clone() else { return };
        let removed = tokio::task::spawn_blocking(move || fs::remove_file(path)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "the note of a copy stays");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(path);
    files::create_private_dir_all(folder)?;
    forget_old(folder);
    files::write_atomic(path, text.as_bytes(), 0o600)
}

/// Old notes go; what cannot be looked at or removed stays.
#[expect(clippy::disallowed_methods, reason = "it is held against the times of files")]
fn forget_old(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|facts| facts.modified());
        let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_some_and(|age| age > KEPT) {
            drop(fs::remove_file(entry.path()));
        }
    }
}
