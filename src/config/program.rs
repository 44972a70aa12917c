//! Programs that the configuration names: whoever may change one is the daemon.

use std::path::PathBuf;

use super::{
    diagnostic::{Diagnostics, Located, class},
    secret::report_untrusted,
    section::{Options, check_absolute},
};
use crate::sys::trust;

impl Options<'_> {
    /// A program with its arguments, from a list that has to be there: `["/usr/bin/x", "-a"]`. The
    /// program is executable, and only root and the current user can change it or its folder.
    pub fn program(
        &mut self,
        key: &'static str,
        d: &mut Diagnostics,
    ) -> Option<(PathBuf, Vec<String>)> {
        let words = self.require::<Vec<Located<String>>>(key, d)?;
        let mut words_left = words.value.into_iter();
        let Some(first) = words_left.next() else {
            d.error(&words.span, format!("`{key}` names no program"))
                .class(class::VALUE)
                .hint("[\"/path/to/program\", \"argument\"]; there is no shell");
            return None;
        };
        let path = PathBuf::from(first.value);
        if !check_absolute(key, &path, &first.span, d) {
            return None;
        }
        if let Err(error) = trust::check_program(&path) {
            report_untrusted(&error, &first.span, d);
            return None;
        }
        Some((path, words_left.map(|word| word.value).collect()))
    }

    /// A folder that programs are taken from: only root and the current user can change it.
    pub fn program_folder(&mut self, key: &'static str, d: &mut Diagnostics) -> Option<PathBuf> {
        let path = self.absolute_path(key, d)?;
        if let Err(error) = trust::check_program_folder(&path.value) {
            report_untrusted(&error, &path.span, d);
            return None;
        }
        Some(path.value)
    }
}
