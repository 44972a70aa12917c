//! The operations, each a linear story. What jobs and commands share.

pub mod acknowledge;
#[cfg(test)]
mod campaign;
pub mod copy;
pub mod courtesy;
mod draft;
pub mod dump;
pub mod fanout;
pub mod files;
pub mod globals;
mod locks;
pub mod look_up;
pub mod outcome;
pub mod owner;
pub mod plan;
pub mod preflight;
pub mod prune;
pub mod restore_notes;
pub mod stderr;
mod suspect;
pub mod transfer;
