//! The one integration-test binary.
mod config;
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod harness;
mod harness_self;
mod layering;
