//! The sealing thread: compressed frames in their order → for each seal: age (or nothing) → digests
//! → parts and volumes → sinks.

use std::{io, io::Read, sync::mpsc};

use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{Encode, Halt, Next, Seal, StreamError, Streamed, VolumeInfo, volumes::Volumes};
use crate::{
    codec::{
        encrypt::{Encrypt, EncryptError, PIECE_BYTES},
        frames::{Frame, Frames},
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
        if self.lanes.iter().all(|lane| lane.volumes.is_out()) {
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
        let volumes = self.lanes.into_iter().map(Lane::done).collect();
        Ok(Streamed { plain, structure, volumes, frames: self.frames })
    }
}

/// One seal: the stream in one form.
struct Lane {
    /// None where it is stored plain, and at the end.
    encrypt: Option<Encrypt>,
    /// Encrypted bytes on their way to the volumes; used again.
    ready: Vec<u8>,
    volumes: Volumes,
}

impl Lane {
    fn new(encode: Encode, seal: Seal, stop: CancellationToken) -> Result<Self, EncryptError> {
        let is_plain = seal.recipients.is_empty();
        let encrypt = if is_plain { None } else { Some(Encrypt::new(&seal.recipients)?) };
        Ok(Self { encrypt, ready: Vec::new(), volumes: Volumes::new(encode, seal.sinks, stop) })
    }

    fn write(&mut self, packed: &[u8], runtime: &Runtime) -> Result<(), Halt> {
        if self.volumes.is_out() {
            return Ok(());
        }
        let Some(encrypt) = &mut self.encrypt else { return self.volumes.write(packed, runtime) };
        for piece in packed.chunks(PIECE_BYTES) {
            encrypt.push(piece, &mut self.ready).map_err(encrypting)?;
            self.volumes.write(&self.ready, runtime)?;
        }
        Ok(())
    }

    fn finish(&mut self, runtime: &Runtime) -> Result<(), Halt> {
        if self.volumes.is_out() {
            return Ok(());
        }
        if let Some(encrypt) = self.encrypt.take() {
            encrypt.finish(&mut self.ready).map_err(encrypting)?;
            self.volumes.write(&self.ready, runtime)?;
        }
        self.volumes.finish(runtime)
    }

    fn done(self) -> Vec<VolumeInfo> {
        if self.volumes.is_out() { Vec::new() } else { self.volumes.done() }
    }
}

fn compress(error: io::Error) -> Halt {
    Halt::Failed(StreamError::Compress(error))
}

fn encrypting(error: EncryptError) -> Halt {
    Halt::Failed(StreamError::Encrypt(error))
}
