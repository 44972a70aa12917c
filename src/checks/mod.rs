//! What can be checked. One file per check, or per family of them; each check is a row in a table
//! with a function that looks at facts and says what it finds.
//!
//! Whoever calls them brings the facts: the functions ask nobody, so that a test hands them any
//! state of the world.

pub mod doctor;
pub mod login;
pub mod preflight;
pub mod wal;

use crate::domain::finding::{CheckName, Finding, Found};

/// A check of facts `F`: `F` is whatever the check looks at.
#[derive(Debug)]
pub struct Check<F: ?Sized> {
    pub name: CheckName,
    /// Looks, and says what it finds.
    pub look: fn(&F) -> Vec<Found>,
}

impl<F: ?Sized> Check<F> {
    /// What it finds in facts.
    pub fn findings(&self, facts: &F) -> Vec<Finding> {
        (self.look)(facts).into_iter().map(|found| found.named(self.name)).collect()
    }
}

/// Looks at facts with every check of a table.
pub fn look<F: ?Sized>(checks: &[Check<F>], facts: &F) -> Vec<Finding> {
    checks.iter().flat_map(|check| check.findings(facts)).collect()
}
