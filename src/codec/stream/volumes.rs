//! Cutting one stored form into parts and volumes, and handing them to its sinks.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{runtime::Runtime, sync::mpsc::Sender};
use tokio_util::sync::CancellationToken;

use super::{Encode, Halt, VolumeInfo};
use crate::codec::sealed::Sealed;

/// Cuts a stream into parts and volumes.
///
/// Part and volume are ended late, when more is known to come, so that neither is ever empty.
pub(super) struct Volumes {
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
    pub(super) fn new(encode: Encode, sinks: Vec<Sender<Sealed>>, stop: CancellationToken) -> Self {
        let part_bytes = encode.part_bytes.max(1);
        let parts = (encode.volume_bytes / part_bytes as u64).max(1);
        Self {
            fanout: Fanout { sinks, stop },
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

    /// Whether no sink takes it any more; what is written then goes nowhere.
    pub(super) fn is_out(&self) -> bool {
        self.fanout.sinks.is_empty()
    }

    pub(super) fn write(&mut self, mut bytes: &[u8], runtime: &Runtime) -> Result<(), Halt> {
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

    /// Ends the last part and the last volume.
    pub(super) fn finish(&mut self, runtime: &Runtime) -> Result<(), Halt> {
        if !self.part.is_empty() {
            self.end_part(runtime)?;
        }
        self.end_volume(runtime)
    }

    /// The volumes that have ended.
    pub(super) fn done(self) -> Vec<VolumeInfo> {
        self.done
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
        self.sinks = left;
        Ok(())
    }
}
