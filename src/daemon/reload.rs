//! A reload: read, check and build everything anew, compare, swap. On any error the old
//! configuration runs on.

use std::path::Path;

use super::table::{self, Ground, Table};

/// Why a reload was refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refused {
    /// One line for logs and `systemctl status`.
    pub(super) summary: String,
    /// Everything, with files, lines and carets.
    pub(super) text: String,
}

/// Builds the new table, or says why not.
///
/// # Errors
/// When the configuration has errors, or changes what only a restart can change.
pub(super) fn reload(path: &Path, ground: &Ground, old: &Table) -> Result<Table, Refused> {
    let mut loaded = table::load(path, &|name| std::env::var(name).ok(), ground);
    let Some(new) = loaded.table.take() else {
        let text = loaded.render();
        let first = text.lines().find(|line| line.starts_with("error")).unwrap_or("error");
        let errors = loaded.diagnostics.error_count();
        return Err(Refused { summary: format!("{errors} error(s), first: {first}"), text });
    };
    let changed = changed_for_good(old, &new);
    if changed.is_empty() {
        return Ok(new);
    }
    let summary = format!("{} cannot change while the daemon runs: restart it", changed.join(", "));
    Err(Refused { text: format!("error: {summary}\n"), summary })
}

/// The settings that hold for the life of the process.
fn changed_for_good(old: &Table, new: &Table) -> Vec<&'static str> {
    let (old, new) = (&old.daemon, &new.daemon);
    let settings = [
        ("daemon.listen", old.listen != new.listen),
        ("daemon.state_dir", old.state_dir != new.state_dir),
        ("daemon.runtime_dir", old.runtime_dir != new.runtime_dir),
        ("daemon.log_format", old.log_format != new.log_format),
    ];
    settings.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}
