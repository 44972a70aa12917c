//! The daemon: wiring, the planner that decides what runs when, and the shell that carries it out.

pub mod planner;
