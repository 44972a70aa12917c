//! What a repository holds and what is to become of it: from one listing of names, series by series
//! in bounded memory, the manifest of the newest backup of each, and where something goes, the manifest
//! of each that stays in its place. A listing may be stale: it shows what is gone, or leaves out the
//! mark of a suspicious one, and what does not count pushes nothing out.

mod asked;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use futures_util::TryStreamExt as _;

use super::{Order, Steps};
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{Class, During, Failure, chain},
        finding::Finding,
        manifest::Owner,
        name::ServerName,
        owner::{Stranger, Whose, Written},
        retention::{self, Candidate, Proof, Reason, Reasons, Standing},
    },
    repository::{
        listing::{Entry, Listed, Within},
        repo::{ManifestProblem, Repository},
        store::StoreError,
    },
    sys::task::Task,
};

/// Damaged backups of one series that are passed over in search of a whole one.
const EXAMINED_MAX: usize = 16;
/// Backups of one series that are asked for although only their manifest is listed, the newest of them. Of
/// others the listing is believed: they stay, and nothing goes in their place.
const BARE_MAX: usize = 1_000;

/// Why nothing of a series is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It is another host's, or nobody may tell.
    Stranger(Owner),
    /// None of its newest backups can be counted on.
    NoneWhole,
    /// The repository refuses to say of a backup whether it may stand in another's place.
    Refused(String),
    /// More would go than the order allows.
    TooMany {
        /// So many would go.
        planned: usize,
        /// So many may.
        most: u32,
    },
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stranger(owner) => {
                write!(f, "the series belongs to another host, {}", owner.host)
            }
            Self::NoneWhole => f.write_str("no backup of the series can be counted on"),
            Self::Refused(why) => write!(f, "it is not known what can be counted on: {why}"),
            Self::TooMany { planned, most } => {
                write!(f, "{planned} would go, and max_remove is {most}")
            }
        }
    }
}

/// What is to become of one series.
#[derive(Debug)]
pub struct SeriesPlan {
    /// The series.
    pub series: Series,
    /// The newest whole backup, which stays whatever happens.
    pub floor: Option<BackupId>,
    /// The last one before suspicious backups that nobody has acknowledged, where the newest are
    /// such; it stays as well.
    pub before: Option<BackupId>,
    /// What goes, the oldest first.
    pub remove: Vec<BackupId>,
    /// Backups with a manifest that stay.
    pub kept: u64,
    /// Why nothing goes.
    pub held: Option<Held>,
}

/// What is to become of a repository.
#[derive(Debug)]
pub struct Survey {
    /// Every series of the order's servers that has a backup.
    pub series: Vec<SeriesPlan>,
    /// What was noticed.
    pub findings: Vec<Finding>,
    /// The plan, line by line.
    pub steps: Steps,
}

/// Looks at a repository and plans. Nothing is changed.
///
/// # Errors
/// When the repository cannot be listed or read, or the task is cancelled.
pub async fn survey(
    repository: &Repository,
    order: &Order<'_>,
    steps: Steps,
    task: &Task,
) -> Result<Survey, Failure> {
    let doing = format!("list {}", repository.name());
    task.progress.set_stage(&*doing);
    let mut surveyor = Surveyor::new(repository, order, (steps, task));
    tokio::select! {
        biased;
        () = task.cancel.cancelled() => {
            return Err(Failure::new(Class::Interrupted, doing, "the run was cancelled"));
        }
        result = surveyor.all() => result.during(&*doing)?,
    }
    Ok(surveyor.finish())
}

/// What manifest and sizes tell of a backup.
pub(super) struct Examined {
    /// Who wrote it, where its manifest can be read.
    written: Option<Written>,
    /// What is wrong with it.
    pub(super) problem: Option<String>,
}

/// Holds a backup's manifest against its listing. One that the store has and does not give (moved to
/// an archive class, not to be read by us) is a problem of that backup.
///
/// # Errors
/// Where the repository does not answer.
pub(super) async fn examine(
    repository: &Repository,
    listed: &Listed,
) -> Result<Examined, StoreError> {
    match repository.manifest(&listed.series, &listed.id).await {
        Ok(manifest) => {
            let problem = match repository.problems(listed, &manifest, 1).await {
                Ok(problems) => problems.first().map(ToString::to_string),
                Err(error) if error.kind.is_worth_a_retry() => return Err(error),
                Err(error) => Some(chain(&error)),
            };
            Ok(Examined { written: Some(manifest.into()), problem })
        }
        Err(ManifestProblem::Store(error)) if error.kind.is_worth_a_retry() => Err(error),
        Err(problem) => Ok(Examined { written: None, problem: Some(chain(&problem)) }),
    }
}

/// What stays of a series whatever happens.
struct Floors {
    newest: Option<BackupId>,
    before: Option<BackupId>,
}

