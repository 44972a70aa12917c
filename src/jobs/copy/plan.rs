//! What is to be brought, in its order, and what is left where it is.

use std::sync::Arc;

use crate::{
    backup::transfer::Item,
    domain::{
        backup::Series,
        name::RepositoryName,
        report::Step,
        target::Target,
        transfer::{Decided, place},
    },
    repository::repo::Repository,
};

use super::{KIND, report};

/// Lines of a plan. The rest is said in one.
pub(super) const STEPS_MAX: usize = 500;

/// What is to be brought, and what is left.
#[derive(Default)]
pub(super) struct Plan {
    queue: Vec<Queued>,
    left: Vec<Step>,
}

struct Queued {
    name: RepositoryName,
    series: Arc<Series>,
    decided: Decided,
    /// None: there is no repository yet, in a dry run.
    target: Option<Arc<Repository>>,
    unfinished: bool,
}

impl Plan {
    pub(super) fn bring(
        &mut self,
        name: &RepositoryName,
        series: &Arc<Series>,
        decided: Decided,
        target: Option<Arc<Repository>>,
        unfinished: bool,
    ) {
        let (name, series) = (name.clone(), Arc::clone(series));
        self.queue.push(Queued { name, series, decided, target, unfinished });
    }

    pub(super) fn leave(&mut self, step: Step) {
        self.left.push(step);
    }

    /// What is copied in the order in which it is, then what is left.
    pub(super) fn steps(&mut self) -> Vec<Step> {
        self.queue.sort_by_key(|queued| place(&queued.decided));
        let copies = self.queue.iter().map(|Queued { name, series, decided, .. }| {
            let object = Some(decided.id.to_string());
            let target = Target { object, ..report::target(name, series) };
            Step { target, action: KIND.name.to_owned(), reason: decided.decision.to_string() }
        });
        let mut steps: Vec<Step> = copies.take(STEPS_MAX).collect();
        steps.extend(self.left.iter().take(STEPS_MAX - steps.len()).cloned());
        let more = self.queue.len() + self.left.len() - steps.len();
        if more > 0 {
            let (target, action) = (Target::default(), "more".to_owned());
            steps.push(Step { target, action, reason: format!("{more} more lines are not shown") });
        }
        steps
    }

    pub(super) fn items(self) -> Vec<Item> {
        let items = self.queue.into_iter().filter_map(|queued| {
            let Queued { series, decided, target, unfinished, .. } = queued;
            Some(Item { target: target?, series, id: decided.id, rank: decided.rank, unfinished })
        });
        items.collect()
    }
}
