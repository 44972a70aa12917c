//! What the integration tests stand on: real PostgreSQL clusters, the real binary as a child
//! process, programs that lie, and waiting on conditions.
//!
//! docs/TESTING.md says how to use it.
#![allow(dead_code, reason = "not every tool of the bench is in use at every time")]

pub(crate) mod compare;
pub(crate) mod fakes;
pub(crate) mod http;
pub(crate) mod pgkeep;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod template;
pub(crate) mod wait;
