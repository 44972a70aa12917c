//! The series of backups, fed by probes of the repositories: scraping lists no bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::PoisonError,
};

use jiff::Timestamp;

use super::{Metrics, builtin, seconds};
use crate::domain::{
    backup::Subject,
    name::{RepositoryName, ServerName, escape},
};

/// The complete backups of one database (or of the globals) in one repository, without those that leave
/// something out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBackups {
    pub server: ServerName,
    pub subject: Subject,
    /// Snapshot time of the newest.
    pub newest: Timestamp,
    pub stored: u64,
    pub bytes: u64,
    /// How many of the newest, in a row, are suspicious and not acknowledged.
    pub suspicious: u64,
}

/// What a probe saw in one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// One entry for each database, and for the globals. Several for one are added up.
    pub backups: Vec<StoredBackups>,
    pub incomplete: u64,
}

/// What stands in the label `datname`. The globals are `@globals`; a database that is called so is
/// written with an escape.
pub fn datname_label(subject: &Subject) -> String {
    match subject {
        Subject::Database(name) if name.as_str() == "@globals" => escape(name.as_str()),
        other => other.to_string(),
    }
}

impl Metrics {
    /// Removes the series of repositories that are not in `names`, and makes those that are
    /// missing. The caller holds the gate.
    pub(super) fn configure_repositories(&self, names: &BTreeSet<&str>) {
        self.retain_by("repository", |name| names.contains(name));
        for name in names {
            self.ensure(&builtin::REPOSITORY_LAST_PROBE, [name]);
            self.ensure(&builtin::REPOSITORY_LAST_PROBE_SUCCESS, [name]);
        }
    }

    /// A repository was looked at; `facts` is what was seen, or nothing when it could not be
    /// reached: then the last facts stay, and the time of the last success tells their age. What was
    /// seen of one that is no longer configured by the time it was seen is not taken.
    pub fn repository_probed(
        &self,
        repository: &RepositoryName,
        at: Timestamp,
        facts: Option<&RepositoryFacts>,
    ) {
        let _gate = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let own: [&dyn Display; 1] = [repository];
        if !self.has(&builtin::REPOSITORY_LAST_PROBE, own) {
            return;
        }
        self.set(&builtin::REPOSITORY_LAST_PROBE, own, seconds(at));
        let Some(facts) = facts else { return };
        self.set(&builtin::REPOSITORY_LAST_PROBE_SUCCESS, own, seconds(at));
        self.set(&builtin::BACKUP_INCOMPLETE, own, facts.incomplete as f64);
        let mut seen: BTreeMap<(String, String), (Timestamp, [u64; 3])> = BTreeMap::new();
        for backups in &facts.backups {
            let key = (backups.server.to_string(), datname_label(&backups.subject));
            let sum = seen.entry(key).or_insert((backups.newest, [0; 3]));
            sum.0 = sum.0.max(backups.newest);
            let counts = [backups.stored, backups.bytes, backups.suspicious];
            sum.1.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let counted =
            [&builtin::BACKUP_STORED, &builtin::BACKUP_STORED_BYTES, &builtin::BACKUP_SUSPICIOUS];
        for desc in counted.into_iter().chain([&builtin::BACKUP_NEWEST]) {
            self.retain(desc.0.name, |labels| {
                labels[2] != repository.as_str()
                    || seen.contains_key(&(labels[0].clone(), labels[1].clone()))
            });
        }
        for ((server, datname), (newest, counts)) in seen {
            let labels: [&dyn Display; 3] = [&server, &datname, repository];
            self.set(&builtin::BACKUP_NEWEST, labels, seconds(newest));
            for (desc, count) in counted.into_iter().zip(counts) {
                self.set(desc, labels, count as f64);
            }
        }
    }
}
