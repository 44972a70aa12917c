//! The sealing thread: compressed frames in their order → digests → parts and volumes → sinks.

use std::{
    io::{self, Read},
    sync::mpsc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::Sender,
};
use tokio_util::sync::CancellationToken;

use super::{Encode, Halt, Next, StreamError, Streamed, VolumeInfo};
use crate::{
    codec::{
        frames::{Frame, Frames},
        proof::Structure,
        sealed::Sealed,
    },
    domain::manifest::Plain,
};

pub(super) struct Sealer {
    give_back: mpsc::SyncSender<Frame>,
    plain: Sha256,
    frames: Frames,
    volumes: Volumes,
}

impl Sealer {
    pub(super) fn new(
        encode: Encode,
        sinks: Vec<Sender<Sealed>>,
        give_back: mpsc::SyncSender<Frame>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            give_back,
            plain: Sha256::new(),
            frames: Frames::default(),
            volumes: Volumes::new(encode, Fanout { sinks, stop }),
        }
    }

    /// Works until the stream's end is told.
    pub(super) fn run(mut self, in_order: &mpsc::Receiver<Next>) -> Result<Streamed, Halt> {
        // Only to wait for a sink or the cancellation, whichever comes first.
        let runtime = Builder::new_current_thread()
            .build()
            .map_err(|error| Halt::Failed(StreamError::Thread(error)))?;
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
        self.volumes.write(frame.packed(), runtime)?;
        // The reader may have ended already.
        self.give_back.send(frame).ok();
        Ok(())
    }

    fn end(mut self, structure: Structure, runtime: &Runtime) -> Result<Streamed, Halt> {
        // The reader has ended; what it might still want is not needed.
        drop(self.give_back);
        let mut table = self.frames.seek_table();
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = table.read(&mut piece).map_err(compress)?;
            if count == 0 {
                break;
            }
            self.volumes.write(&piece[..count], runtime)?;
        }
        let volumes = self.volumes.finish(runtime)?;
        let plain = Plain {
            format: structure.format.clone(),
            bytes: self.frames.plain_bytes(),
            sha256: crate::codec::hex(&self.plain.finalize()),
        };
        Ok(Streamed { plain, structure, volumes, frames: self.frames })
    }
}

/// Cuts the compressed stream into parts and volumes.
///
/// Part and volume are ended late, when more is known to come, so that neither is ever empty.
struct Volumes {
    fanout: Fanout,
    part: Vec<u8>,
    part_bytes: usize,
    parts_per_volume: u32,
    volume: u32,
    number: u32,
    bytes: u64,
    digest: Sha256,
    done: Vec<VolumeInfo>,
}

impl Volumes {
    fn new(encode: Encode, fanout: Fanout) -> Self {
        let part_bytes = encode.part_bytes.max(1);
        let parts = (encode.volume_bytes / part_bytes as u64).max(1);
        Self {
            fanout,
            part: Vec::new(),
            part_bytes,
            parts_per_volume: u32::try_from(parts).unwrap_or(u32::MAX),
            volume: 1,
            number: 0,
            bytes: 0,
            digest: Sha256::new(),
            done: Vec::new(),
        }
    }

    fn write(&mut self, mut bytes: &[u8], runtime: &Runtime) -> Result<(), Halt> {
        while !bytes.is_empty() {
            if self.part.len() == self.part_bytes {
                self.end_part(runtime)?;
            }
            if self.part.capacity() == 0 {
                self.part.reserve_exact(self.part_bytes);
            }
            let (head, rest) = bytes.split_at(bytes.len().min(self.part_bytes - self.part.len()));
            self.part.extend_from_slice(head);
            bytes = rest;
        }
        Ok(())
    }

    fn finish(mut self, runtime: &Runtime) -> Result<Vec<VolumeInfo>, Halt> {
        if !self.part.is_empty() {
            self.end_part(runtime)?;
        }
        self.end_volume(runtime)?;
        Ok(self.done)
    }

    fn end_part(&mut self, runtime: &Runtime) -> Result<(), Halt> {
        if self.number == self.parts_per_volume {
            self.end_volume(runtime)?;
        }
        let bytes = Bytes::from(std::mem::take(&mut self.part));
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.number += 1;
        let part = Sealed::Part { volume: self.volume, number: self.number, bytes };
        self.fanout.send(&part, runtime)
    }

    fn end_volume(&mut self, runtime: &Runtime) -> Result<(), Halt> {
        let (bytes, sha256) = (self.bytes, crate::codec::hex(&self.digest.finalize_reset()));
        let end = Sealed::VolumeEnd { volume: self.volume, bytes, sha256: sha256.clone() };
        self.fanout.send(&end, runtime)?;
        self.done.push(VolumeInfo { bytes, sha256 });
        (self.volume, self.number, self.bytes) = (self.volume + 1, 0, 0);
        Ok(())
    }
}

/// The sinks that still take parts.
struct Fanout {
    sinks: Vec<Sender<Sealed>>,
    stop: CancellationToken,
}

impl Fanout {
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
        if left.is_empty() {
            return Err(Halt::Failed(StreamError::NoSinkLeft));
        }
        self.sinks = left;
        Ok(())
    }
}

fn compress(error: io::Error) -> Halt {
    Halt::Failed(StreamError::Compress(error))
}
