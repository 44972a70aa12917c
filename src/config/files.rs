//! The files of a configuration: which they are, and whether others may have written them.
//!
//! What can still go wrong: a file that is replaced between two reads of one load shows old and new
//! side by side; the next reload sees the new ones.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::{diagnostic::Diagnostics, secret::report_untrusted};
use crate::sys::trust::{self, Untrusted};

/// The largest configuration file, in bytes. A thousand jobs fit in.
pub(super) const FILE_MAX: u64 = 1 << 20;

/// A file that was read.
pub(super) struct Document {
    /// Its number in spans.
    pub number: usize,
    pub path: PathBuf,
    pub text: String,
    pub exposed: bool,
}

/// Reads the main file and those beside it, and checks who may write them.
pub(super) fn read_all(path: &Path, d: &mut Diagnostics) -> Option<Vec<Document>> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut documents: Vec<Document> = read(path, d).into_iter().collect();
    let main_read = !documents.is_empty();
    if main_read {
        report(trust::check_folder(folder), d);
    }
    let more = folder.join("conf.d");
    if more.is_dir() {
        report(trust::check_folder(&more), d);
        for path in listed(&more, d)? {
            documents.extend(read(&path, d));
        }
    }
    main_read.then_some(documents)
}

fn report(checked: Result<(), Untrusted>, d: &mut Diagnostics) {
    if let Err(error) = checked {
        report_untrusted(&error, None, d);
    }
}

/// The files of `conf.d`, by name. Hidden files are an editor's or a package manager's.
fn listed(folder: &Path, d: &mut Diagnostics) -> Option<Vec<PathBuf>> {
    let read = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = match read {
        Ok(paths) => paths,
        Err(source) => {
            report(Err(Untrusted::Unreadable { path: folder.to_owned(), source }), d);
            return None;
        }
    };
    let hidden = |path: &PathBuf| {
        path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    paths.retain(|path| path.extension() == Some(OsStr::new("toml")) && !hidden(path));
    paths.sort();
    Some(paths)
}

fn read(path: &Path, d: &mut Diagnostics) -> Option<Document> {
    let contents = match trust::read(path, FILE_MAX) {
        Ok(contents) => contents,
        Err(error) => {
            report_untrusted(&error, None, d);
            return None;
        }
    };
    report(trust::check_own(path, &contents.metadata), d);
    let linked = fs::canonicalize(path).ok().filter(|real| real.parent() != path.parent());
    if let Some(folder) = linked.as_deref().and_then(Path::parent) {
        report(trust::check_folder(folder), d);
    }
    let number = d.add_toml(path.to_owned(), &contents.text);
    let exposed = trust::is_exposed(&contents.metadata);
    Some(Document { number, path: path.to_owned(), text: contents.text, exposed })
}
