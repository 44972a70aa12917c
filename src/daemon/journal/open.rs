//! Reading the journal at the start: what a crash left is put in order, and said.

use std::{collections::BTreeMap, io, path::Path, sync::Mutex};

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{
    Inner, Job, Journal, JournalSettings,
    disk::{self, ENDING},
    record::{RunRecord, RunState},
};
use crate::{
    domain::{
        failure::{Class, Failure, chain},
        finding::{CheckName, Finding, Severity},
        job_memory::JobMemory,
        name::JobName,
    },
    sys::files,
};

/// What [`Journal::open`] found.
#[derive(Debug, Default)]
pub struct Opened {
    /// Damaged files that were set aside, and times that the clock cannot have meant.
    pub findings: Vec<Finding>,
    /// Runs that the process did not live to see the end of.
    pub interrupted: Vec<RunRecord>,
}

struct Reader<'a> {
    root: &'a Path,
    now: Timestamp,
    opened: Opened,
}

impl Journal {
    /// Reads the journal in `state_dir`, or begins one. Runs that it has as running are interrupted:
    /// the caller holds the lock of the state directory, so nobody is at work on them.
    ///
    /// Fails only where the folders cannot be made or listed, or a file is closed to this user;
    /// damaged files and a full disk do not keep the daemon from starting.
    pub fn open(
        state_dir: &Path,
        settings: JournalSettings,
        now: Timestamp,
    ) -> Result<(Self, Opened), Failure> {
        let mut reader = Reader { root: state_dir, now, opened: Opened::default() };
        let mut jobs = reader.read(settings).map_err(|error| {
            let what = format!("{}: {}", state_dir.display(), chain(&error));
            Failure::new(Class::State, "open the journal", what)
                .hint("make sure that the state directory belongs to pgkeep's user")
        })?;
        let mut opened = reader.opened;
        for (name, job) in &mut jobs {
            if job.state.clamp(now) {
                let what = format!("times of job {name} lay in the future and were set to now");
                opened.findings.push(finding(
                    CheckName("journal-clock"),
                    what,
                    "check the clock of the host",
                ));
            }
        }
        // The interrupted runs are written like any end: what the disk does not take stays pending.
        let inner = Inner { jobs, pending: opened.interrupted.clone() };
        let journal = Self { root: state_dir.to_owned(), settings, inner: Mutex::new(inner) };
        if let Err(failure) = journal.settle() {
            let hint = failure.hint.clone().unwrap_or_default();
            opened.findings.push(finding(
                CheckName("journal-unwritable"),
                failure.to_string(),
                &hint,
            ));
        }
        Ok((journal, opened))
    }

    /// Writes what opening changed.
    fn settle(&self) -> Result<(), Failure> {
        let mut inner = self.lock();
        let mut failures: Vec<Failure> =
            self.flush_locked(&mut inner).into_iter().map(|(_, failure)| failure).collect();
        for (name, job) in &mut inner.jobs {
            self.prune(name, job);
            failures.extend(self.write_job(name, &job.state).err());
        }
        failures.into_iter().next().map_or(Ok(()), Err)
    }
}

impl Reader<'_> {
    fn read(&mut self, settings: JournalSettings) -> io::Result<BTreeMap<JobName, Job>> {
        let (runs, memories) = (disk::runs_folder(self.root), disk::jobs_folder(self.root));
        disk::make_folder(&runs)?;
        disk::make_folder(&memories)?;
        let mut jobs: BTreeMap<JobName, Job> = BTreeMap::new();
        for path in disk::entries(&memories)? {
            if disk::is_leftover(&path) {
                disk::remove_leftover(&path);
            }
            let Some(name) = named(&path) else { continue };
            if let Some(state) = self.load::<JobMemory>(&path)? {
                let job = Job { next_seq: state.folded, state, ..Job::default() };
                jobs.insert(name, job);
            }
        }
        for folder in disk::entries(&runs)?.into_iter().filter(|path| path.is_dir()) {
            let name = folder.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            let Some(name) = name else { continue };
            let records = self.load_runs(&folder, &name)?;
            self.add_up(jobs.entry(name).or_default(), records, settings);
        }
        Ok(jobs)
    }

    /// The records of one job by their order.
    fn load_runs(&mut self, folder: &Path, job: &JobName) -> io::Result<Vec<RunRecord>> {
        let mut records: Vec<RunRecord> = Vec::new();
        for path in disk::entries(folder)? {
            if disk::is_leftover(&path) {
                disk::remove_leftover(&path);
            }
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            let Some(record) = self.load::<RunRecord>(&path)? else { continue };
            if &record.job == job && disk::run_path(self.root, job, &record.run) == path {
                records.push(record);
            } else {
                self.set_aside(&path, "it is the record of another run");
            }
        }
        records.sort_by_key(|record| record.seq);
        Ok(records)
    }

    /// Ends what was running, and adds to the job's memory what is not in it yet.
    fn add_up(&mut self, job: &mut Job, records: Vec<RunRecord>, settings: JournalSettings) {
        for mut record in records {
            if record.state == RunState::Running {
                record.interrupt(self.now);
                self.opened.interrupted.push(record.clone());
            }
            if let Some(run) = record.ended().filter(|_| record.seq >= job.state.folded) {
                job.state.add(record.seq, &record.kind, &run, settings.kind_of);
            }
            job.next_seq = job.next_seq.max(record.seq + 1);
            job.runs.insert(record.seq, record.run);
        }
    }

    /// Reads a file; one that is damaged is set aside and reported.
    fn load<T: DeserializeOwned>(&mut self, path: &Path) -> io::Result<Option<T>> {
        match disk::read(path) {
            Ok(read) => Ok(Some(read)),
            // Whole, and another user's: that is for a person to put right.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            }
            Err(error) => {
                self.set_aside(path, &error.to_string());
                Ok(None)
            }
        }
    }

    fn set_aside(&mut self, path: &Path, why: &str) {
        let done = match files::set_aside(path) {
            Ok(aside) => format!("set aside as {}", aside.display()),
            Err(error) => format!("left in place: {}", chain(&error)),
        };
        let what = format!("{} cannot be read and was {done}: {why}", path.display());
        let hint = "look for trouble with the disk; the file can be removed";
        self.opened.findings.push(finding(CheckName("journal-damaged"), what, hint));
    }
}

fn finding(check: CheckName, what: String, hint: &str) -> Finding {
    Finding::new(check, Severity::Warning, what).hint(hint)
}

/// The job whose memory a file is.
fn named(path: &Path) -> Option<JobName> {
    path.extension().filter(|ending| *ending == ENDING)?;
    path.file_stem()?.to_str()?.parse().ok()
}
