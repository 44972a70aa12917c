//! What all child processes have in common.

use std::{path::PathBuf, time::Duration};

/// How child processes run.
#[derive(Debug, Clone)]
pub struct ChildSettings {
    /// Their nice value, 0 to 19; Linux derives the I/O priority from it.
    pub nice: i32,
    pub grace: Duration,
    /// Where their process groups are recorded, so that a new start finds what a killed daemon
    /// left behind.
    pub records: PathBuf,
}
