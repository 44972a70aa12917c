//! What all backups of one run have in common, and what comes of each.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::{
    checks::preflight::Accepted,
    domain::{
        backup::{BackupId, Series, Subject},
        blocking::Held,
        failure::{Class, During, Failure},
        finding::Finding,
        manifest::{Owner, Tool},
        name::{DatabaseName, RepositoryName},
        pattern::DatabasePatterns,
        scope::Scope,
        suspicion::Share,
    },
    postgres::{
        Server, Session,
        catalog::{self, ServerFacts},
        scope::Form,
        spec::ChildEnv,
        tools::Installed,
    },
    repository::repo::Repository,
    sys::{host, process::Spec, task::Task},
};

use super::super::{
    courtesy::{Courtesy, Seen},
    fanout::{Compression, Delivered, Lost},
};

/// The repositories of a job, but those in which the series is another host's: each, or why it
/// cannot be asked.
pub type Asked = BTreeMap<RepositoryName, Result<Arc<Repository>, Failure>>;

/// What all backups of one run have in common.
#[derive(Debug)]
pub struct Source<'a> {
    /// The server.
    pub server: &'a Server,
    /// What it is.
    pub facts: &'a ServerFacts,
    /// The client programs that fit it.
    pub tools: &'a Installed,
    /// This host.
    pub owner: &'a Owner,
    /// The repositories that take it.
    pub repositories: &'a [Arc<Repository>],
    /// All that are asked for the last backup.
    pub asked: &'a Asked,
    /// Which databases are meant.
    pub patterns: &'a DatabasePatterns,
    /// What of a database is dumped.
    pub scope: &'a Scope,
    /// How pg_dump writes it.
    pub form: Form<'a>,
    /// How to compress.
    pub compression: Compression,
    /// Most parts of a volume.
    pub volume_parts: u32,
    /// What may be left out.
    pub accepted: &'a Accepted,
    /// How long pg_dump waits for a lock.
    pub lock_wait: Duration,
    /// How long to wait for a safe snapshot; none: the first snapshot will do.
    pub deferrable: Option<Duration>,
    /// What is done for others meanwhile.
    pub courtesy: Courtesy,
    /// By how much a backup may shrink before it is suspicious; none: backups are not compared.
    pub shrink: Option<Share>,
    /// Nice value of children.
    pub nice: i32,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Where children are recorded.
    pub records: &'a Path,
    /// A private folder for what is noted of an archive.
    pub scratch: &'a Path,
}

/// What came of one subject.
#[derive(Debug)]
pub struct Dumped {
    /// Per repository.
    pub delivered: Vec<Delivered>,
    /// What was noticed.
    pub findings: Vec<Finding>,
    /// What it held up meanwhile; none where that was not seen.
    pub held: Option<Held>,
    /// What the program said and nobody knows the meaning of, line by line.
    pub output: Vec<String>,
}

impl Dumped {
    /// Nothing came of it.
    ///
    /// # Errors
    /// Where that has one reason for all repositories.
    pub(in crate::backup) fn none(lost: Lost) -> Result<Self, Failure> {
        match lost {
            Lost::All(failure) => Err(failure),
            Lost::Each(delivered) => Ok(Self::failed(delivered)),
        }
    }

    /// Nothing came of it, and something was seen meanwhile.
    pub(super) fn lost(lost: Lost, source: &Source<'_>, seen: &Seen, task: &Task) -> Self {
        let delivered = match lost {
            Lost::All(failure) => {
                let explained = !task.cancel.is_cancelled();
                let failure =
                    if explained { seen.explain(failure, source.courtesy) } else { failure };
                let names = source.repositories.iter().map(|it| it.name().clone());
                names.map(|name| (name, Err(failure.clone()))).collect()
            }
            Lost::Each(delivered) => delivered,
        };
        Self::failed(delivered)
    }

    const fn failed(delivered: Vec<Delivered>) -> Self {
        Self { delivered, findings: Vec::new(), held: None, output: Vec::new() }
    }

    /// With what was seen meanwhile.
    pub(super) fn with(self, seen: &Seen, name: &DatabaseName, source: &Source<'_>) -> Self {
        let mut findings = self.findings;
        findings.extend(seen.findings(name.as_str(), source.courtesy));
        Self { findings, held: seen.held(), ..self }
    }
}

impl Source<'_> {
    /// The series of a subject: a database's has the name of what is dumped of it.
    pub fn series(&self, subject: Subject) -> Series {
        let contents = match subject {
            Subject::Database(_) => self.scope.series(),
            Subject::Globals => Scope::default().series(),
        };
        let (server, system_id) = (self.server.name().clone(), self.facts.system_id);
        Series { server, system_id, subject, contents }
    }

    /// Holds that a session is one of the server whose series the backup becomes part of: its name may
    /// lead to another one by now.
    ///
    /// # Errors
    /// When it does, or the server does not answer.
    pub(in crate::backup) async fn is_of(
        &self,
        session: &Session,
        (doing, task): (&str, &Task),
    ) -> Result<(), Failure> {
        let found = catalog::system_id(session.queries(&task.cancel)).await;
        let found = found.during(doing)?;
        another(found, self.facts.system_id, doing).map_or(Ok(()), Err)
    }

    /// A child that runs `command`.
    pub(in crate::backup) fn child(&self, command: &[String], env: &ChildEnv) -> Spec {
        let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
        let mut spec = env.of(Spec::new(program).args(arguments));
        spec.nice = self.nice;
        spec.record_in = Some(self.records.to_owned());
        spec
    }

    /// What the manifest says of the program.
    pub(in crate::backup) fn tool(&self, name: &str, command: Vec<String>) -> Tool {
        Tool { name: name.to_owned(), version: self.tools.version.text.clone(), command }
    }
}

/// What is wrong where the server that answers is known to be another one.
fn another(found: Option<u64>, expected: u64, doing: &str) -> Option<Failure> {
    let found = found.filter(|found| *found != expected)?;
    let what = format!(
        "another server answers than at the start of the run: its system identifier is {found}, not \
         {expected}"
    );
    let hint = "its name leads to another server by now; the next attempt begins with that one, whose \
                backups are series of their own";
    Some(Failure::new(Class::Connection, doing, what).hint(hint))
}

/// A new backup's id, from the host's clock.
///
/// # Errors
/// When the kernel gives no random bits.
pub(in crate::backup) fn new_id(task: &Task) -> Result<BackupId, Failure> {
    let random = host::random_u64()
        .map_err(|error| Failure::from_error(Class::Internal, "make a backup id", &error))?;
    Ok(BackupId::new(task.clock.now().wall, random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_replaced_is_another_attempts() {
        assert!(another(Some(7), 7, "dump").is_none());
        assert!(another(None, 7, "dump").is_none(), "nobody may say");
        let failure = another(Some(8), 7, "dump").unwrap();
        assert!(failure.class.is_worth_a_retry() && failure.what.contains("8, not 7"), "{failure}");
    }
}
