//! What comes of the backup of a database, or of the globals.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    domain::{blocking::Held, failure::Failure, finding::Finding, name::RepositoryName},
    repository::repo::Repository,
};

use super::fanout::{Delivered, Lost};

/// The repositories of a job, but those in which the series is another host's: each, or why it
/// cannot be asked.
pub type Repositories = BTreeMap<RepositoryName, Result<Arc<Repository>, Failure>>;

/// What came of one subject.
#[derive(Debug)]
pub struct BackupOutcome {
    pub delivered: Vec<Delivered>,
    pub findings: Vec<Finding>,
    /// What the backup held up meanwhile; none where that was not seen.
    pub held: Option<Held>,
    /// What the program said and nobody knows the meaning of, line by line.
    pub output: Vec<String>,
}

impl BackupOutcome {
    /// Nothing came of it.
    ///
    /// # Errors
    /// Where that has one reason for all repositories.
    pub(super) fn none(lost: Lost) -> Result<Self, Failure> {
        match lost {
            Lost::All(failure) => Err(failure),
            Lost::Each(delivered) => {
                Ok(Self { delivered, findings: Vec::new(), held: None, output: Vec::new() })
            }
        }
    }
}
