//! The one integration-test binary.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod alerts;
mod archive;
mod cli;
mod config;
mod connecting;
mod contract;
mod copies;
mod docs;
mod doctor;
mod dumps;
mod harness;
mod harness_self;
mod layering;
mod lifecycle;
mod limits;
mod notify;
mod postgres;
mod preflight;
mod prune;
mod reindex;
mod repositories;
mod rounds;
mod s3;
mod silence;
mod suspicion;
mod systemd;
mod telemetry;
mod vacuum;
mod wal_check;
