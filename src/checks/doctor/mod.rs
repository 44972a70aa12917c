//! What `pgkeep doctor` looks at beside the databases (those are [`super::preflight`]'s): servers,
//! repositories, this host. Each thing is a line, which says what is fine where nothing is found.

pub mod host;
pub mod repository;
pub mod server;
#[cfg(test)]
mod tests;

use jiff::SignedDuration;

use super::Check;
use crate::domain::{
    finding::{CheckName, Finding},
    units::format_duration,
};

/// One thing that is looked at.
#[derive(Debug)]
pub struct Line<F: 'static> {
    /// What it is called in the output: `space`.
    pub label: &'static str,
    /// What is so, in words, beside whatever is found. None: this does not apply here.
    pub state: fn(&F) -> Option<String>,
    pub check: Check<F>,
}

/// A line as it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineReport {
    pub label: &'static str,
    pub state: String,
    pub findings: Vec<Finding>,
}

/// Looks at everything in a table that applies.
pub fn look<F>(lines: &[&Line<F>], facts: &F) -> Vec<LineReport> {
    let each = lines.iter().filter_map(|line| {
        let state = (line.state)(facts)?;
        let findings = line.check.findings(facts);
        Some(LineReport { label: line.label, state, findings })
    });
    each.collect()
}

/// What findings about the keys of a repository are called.
pub const KEYS: CheckName = CheckName("repository-keys");

/// A clock that differs by more is set wrong, and not only read late.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(1);

/// How another clock stands to ours, in words: `3m ahead of this host`.
fn skew(ahead: SignedDuration) -> String {
    let by = format_duration(std::time::Duration::from_secs(ahead.as_secs().unsigned_abs()));
    match ahead.signum() {
        _ if ahead.as_secs() == 0 => "as here".to_owned(),
        1 => format!("{by} ahead of this host"),
        _ => format!("{by} behind this host"),
    }
}
