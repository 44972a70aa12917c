//! From what became of tables to the run's report: targets, counts, samples, findings, the plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    domain::{
        backup::Subject,
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        name::DatabaseName,
        pattern::Selection,
        relation::RelationName,
        report::{Figures, Outcome, Report, Step, TargetReport},
        target::Target,
        vacuum::Skip,
    },
    maintenance::vacuum::{DatabaseOutcome, TableOutcome},
};

use super::{super::RunContext, LAST_TABLES, Vacuum};

/// Tables of a database that are targets of their own, in each outcome; more are counted.
const TARGETS_MAX: usize = 100;
/// Steps of the plan of a dry run, and of a run whose journal keeps them.
const STEPS_MAX: usize = 10_000;
const STEPS_KEPT: usize = 500;
/// Findings about databases.
const FINDINGS_MAX: usize = 50;

/// One database of a run.
pub(super) struct Part<'a> {
    pub job: &'a Vacuum,
    pub cx: &'a RunContext,
    pub name: &'a DatabaseName,
    /// Whether all of its tables were meant, and not only those that failed before.
    pub whole: bool,
}

#[derive(Debug, Default)]
struct Counts {
    vacuumed: usize,
    skipped: BTreeMap<Skip, usize>,
    failed: usize,
    cancelled: bool,
}

impl Counts {
    fn of(done: &DatabaseOutcome) -> Self {
        let mut counts = Self::default();
        for (_, ended) in &done.ended {
            match ended {
                TableOutcome::Done => counts.vacuumed += 1,
                TableOutcome::Skipped(skip, _) => *counts.skipped.entry(*skip).or_default() += 1,
                TableOutcome::Failed(_) => counts.failed += 1,
                TableOutcome::Cancelled => counts.cancelled = true,
            }
        }
        counts
    }

    fn skipped(&self) -> usize {
        self.skipped.values().sum()
    }

    /// `2 locked, 1 not permitted`
    fn why(&self) -> String {
        let parts: Vec<String> =
            self.skipped.iter().map(|(skip, count)| format!("{count} {skip}")).collect();
        parts.join(", ")
    }
}

