//! The daemon: wiring, the pure planner, the engine that carries out its decisions, and the one
//! select loop.

pub mod control;
pub mod heartbeat;
pub mod journal;
pub mod notify;
pub mod planner;
pub mod signals;
