//! Places that hold backups: the [`store::Store`] trait (bytes under keys) with its kinds and
//! decorators, and on top of it one concrete [`repo::Repository`] that knows layout and commit
//! order.

pub mod ask;
mod begun_copies;
pub mod copy;
mod dice;
mod failure;
#[cfg(any(test, feature = "test-util"))]
pub mod faulty;
pub mod garbage;
pub mod handle;
mod identity_marker;
pub mod in_use;
pub mod key;
pub mod kinds;
pub mod layout;
pub mod listing;
pub mod local;
#[cfg(any(test, feature = "test-util"))]
pub mod lying;
mod manifest;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
pub mod newest;
pub mod pace;
mod pieces;
pub mod probe;
mod recipients;
pub mod repo;
pub mod retry;
pub mod s3;
pub mod store;
pub mod survey;
pub mod suspicion_marks;

#[cfg(test)]
mod tests;