impl Part<'_> {
    pub(super) fn report(&self, mut done: DatabaseOutcome, report: &mut Report) {
        self.plan(&done, report);
        if self.cx.dry_run {
            return;
        }
        let counts = Counts::of(&done);
        if done.due == 0 && done.ended.is_empty() {
            done.output.push(format!("no table is due: {} were looked at", done.selected));
            if done.selected == 0 && self.whole {
                let why = "the patterns select none of its tables".to_owned();
                let target = self.job.target(self.name, None);
                report.targets.push(TargetReport::new(target, Outcome::Skipped(why)));
                return;
            }
        }
        let target = self.job.target(self.name, None);
        let earlier = self.cx.earlier.targets.iter().find(|known| known.target == target);
        let mut figures = figures(&done, &counts);
        let mut output = std::mem::take(&mut done.output);
        if let Some(earlier) = earlier.filter(|_| !self.whole) {
            figures = together(&earlier.figures, figures);
            output.splice(0..0, earlier.output.iter().cloned());
        }
        self.samples(&figures, report);
        let outcome = self.outcome(&done, &counts);
        report.targets.push(TargetReport { target, outcome, figures, output });
        self.tables(&done, report);
        let skipped = counts.skipped() > counts.skipped.get(&Skip::Gone).copied().unwrap_or(0);
        if skipped && report.findings.len() < FINDINGS_MAX {
            let what = format!(
                "database {}: {} of {} tables were skipped: {}",
                self.name,
                counts.skipped(),
                done.ended.len() + done.not_reached,
                counts.why()
            );
            report.findings.push(
                Finding::new(CheckName("tables-skipped"), Severity::Warning, what)
                    .hint(hint(&counts, self.job))
                    .about(Target::database(self.name)),
            );
        }
    }

    fn outcome(&self, done: &DatabaseOutcome, counts: &Counts) -> Outcome {
        if counts.cancelled {
            return Outcome::Cancelled;
        }
        if let Some(failure) = &done.failure {
            return self.cx.task.outcome(failure.clone());
        }
        let doing = || format!("vacuum database {}", self.name);
        if counts.failed > TARGETS_MAX {
            let what = format!("{} tables failed, more than are named", counts.failed);
            return Outcome::Failed(Failure::new(first_class(done), doing(), what));
        }
        if counts.vacuumed > 0 || !self.whole {
            return Outcome::Succeeded;
        }
        if counts.failed > 0 {
            let what = format!("all {} tables that were tried failed", counts.failed);
            return Outcome::Failed(Failure::new(first_class(done), doing(), what));
        }
        // A table that is gone needs nothing any more.
        let gone = counts.skipped.get(&Skip::Gone).copied().unwrap_or(0);
        if counts.skipped() > gone {
            let not_permitted = counts.skipped.contains_key(&Skip::NotPermitted)
                && !counts.skipped.contains_key(&Skip::Locked);
            let class = if not_permitted { Class::Privilege } else { Class::Lock };
            let what = format!("every table that is due was skipped: {}", counts.why());
            return Outcome::Failed(
                Failure::new(class, doing(), what).hint(hint(counts, self.job)),
            );
        }
        if done.not_reached > 0 {
            return Outcome::Skipped(
                "the maintenance window had ended before a table was begun".to_owned(),
            );
        }
        Outcome::Succeeded
    }

    /// Tables that were not done are targets of their own, and so are those that were not done in
    /// an earlier attempt.
    fn tables(&self, done: &DatabaseOutcome, report: &mut Report) {
        let known: BTreeMap<&str, &Outcome> = self
            .cx
            .earlier
            .targets
            .iter()
            .filter(|known| known.target.server.as_ref() == Some(self.job.server.name()))
            .filter(|known| {
                known.target.subject.as_ref().and_then(Subject::database) == Some(self.name)
            })
            .filter_map(|known| Some((known.target.object.as_deref()?, &known.outcome)))
            .collect();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (relation, ended) in &done.ended {
            let name = relation.to_string();
            let outcome = match ended {
                TableOutcome::Done => Outcome::Succeeded,
                TableOutcome::Skipped(skip, why) => Outcome::Skipped(format!("{skip}: {why}")),
                TableOutcome::Failed(failure) => Outcome::Failed(failure.clone()),
                TableOutcome::Cancelled => Outcome::Cancelled,
            };
            let again = known.contains_key(name.as_str());
            let count = named.entry(outcome.state()).or_default();
            *count += 1;
            if again || (outcome != Outcome::Succeeded && *count <= TARGETS_MAX) {
                let target = self.job.target(self.name, Some(name.clone()));
                report.targets.push(TargetReport::new(target, outcome));
            }
            seen.insert(name);
        }
        if done.failure.is_some() || Counts::of(done).cancelled {
            return;
        }
        for (name, outcome) in known {
            if matches!(outcome, Outcome::Failed(_)) && !seen.contains(name) {
                let why = match done.not_reached {
                    0 => "it is not due any more, or gone",
                    _ => "the maintenance window had ended",
                };
                let target = self.job.target(self.name, Some(name.to_owned()));
                report.targets.push(TargetReport::new(target, Outcome::Skipped(why.to_owned())));
            }
        }
    }

    fn plan(&self, done: &DatabaseOutcome, report: &mut Report) {
        let step = |relation: &RelationName, action: &str, reason: &str| Step {
            target: self.job.target(self.name, Some(relation.to_string())),
            action: action.to_owned(),
            reason: reason.to_owned(),
        };
        let action = self.job.action();
        let mut steps: Vec<Step> =
            done.plan.iter().map(|(relation, reason)| step(relation, action, reason)).collect();
        if self.cx.dry_run {
            steps.extend(done.ended.iter().filter_map(|(relation, ended)| match ended {
                TableOutcome::Skipped(skip, why) => {
                    Some(step(relation, "skip", &format!("{skip}: {why}")))
                }
                _ => None,
            }));
            steps.extend(done.left.iter().map(|(relation, why)| step(relation, "leave", why)));
        }
        let most = if self.cx.dry_run { STEPS_MAX } else { STEPS_KEPT };
        steps.truncate(most.saturating_sub(report.plan.len()));
        report.plan.extend(steps);
    }

    fn samples(&self, figures: &Figures, report: &mut Report) {
        let (server, label) = (self.job.server.name(), self.label());
        for (state, key) in STATES {
            let value = figures.counts.get(key).copied().unwrap_or(0) as f64;
            report.samples.push(LAST_TABLES.sample([server, &label, &state], value));
        }
    }

    fn label(&self) -> String {
        Subject::Database(self.name.clone()).label()
    }
}

