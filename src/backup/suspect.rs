//! Looks at a new backup before it is committed: does something seem to be missing in it?
//!
//! It is compared with the last one of its series that nobody has reason to doubt. All repositories
//! of the run are asked for that while pg_dump works, for a limited time, and the newest that they give
//! counts for all: so the same backup is judged once, however many repositories take it. One that
//! does not answer, or whose last manifest cannot be read, never makes a run fail.
//!
//! What can still go wrong: a repository that is away has a newer one than those that answer. Then an
//! older one is compared with, which finds less only if the database has shrunk since.

use std::{collections::VecDeque, time::Duration};

use futures_util::{TryStreamExt as _, future::join_all};
use jiff::Timestamp;

use super::{
    dump::{Dumped, Source},
    fanout::{Delivered, Stored},
    stderr::Said,
};
use crate::{
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Failure, chain},
        finding::{Finding, Severity},
        manifest::LeftOut,
        suspicion::{self, Kind, Measure, Share, Suspicion},
    },
    repository::{
        listing::{Entry, Within},
        repo::{ManifestProblem, Repository},
    },
    sys::task::Task,
};

/// The check's name in findings.
const CHECK: &str = "suspicious-backup";
/// How long the repositories have to say what the last backup held. pg_dump is not kept waiting for
/// it; the commit of a dump that took less is.
const LIMIT: Duration = Duration::from_secs(20);
/// Manifests that are tried in one repository, the newest first, where some cannot be read.
const TRIED_MAX: usize = 8;

/// What a new backup is compared with.
#[derive(Debug, Default)]
pub(super) struct Yardstick {
    last: Option<(BackupId, Measure)>,
    shrink: Option<Share>,
    /// Why there may be one that was not found.
    problems: Vec<String>,
}

impl Yardstick {
    /// Asks all repositories of a run at once.
    pub(super) async fn find(source: &Source<'_>, series: &Series, task: &Task) -> Self {
        let Some(shrink) = source.shrink else { return Self::default() };
        let now = task.clock.now().wall;
        let asked = source.repositories.iter().map(|repository| async move {
            let found = tokio::select! {
                biased;
                () = task.cancel.cancelled() => Err("the run was cancelled".to_owned()),
                found = tokio::time::timeout(LIMIT, last(repository, series, now)) => {
                    found.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
                }
            };
            found.map_err(|problem| format!("{}: {problem}", repository.name()))
        });
        let mut yardstick = Self { shrink: Some(shrink), ..Self::default() };
        for answer in join_all(asked).await {
            match answer {
                Ok(Some(found)) => {
                    if yardstick.last.as_ref().is_none_or(|(id, _)| *id < found.0) {
                        yardstick.last = Some(found);
                    }
                }
                Ok(None) => {}
                Err(problem) => yardstick.problems.push(problem),
            }
        }
        yardstick
    }

    fn judge(&self, new: &Measure) -> Vec<Suspicion> {
        let Some(shrink) = self.shrink else { return Vec::new() };
        match &self.last {
            Some((_, last)) => suspicion::judge(new, last, shrink),
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

/// The newest backup of a series in a repository that is not in doubt and whose manifest can be
/// read; none where there is no backup that is not in doubt.
async fn last(
    repository: &Repository,
    series: &Series,
    now: Timestamp,
) -> Result<Option<(BackupId, Measure)>, String> {
    let mut newest: VecDeque<BackupId> = VecDeque::new();
    let within = Within::Series(series.clone());
    let mut entries = repository.list(&within);
    while let Some(entry) = entries.try_next().await.map_err(|error| chain(&error))? {
        let Entry::Backup(listed) = entry else { continue };
        if listed.complete && !listed.is_suspicious() && listed.id.time() <= now {
            newest.push_back(listed.id);
        }
        if newest.len() > TRIED_MAX {
            newest.pop_front();
        }
    }
    let mut problem = None;
    for id in newest.into_iter().rev() {
        match repository.manifest(series, &id).await {
            Ok(manifest) => return Ok(Some((id, Measure::of(&manifest)))),
            Err(error @ ManifestProblem::Store(_)) => return Err(chain(&error)),
            Err(error) => {
                problem.get_or_insert_with(|| format!("{id}: {}", chain(&error)));
            }
        }
    }
    problem.map_or(Ok(None), Err)
}

/// Which backup is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) series: &'a Series,
    pub(super) id: &'a BackupId,
    /// What is being done, for messages.
    pub(super) doing: &'a str,
    /// What was left out with leave.
    pub(super) left_out: &'a [LeftOut],
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

/// Judges what `program` made and said. A backup that is suspicious is told so in what is stored.
///
/// # Errors
/// When something was left out: what was stored is then given up.
pub(super) async fn judge(
    mut stored: Stored,
    (program, about): (&str, About<'_>),
    last: Yardstick,
) -> Result<(Stored, Judged), Failure> {
    let subject = about.series.subject.to_string();
    let said = Said::read(program, &stored.stderr);
    let mut said = match said.judge(program, (&subject, about.doing), about.left_out) {
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
    let new = Measure::new(
        &stored.streamed.plain,
        stored.streamed.structure.totals.clone(),
        about.series.subject == Subject::Globals,
    );
    let mut suspicions = last.judge(&new);
    let doubts = said.doubts.into_iter().map(|what| Suspicion::new(Kind::ToolOutput, what));
    suspicions.extend(doubts);
    let name = format!("{}/{subject}", about.series.server);
    let finding = if suspicions.is_empty() {
        None
    } else {
        Some(finding(&name, about.id, &suspicions, last.last.as_ref().map(|(id, _)| id)))
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
    Finding {
        check: CHECK.to_owned(),
        severity: Severity::Warning,
        what: format!(
            "backup {id} of {name} is SUSPICIOUS: {}{than}",
            suspicion::phrase(suspicions)
        ),
        hint: Some(format!(
            "look at it with `pgkeep show {id}`; if it is as it should be, `pgkeep acknowledge \
             {id}`{until}"
        )),
    }
}

impl Judged {
    /// What came of it in the repositories.
    pub(super) fn dumped(self, delivered: Vec<Delivered>) -> Dumped {
        let mut findings = self.said;
        if delivered.iter().any(|(_, result)| result.is_ok()) {
            findings.extend(self.finding);
        }
        Dumped { delivered, findings, held: None, output: self.output }
    }
}
