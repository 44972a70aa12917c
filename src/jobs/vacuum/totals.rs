//! What only the end of all databases shows: tables that are nowhere, a window that was too short,
//! and how the server is after it all.

use std::collections::BTreeSet;

use crate::{
    domain::{
        backup::Subject,
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        relation::RelationName,
        report::{Outcome, Report, TargetReport},
        target::Target,
        units::format_duration,
        vacuum as rules,
    },
    maintenance::vacuum::{self, DatabaseOutcome},
};

use super::{
    super::{RunContext, visit::Visit},
    HELD_BACK_XMIN_AGE, OLDEST_XID_AGE, Vacuum,
};

/// What all databases brought together.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub selected: usize,
    pub named: BTreeSet<RelationName>,
    pub not_reached: usize,
    pub databases_not_reached: usize,
    /// Whether there is a database that nobody looked into.
    pub failed: bool,
}

impl Totals {
    pub(super) fn add(&mut self, outcome: &DatabaseOutcome) {
        self.selected += outcome.selected;
        self.named.extend(outcome.named.iter().cloned());
        self.not_reached += outcome.not_reached;
        self.failed |= outcome.failure.is_some();
    }
}

impl Vacuum {
    /// What only the end of all databases shows: tables that are nowhere, the window.
    pub(super) fn conclude(&self, cx: &RunContext, totals: &Totals, report: &mut Report) {
        if cx.only.is_none() && !totals.failed && totals.databases_not_reached == 0 {
            self.missing(totals, report);
        }
        if totals.not_reached + totals.databases_not_reached == 0 {
            return;
        }
        let window = self.window.map(format_duration).unwrap_or_default();
        let what = format!(
            "the maintenance window of {window} had ended before {} tables that are due and {} databases were begun",
            totals.not_reached, totals.databases_not_reached
        );
        report.findings.push(Finding::new(CheckName("maintenance-window"), Severity::Warning, what).hint(
            "the next run begins with those that need it most; lengthen `window`, lower `cost_delay`, \
             or run the job more often",
        ));
    }

    fn missing(&self, totals: &Totals, report: &mut Report) {
        let doing = format!("choose the tables of server {}", self.server.name());
        let hint = "look at `tables` and `exclude_tables` of the job";
        let literals = self.settings.rules.tables.literals();
        for literal in literals.iter().filter(|literal| !totals.named.contains(literal)) {
            let what = format!("no database of the job has a table {literal}");
            let failure = Failure::new(Class::Configuration, doing.clone(), what).hint(hint);
            let target = Target::server(self.server.name()).with_object(literal.to_string());
            report.targets.push(TargetReport::new(target, Outcome::Failed(failure)));
        }
        if totals.selected == 0 && literals.is_empty() && report.failure.is_none() {
            let failure = Failure::new(Class::Configuration, doing, "the patterns select no table");
            report.failure = Some(failure.hint(hint));
        }
    }

    /// How the server is after all this. What cannot be measured has no sample.
    pub(super) async fn measure(&self, cx: &RunContext, report: &mut Report) {
        let measure = cx.task.doing(format!("measure server {}", self.server.name()));
        let visit = match Visit::for_maintenance(&self.server, measure).await {
            Ok(visit) => visit,
            Err(failure) => return report.findings.push(unmeasured(&failure)),
        };
        let ask = visit.session.queries(&visit.task.cancel);
        let server = self.server.name();
        let ages = vacuum::ages(ask).await.unwrap_or_else(|error| {
            report.findings.push(unmeasured(&error));
            Vec::new()
        });
        report.findings.extend(rules::wraparound(&ages));
        report.samples.extend(
            ages.iter()
                .map(|age| OLDEST_XID_AGE.sample([server, &label(&age.name)], age.xids as f64)),
        );
        match vacuum::horizon(ask).await {
            Ok(horizon) => {
                let age = horizon.rows.as_ref().map_or(0, |holder| holder.age);
                report.samples.push(HELD_BACK_XMIN_AGE.sample([server], age as f64));
                report.findings.extend(rules::horizon(&horizon, self.xmin_held_for));
            }
            Err(error) => report.findings.push(unmeasured(&error)),
        }
        visit.end().await;
    }
}

/// What was found before must not seem to be over, only because nobody could look.
fn unmeasured(error: &impl std::fmt::Display) -> Finding {
    let what = format!("ages and the xmin horizon could not be measured: {error}");
    Finding::new(CheckName("vacuum-unmeasured"), Severity::Warning, what)
        .hint("whether a wraparound is near is not known: see the server's log")
}

fn label(name: &str) -> String {
    name.parse().map_or_else(|_| name.to_owned(), |name| Subject::Database(name).label())
}
