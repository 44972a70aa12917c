//! pgkeep keeps `PostgreSQL` clusters backed up, restorable and healthy.
//!
//! The crate is a library with a thin binary. Each layer uses only what stands to its left; the
//! test `layering` reads the `use crate::` lines to hold it:
//!
//! `domain` ← `sys` ← `config` ← `codec` ← `repository`, `postgres`, `telemetry` ← `maintenance`, `wal`
//! ← `checks` ← `backup` ← `jobs` ← `daemon` ← `cli` ← `main`.
//!
//! docs/ARCHITECTURE.md shows the house on one page.

pub mod backup;
pub mod checks;
pub mod cli;
pub mod codec;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod jobs;
pub mod maintenance;
pub mod postgres;
pub mod repository;
pub mod sys;
pub mod telemetry;
pub mod wal;
