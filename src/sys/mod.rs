//! The machine: clock, crash-safe files, locks, supervised child processes, and the [`task::Task`]
//! that everything long-running is handed.

pub mod clock;
pub mod crowd;
pub mod files;
pub mod gate;
pub mod host;
pub mod lock;
pub mod process;
pub mod task;
pub mod time_limits;
pub mod trust;
pub mod unit;
