//! Files of the journal: where they are, and how they are written and read.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::record::FILE_MAX;
use crate::{
    domain::name::{JobName, escape},
    sys::files,
};

/// The ending of every file of the journal.
pub(super) const ENDING: &str = "json";

pub(super) fn runs_folder(root: &Path) -> PathBuf {
    root.join("runs")
}

pub(super) fn jobs_folder(root: &Path) -> PathBuf {
    root.join("jobs")
}

pub(super) fn run_path(root: &Path, job: &JobName, run: &str) -> PathBuf {
    runs_folder(root).join(job.as_str()).join(format!("{}.{ENDING}", escape(run)))
}

pub(super) fn job_path(root: &Path, job: &JobName) -> PathBuf {
    jobs_folder(root).join(format!("{job}.{ENDING}"))
}

/// Makes a folder and those above it, for this user alone.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file whole: whoever reads it finds the old bytes or the new, also after a crash. Makes
/// its folder.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let made = path.parent().map_or(Ok(()), files::create_private_dir_all);
    made.and_then(|()| files::write_atomic(path, bytes, 0o600)).map_err(|error| error.source)
}

/// Whether a file is what a crash in the middle of a write left; the file that it was to replace is
/// whole. Versions before 0.2 wrote to names that end in `.tmp`.
pub(super) fn is_leftover(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "tmp")
        || path.file_name().and_then(|name| name.to_str()).is_some_and(files::is_temporary)
}

/// Removes such a file.
pub(super) fn remove_leftover(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "cannot remove an unfinished file");
    }
}

/// Reads a file; data that is no such record is an error of the kind `InvalidData`.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The entries of a folder, sorted; none where there is no such folder.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = listed.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
