//! The one integration-test binary.

mod harness;
mod s3;
