//! The second look at a database: what is left of our own builds is dropped, records of builds that
//! are clean are forgotten, and what remains is counted and told.

use std::{collections::BTreeSet, time::Duration};

use crate::domain::{
    backup::Subject,
    failure::{Class, Failure},
    finding::{CheckName, Finding, Severity},
    index::{Action, DEBRIS, Index, Planned, debris, plan},
    report::{Figures, Outcome},
    target::Target,
};

use super::{
    Ending, Rebuilder, View,
    deadline::{Deadline, GRACE},
    look,
};

/// Findings of one database: the rest is counted.
const FINDINGS_MAX: usize = 50;

impl Rebuilder<'_> {
    /// Looks at the database once more: what is left is dropped, counted and told.
    pub(super) async fn look_again(&mut self) {
        let whole = self.target(None);
        let looked = self.try_look_again().await;
        if looked.is_err() || self.orders.only.is_some_and(|only| only.contains(&whole)) {
            let ended = looked.map(|()| Ending::Done(Figures::default()));
            self.push(whole, ended, Vec::new());
        }
    }

    async fn try_look_again(&mut self) -> Result<(), Failure> {
        self.reconnect(self.task).await?;
        let mut view = look(self.orders, &self.session, self.task).await?;
        if self.drop_what_is_left(&view).await? {
            view = look(self.orders, &self.session, self.task).await?;
        }
        self.forget(&view)?;
        let broken = |index: &&Index| !index.is_whole() && !view.activity.is_building(index.table);
        self.outcome.invalid = Some(view.indexes.iter().filter(broken).count());
        self.findings(&view);
        Ok(())
    }

    /// Drops what builds of this host have left behind, as far as it takes no longer than one lock
    /// is waited for. Whether anything was tried.
    async fn drop_what_is_left(&self, view: &View) -> Result<bool, Failure> {
        let mut own = self.own_debris(view).peekable();
        let (server, subject) = (self.orders.server.name(), Subject::Database(self.name.clone()));
        let gate = self.orders.gate;
        if own.peek().is_none() || self.busy {
            return Ok(false);
        }
        let Some(_pass) = gate.enter_within(Duration::ZERO, server, &subject, self.task).await?
        else {
            return Ok(false);
        };
        let limit = self.orders.lock_timeout;
        let deadline = Deadline::within(self.task, limit + GRACE);
        let begun = self.task.clock.now().mono;
        for index in own {
            let left = limit.saturating_sub(self.task.clock.now().mono.saturating_sub(begun));
            if left.is_zero() {
                break;
            }
            if let Err(failure) = self.drop_debris(index, left, &deadline.task).await {
                // The build's own failure, or a finding, tells of what is left.
                tracing::debug!("{failure}");
            }
        }
        Ok(true)
    }

    /// What this host's builds left behind, where nothing hinders its drop.
    fn own_debris<'v>(&self, view: &'v View) -> impl Iterator<Item = &'v Index> {
        let policy = self.orders.wishes.debris;
        view.indexes.iter().filter(move |index| {
            view.activity.hindrance(index.table).is_none()
                && debris(index, &view.indexes).is_some_and(|found| {
                    view.builds.iter().any(|build| found.is_of(build))
                        && found.may_be_dropped(policy, &view.builds).is_ok()
                })
        })
    }

    /// Forgets the builds of which nothing is left.
    fn forget(&self, view: &View) -> Result<(), Failure> {
        for build in &view.builds {
            let left = view
                .indexes
                .iter()
                .any(|index| debris(index, &view.indexes).is_some_and(|found| found.is_of(build)));
            if !left && !view.activity.is_building(build.table) {
                let removed = self.orders.ledger.remove(build);
                removed.map_err(|error| Failure::from_error(Class::State, self.task, &error))?;
            }
        }
        Ok(())
    }

    /// What nobody was going to do anything about, and debris that could not be dropped. What has
    /// failed or was left out has said so already.
    fn findings(&mut self, view: &View) {
        let unfinished = self.outcome.targets.iter().filter(|it| it.outcome != Outcome::Succeeded);
        let told: BTreeSet<&str> =
            unfinished.filter_map(|it| it.target.object.as_deref()).collect();
        let planned = plan(
            self.orders.wishes,
            self.orders.facts.version_num,
            &view.indexes,
            &view.activity,
            &view.builds,
        );
        let finding = |index: &Index, (check, reason, hint): (CheckName, &str, Option<String>)| {
            let base = debris(index, &view.indexes).and_then(|found| found.base);
            let labels = [Some(index.label()), base.map(Index::label)];
            let known = labels.iter().flatten().any(|label| told.contains(label.as_str()));
            let what = format!("index {} of database {}: {reason}", index.label(), self.name);
            let target = Target::database(self.name).with_object(index.label());
            let finding = Finding::new(check, Severity::Warning, what).about(target);
            (!known).then_some(Finding { hint, ..finding })
        };
        let left = |index: &Index| {
            let reason = "it is left behind by a build and could not be dropped yet";
            finding(index, (DEBRIS, reason, Some("the next run tries again".to_owned())))
        };
        let of = |it: &Planned<'_>| -> Vec<Finding> {
            match it.action {
                Action::Report(check) => {
                    finding(it.index, (check, &it.reason, it.hint.clone())).into_iter().collect()
                }
                Action::Drop => left(it.index).into_iter().collect(),
                _ => it.debris.iter().copied().filter_map(left).collect(),
            }
        };
        let mut found: Vec<Finding> = planned.iter().flat_map(of).collect();
        if found.len() > FINDINGS_MAX {
            let more = found.len() - FINDINGS_MAX;
            found.truncate(FINDINGS_MAX);
            let what = format!("database {}: {more} more such indexes", self.name);
            let more = |first| Finding { what, target: Target::database(self.name), ..first };
            found.extend(found.first().cloned().map(more));
        }
        self.outcome.findings = found;
    }
}
