//! What the integration tests stand on: real PostgreSQL clusters, the real binary as a child
//! process, programs that lie, and waiting on conditions.
//!
//! docs/TESTING.md says how to use it.
#![allow(dead_code, reason = "not every tool of the bench is in use at every time")]

pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod compare;
pub(crate) mod fakes;
pub(crate) mod freeze;
pub(crate) mod hang;
pub(crate) mod http;
pub(crate) mod liar;
pub(crate) mod machine;
pub(crate) mod monitoring;
pub(crate) mod pgbouncer;
pub(crate) mod pgkeep;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod receiver;
pub(crate) mod s3;
pub(crate) mod tasks;
pub(crate) mod template;
pub(crate) mod versions;
pub(crate) mod wait;

use std::path::Path;

/// The folder for clusters: in memory where there is room for a lot (to copy one costs a disk half a second), else `/tmp`.
/// Both are short: the path of a socket may have 107 bytes. Not for homes: a unit's `ProtectSystem=strict` closes all but
/// `/dev`, `/proc` and `/sys`.
pub(crate) fn place() -> &'static Path {
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |facts| facts.f_bavail * facts.f_frsize);
    if room < ROOM { Path::new("/tmp") } else { memory }
}

/// Whether the tests that take minutes are to run (`tests/run.sh --long`). Says so where not.
pub(crate) fn long_tests() -> bool {
    let long = std::env::var_os("PGKEEP_LONG").is_some_and(|value| value == "1");
    if !long {
        eprintln!("SKIPPED: a long test; PGKEEP_LONG=1 runs it");
    }
    long
}
