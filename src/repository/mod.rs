//! Places that hold backups: the [`store::Store`] trait (bytes under keys) with its kinds and
//! decorators, and on top of it one concrete `Repository` that knows layout and commit order.

pub mod s3;
pub mod store;
