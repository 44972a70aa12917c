//! Pure values and rules: no I/O, no tokio, no clock. Whatever needs the time is handed it.

pub mod backup;
pub mod blackout;
pub mod blocking;
pub mod failure;
pub mod finding;
pub mod index;
pub mod job_memory;
pub mod manifest;
pub mod measure;
pub mod metric;
pub mod name;
pub(crate) mod named;
pub mod notice;
pub mod owner;
pub mod pattern;
pub mod protection;
pub mod recipients;
pub mod relation;
pub mod report;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod scope;
pub mod standby;
pub mod suspicion;
pub mod target;
pub mod text;
pub mod transfer;
pub mod units;
pub mod vacuum;
pub mod wal;

pub use jiff::Timestamp;
