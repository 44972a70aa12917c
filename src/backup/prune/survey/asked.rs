//! Asks for what a plan counts on, object by object: a listing may be stale, or leave things out.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Open, Surveyor};
use crate::{
    domain::{
        failure::chain,
        retention::{Candidate, Reason, Reasons, Standing},
        suspicion::ACKNOWLEDGED_NAME,
    },
    repository::{newest::Verdict, store::StoreError},
};

/// Backups that are asked for at once.
const ASKED_AT_ONCE: usize = 8;

/// What a plan did not know of a backup.
enum Change {
    Damaged,
    Suspicious(bool),
}

impl Surveyor<'_> {
    /// Asks for those of which a listing showed nothing but the manifest. One that is whole counts.
    ///
    /// # Errors
    /// Where the repository does not answer.
    pub(super) async fn ask_bare(&mut self, open: &mut Open) -> Result<(), StoreError> {
        let (repository, bare) = (self.repository, std::mem::take(&mut open.bare));
        let looks = bare.into_iter().map(|(at, listed)| async move {
            let examined = repository.examine(&listed.series, &listed.id, Some(&listed)).await;
            (at, listed, examined)
        });
        let mut looks = stream::iter(looks).buffer_unordered(ASKED_AT_ONCE);
        while let Some((at, listed, examined)) = looks.next().await {
            match examined?.verdict {
                Verdict::Whole { .. } => open.candidates[at].standing = Standing::Complete,
                Verdict::Refused(error) => open.refuse(&error),
                Verdict::Damaged(problem) => {
                    self.report_damage(&listed.series, &listed.id, &problem);
                }
            }
        }
        Ok(())
    }

    /// Asks for the manifest of each backup that stands in the place of another, and for who
    /// acknowledged one in doubt that goes. False: the candidates changed, and the plan with them.
    /// What the repository refuses to say is noted: nothing of the series goes then.
    pub(super) async fn ask(
        &mut self,
        open: &mut Open,
        reasons: &[Reasons],
        asked: &mut [bool],
    ) -> Result<bool, StoreError> {
        let changes = self.changes(open, reasons, asked).await?;
        for ((asked, candidate), reasons) in asked.iter_mut().zip(&open.candidates).zip(reasons) {
            *asked |= is_due(candidate, *reasons);
        }
        for (at, change) in &changes {
            let candidate = &mut open.candidates[*at];
            match change {
                Change::Damaged => candidate.standing = Standing::Damaged,
                Change::Suspicious(suspicious) => {
                    candidate.suspicious = *suspicious;
                    // One that is not may stand in another's place now, and its manifest was not read.
                    asked[*at] = *suspicious;
                }
            }
        }
        Ok(changes.is_empty() || open.refused.is_some())
    }

    /// Asks for those that were not asked for yet. Of what is as it was listed nothing is kept: it may be
    /// nearly all of very many.
    async fn changes(
        &mut self,
        open: &mut Open,
        reasons: &[Reasons],
        asked: &[bool],
    ) -> Result<Vec<(usize, Change)>, StoreError> {
        let (repository, series, candidates) = (self.repository, &open.series, &open.candidates);
        let due = (0..candidates.len())
            .filter(|at| !asked[*at] && is_due(&candidates[*at], reasons[*at]));
        let looks = due.map(|at| async move {
            let Candidate { id, suspicious, .. } = &candidates[at];
            let verdict = if reasons[at].is_empty() {
                match repository.has(series, id, ACKNOWLEDGED_NAME).await {
                    Ok(there) => Verdict::Whole { in_doubt: !there },
                    Err(error) => Verdict::of(error)?,
                }
            } else {
                match repository.examine(series, id, None).await?.verdict {
                    // A mark that is listed is enough for a doubt.
                    Verdict::Whole { in_doubt } => {
                        Verdict::Whole { in_doubt: in_doubt || *suspicious }
                    }
                    verdict => verdict,
                }
            };
            Ok::<_, StoreError>((at, verdict))
        });
        let mut looks = stream::iter(looks).buffer_unordered(ASKED_AT_ONCE);
        let mut changes = Vec::new();
        while let Some((at, verdict)) = looks.try_next().await? {
            match verdict {
                Verdict::Whole { in_doubt } if in_doubt == candidates[at].suspicious => {}
                Verdict::Whole { in_doubt } => changes.push((at, Change::Suspicious(in_doubt))),
                Verdict::Refused(error) => {
                    open.refused.get_or_insert_with(|| chain(&error));
                }
                Verdict::Damaged(problem) => {
                    self.report_damage(series, &candidates[at].id, &problem);
                    changes.push((at, Change::Damaged));
                }
            }
        }
        Ok(changes)
    }
}

/// Whether it stands in the place of another, or goes although somebody may have acknowledged it.
fn is_due(candidate: &Candidate, reasons: Reasons) -> bool {
    let stands = reasons.iter().any(Reason::pushes_out);
    stands || (candidate.suspicious && reasons.is_empty())
}
