//! What all backups of one run have in common.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    checks::preflight::Accepted,
    domain::{
        backup::{Series, Subject},
        failure::{Class, During, Failure},
        manifest::{Owner, Tool},
        measure::Share,
        pattern::DatabasePatterns,
        scope::Scope,
    },
    postgres::{
        Server, Session,
        catalog::{self, ServerFacts},
        scope::Form,
        spec::ChildEnv,
        tools::Installed,
    },
    repository::repo::Repository,
    sys::{
        process::{ChildSettings, Spec},
        task::Task,
    },
};

use super::{courtesy::Courtesy, fanout::Compression, outcome::Repositories};

/// What all backups of one run have in common.
#[derive(Debug)]
pub struct DumpPlan<'a> {
    pub server: &'a Server,
    pub facts: &'a ServerFacts,
    pub tools: &'a Installed,
    pub owner: &'a Owner,
    pub repositories: &'a [Arc<Repository>],
    /// All that are asked for the last backup.
    pub asked: &'a Repositories,
    pub patterns: &'a DatabasePatterns,
    pub scope: &'a Scope,
    pub form: Form<'a>,
    pub compression: Compression,
    pub volume_parts: u32,
    pub accepted: &'a Accepted,
    /// How long pg_dump waits for a lock.
    pub lock_wait: Duration,
    /// How long to wait for a safe snapshot; none: the first snapshot will do.
    pub deferrable: Option<Duration>,
    pub courtesy: Courtesy,
    /// By how much a backup may shrink before it is suspicious; none: backups are not compared.
    pub shrink: Option<Share>,
    pub children: &'a ChildSettings,
    /// A private folder for what is noted of an archive.
    pub scratch: &'a Path,
}

impl DumpPlan<'_> {
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
    pub(super) async fn is_of(&self, session: &Session, task: &Task) -> Result<(), Failure> {
        let found = catalog::system_id(session.queries(&task.cancel)).await.during(task)?;
        another(found, self.facts.system_id, task).map_or(Ok(()), Err)
    }

    /// A child that runs `command`.
    pub(super) fn child(&self, command: &[String], env: &ChildEnv) -> Spec {
        let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
        let mut spec = env.of(Spec::new(program).args(arguments));
        spec.nice = self.children.nice;
        spec.record_in = Some(self.children.records.clone());
        spec
    }

    /// What the manifest says of the program.
    pub(super) fn tool(&self, name: &str, command: Vec<String>) -> Tool {
        Tool { name: name.to_owned(), version: self.tools.version.text.clone(), command }
    }
}

/// What is wrong where the server that answers is known to be another one.
fn another(found: Option<u64>, expected: u64, task: &Task) -> Option<Failure> {
    let found = found.filter(|found| *found != expected)?;
    let what = format!(
        "another server answers than at the start of the run: its system identifier is {found}, not \
         {expected}"
    );
    let hint = "its name leads to another server by now; the next attempt begins with that one, whose \
                backups are series of their own";
    Some(task.failure(Class::Connection, what).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;

    #[test]
    fn a_server_that_was_replaced_is_another_attempts() {
        let task = Task::new(SystemClock::new());
        assert!(another(Some(7), 7, &task).is_none());
        assert!(another(None, 7, &task).is_none(), "nobody may say");
        let failure = another(Some(8), 7, &task).unwrap();
        assert!(failure.class.is_worth_a_retry() && failure.what.contains("8, not 7"), "{failure}");
    }
}
