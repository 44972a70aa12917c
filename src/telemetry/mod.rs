//! What the outside sees: metrics, the HTTP endpoint that serves them, and the log.

pub mod http;
pub mod logging;
pub mod metrics;
