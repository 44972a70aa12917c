//! The reading thread: pipe → proof → frames.

use std::{io, os::fd::OwnedFd, sync::mpsc, thread, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};
use tokio_util::sync::CancellationToken;

use super::{Halt, Job, Next, StreamError};
use crate::{
    codec::{
        frames::{CUT_BYTES, Frame, Pool},
        proof::Proof,
    },
    sys::task::Task,
};

/// What an unprivileged process may ask for (`/proc/sys/fs/pipe-max-size` by default).
const PIPE_BYTES: usize = 1 << 20;
/// How long more is waited for where the pipe was empty, if it is [`PIPE_BYTES`] wide: woken for
/// each 4 KiB that pg_dump writes, the two would take turns on a processor all the time. Measured
/// on two cores by `benches/dump.sh --gb 2`: a dump takes a tenth less time. The pipe would be full
/// meanwhile only above 1 GiB/s, of which pg_dump is far.
const GATHER: Duration = Duration::from_millis(1);
/// How much the proof is given at once. pg_dump writes 4 KiB at a time, and BLAKE3 is at its best
/// only from some ten kilobytes on.
const PIECE_BYTES: usize = 64 << 10;
/// How soon a cancellation is seen while the source is silent.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

pub(super) struct Reader {
    source: OwnedFd,
    proof: Box<dyn Proof>,
    pool: Pool,
    jobs: mpsc::SyncSender<Job>,
    order: mpsc::SyncSender<Next>,
    task: Task,
    stop: CancellationToken,
    /// Whether the pipe is [`PIPE_BYTES`] wide.
    wide: bool,
    began: bool,
}

impl Reader {
    pub(super) fn new(
        source: OwnedFd,
        proof: Box<dyn Proof>,
        pool: Pool,
        jobs: mpsc::SyncSender<Job>,
        order: mpsc::SyncSender<Next>,
        task: Task,
        stop: CancellationToken,
    ) -> Self {
        Self { source, proof, pool, jobs, order, task, stop, wide: false, began: false }
    }

    /// Reads until the source ends.
    pub(super) fn run(mut self) -> Result<(), Halt> {
        self.prepare()?;
        let mut cuts = Vec::new();
        let mut frame = self.take()?;
        loop {
            if frame.is_full() {
                self.dispatch(frame)?;
                frame = self.take()?;
            }
            let count = self.gather(frame.room())?;
            if count == 0 {
                break;
            }
            let base = frame.filled();
            self.proof.feed(frame.grow(count), &mut cuts).map_err(failed)?;
            frame = self.cut(frame, base, &mut cuts)?;
        }
        if frame.filled() > 0 {
            self.dispatch(frame)?;
        }
        let structure = self.proof.finish().map_err(failed)?;
        self.order.send(Next::End(Box::new(structure))).map_err(|_| Halt::Stopped)
    }

    fn prepare(&mut self) -> Result<(), Halt> {
        // A larger pipe saves switches between the two processes; without it all works as well.
        let size = rustix::pipe::fcntl_setpipe_size(&self.source, PIPE_BYTES);
        self.wide = size.is_ok_and(|bytes| bytes >= PIPE_BYTES);
        let flags = fcntl_getfl(&self.source).map_err(unreadable)?;
        fcntl_setfl(&self.source, flags | OFlags::NONBLOCK).map_err(unreadable)
    }

    /// Ends the frame at each data block behind which enough is pending.
    fn cut(&mut self, mut frame: Frame, base: usize, cuts: &mut Vec<usize>) -> Result<Frame, Halt> {
        let mut gone = 0;
        for cut in cuts.drain(..) {
            let at = base + cut - gone;
            if at >= CUT_BYTES {
                let mut next = self.pool.take().ok_or(Halt::Stopped)?;
                frame.split_into(at, &mut next);
                gone += at;
                let full = std::mem::replace(&mut frame, next);
                self.dispatch(full)?;
            }
        }
        Ok(frame)
    }

    fn take(&mut self) -> Result<Frame, Halt> {
        self.pool.take().ok_or(Halt::Stopped)
    }

    fn dispatch(&self, frame: Frame) -> Result<(), Halt> {
        let (reply, packed) = mpsc::sync_channel(1);
        self.jobs.send(Job { frame, reply }).map_err(|_| Halt::Stopped)?;
        self.order.send(Next::Frame(packed)).map_err(|_| Halt::Stopped)
    }

    /// Reads until there is a piece for the proof, the room is full or the source has ended; 0
    /// only in the last case.
    fn gather(&mut self, room: &mut [u8]) -> Result<usize, Halt> {
        let enough = room.len().min(PIECE_BYTES);
        let mut filled = 0;
        while filled < enough {
            let count = self.read(&mut room[filled..])?;
            if count == 0 {
                break;
            }
            self.began = true;
            self.task.progress.add_bytes(count as u64);
            filled += count;
        }
        Ok(filled)
    }

    fn read(&self, room: &mut [u8]) -> Result<usize, Halt> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Halt::Stopped);
            }
            match rustix::io::read(&self.source, &mut *room) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait()?,
                Err(error) => return Err(unreadable(error)),
            }
        }
    }

    /// Waits until there is something to read. Only this wait counts as the source's silence, and
    /// only after the first byte: before it, pg_dump reads the catalogue and waits for locks.
    fn wait(&self) -> Result<(), Halt> {
        let Task { progress, clock, .. } = &self.task;
        if self.began {
            progress.wait_begins(clock.now().mono);
        }
        let outcome = loop {
            if self.stop.is_cancelled() {
                break Err(Halt::Stopped);
            }
            match poll(&mut [PollFd::new(&self.source, PollFlags::IN)], Some(&POLL)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    if self.wide {
                        thread::sleep(GATHER);
                    }
                    break Ok(());
                }
                Err(error) => break Err(unreadable(error)),
            }
        };
        progress.wait_ends();
        outcome
    }
}

fn failed(error: impl Into<StreamError>) -> Halt {
    Halt::Failed(error.into())
}

fn unreadable(error: Errno) -> Halt {
    Halt::Failed(StreamError::Source(io::Error::from(error)))
}
