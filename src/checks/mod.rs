//! What can be checked. One file per check, or per family of them; each check is a row in a table
//! with a function that looks at facts and says what it finds.
//!
//! Whoever calls them brings the facts: the functions ask nobody, so that a test hands them any
//! state of the world.

pub mod doctor;
pub mod login;
pub mod preflight;
pub mod wal;

use crate::domain::finding::{Finding, Severity};

/// A check of facts `F`: `F` is whatever the check looks at.
#[derive(Debug)]
pub struct Check<F: ?Sized> {
    /// Its stable name: what `check` of a finding says, and its heading in docs/ERRORS.md.
    pub name: &'static str,
    /// Looks, and says what it finds.
    pub look: fn(&F) -> Vec<Found>,
}

/// What a check found; its name is added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How bad it is, by what it leads to.
    pub severity: Severity,
    /// What was found, one line.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Found {
    /// Something that was found.
    pub fn new(severity: Severity, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity, what: what.into(), hint: hint.into() }
    }

    /// The finding of a check of that name.
    pub fn named(self, check: &str) -> Finding {
        Finding {
            check: check.to_owned(),
            severity: self.severity,
            what: self.what,
            hint: Some(self.hint),
        }
    }
}

/// Looks at facts with every check of a table.
pub fn look<F: ?Sized>(checks: &[&Check<F>], facts: &F) -> Vec<Finding> {
    let each = checks
        .iter()
        .flat_map(|check| (check.look)(facts).into_iter().map(|found| found.named(check.name)));
    each.collect()
}
