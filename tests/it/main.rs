//! The one integration-test binary.

mod telemetry;
