//! What a check found. A check that finds trouble is a successful run with findings; alerts read
//! the finding.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Will become trouble, or weakens a promise.
    Warning,
    /// Somebody has to act now.
    Critical,
}

impl Severity {
    /// Every severity, the least first.
    pub const ALL: &[Self] = &[Self::Info, Self::Warning, Self::Critical];

    /// The severity as it stands in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check's stable name: `backup-owner`, `pg-dump-warning`.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, one line.
    pub what: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
