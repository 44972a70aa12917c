//! The data path: source → proof → frames compressed in parallel → for each set of recipients: age
//! (or nothing), digest, parts and volumes → sinks.
//!
//! It runs on threads of its own with bounded channels, never on the async workers: compressing
//! 1 MiB takes milliseconds. One thread reads and proves, `workers` threads compress, one hashes,
//! encrypts, cuts parts and hands them out, for one seal after the other. The frames on their way come from a pool of fixed size, which bounds
//! the memory whatever the source and the sinks do:
//! (2 × workers + 1) × 2 MiB, one part per seal that is being filled, what the proof holds, and the
//! parts that wait in the sinks' channels, whose capacity is the caller's.
//!
//! A sink whose receiver is dropped is out and the others go on; a seal without sinks is not worked
//! for any more. When something fails, or the task
//! is cancelled, the channels close without the last [`Sealed::VolumeEnd`], every thread
//! ends, and the receiver gets the error. Only `Ok` from the receiver says that the stream was
//! whole: a channel that closes right behind the end of a volume says nothing.
//!
//! What can still go wrong: a sink that neither takes parts nor drops its receiver holds up the
//! others and the source; whoever owns it must put a limit to that.

mod read;
mod seal;
#[cfg(test)]
mod seals;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::{read::Reader, seal::Sealer};
use super::{
    encrypt::{Encrypt, EncryptError},
    frames::{Frame, Frames, Packer, Pool},
    parts::Sealed,
    proof::{self, FormatError, Proof, Structure},
};
use crate::{
    domain::{manifest::Plain, recipients::Recipients},
    sys::{process::scarce, task::Task},
};

/// How the stream is compressed and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encode {
    pub level: i32,
    pub workers: usize,
    /// Length of every part but a volume's last.
    pub part_bytes: usize,
    /// Most parts of a volume; at least one.
    pub volume_parts: u32,
}

impl Encode {
    /// The most memory that a stream takes, in bytes, where each part that is cut may wait in
    /// `queued_parts` places (all sinks' channels, and what is being uploaded), and each set of
    /// recipients has a seal.
    pub fn memory(&self, queued_parts: usize, seals: &BTreeSet<&Recipients>) -> u64 {
        let workers = self.workers.max(1) as u64;
        let frames = (2 * workers + 1) * Frame::BYTES;
        // In each seal one part is being filled, or waits for room in a channel.
        let parts = (queued_parts + seals.len()) as u64 * self.part_bytes as u64;
        let encrypting = seals.iter().filter(|recipients| !recipients.is_empty()).count();
        let sealing = workers * Packer::memory(self.level) + encrypting as u64 * Encrypt::BYTES;
        frames + parts + sealing + proof::MEMORY
    }
}

/// One form in which the stream is stored, and where it goes in that form.
#[derive(Debug)]
pub struct Seal {
    /// The recipients of its encryption; empty: it is stored plain.
    pub recipients: Recipients,
    /// The uploaders of the repositories that want it so.
    pub sinks: Vec<tokio::sync::mpsc::Sender<Sealed>>,
}

/// A stream that was whole.
#[derive(Debug, Clone)]
pub struct Streamed {
    pub plain: Plain,
    pub structure: Structure,
    pub frames: Frames,
}

