//! Other versions of PostgreSQL than the distribution's, for the long tests: those that
//! `tests/run.sh --long` unpacked into `target/postgresql`, or that are installed.
//!
//! What can still go wrong: where the tests run as root and the repository lies in a folder that
//! only root may enter, the unprivileged account cannot run them; the tests are skipped then.

use std::path::{Path, PathBuf};

use super::{
    long_tests,
    postgres::{Builder, Cluster, installed},
    process::run,
    template::server_command,
};

/// The versions beside the distribution's, the oldest first.
pub(crate) const MAJORS: [u32; 4] = [16, 17, 18, 19];

impl Cluster {
    /// A cluster of that major version, in a long test; none where the test is to be skipped,
    /// which it has said then:
    ///
    /// ```text
    /// let Some(builder) = Cluster::of(16) else { return };
    /// let cluster = builder.start();
    /// ```
    pub(crate) fn of(major: u32) -> Option<Builder> {
        if !long_tests() {
            return None;
        }
        let found = bin_dir(major);
        if found.is_none() {
            eprintln!("SKIPPED: no PostgreSQL {major}; `sh tests/run.sh --long` fetches it");
        }
        Some(Self::builder().bin_dir(found?))
    }
}

/// The programs of that major version, where the server's account can run them.
pub(crate) fn bin_dir(major: u32) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/postgresql/{major}"));
    // The real path: the programs look for their libraries beside it.
    let unpacked = unpacked.canonicalize().ok().map(|folder| folder.join("bin"));
    installed().into_iter().chain(unpacked).find(|dir| major_of(dir) == Some(major))
}

/// `postgres (PostgreSQL) 16.14`, `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_of(bin_dir: &Path) -> Option<u32> {
    let program = bin_dir.join("postgres");
    if !program.exists() {
        return None;
    }
    let output = run(server_command(&program).arg("--version"), "");
    let text = output.text();
    let number = text.split_whitespace().nth(2)?;
    number.split(['.', 'b', 'r', 'd']).next()?.parse().ok()
}
