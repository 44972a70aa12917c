//! What a part of a run, or a finding, is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    backup::{Series, Subject},
    name::{DatabaseName, RepositoryName, ServerName},
};

/// What a part of a run, or a finding, is about: a server, a database of it, a repository, or something
/// smaller. A retry runs only the targets that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// Anything smaller: a table, an index, a slot, a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

impl Target {
    /// A server.
    pub fn server(name: &ServerName) -> Self {
        Self { server: Some(name.clone()), ..Self::default() }
    }

    /// A repository.
    pub fn repository(name: &RepositoryName) -> Self {
        Self { repository: Some(name.clone()), ..Self::default() }
    }

    /// A database of a server that is known elsewhere.
    pub fn database(name: &DatabaseName) -> Self {
        Self::subject(&Subject::Database(name.clone()))
    }

    /// A database or the globals, of a server that is known elsewhere.
    pub fn subject(subject: &Subject) -> Self {
        Self { subject: Some(subject.clone()), ..Self::default() }
    }

    /// What the backups of a series are of.
    pub fn series(series: &Series) -> Self {
        Self { server: Some(series.server.clone()), ..Self::subject(&series.subject) }
    }

    /// Something smaller.
    pub fn object(name: impl Into<String>) -> Self {
        Self { object: Some(name.into()), ..Self::default() }
    }

    /// The same of a server.
    #[must_use]
    pub fn on(self, server: &ServerName) -> Self {
        Self { server: Some(server.clone()), ..self }
    }

    /// The same in a repository.
    #[must_use]
    pub fn in_repository(self, name: &RepositoryName) -> Self {
        Self { repository: Some(name.clone()), ..self }
    }

    /// Something smaller of it.
    #[must_use]
    pub fn with_object(self, name: impl Into<String>) -> Self {
        Self { object: Some(name.into()), ..self }
    }

    /// The same, with what `wider` names where nothing is named here.
    #[must_use]
    pub fn within(self, wider: &Self) -> Self {
        Self {
            server: self.server.or_else(|| wider.server.clone()),
            subject: self.subject.or_else(|| wider.subject.clone()),
            repository: self.repository.or_else(|| wider.repository.clone()),
            object: self.object.or_else(|| wider.object.clone()),
        }
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.server.as_ref().map(ToString::to_string));
        parts.extend(self.subject.as_ref().map(ToString::to_string));
        parts.extend(self.object.clone());
        f.write_str(&parts.join("/"))?;
        match &self.repository {
            Some(repository) if parts.is_empty() => write!(f, "repository {repository}"),
            Some(repository) => write!(f, " -> {repository}"),
            None => Ok(()),
        }
    }
}
