//! The filesystem that `pg_wal` lies on, where it can be seen from here.

use std::path::Path;

/// Room on a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What the server may still take.
    pub free: u64,
}

/// The room that is left for `pg_wal` below a data directory of this machine. Where `pg_wal` itself
/// cannot be looked at (others may not enter a data directory), that of the data directory; it may be
/// another filesystem. None where neither can be seen.
pub fn of(data_directory: &Path) -> Option<Space> {
    let wal = data_directory.join("pg_wal");
    let facts = rustix::fs::statvfs(&wal).or_else(|_| rustix::fs::statvfs(data_directory)).ok()?;
    Some(Space {
        total: facts.f_blocks.saturating_mul(facts.f_frsize),
        free: facts.f_bavail.saturating_mul(facts.f_frsize),
    })
}
