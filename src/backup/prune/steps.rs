//! A plan as a report holds it: one line per backup, up to a limit. What does not fit is counted,
//! and said; removals have precedence.

use std::collections::BTreeMap;

use crate::domain::{
    backup::{BackupId, Series},
    name::RepositoryName,
    report::Step,
    retention::Reasons,
    target::Target,
};

/// The lines of a plan for one repository.
#[derive(Debug)]
pub struct Steps {
    repository: RepositoryName,
    most: usize,
    lines: Vec<(bool, Step)>,
    /// What is not among the lines: whether it goes, why it stays, how many.
    cut: BTreeMap<(bool, Reasons), u64>,
    /// Why those stay that were taken from the lines again.
    kept: Vec<Reasons>,
}

impl Steps {
    /// No lines yet, at most `most`.
    pub fn new(repository: RepositoryName, most: usize) -> Self {
        Self { repository, most, lines: Vec::new(), cut: BTreeMap::new(), kept: Vec::new() }
    }

    /// Adds what becomes of a backup. `note`: why it stays although nothing keeps it.
    pub fn push(
        &mut self,
        series: &Series,
        id: &BackupId,
        goes: bool,
        reasons: Reasons,
        note: Option<&str>,
    ) {
        if self.lines.len() >= self.most && goes {
            self.make_room();
        }
        if self.lines.len() >= self.most {
            *self.cut.entry((goes, reasons)).or_default() += 1;
            return;
        }
        let target = Target {
            server: Some(series.server.clone()),
            subject: Some(series.subject.clone()),
            repository: Some(self.repository.clone()),
            object: Some(id.to_string()),
        };
        let reason = match note {
            Some(note) => format!("{reasons}, but {note}"),
            None => reasons.to_string(),
        };
        self.lines.push((goes, Step { target, action: action(goes), reason }));
        if !goes {
            self.kept.push(reasons);
        }
    }

    /// Only counts from now on what stays.
    fn make_room(&mut self) {
        for reasons in self.kept.drain(..) {
            *self.cut.entry((false, reasons)).or_default() += 1;
        }
        self.lines.retain(|(goes, _)| *goes);
    }

    /// All of it.
    pub fn finish(self) -> Vec<Step> {
        let target = Target { repository: Some(self.repository), ..Target::default() };
        let cut = self.cut.into_iter().rev().map(|((goes, reasons), count)| Step {
            target: target.clone(),
            action: action(goes),
            reason: format!("and {count} more that are not listed: {reasons}"),
        });
        self.lines.into_iter().map(|(_, step)| step).chain(cut).collect()
    }
}

fn action(goes: bool) -> String {
    if goes { "remove" } else { "keep" }.to_owned()
}