/// States of the metric and the counts that they are.
const STATES: [(&str, &str); 4] = [
    ("vacuumed", "tables_vacuumed"),
    ("skipped", "tables_skipped"),
    ("failed", "tables_failed"),
    ("not_reached", "tables_not_reached"),
];

fn figures(done: &DatabaseOutcome, counts: &Counts) -> Figures {
    let counts = [
        ("tables", done.selected),
        ("tables_due", done.due),
        ("tables_vacuumed", counts.vacuumed),
        ("tables_skipped", counts.skipped()),
        ("tables_failed", counts.failed),
        ("tables_not_reached", done.not_reached),
    ];
    counts.into_iter().map(|(name, count)| (name, count as u64)).collect()
}

/// The counts of a whole database after some of its tables were tried again.
fn together(earlier: &Figures, again: Figures) -> Figures {
    let mut counts = earlier.counts.clone();
    for (name, count) in again.counts {
        match name.as_str() {
            "tables_failed" => drop(counts.insert(name, count)),
            "tables_vacuumed" | "tables_skipped" | "tables_not_reached" => {
                *counts.entry(name).or_default() += count;
            }
            _ => {}
        }
    }
    Figures { backup: None, counts }
}

fn first_class(done: &DatabaseOutcome) -> Class {
    let failed = done.ended.iter().find_map(|(_, ended)| match ended {
        TableOutcome::Failed(failure) => Some(failure.class),
        _ => None,
    });
    failed.unwrap_or(Class::Sql)
}

fn hint(counts: &Counts, job: &Vacuum) -> &'static str {
    if counts.skipped.contains_key(&Skip::NotPermitted) {
        "let `maintenance_user` of the server be a superuser or the owner of tables or database; \
         from PostgreSQL 17 on GRANT pg_maintain is enough; or leave the tables out (`tables`, \
         `exclude_tables`)"
    } else if job.settings.lock_timeout < Duration::from_secs(2) {
        "raise `lock_timeout`: autovacuum gives way only after deadlock_timeout, 1 s by default"
    } else {
        "look in the report who held the lock; run the job at another hour, or raise `lock_timeout`"
    }
}

impl Vacuum {
    pub(super) fn target(&self, name: &DatabaseName, object: Option<String>) -> Target {
        Target { object, ..Target::database(name).on(self.server.name()) }
    }

    /// Databases that a wildcard matches and that are left out all the same.
    pub(super) fn plan_databases(&self, selection: &Selection, report: &mut Report) {
        use crate::domain::pattern::Reason;
        let left = selection.left_out.iter().filter(|(_, why)| *why != Reason::NotIncluded);
        report.plan.extend(left.map(|(name, why)| Step {
            target: self.target(name, None),
            action: "leave".to_owned(),
            reason: why.to_string(),
        }));
        report.plan.truncate(STEPS_KEPT);
    }
}