/// The series that is being listed.
struct Open {
    series: Series,
    candidates: Vec<Candidate>,
    /// Its newest backups that may be whole, the newest last.
    newest: VecDeque<Listed>,
    /// The same of those that are not suspicious.
    trusted: VecDeque<Listed>,
    /// Those of which nothing but the manifest was listed, with their places among the candidates.
    bare: VecDeque<(usize, Listed)>,
    /// Why one that would stand in another's place cannot be looked at.
    refused: Option<String>,
}

impl Open {
    /// Takes note of one that may be the newest.
    fn count(&mut self, candidate: &Candidate, listed: Listed) {
        if !candidate.suspicious {
            keep_newest(&mut self.trusted, listed.clone());
        }
        keep_newest(&mut self.newest, listed);
    }
}

fn keep_newest(newest: &mut VecDeque<Listed>, listed: Listed) {
    let at = newest.partition_point(|it| it.id < listed.id);
    newest.insert(at, listed);
    if newest.len() > EXAMINED_MAX {
        newest.pop_front();
    }
}

struct Surveyor<'a> {
    repository: &'a Repository,
    order: &'a Order<'a>,
    plans: Vec<SeriesPlan>,
    steps: Steps,
    task: &'a Task,
    /// Backups of servers that are not meant.
    others: BTreeMap<ServerName, u64>,
    /// Servers that could not be asked where they are: they are not asked for each series.
    silent: BTreeSet<ServerName>,
    /// Series of other hosts: why and whose, and which.
    strangers: Vec<(Stranger, Written, Vec<Series>)>,
    damaged: Vec<Finding>,
    damaged_more: u64,
    future: u64,
}

