//! One stream, several repositories.
//!
//! A child's output is proven, compressed, encrypted where that is demanded, and stored in every
//! repository that can keep up, in one pass. Repositories with the same recipients share the work.
//! A repository that fails is out and reported; the others go on. Nothing is committed here before
//! all of rule 1 holds: end of the stream, structure whole, exit 0, every byte stored.
//!
//! What can still go wrong: the host dies between the commit of a volume and the manifest. Then
//! data without a manifest lies there; it is listed as incomplete and swept after a minimum age.

mod commit;

pub use commit::Placed;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::ErrorKind,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    codec::{
        parts::Sealed,
        proof::{FormatError, Proof},
        stream::{self, Encode, Seal, StreamError, Streamed},
    },
    domain::{
        backup::{BackupId, Series},
        failure::{Class, Failure, IntoFailure},
        manifest::Manifest,
        name::RepositoryName,
        recipients::Recipients,
        suspicion::Suspicion,
    },
    repository::{
        copy::Copy,
        repo::Repository,
        store::{Limits, StoreError},
    },
    sys::{
        process::{self, Child, Exit},
        task::Task,
    },
};

use super::stderr;

/// Parts that wait for a repository's uploader. More would only be memory.
const QUEUE_PARTS: usize = 2;
/// How long a program may take to exit after it closed its output.
const EXIT_LIMIT: Duration = Duration::from_mins(1);

/// How the bytes are compressed.
#[derive(Debug, Clone, Copy)]
pub struct Compression {
    /// zstd's level, -7 to 19.
    pub level: i32,
    pub workers: usize,
}

impl Compression {
    /// The most memory that a stream takes into repositories with these limits and recipients, in
    /// bytes. One that is slow holds other parts than one that is fast.
    pub fn memory(&self, repositories: &[(Limits, &Recipients)]) -> u64 {
        let limits: Vec<Limits> = repositories.iter().map(|(limits, _)| *limits).collect();
        let seals: BTreeSet<_> = repositories.iter().map(|(_, recipients)| *recipients).collect();
        let queued = limits.iter().map(|limits| QUEUE_PARTS + limits.parallel_parts.max(1));
        self.encode(&limits, u32::MAX).memory(queued.sum(), &seals)
    }

    fn encode(&self, repositories: &[Limits], volume_parts: u32) -> Encode {
        // One size for all of them, which each takes.
        let part_bytes = repositories.iter().map(|limits| limits.part_bytes).min().unwrap_or(0);
        let parts = repositories.iter().map(|limits| limits.max_parts).chain([volume_parts]).min();
        Encode {
            level: self.level,
            workers: self.workers,
            part_bytes,
            volume_parts: parts.unwrap_or(1),
        }
    }
}

/// What one repository made of it: its copy's commit record, or why there is no copy.
pub type Delivered = (RepositoryName, Result<Manifest, Failure>);

/// What is to be stored and where.
#[derive(Debug)]
pub struct Fanout<'a> {
    pub series: &'a Series,
    pub id: &'a BackupId,
    /// Name of the first volume, where it is not encrypted: `app.dump.zst`.
    pub stem: String,
    pub repositories: &'a [Arc<Repository>],
    pub compression: Compression,
    /// Most parts of a volume, beside what the repositories here can take.
    pub volume_parts: u32,
    /// Time between SIGTERM and SIGKILL of the child.
    pub grace: Duration,
    /// Cancelled as soon as the child has ended, or will not be started: what was held for it may
    /// go, while parts are still on their way.
    pub exited: CancellationToken,
}

/// Why there is no backup at all.
#[derive(Debug)]
pub enum Lost {
    /// One reason for every repository: there was nothing whole to store.
    All(Failure),
    /// Every repository failed, for reasons of its own.
    Each(Vec<Delivered>),
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::All(failure)
    }
}

/// Everything that was stored, and not yet committed.
pub struct Stored {
    pub streamed: Streamed,
    pub stderr: String,
    /// Bytes of it that were not kept.
    pub unheard: u64,
    /// Why it looks as if something were missing in it; for whoever gets to know before the commit.
    pub suspicions: Vec<Suspicion>,
    copies: Vec<(RepositoryName, Result<Copy, Failure>)>,
}

type Uploader = tokio::task::JoinHandle<(Copy, Result<(), StoreError>)>;

