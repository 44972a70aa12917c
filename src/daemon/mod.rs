//! The daemon: wiring, the pure planner, the engine that carries out its decisions, and the one
//! select loop.

pub mod acknowledge;
pub mod configured;
pub mod control;
pub mod doctor;
pub mod dry_run;
pub mod engine;
pub mod heartbeat;
pub mod journal;
mod notices;
pub mod oneshot;
pub mod planner;
pub mod probe;
pub mod protection;
pub mod receivers;
mod reload;
mod run_log;
pub mod runner;
pub mod serve;
pub mod signals;
pub mod state_dir;
pub mod status;
pub mod systemd;
pub mod table;
pub mod watch;
