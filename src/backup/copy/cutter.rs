//! What is read from the source becomes the parts and volumes of the target.
//!
//! Hashing and encrypting are done between two reads, on the worker that reads, in pieces of at
//! most 64 KiB: a fraction of a millisecond each.

use bytes::BytesMut;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::CopyError;
use crate::{
    codec::{
        encrypt::{Encrypt, EncryptError, PIECE_BYTES},
        hex,
        sealed::Sealed,
    },
    domain::failure::{Class, Failure},
    repository::store::Limits,
};

/// Cuts the volumes, joined together, into the target's own parts and volumes; encrypts them first
/// where that is asked for.
///
/// Part and volume are ended late, when more is known to come, so that neither is ever empty.
pub(super) struct Cutter {
    sender: mpsc::Sender<Sealed>,
    /// None where the bytes arrive as they are.
    encrypt: Option<Encrypt>,
    limits: Limits,
    part: BytesMut,
    volume: u32,
    number: u32,
    bytes: u64,
    hash: Sha256,
}

impl Cutter {
    pub(super) fn new(
        sender: mpsc::Sender<Sealed>,
        limits: Limits,
        encrypt: Option<Encrypt>,
    ) -> Self {
        let part = BytesMut::with_capacity(limits.part_bytes);
        Self { sender, encrypt, limits, part, volume: 1, number: 0, bytes: 0, hash: Sha256::new() }
    }

    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<(), CopyError> {
        let Some(mut encrypt) = self.encrypt.take() else { return self.cut(chunk).await };
        let mut ready = Vec::new();
        for piece in chunk.chunks(PIECE_BYTES) {
            encrypt.push(piece, &mut ready).map_err(|error| failed(&error))?;
            self.cut(&ready).await?;
        }
        self.encrypt = Some(encrypt);
        Ok(())
    }

    async fn cut(&mut self, mut chunk: &[u8]) -> Result<(), CopyError> {
        let part_bytes = self.limits.part_bytes;
        while !chunk.is_empty() {
            if self.part.len() == part_bytes {
                self.end_part().await?;
                if self.number == self.limits.max_parts {
                    self.end_volume().await?;
                }
            }
            let (piece, rest) = chunk.split_at(chunk.len().min(part_bytes - self.part.len()));
            self.part.extend_from_slice(piece);
            chunk = rest;
        }
        Ok(())
    }

    async fn end_part(&mut self) -> Result<(), CopyError> {
        let next = BytesMut::with_capacity(self.limits.part_bytes);
        let bytes = std::mem::replace(&mut self.part, next).freeze();
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.number += 1;
        self.send(Sealed::Part { volume: self.volume, number: self.number, bytes }).await
    }

    async fn end_volume(&mut self) -> Result<(), CopyError> {
        let sha256 = hex(&std::mem::take(&mut self.hash).finalize());
        let (volume, bytes) = (self.volume, self.bytes);
        (self.volume, self.number, self.bytes) = (volume + 1, 0, 0);
        self.send(Sealed::VolumeEnd { volume, bytes, sha256 }).await
    }

    /// Ends the last volume. Dropped without it, the copy is known to be cut off.
    pub(super) async fn finish(mut self) -> Result<(), CopyError> {
        if let Some(encrypt) = self.encrypt.take() {
            let mut ready = Vec::new();
            encrypt.finish(&mut ready).map_err(|error| failed(&error))?;
            self.cut(&ready).await?;
        }
        if !self.part.is_empty() {
            self.end_part().await?;
        }
        self.end_volume().await
    }

    async fn send(&self, message: Sealed) -> Result<(), CopyError> {
        let gone = || Failure::new(Class::RepositoryUnavailable, "", "the target gave up");
        self.sender.send(message).await.map_err(|_| CopyError::Target(gone()))
    }
}

fn failed(error: &EncryptError) -> CopyError {
    CopyError::Target(Failure::from_error(Class::Encryption, "", error))
}
