//! Who is told of what: between the engine, the journal that remembers what was told, and the
//! receivers.
//!
//! What a receiver was told is kept in the journal once it has arrived, not before: a notice that was
//! given up, or was under way when the process died, is told again after the job's next run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    domain::{
        name::{JobName, NotifyName},
        notice::{Event, Memory, Notice, Origin, decide},
        report::Verdict,
        run::EndedRun,
    },
    sys::{clock::Clock, host, time_limits},
    telemetry::{
        metrics::Metrics,
        notify::{Letter, Notifier, Post, Told},
    },
};

use super::{
    journal::{Journal, RunRecord},
    table::{Configured, Table},
};

/// How long the end of the process waits for what is still to be sent.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Notices {
    post: Arc<Post>,
    host: String,
    /// What was decided to be told, whether it has arrived or not.
    decided: Mutex<HashMap<(JobName, NotifyName), Decided>>,
}

/// What a receiver is taken to know of a job.
#[derive(Debug, Default)]
struct Decided {
    memory: Memory,
    /// Letters on their way that change what it knows.
    under_way: usize,
    /// What it knew before the first of them that was lost; a later one that arrives makes up for it.
    untold: Option<Memory>,
}

/// The receivers of a job, as they are configured now.
fn receivers<'a>(table: &'a Table, job: &'a Configured) -> impl Iterator<Item = &'a Arc<Notifier>> {
    job.notify.iter().filter_map(|name| table.notifiers.get(name))
}

impl Notices {
    pub(super) fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let (host, decided) = (host::hostname(), Mutex::default());
        Self { post: Post::new(metrics, clock), host, decided }
    }

    fn origin(&self, job: &Configured) -> Origin {
        Origin {
            host: self.host.clone(),
            job: job.common.name.clone(),
            kind: job.kind.name.to_owned(),
            servers: job.job.servers(),
        }
    }

    /// A run was started.
    pub(super) fn started(&self, table: &Table, job: &Configured, run: &str, at: Timestamp) {
        if job.job.may_skip() {
            return;
        }
        for notifier in receivers(table, job).filter(|to| to.rules.on.contains(&Event::Start)) {
            let notice = Notice::start(&self.origin(job), run, at);
            let name = job.common.name.clone();
            notifier.send(&self.post, Letter { notice, job: name, told: None });
        }
    }

    /// A run ended; `previous` is how the one before did.
    pub(super) fn ended(
        &self,
        table: &Table,
        journal: &Journal,
        job: &Configured,
        run: &EndedRun,
        previous: Option<Verdict>,
    ) {
        self.settle(journal);
        let name = &job.common.name;
        for notifier in receivers(table, job) {
            let rules = &notifier.rules;
            let before = self.memory(journal, name, &notifier.name);
            let decision = decide(&before, run, rules);
            let after = decision.memory;
            let told = decision.event.is_some() && after != before;
            self.decide(name, &notifier.name, after.clone(), told);
            let Some(event) = decision.event else {
                if after != before {
                    keep(journal, name, &notifier.name, &after);
                }
                continue;
            };
            let notice = Notice::end(event, &self.origin(job), run, previous, rules.min_severity);
            let told = told.then_some(Told { before, after });
            notifier.send(&self.post, Letter { notice, job: name.clone(), told });
        }
    }

    /// Runs that the process before did not live to see the end of.
    pub(super) fn interrupted(&self, table: &Table, journal: &Journal, runs: &[RunRecord]) {
        for record in runs {
            let (Some(job), Some(run)) = (table.jobs.get(&record.job), record.ended()) else {
                continue;
            };
            let earlier = journal.runs(&record.job, 2).into_iter().nth(1);
            let earlier = earlier.and_then(|earlier| earlier.ended());
            self.ended(table, journal, job, &run, earlier.map(|earlier| earlier.verdict));
        }
    }

    fn memory(&self, journal: &Journal, job: &JobName, notify: &NotifyName) -> Memory {
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let known = decided.get(&(job.clone(), notify.clone())).map(|known| known.memory.clone());
        known.unwrap_or_else(|| journal.job(job).told.remove(notify).unwrap_or_default())
    }

    /// `told`: a letter goes out that tells it.
    fn decide(&self, job: &JobName, notify: &NotifyName, memory: Memory, told: bool) {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let known = decided.entry((job.clone(), notify.clone())).or_default();
        known.memory = memory;
        known.under_way += usize::from(told);
    }

    /// A letter arrived, or was lost. What was lost is taken back once nothing is on its way any more:
    /// a later letter tells of how things are by then.
    fn settled(&self, job: &JobName, notify: &NotifyName, delivered: bool, before: Memory) {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let known = decided.entry((job.clone(), notify.clone())).or_default();
        known.under_way = known.under_way.saturating_sub(1);
        known.untold = if delivered { None } else { known.untold.take().or(Some(before)) };
        if known.under_way == 0
            && let Some(untold) = known.untold.take()
        {
            known.memory = untold;
        }
    }

    /// Keeps what has arrived, and takes back what has not.
    pub(super) fn settle(&self, journal: &Journal) {
        for sent in self.post.take_sent() {
            let Some(told) = sent.letter.told else { continue };
            if sent.delivered {
                keep(journal, &sent.letter.job, &sent.notify, &told.after);
            }
            self.settled(&sent.letter.job, &sent.notify, sent.delivered, told.before);
        }
    }

    /// Sends what waits, for a short time; what is left is logged.
    pub(super) async fn close(&self, journal: &Journal) {
        self.post.close(time_limits::limit(CLOSE_LIMIT)).await;
        self.settle(journal);
    }
}

fn keep(journal: &Journal, job: &JobName, notify: &NotifyName, memory: &Memory) {
    if let Err(failure) = journal.told(job, notify, memory) {
        tracing::error!(class = %failure.class, "cannot keep what {notify} was told: {failure}");
    }
}
