//! The daemon: wiring, the planner that decides what runs when, and the shell that carries it out.

pub mod planner;
//! The daemon: what happens between the clock, the signals, the control socket and the jobs.

pub mod control;
pub mod heartbeat;
pub mod journal;
pub mod notify;
pub mod signals;
