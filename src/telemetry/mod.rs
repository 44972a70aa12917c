//! What the outside sees: metrics, the HTTP endpoint that serves them, the log, and what people are
//! told.

pub mod http;
pub mod logging;
pub mod metrics;
pub mod notify;
