//! The sealing thread: compressed frames in their order → for each seal: age (or nothing) → digests
//! → parts and volumes → sinks.

use std::{io, io::Read, sync::mpsc};

use sha2::{Digest, Sha256};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::Sender,
};
use tokio_util::sync::CancellationToken;

use super::{Encode, Halt, Next, Seal, StreamError, Streamed};
use crate::{
    codec::{
        encrypt::EncryptError,
        frames::{Frame, Frames},
        parts::{Cutter, Sealed},
        proof::Structure,
    },
    domain::manifest::Plain,
    sys::process::scarce,
};

pub(super) struct Sealer {
    give_back: mpsc::SyncSender<Frame>,
    plain: Sha256,
    frames: Frames,
    lanes: Vec<Lane>,
}

impl Sealer {
    pub(super) fn new(
        encode: Encode,
        seals: Vec<Seal>,
        give_back: mpsc::SyncSender<Frame>,
        stop: &CancellationToken,
    ) -> Result<Self, EncryptError> {
        let lanes = seals.into_iter().map(|seal| Lane::new(encode, seal, stop.clone()));
        Ok(Self {
            give_back,
            plain: Sha256::new(),
            frames: Frames::default(),
            lanes: lanes.collect::<Result<_, _>>()?,
        })
    }

    /// Works until the stream's end is told.
    pub(super) fn run(mut self, in_order: &mpsc::Receiver<Next>) -> Result<Streamed, Halt> {
        // Only to wait for a sink or the cancellation, whichever comes first.
        let runtime = Builder::new_current_thread()
            .build()
            .map_err(|error| Halt::Failed(StreamError::Thread(scarce(error))))?;
        loop {
            match in_order.recv() {
                Ok(Next::Frame(packed)) => {
                    let frame = packed.recv().map_err(|_| Halt::Stopped)?;
                    self.frame(frame, &runtime)?;
                }
                Ok(Next::End(structure)) => return self.end(*structure, &runtime),
                // The reader stopped, and says why itself.
                Err(_) => return Err(Halt::Stopped),
            }
        }
    }

    fn frame(&mut self, frame: Frame, runtime: &Runtime) -> Result<(), Halt> {
        self.plain.update(frame.plain());
        self.frames.push(frame.packed().len(), frame.filled()).map_err(compress)?;
        self.write(frame.packed(), runtime)?;
        // The reader may have ended already.
        self.give_back.send(frame).ok();
        Ok(())
    }

    fn write(&mut self, packed: &[u8], runtime: &Runtime) -> Result<(), Halt> {
        for lane in &mut self.lanes {
            lane.write(packed, runtime)?;
        }
        self.has_sinks()
    }

    fn has_sinks(&self) -> Result<(), Halt> {
        if self.lanes.iter().all(Lane::is_out) {
            return Err(Halt::Failed(StreamError::NoSinkLeft));
        }
        Ok(())
    }

    fn end(mut self, structure: Structure, runtime: &Runtime) -> Result<Streamed, Halt> {
        let mut table = self.frames.seek_table();
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = table.read(&mut piece).map_err(compress)?;
            if count == 0 {
                break;
            }
            self.write(&piece[..count], runtime)?;
        }
        for lane in &mut self.lanes {
            lane.finish(runtime)?;
        }
        self.has_sinks()?;
        let plain = Plain {
            format: structure.format.clone(),
            bytes: self.frames.plain_bytes(),
            sha256: crate::codec::hex(&self.plain.finalize()),
        };
        Ok(Streamed { plain, structure, frames: self.frames })
    }
}

/// One seal: the stream in one form, on its way to the sinks that still take it.
struct Lane {
    /// None at the end.
    parts: Option<Cutter>,
    sinks: Vec<Sender<Sealed>>,
    stop: CancellationToken,
}

impl Lane {
    fn new(encode: Encode, seal: Seal, stop: CancellationToken) -> Result<Self, EncryptError> {
        let parts = Cutter::new(&seal.recipients, encode.part_bytes, encode.volume_parts)?;
        Ok(Self { parts: Some(parts), sinks: seal.sinks, stop })
    }

    const fn is_out(&self) -> bool {
        self.sinks.is_empty()
    }

    fn write(&mut self, mut packed: &[u8], runtime: &Runtime) -> Result<(), Halt> {
        while !self.is_out()
            && let Some(parts) = &mut self.parts
            && let Some(message) = parts.push(&mut packed).map_err(encrypting)?
        {
            self.send(&message, runtime)?;
        }
        Ok(())
    }

    fn finish(&mut self, runtime: &Runtime) -> Result<(), Halt> {
        let Some(parts) = self.parts.take().filter(|_| !self.is_out()) else { return Ok(()) };
        let last = parts.finish().map_err(encrypting)?;
        last.iter().try_for_each(|message| self.send(message, runtime))
    }

    /// Hands a message to every sink, and waits for those that are full.
    fn send(&mut self, message: &Sealed, runtime: &Runtime) -> Result<(), Halt> {
        let mut left = Vec::with_capacity(self.sinks.len());
        for sink in self.sinks.drain(..) {
            let sent = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => None,
                    sent = sink.send(message.clone()) => Some(sent.is_ok()),
                }
            });
            match sent {
                None => return Err(Halt::Stopped),
                Some(true) => left.push(sink),
                Some(false) => {}
            }
        }
        self.sinks = left;
        Ok(())
    }
}

fn compress(error: io::Error) -> Halt {
    Halt::Failed(StreamError::Compress(error))
}

fn encrypting(error: EncryptError) -> Halt {
    Halt::Failed(StreamError::Encrypt(error))
}