/// Why a stream was not whole.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the dump cannot be read from its pipe")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("no repository takes the dump any more")]
    NoSinkLeft,
    #[error("the dump was cancelled")]
    Cancelled,
    #[error("the dump cannot be compressed")]
    Compress(#[source] io::Error),
    #[error("the dump cannot be encrypted")]
    Encrypt(#[source] EncryptError),
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the thread {thread} panicked")]
    Panicked { thread: &'static str },
}

/// Starts the stream. The source is the reading end of a pipe, or a file; it is set to
/// non-blocking and closed when the reading is over. `task.progress` counts the plain bytes and
/// the silence of the source.
pub fn start(
    source: impl Into<OwnedFd>,
    proof: Box<dyn Proof>,
    encode: Encode,
    seals: Vec<Seal>,
    task: &Task,
) -> oneshot::Receiver<Result<Streamed, StreamError>> {
    let (answer, receiver) = oneshot::channel();
    let (source, task) = (source.into(), task.clone());
    let spawned = thread::Builder::new().name("pgkeep-stream".into()).spawn(move || {
        // Nobody may be waiting any more; that is no error.
        drop(answer.send(run(source, proof, encode, seals, &task)));
    });
    match spawned {
        Ok(_detached) => receiver,
        Err(error) => {
            let (answer, receiver) = oneshot::channel();
            drop(answer.send(Err(StreamError::Thread(scarce(error)))));
            receiver
        }
    }
}

/// Why a thread ended before its work was done.
#[derive(Debug)]
enum Halt {
    /// Another thread failed, or the task was cancelled.
    Stopped,
    Failed(StreamError),
}

/// A frame for the compressing threads, with the place where it goes then.
struct Job {
    frame: Frame,
    reply: mpsc::SyncSender<Frame>,
}

/// What the sealing thread is told, in the order of the stream.
enum Next {
    Frame(mpsc::Receiver<Frame>),
    End(Box<Structure>),
}

fn run(
    source: OwnedFd,
    proof: Box<dyn Proof>,
    encode: Encode,
    seals: Vec<Seal>,
    task: &Task,
) -> Result<Streamed, StreamError> {
    let workers = encode.workers.max(1);
    let in_flight = 2 * workers + 1;
    let stop = task.cancel.child_token();
    let (pool, give_back) = Pool::new(in_flight);
    // Every frame in these channels is one of the pool; so that sending never waits.
    let (jobs, queue) = mpsc::sync_channel(in_flight);
    let (order, in_order) = mpsc::sync_channel(in_flight + 1);
    let queue = Arc::new(Mutex::new(queue));
    let reader = Reader::new(source, proof, pool, jobs, order, task.clone(), stop.clone());
    // Before anything is started: nothing goes out plain because encrypting failed.
    let sealer = Sealer::new(encode, seals, give_back, &stop).map_err(StreamError::Encrypt)?;
    thread::scope(|scope| {
        let mut packers = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (queue, stop) = (Arc::clone(&queue), stop.clone());
            let body = move || guarded(&stop, || pack(&queue, encode.level));
            packers.push(spawn(scope, "pgkeep-zstd", body)?);
        }
        drop(queue);
        let (read_stop, seal_stop) = (stop.clone(), stop.clone());
        let sealing =
            spawn(scope, "pgkeep-seal", move || guarded(&seal_stop, || sealer.run(&in_order)))?;
        let reading = spawn(scope, "pgkeep-read", move || guarded(&read_stop, || reader.run()))?;
        let read = join(reading, "pgkeep-read");
        let packed: Vec<_> = packers.into_iter().map(|it| join(it, "pgkeep-zstd")).collect();
        let streamed = join(sealing, "pgkeep-seal");
        verdict(read, packed, streamed)
    })
}

type Scoped<'scope, T> = thread::ScopedJoinHandle<'scope, Result<T, Halt>>;

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &'static str,
    body: impl FnOnce() -> Result<T, Halt> + Send + 'scope,
) -> Result<Scoped<'scope, T>, StreamError> {
    thread::Builder::new()
        .name(name.into())
        .spawn_scoped(scope, body)
        .map_err(|error| StreamError::Thread(scarce(error)))
}

fn join<T>(handle: Scoped<'_, T>, thread: &'static str) -> Result<T, Halt> {
    handle.join().unwrap_or(Err(Halt::Failed(StreamError::Panicked { thread })))
}

/// Runs a thread's work; if it fails or panics, the other threads are told to stop.
fn guarded<T>(stop: &CancellationToken, work: impl FnOnce() -> Result<T, Halt>) -> Result<T, Halt> {
    let guard = stop.clone().drop_guard();
    let outcome = work();
    if outcome.is_ok() {
        guard.disarm();
    }
    outcome
}

/// The first failure counts; that the others stopped is only its consequence.
fn verdict(
    read: Result<(), Halt>,
    packed: Vec<Result<(), Halt>>,
    sealed: Result<Streamed, Halt>,
) -> Result<Streamed, StreamError> {
    let mut stopped = false;
    for outcome in std::iter::once(read).chain(packed) {
        match outcome {
            Ok(()) => {}
            Err(Halt::Stopped) => stopped = true,
            Err(Halt::Failed(error)) => return Err(error),
        }
    }
    match sealed {
        Ok(streamed) if !stopped => Ok(streamed),
        Ok(_) | Err(Halt::Stopped) => Err(StreamError::Cancelled),
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// A compressing thread.
fn pack(queue: &Mutex<mpsc::Receiver<Job>>, level: i32) -> Result<(), Halt> {
    let failed = |error| Halt::Failed(StreamError::Compress(error));
    let mut packer = Packer::new(level).map_err(failed)?;
    loop {
        // One thread waits with the lock held; the others wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut frame, reply }) = job else { return Ok(()) };
        packer.pack(&mut frame).map_err(failed)?;
        // The sealing thread may be gone; then the reader stops, and the queue ends.
        reply.send(frame).ok();
    }
}
