//! Looks at a new backup before it is committed: does something seem to be missing in it?
//!
//! It is compared with the last one of its series that nobody has reason to doubt. All repositories
//! of the job are asked for that while pg_dump works, also those that this attempt does not write to,
//! for a limited time, and the newest that they give counts for all: so the same backup is judged
//! once, however many repositories take it. One that does not answer, or whose last manifest cannot be
//! read, never makes a run fail.
//!
//! Where none gives one, the backup is taken for a first one only if all say that they have none. One
//! that is away, or has none but backups in doubt, may hide the last good one: taken for good, the new
//! one would take its place.
//!
//! What can still go wrong: a repository that is away has a newer one than those that answer. Then an
//! older one is compared with, which finds less only if the database has shrunk since.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::{
    fanout::{Delivered, Stored},
    outcome::{BackupOutcome, Repositories},
    stderr::Said,
};
use crate::{
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Failure, chain},
        finding::{CheckName, Finding, Severity},
        manifest::LeftOut,
        measure::{self, Measure, Share},
        suspicion::{self, Kind, Suspicion},
        target::Target,
    },
    repository::{
        listing::Listed,
        newest::{Criteria, Examined, Newest, Verdict, nearest},
        repo::Repository,
    },
    sys::task::Task,
};

/// The check's name in findings.
const CHECK: CheckName = CheckName("suspicious-backup");
/// How long the repositories have to say what the last backup held. pg_dump is not kept waiting for
/// it; the commit of a dump that took less is.
const LIMIT: Duration = Duration::from_secs(20);

/// What a new backup is compared with.
#[derive(Debug, Default)]
pub(super) struct Yardstick {
    last: Option<(BackupId, Measure)>,
    shrink: Option<Share>,
    /// Why there may be one that was not found.
    problems: Vec<String>,
}

impl Yardstick {
    /// Asks all repositories at once; none of them where backups are not compared.
    pub(super) async fn find(
        (shrink, asked): (Option<Share>, &Repositories),
        series: &Series,
        task: &Task,
    ) -> Self {
        let Some(shrink) = shrink else { return Self::default() };
        let now = task.clock.now().wall;
        let answers = asked.iter().map(|(name, opened)| async move {
            let repository = match opened {
                Ok(repository) => repository,
                Err(failure) => return Err(format!("{name}: {}", failure.what)),
            };
            let found = tokio::time::timeout(LIMIT, last(repository, series, now));
            let found = match task.unless_cancelled(found).await {
                Ok(Ok(found)) => found,
                Ok(Err(_)) => Err(format!("no answer within {LIMIT:?}")),
                Err(cancelled) => Err(cancelled.what),
            };
            match found {
                Ok(Last::Found(id, measure)) => Ok(Some((id, measure))),
                Ok(Last::None) => Ok(None),
                Ok(Last::InDoubt) => Err(format!("{name}: every backup there is in doubt")),
                Err(problem) => Err(format!("{name}: {problem}")),
            }
        });
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        for answer in join_all(answers).await {
            match answer {
                Ok(some) => found.extend(some),
                Err(problem) => problems.push(problem),
            }
        }
        Self { last: nearest(found), shrink: Some(shrink), problems }
    }

    fn judge(&self, new: &Measure) -> Vec<Suspicion> {
        let Some(shrink) = self.shrink else { return Vec::new() };
        match &self.last {
            Some((_, last)) => measure::judge(new, last, shrink),
            None if self.problems.is_empty() => Vec::new(),
            // Taken for a good one, it would release the last one that is.
            None => {
                let why = self.problems.join("; ");
                let what = format!("it could not be compared with the last one: {why}");
                vec![Suspicion::new(Kind::Other, what)]
            }
        }
    }
}

/// What a repository says about the last backup of a series.
#[derive(Debug, PartialEq, Eq)]
enum Last {
    /// The newest that is not in doubt, of those whose manifest can be read.
    Found(BackupId, Measure),
    /// There is none, in doubt or not.
    None,
    /// There are some, and all of them are in doubt.
    InDoubt,
}

