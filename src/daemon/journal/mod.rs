//! The journal: what became of every run, on disk, so that it outlives the process.
//!
//! ```text
//! <state_dir>/runs/<job>/<run>.json   one file per run: written when it starts, replaced when it ends
//! <state_dir>/jobs/<job>.json         what is remembered of a job: times, slot, samples
//! ```
//!
//! The file of a run is the record; the file of a job sums up records, also those that were pruned
//! since. It is written after the record, and [`Journal::open`] adds what a crash kept out of it. A
//! success sets last success and last completion by one record; a partial or failed run sets the
//! completion alone; an interrupted or cancelled one sets neither.
//!
//! Nothing is lost to a damaged file: it is renamed to `*.corrupt` and reported, and the daemon
//! starts. Where the disk is full, the end of a run is kept in memory, the caller gets the error, and
//! the next call tries again. What can still go wrong: both the process and the disk's space end
//! before that; then the run counts as interrupted.
//!
//! All methods block on the disk; call them where blocking is allowed. One process at a time may hold
//! a state directory: its lock is the caller's.

mod disk;
mod open;
mod record;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

pub use self::{
    open::Opened,
    record::{ProcessMark, RunKey, RunRecord, RunState},
};
use crate::domain::{
    failure::{Class, Failure, chain},
    job_memory::JobMemory,
    metric::MetricKind,
    name::{JobName, NotifyName},
    notice::Memory,
    run::EndedRun,
};

/// Ends of runs that are kept in memory while the disk does not take them. Far more than can be
/// under way at once; beyond it the oldest is given up, and counts as interrupted.
const PENDING_MAX: usize = 1000;

/// How the journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct JournalSettings {
    /// Runs kept per job; at least 1.
    pub keep_runs: usize,
    /// What sort of number a metric of a job kind is: decides which samples are remembered.
    pub kind_of: fn(&str) -> Option<MetricKind>,
}

/// What is known of one job.
#[derive(Debug, Default)]
struct Job {
    state: JobMemory,
    next_seq: u64,
    /// The runs on disk by their sequence number.
    runs: BTreeMap<u64, RunKey>,
    running: BTreeMap<RunKey, RunRecord>,
}

impl Job {
    /// Gives the record of a run its place among those of the job.
    fn count(&mut self, record: RunRecord) -> RunRecord {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.runs.insert(seq, record.run.clone());
        RunRecord { seq, ..record }
    }
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<JobName, Job>,
    /// Ends that the disk did not take.
    pending: Vec<RunRecord>,
}