impl<'a> Surveyor<'a> {
    fn new(
        repository: &'a Repository,
        order: &'a Order<'a>,
        (steps, task): (Steps, &'a Task),
    ) -> Self {
        Self {
            repository,
            order,
            plans: Vec::new(),
            steps,
            task,
            others: BTreeMap::new(),
            silent: BTreeSet::new(),
            strangers: Vec::new(),
            damaged: Vec::new(),
            damaged_more: 0,
            future: 0,
        }
    }

    async fn all(&mut self) -> Result<(), StoreError> {
        let repository = self.repository;
        let mut entries = repository.list(&Within::All);
        let mut open: Option<Open> = None;
        while let Some(entry) = entries.try_next().await? {
            let Entry::Backup(listed) = entry else { continue };
            if !self.order.servers.contains(&listed.series.server) {
                *self.others.entry(listed.series.server).or_default() += u64::from(listed.complete);
                continue;
            }
            // A listing comes in order: one series after the other.
            match &mut open {
                Some(open) if open.series == listed.series => self.take(open, listed),
                _ => {
                    let mut next = Open {
                        series: listed.series.clone(),
                        candidates: Vec::new(),
                        newest: VecDeque::new(),
                        trusted: VecDeque::new(),
                        bare: VecDeque::new(),
                        refused: None,
                    };
                    self.take(&mut next, listed);
                    if let Some(whole) = open.replace(next) {
                        self.close(whole).await?;
                    }
                }
            }
        }
        match open {
            Some(open) => self.close(open).await,
            None => Ok(()),
        }
    }

    fn take(&mut self, open: &mut Open, listed: Listed) {
        let proves = |proof| {
            listed.objects.iter().any(|object| Proof::from_name(&object.name) == Some(proof))
        };
        let is_ahead = |written| retention::is_ahead(&listed.id, written);
        let mut candidate = Candidate {
            standing: if listed.complete { Standing::Complete } else { Standing::Incomplete },
            verified: proves(Proof::Verified),
            drilled: proves(Proof::Drilled),
            held: false,
            ahead: listed.newest_modified().is_some_and(is_ahead),
            suspicious: listed.is_suspicious(),
            id: listed.id.clone(),
        };
        let is_bare = listed.complete && !listed.has_data();
        if is_bare {
            candidate.standing = Standing::Damaged;
        }
        if listed.complete && candidate.is_from_the_future(self.order.now) {
            self.future += 1;
        }
        if candidate.counts(self.order.now) {
            open.count(&candidate, listed);
        } else if is_bare {
            open.bare.push_back((open.candidates.len(), listed));
            if open.bare.len() > BARE_MAX
                && let Some((_, oldest)) = open.bare.pop_front()
            {
                self.report_damage(
                    &oldest.series,
                    &oldest.id,
                    "nothing but its manifest is listed",
                );
            }
        }
        open.candidates.push(candidate);
    }

    /// Plans a series of which all was listed.
    async fn close(&mut self, mut open: Open) -> Result<(), StoreError> {
        self.ask_bare(&mut open).await?;
        let mut written = None;
        let mut floor = None;
        while let Some(listed) = open.newest.pop_back() {
            let examined = examine(self.repository, &listed).await?;
            written = written.or(examined.written);
            let Some(problem) = examined.problem else {
                floor = Some(listed.id);
                break;
            };
            self.report_damage(&listed.series, &listed.id, &problem);
            for candidate in open.candidates.iter_mut().filter(|it| it.id == listed.id) {
                candidate.standing = Standing::Damaged;
            }
        }
        let (reasons, before) = self.decide(&mut open, floor.as_ref()).await?;
        let goes = reasons.iter().filter(|reasons| reasons.is_empty()).count();
        let stranger = Box::pin(self.stranger(&open.series, written)).await;
        let held = match (stranger, self.order.max_remove) {
            (Some(owner), _) => Some(Held::Stranger(owner)),
            (None, _) if floor.is_none() => Some(Held::NoneWhole),
            (None, _) if open.refused.is_some() => open.refused.take().map(Held::Refused),
            (None, Some(most)) if u32::try_from(goes).is_ok_and(|goes| goes <= most) => None,
            (None, Some(most)) => Some(Held::TooMany { planned: goes, most }),
            (None, None) => None,
        };
        self.add(open.series, &open.candidates, &reasons, (Floors { newest: floor, before }, held));
        Ok(())
    }

    /// Whose the series is whose newest backup that can be read is `newest`, where it is not this
    /// host's. A server that cannot be asked tells nothing: what it left is pruned when it is gone.
    async fn stranger(&mut self, series: &Series, newest: Option<Written>) -> Option<Owner> {
        let (newest, owners) = (newest?, self.order.owners);
        let by_name = || owners.whose_by_name(self.repository, series, &newest);
        let whose = if self.silent.contains(&series.server) {
            by_name()
        } else {
            match owners.whose(self.repository, series, &newest, self.task).await {
                Ok(whose) => whose,
                Err(failure) => {
                    tracing::debug!(%failure, "whose a series is was decided without its server");
                    self.silent.insert(series.server.clone());
                    by_name()
                }
            }
        };
        let Whose::Strange(why) = whose else { return None };
        let owner = newest.owner.clone();
        let same = |(known, of, _): &&mut (Stranger, Written, Vec<Series>)| {
            std::mem::discriminant(known) == std::mem::discriminant(&why) && of.owner == owner
        };
        match self.strangers.iter_mut().find(same) {
            Some((_, _, all)) => all.push(series.clone()),
            None => self.strangers.push((why, newest, vec![series.clone()])),
        }
        Some(owner)
    }

    /// Decides, and makes sure that what stays in the place of others can be counted on.
    async fn decide(
        &mut self,
        open: &mut Open,
        floor: Option<&BackupId>,
    ) -> Result<(Vec<Reasons>, Option<BackupId>), StoreError> {
        // The newest as well: it may be in doubt, and the listing leave its mark out.
        let mut asked = vec![false; open.candidates.len()];
        loop {
            let (reasons, before) = self.plan(open).await?;
            let goes = reasons.iter().any(|reasons| reasons.is_empty());
            if floor.is_none() || !goes || self.ask(open, &reasons, &mut asked).await? {
                return Ok((reasons, before));
            }
        }
    }

    /// Plans, and makes sure that the backup which stays because newer ones are suspicious is a
    /// whole one: a damaged one would be no help.
    async fn plan(
        &mut self,
        open: &mut Open,
    ) -> Result<(Vec<Reasons>, Option<BackupId>), StoreError> {
        loop {
            let reasons = retention::plan(self.order.policy, &open.candidates, self.order.now);
            let holds = |reasons: &Reasons| reasons.contains(Reason::BeforeSuspicious);
            let Some(at) = reasons.iter().position(holds) else { return Ok((reasons, None)) };
            let id = open.candidates[at].id.clone();
            let Some(listed) = open.trusted.iter().find(|listed| listed.id == id) else {
                return Ok((reasons, Some(id)));
            };
            let Some(problem) = examine(self.repository, listed).await?.problem else {
                return Ok((reasons, Some(id)));
            };
            self.report_damage(&open.series, &id, &problem);
            open.candidates[at].standing = Standing::Damaged;
        }
    }

    fn add(
        &mut self,
        series: Series,
        candidates: &[Candidate],
        reasons: &[Reasons],
        (floors, held): (Floors, Option<Held>),
    ) {
        let note = held.as_ref().map(ToString::to_string);
        let mut remove = Vec::new();
        for (candidate, reasons) in candidates.iter().zip(reasons) {
            let unkept = reasons.is_empty();
            let note = note.as_deref().filter(|_| unkept);
            let goes = unkept && note.is_none();
            self.steps.push(&series, &candidate.id, goes, *reasons, note);
            if goes {
                remove.push(candidate.id.clone());
            }
        }
        let is_backup = |it: &&Candidate| it.standing != Standing::Incomplete;
        let backups = candidates.iter().filter(is_backup).count();
        if backups > 0 {
            let kept = (backups - remove.len()) as u64;
            let Floors { newest: floor, before } = floors;
            self.plans.push(SeriesPlan { series, floor, before, remove, kept, held });
        }
    }
}
