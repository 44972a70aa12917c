//! What a repository holds and what is to become of it: from one listing of names, series by series
//! in bounded memory, the manifest of the newest backup of each, and where something goes, the manifest
//! of each that stays in its place. A listing may be stale: it shows what is gone, or leaves out the
//! mark of a suspicious one, and what does not count pushes nothing out.

mod asked;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::{Order, Steps};
use crate::{
    domain::{
        backup::{BackupId, Series},
        failure::{During, Failure, chain},
        finding::Finding,
        manifest::Owner,
        name::ServerName,
        owner::{Stranger, Whose, Written},
        retention::{self, Candidate, Proof, Reason, Reasons, Standing},
    },
    repository::{
        listing::{Entry, Listed, Within},
        newest::{Criteria, Newest, Verdict},
        repo::Repository,
        store::StoreError,
    },
    sys::task::Task,
};

/// Backups of one series that are asked for although only their manifest is listed, the newest of them. Of
/// others the listing is believed: they stay, and nothing goes in their place.
const BARE_MAX: usize = 1_000;

/// Why nothing of a series is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It is another host's, or nobody may tell.
    Stranger(Owner),
    /// None of its newest backups is whole.
    NoneWhole,
    /// The repository refuses to say of a backup whether it may stand in another's place.
    Refused(String),
    /// More would go than the order allows.
    TooMany { planned: usize, most: u32 },
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stranger(owner) => {
                write!(f, "the series belongs to another host, {}", owner.host)
            }
            Self::NoneWhole => f.write_str("no backup of the series is whole"),
            Self::Refused(why) => write!(f, "it is not known which backups are whole: {why}"),
            Self::TooMany { planned, most } => {
                write!(f, "{planned} would go, and max_remove is {most}")
            }
        }
    }
}

/// What is to become of one series.
#[derive(Debug)]
pub struct SeriesPlan {
    pub series: Series,
    /// The newest whole backup, which stays whatever happens.
    pub floor: Option<BackupId>,
    /// The last one before suspicious backups that nobody has acknowledged, where the newest are
    /// such; it stays as well.
    pub before: Option<BackupId>,
    pub remove: Vec<BackupId>,
    pub kept: u64,
    pub held: Option<Obstacle>,
}

/// What is to become of a repository.
#[derive(Debug)]
pub struct Survey {
    pub series: Vec<SeriesPlan>,
    pub findings: Vec<Finding>,
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
    let task = &task.doing(format!("list {}", repository.name()));
    task.progress.set_stage(task);
    let mut surveyor = Surveyor {
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
    };
    task.unless_cancelled(surveyor.all()).await?.during(task)?;
    Ok(surveyor.finish())
}

/// The series that is being listed.
struct Open {
    series: Series,
    candidates: Vec<Candidate>,
    newest: Newest,
    /// The newest of those that are not in doubt.
    trusted: Newest,
    /// Those of which nothing but the manifest was listed, with their places among the candidates.
    bare: VecDeque<(usize, Listed)>,
    /// Why one that would stand in another's place cannot be looked at.
    refused: Option<String>,
}

impl Open {
    fn new(series: Series, now: Timestamp) -> Self {
        let trusted = Criteria { trusted: true, ..Criteria::default() };
        let [newest, trusted] = [Criteria::default(), trusted].map(|it| Newest::new(it, now));
        let (candidates, bare) = (Vec::new(), VecDeque::new());
        Self { series, candidates, newest, trusted, bare, refused: None }
    }

    /// Takes note of one that may be the newest.
    fn count(&mut self, listed: &Listed) {
        self.trusted.take(listed.clone());
        self.newest.take(listed.clone());
    }

    fn stands(&mut self, id: &BackupId, standing: Standing) {
        if let Some(candidate) = self.candidates.iter_mut().rfind(|it| it.id == *id) {
            candidate.standing = standing;
        }
    }

    fn refuse(&mut self, error: &StoreError) {
        self.refused.get_or_insert_with(|| chain(error));
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

impl Surveyor<'_> {
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
                    let mut next = Open::new(listed.series.clone(), self.order.now);
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
        let mut candidate = Candidate {
            standing: if listed.complete { Standing::Complete } else { Standing::Incomplete },
            verified: listed.proves(Proof::Verified),
            drilled: listed.proves(Proof::Drilled),
            held: false,
            ahead: listed.is_ahead(),
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
        open.count(&listed);
        if is_bare {
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
        let mut written = None;
        let mut floor = None;
        while let Some((listed, examined)) = open.newest.next(self.repository).await? {
            written = written.or_else(|| examined.manifest.map(Written::from));
            open.bare.retain(|(_, bare)| bare.id != listed.id);
            match examined.verdict {
                Verdict::Whole { .. } => {
                    open.stands(&listed.id, Standing::Complete);
                    floor = Some(listed.id);
                    break;
                }
                Verdict::Refused(error) => open.refuse(&error),
                Verdict::Damaged(problem) => {
                    self.report_damage(&listed.series, &listed.id, &problem);
                    open.stands(&listed.id, Standing::Damaged);
                }
            }
        }
        self.ask_bare(&mut open).await?;
        let (reasons, before) = self.decide(&mut open, floor.as_ref()).await?;
        let goes = reasons.iter().filter(|reasons| reasons.is_empty()).count();
        let stranger = Box::pin(self.stranger(&open.series, written)).await;
        let held = match (stranger, self.order.max_remove) {
            (Some(owner), _) => Some(Obstacle::Stranger(owner)),
            (None, _) if open.refused.is_some() => open.refused.take().map(Obstacle::Refused),
            (None, _) if floor.is_none() => Some(Obstacle::NoneWhole),
            (None, Some(most)) if u32::try_from(goes).is_ok_and(|goes| goes <= most) => None,
            (None, Some(most)) => Some(Obstacle::TooMany { planned: goes, most }),
            (None, None) => None,
        };
        let Open { series, candidates, .. } = open;
        let plan = SeriesPlan { series, floor, before, remove: Vec::new(), kept: 0, held };
        self.add(plan, &candidates, &reasons);
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

    /// Decides, and makes sure that what stays in the place of others is whole.
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
            let (series, id) = (&open.series, open.candidates[at].id.clone());
            let Some(listed) = open.trusted.rest().find(|listed| listed.id == id) else {
                return Ok((reasons, Some(id)));
            };
            match self.repository.examine(series, &id, Some(listed)).await?.verdict {
                Verdict::Whole { .. } => return Ok((reasons, Some(id))),
                Verdict::Refused(error) => {
                    open.refuse(&error);
                    return Ok((reasons, Some(id)));
                }
                Verdict::Damaged(problem) => {
                    self.report_damage(series, &id, &problem);
                    open.candidates[at].standing = Standing::Damaged;
                }
            }
        }
    }

    fn add(&mut self, mut plan: SeriesPlan, candidates: &[Candidate], reasons: &[Reasons]) {
        let note = plan.held.as_ref().map(ToString::to_string);
        for (candidate, reasons) in candidates.iter().zip(reasons) {
            let unkept = reasons.is_empty();
            let note = note.as_deref().filter(|_| unkept);
            let goes = unkept && note.is_none();
            self.steps.push(&plan.series, &candidate.id, goes, *reasons, note);
            if goes {
                plan.remove.push(candidate.id.clone());
            }
        }
        let is_backup = |it: &&Candidate| it.standing != Standing::Incomplete;
        let backups = candidates.iter().filter(is_backup).count();
        if backups > 0 {
            plan.kept = (backups - plan.remove.len()) as u64;
            self.plans.push(plan);
        }
    }
}