impl Fanout<'_> {
    /// Streams the child's output into every repository and waits until all is stored or given
    /// up.
    ///
    /// # Errors
    /// When there is no backup at all: the child failed, its output is not whole, no repository
    /// is left, or the task was cancelled. Whatever was uploaded has then been removed.
    pub async fn stream(
        &self,
        command: process::Spec,
        proof: Box<dyn Proof>,
        task: &Task,
    ) -> Result<Stored, Lost> {
        let _exited = self.exited.clone().drop_guard();
        let encode = self.encode(task)?;
        let (mut child, output) = spawn(command, task).await?;
        let uploads = task.cancel.child_token();
        let (seals, uploaders) = self.begin(&uploads);
        let result = stream::start(output, proof, encode, seals, task).await;
        let result = result.unwrap_or(Err(StreamError::Panicked { thread: "stream" }));
        if result.is_err() {
            uploads.cancel();
        }
        let (exit, killed) = self.end(&mut child, result.is_ok(), task).await;
        self.exited.cancel();
        let copies = join(uploaders, task).await;
        match verdict(result, &exit, killed, task) {
            Ok(streamed) => Ok(Stored {
                streamed,
                stderr: exit.stderr.clone(),
                unheard: exit.stderr_left_out,
                suspicions: Vec::new(),
                copies,
            }),
            Err(failure) => {
                let lost = lost(failure, &copies);
                abort_all(copies).await;
                Err(lost)
            }
        }
    }

    /// Begins a copy in each repository. Those with the same recipients share a seal.
    fn begin(&self, cancel: &CancellationToken) -> (Vec<Seal>, Vec<(RepositoryName, Uploader)>) {
        let mut sinks: BTreeMap<&Recipients, Vec<_>> = BTreeMap::new();
        let mut uploaders = Vec::new();
        for repository in self.repositories {
            let (sender, receiver) = mpsc::channel(QUEUE_PARTS);
            sinks.entry(repository.recipients()).or_default().push(sender);
            let copy = repository.start_copy(self.series, self.id, &self.stem);
            uploaders.push((repository.name().clone(), upload(copy, receiver, cancel)));
        }
        let seal = |(to, sinks): (&Recipients, _)| Seal { recipients: to.clone(), sinks };
        (sinks.into_iter().map(seal).collect(), uploaders)
    }

    /// How the child exits, and whether it had to be stopped.
    async fn end(&self, child: &mut Child, is_whole: bool, task: &Task) -> (Arc<Exit>, bool) {
        let exit = if is_whole {
            tokio::select! {
                exit = child.wait() => Some(exit),
                () = task.cancel.cancelled() => None,
                () = tokio::time::sleep(EXIT_LIMIT) => None,
            }
        } else {
            // A program that failed closes its output just before it exits: let it say why. One
            // that still runs has to be stopped.
            tokio::time::timeout(Duration::from_millis(500), child.wait()).await.ok()
        };
        match exit {
            Some(exit) => (exit, false),
            None => (child.terminate(self.grace).await, true),
        }
    }

    fn encode(&self, task: &Task) -> Result<Encode, Failure> {
        let limits: Vec<Limits> = self.repositories.iter().map(|it| it.limits()).collect();
        if limits.is_empty() {
            return Err(task.failure(Class::Internal, "there is no repository"));
        }
        Ok(self.compression.encode(&limits, self.volume_parts))
    }
}

async fn spawn(command: process::Spec, task: &Task) -> Result<(Child, File), Failure> {
    let child = Child::spawn(command, process::Stdout::Pipe).await;
    let mut child = child.map_err(|error| stderr::spawn_failure(task, &error))?;
    match child.take_stdout() {
        Some(output) => Ok((child, output)),
        None => Err(task.failure(Class::Internal, "the program has no output")),
    }
}

async fn join(
    uploaders: Vec<(RepositoryName, Uploader)>,
    task: &Task,
) -> Vec<(RepositoryName, Result<Copy, Failure>)> {
    let mut copies = Vec::new();
    for (name, uploader) in uploaders {
        let task = task.doing(format!("{} to {name}", task.phrase()));
        let _waits = task.progress.waits_for(format!("repository {name}"));
        let outcome = match uploader.await {
            Ok((copy, Ok(()))) => Ok(copy),
            Ok((copy, Err(error))) => {
                abort(copy).await;
                Err(error.into_failure(&task))
            }
            Err(error) => Err(Failure::from_error(Class::Internal, &task, &error)),
        };
        copies.push((name, outcome));
    }
    copies
}

/// Rule 1, in one place: which of stream, exit status and cancellation decides.
fn verdict(
    result: Result<Streamed, StreamError>,
    exit: &Exit,
    killed: bool,
    task: &Task,
) -> Result<Streamed, Failure> {
    task.check()?;
    match result {
        Ok(streamed) if exit.success() && !killed => Ok(streamed),
        Ok(_) if killed => {
            let what = "the program closed its output and did not exit";
            Err(task.failure(Class::ToolFailed, what))
        }
        Ok(_) => Err(stderr::exit_failure(task, exit)),
        // Cut off because the program failed: its own words say more.
        Err(StreamError::Format(error)) if ends_early(&error) && !exit.success() && !killed => {
            Err(stderr::exit_failure(task, exit))
        }
        Err(error) => Err(stream_failure(&error, task)),
    }
}