/// The journal of one state directory.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    settings: JournalSettings,
    inner: Mutex<Inner>,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a job; nothing yet for one that never ran.
    pub fn job(&self, name: &JobName) -> JobMemory {
        self.lock().jobs.get(name).map(|job| job.state.clone()).unwrap_or_default()
    }

    /// Records that a run starts. After an error the run is known in memory alone: start it not,
    /// and end it as failed.
    pub fn start(&self, record: RunRecord) -> Result<(), Failure> {
        let mut inner = self.lock();
        let job = inner.jobs.entry(record.job.clone()).or_default();
        let record = job.count(record);
        job.running.insert(record.run.clone(), record.clone());
        self.write_run(&record)
    }

    /// Records that a run ended. The state in memory moves even if the disk fails.
    pub fn end(&self, job: &JobName, run: &EndedRun) -> Result<(), Failure> {
        let mut inner = self.lock();
        let known = inner.jobs.entry(job.clone()).or_default();
        let mut record = known.running.remove(&run.run).unwrap_or_else(|| {
            let EndedRun { run, trigger, started, .. } = run;
            known.count(RunRecord::started(job, "", run.clone(), trigger, *started))
        });
        known.state.add(record.seq, &record.kind, run, self.settings.kind_of);
        record.end(run);
        let state = known.state.clone();
        if inner.pending.len() >= PENDING_MAX {
            inner.pending.remove(0);
        }
        inner.pending.push(record);
        let failed = self.flush_locked(&mut inner).into_iter().find(|(key, _)| *key == run.run);
        if let Some((_, failure)) = failed {
            return Err(failure);
        }
        self.write_job(job, &state)
    }

    /// Keeps the scheduler's memory of a job: an opaque value.
    pub fn remember(&self, name: &JobName, memory: Value) -> Result<(), Failure> {
        self.change(name, |state| state.memory = Some(memory))
    }

    /// Keeps what a receiver of notifications was told of a job.
    pub fn told(
        &self,
        name: &JobName,
        notify: &NotifyName,
        memory: &Memory,
    ) -> Result<(), Failure> {
        self.change(name, |state| {
            if *memory == Memory::default() {
                state.told.remove(notify);
            } else {
                state.told.insert(notify.clone(), memory.clone());
            }
        })
    }

    /// Keeps since when a job has been configured as one of that kind, unless that is known; returns
    /// what is known. A job that was of another kind begins anew.
    pub fn configured(
        &self,
        name: &JobName,
        kind: &str,
        at: jiff::Timestamp,
    ) -> Result<jiff::Timestamp, Failure> {
        let known = self.job(name);
        match known.configured_at {
            Some(since) if known.kind == kind => Ok(since),
            since => {
                let since = since.filter(|_| known.kind.is_empty()).unwrap_or(at);
                self.change(name, |state| state.configure_as(kind, since)).map(|()| since)
            }
        }
    }

    fn change(&self, name: &JobName, change: impl FnOnce(&mut JobMemory)) -> Result<(), Failure> {
        let mut inner = self.lock();
        let job = inner.jobs.entry(name.clone()).or_default();
        change(&mut job.state);
        self.write_job(name, &job.state)
    }

    /// Tries to write what the disk did not take before; the first error, where that is not all.
    pub fn flush(&self) -> Result<(), Failure> {
        match self.flush_locked(&mut self.lock()).into_iter().next() {
            Some((_, failure)) => Err(failure),
            None => Ok(()),
        }
    }

    /// Writes what is pending; what cannot be written stays, and does not keep others waiting.
    fn flush_locked(&self, inner: &mut Inner) -> Vec<(RunKey, Failure)> {
        let mut failed = Vec::new();
        for record in std::mem::take(&mut inner.pending) {
            if let Err(failure) = self.write_run(&record) {
                failed.push((record.run.clone(), failure));
                inner.pending.push(record);
            } else if let Some(job) = inner.jobs.get_mut(&record.job) {
                self.prune(&record.job, job);
            }
        }
        failed
    }

    /// Removes the oldest runs beyond the number that is kept; those under way stay.
    fn prune(&self, name: &JobName, job: &mut Job) {
        while job.runs.len() > self.settings.keep_runs.max(1) {
            let oldest = job.runs.iter().find(|(_, run)| !job.running.contains_key(*run));
            let Some((seq, run)) = oldest.map(|(seq, run)| (*seq, run.clone())) else { return };
            let path = disk::run_path(&self.root, name, &run);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "cannot remove an old run");
                    return;
                }
            }
            job.runs.remove(&seq);
        }
    }

    /// The newest runs of a job, the newest first, at most `limit`.
    pub fn runs(&self, name: &JobName, limit: usize) -> Vec<RunRecord> {
        let inner = self.lock();
        self.newest_first(&inner, name).take(limit).collect()
    }

    /// Reads one after the other, as far as it is asked.
    fn newest_first<'a>(
        &'a self,
        inner: &'a Inner,
        name: &'a JobName,
    ) -> impl Iterator<Item = RunRecord> + 'a {
        let newest = inner.jobs.get(name).into_iter();
        newest.flat_map(|job| job.runs.values().rev().map(move |run| (job, run))).filter_map(
            move |(job, run)| {
                let pending = inner.pending.iter().find(|record| &record.run == run);
                let known = pending.or_else(|| job.running.get(run));
                known.cloned().or_else(|| disk::read(&disk::run_path(&self.root, name, run)).ok())
            },
        )
    }

    fn write_run(&self, record: &RunRecord) -> Result<(), Failure> {
        let path = disk::run_path(&self.root, &record.job, &record.run);
        self.write(&path, "record a run", || record::encode(record))
    }

    fn write_job(&self, name: &JobName, state: &JobMemory) -> Result<(), Failure> {
        let path = disk::job_path(&self.root, name);
        self.write(&path, "remember a job", || serde_json::to_vec(state))
    }

    fn write(
        &self,
        path: &Path,
        doing: &str,
        encode: impl FnOnce() -> serde_json::Result<Vec<u8>>,
    ) -> Result<(), Failure> {
        let written = encode().map_err(std::io::Error::from);
        written.and_then(|bytes| disk::write(path, &bytes)).map_err(|error| {
            let what = format!("{}: {}", path.display(), chain(&error));
            Failure::new(Class::State, doing, what).hint(format!(
                "make sure that {} can be written and has space",
                self.root.display()
            ))
        })
    }
}