/// Looks for the last backup of a series in a repository. A problem: none was found, and there may
/// be one.
async fn last(repository: &Repository, series: &Series, now: Timestamp) -> Result<Last, String> {
    // What the last one held stands in its manifest, whatever became of its data.
    let criteria = Criteria { trusted: true, manifest_alone: true, ..Criteria::default() };
    let newest = Newest::of(repository, series, criteria, now).await;
    let mut newest = newest.map_err(|error| chain(&error))?;
    let mut problem = None;
    while let Some((Listed { id, .. }, Examined { manifest, verdict })) =
        newest.next(repository).await.map_err(|error| chain(&error))?
    {
        let why = match (verdict, manifest) {
            (Verdict::Whole { .. }, Some(manifest)) => {
                return Ok(Last::Found(id, Measure::of(&manifest)));
            }
            (Verdict::Refused(error), _) => return Err(chain(&error)),
            (Verdict::Damaged(why), _) => why,
            (Verdict::Whole { .. }, None) => continue,
        };
        problem.get_or_insert_with(|| format!("{id} {why}"));
    }
    match problem {
        Some(problem) => Err(problem),
        None if newest.in_doubt => Ok(Last::InDoubt),
        None => Ok(Last::None),
    }
}

/// The backup that is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewBackup<'a> {
    pub(super) series: &'a Series,
    pub(super) id: &'a BackupId,
    /// `pg_dump` or `pg_dumpall`.
    pub(super) program: &'a str,
    pub(super) left_out: &'a [LeftOut],
    pub(super) command: &'a [String],
    /// Unlogged tables whose rows a standby does not have; none on a primary.
    pub(super) unlogged: Option<u64>,
}

/// What was found about a backup that is to be committed.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) suspicions: Vec<Suspicion>,
    /// Told in any case.
    said: Vec<Finding>,
    /// Told of a backup that exists.
    finding: Option<Finding>,
    output: Vec<String>,
}

/// Judges what the program made and said. A backup that is suspicious is told so in what is stored.
///
/// # Errors
/// When something was left out: what was stored is then given up.
pub(super) async fn judge(
    mut stored: Stored,
    backup: NewBackup<'_>,
    last: Yardstick,
    task: &Task,
) -> Result<(Stored, Judged), Failure> {
    let NewBackup { series, id, program, left_out, command, unlogged } = backup;
    let subject = series.subject.to_string();
    let said = Said::read(program, &stored.stderr);
    let mut said = match said.judge(program, &subject, left_out, task) {
        Ok(said) => said,
        Err(failure) => {
            stored.abandon().await;
            return Err(failure);
        }
    };
    if stored.unheard > 0 {
        // What says that something was left out may be among it.
        said.doubts.push(format!("{} bytes of what {program} said were not kept", stored.unheard));
    }
    let new = Measure {
        globals: series.subject == Subject::Globals,
        standby: unlogged.is_some(),
        unlogged: unlogged.unwrap_or(0),
        ..Measure::new(&stored.streamed.plain, stored.streamed.structure.totals.clone(), command)
    };
    let mut suspicions = last.judge(&new);
    let doubts = said.doubts.into_iter().map(|what| Suspicion::new(Kind::ToolOutput, what));
    suspicions.extend(doubts);
    let name = format!("{}/{subject}", series.server);
    let finding = if suspicions.is_empty() {
        None
    } else {
        let compared = last.last.as_ref().map(|(id, _)| id);
        Some(finding(&name, id, &suspicions, compared).about(Target::series(series)))
    };
    stored.suspicions.clone_from(&suspicions);
    Ok((stored, Judged { suspicions, said: said.findings, finding, output: said.output }))
}

fn finding(
    name: &str,
    id: &BackupId,
    suspicions: &[Suspicion],
    last: Option<&BackupId>,
) -> Finding {
    let than = last.map(|last| format!(" (compared with {last})")).unwrap_or_default();
    let until = last.map(|last| format!("; until then {last} is not pruned")).unwrap_or_default();
    let what =
        format!("backup {id} of {name} is SUSPICIOUS: {}{than}", suspicion::phrase(suspicions));
    Finding::new(CHECK, Severity::Warning, what).hint(format!(
        "look at it with `pgkeep show {id}`; if it is as it should be, `pgkeep acknowledge {id}`{until}"
    ))
}

impl Judged {
    /// What came of it in the repositories.
    pub(super) fn dumped(self, delivered: Vec<Delivered>) -> BackupOutcome {
        let mut findings = self.said;
        if delivered.iter().any(|(_, result)| result.is_ok()) {
            findings.extend(self.finding);
        }
        BackupOutcome { delivered, findings, held: None, output: self.output }
    }
}

#[cfg(test)]
mod tests;