fn stream_failure(error: &StreamError, task: &Task) -> Failure {
    let failure = Failure::from_error(stream_class(error), task, error);
    match failure.class {
        Class::ArchiveInvalid => {
            failure.hint("look at the program in bin_dir: is it a wrapper that loses its output?")
        }
        _ => failure,
    }
}

fn upload(
    mut copy: Copy,
    receiver: mpsc::Receiver<Sealed>,
    cancel: &CancellationToken,
) -> Uploader {
    let cancel = cancel.clone();
    tokio::spawn(async move {
        // A store's futures may be dropped (see Store); the copy is aborted afterwards.
        let result = tokio::select! {
            result = copy.store(receiver) => result,
            () = cancel.cancelled() => Ok(()),
        };
        (copy, result)
    })
}

/// Whether the stream was right as far as it came.
fn ends_early(error: &FormatError) -> bool {
    matches!(
        error,
        FormatError::Empty | FormatError::EndsEarly { .. } | FormatError::DataMissing { .. }
    )
}

fn stream_class(error: &StreamError) -> Class {
    match error {
        StreamError::Format(FormatError::Scratch { kind, .. }) => scratch_class(*kind),
        StreamError::Format(_) => Class::ArchiveInvalid,
        StreamError::NoSinkLeft => Class::RepositoryUnavailable,
        StreamError::Cancelled => Class::Interrupted,
        StreamError::Encrypt(_) => Class::Encryption,
        _ => Class::Internal,
    }
}

/// What a scratch folder that takes nothing is to be called.
fn scratch_class(kind: ErrorKind) -> Class {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Class::Space,
        _ => Class::State,
    }
}

/// Where no repository is left, each has a reason of its own.
fn lost(failure: Failure, copies: &[(RepositoryName, Result<Copy, Failure>)]) -> Lost {
    let own = |(name, copy): &(RepositoryName, Result<Copy, Failure>)| {
        Some((name.clone(), Err(copy.as_ref().err()?.clone())))
    };
    match copies.iter().map(own).collect() {
        Some(each) if failure.class == Class::RepositoryUnavailable => Lost::Each(each),
        _ => Lost::All(failure),
    }
}

/// Gives a copy up. What cannot be removed now is not listed, and swept later.
pub(super) async fn abort(copy: Copy) {
    if let Err(error) = copy.abort().await {
        tracing::debug!(%error, "a copy that was given up was not removed whole");
    }
}

async fn abort_all(copies: Vec<(RepositoryName, Result<Copy, Failure>)>) {
    for (_, copy) in copies {
        if let Ok(copy) = copy {
            abort(copy).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { part_bytes: 8 << 20, max_parts: u32::MAX, parallel_parts: 1 };

    #[test]
    fn memory_counts_every_repositorys_parts_and_what_the_level_takes() {
        let compression = Compression { level: 3, workers: 2 };
        let (nobody, somebody) =
            (Recipients::default(), ["age1x".to_owned()].into_iter().collect());
        let one = compression.memory(&[(LIMITS, &nobody)]);
        let wide = Limits { parallel_parts: 16, ..LIMITS };
        assert_eq!(compression.memory(&[(wide, &nobody)]) - one, 15 * (8 << 20));
        let two = compression.memory(&[(LIMITS, &nobody), (wide, &nobody)]);
        assert_eq!(two - one, (2 + 16) * (8 << 20));
        let sealed = compression.memory(&[(LIMITS, &nobody), (wide, &somebody)]);
        assert_eq!(sealed - two, (8 << 20) + crate::codec::encrypt::Encrypt::BYTES);
        let slow = Compression { level: 19, ..compression };
        assert!(slow.memory(&[(LIMITS, &nobody)]) > one);
    }

    #[test]
    fn a_scratch_folder_that_takes_nothing_is_not_the_archives_fault() {
        let class =
            |kind: ErrorKind| stream_class(&StreamError::Format(std::io::Error::from(kind).into()));
        assert_eq!(class(ErrorKind::StorageFull), Class::Space);
        assert_eq!(class(ErrorKind::PermissionDenied), Class::State);
        assert_eq!(class(ErrorKind::FileTooLarge), Class::ArchiveInvalid);
    }

    #[test]
    fn volumes_fit_the_repositories_that_are_away_too() {
        let compression = Compression { level: 3, workers: 2 };
        let encode = compression.encode(&[LIMITS], 1000);
        assert_eq!(encode.volume_parts, 1000);
        let narrow = Limits { max_parts: 10, ..LIMITS };
        assert_eq!(compression.encode(&[LIMITS, narrow], 1000).volume_parts, 10);
    }
}
