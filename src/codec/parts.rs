//! One stored form: encrypted or not, hashed, cut into parts and volumes. It takes bytes and gives
//! messages for an uploader; it knows neither threads nor channels.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{
    encrypt::{Encrypt, EncryptError, PIECE_BYTES},
    hex,
};
use crate::domain::recipients::Recipients;

/// One message to a repository's uploader, in order. Volumes and parts are counted from 1; a
/// volume's parts come in order, then its end; then the next volume. After the last
/// [`Sealed::VolumeEnd`] the channel closes. A channel that closes earlier means that the stream
/// broke off: nothing of it may be committed.
#[derive(Debug, Clone)]
pub enum Sealed {
    /// The next part of a volume. Every part but a volume's last has the same length.
    Part { volume: u32, number: u32, bytes: Bytes },
    /// A volume is whole: its length in bytes, and the SHA-256 of them in lower-case hexadecimal.
    VolumeEnd { volume: u32, bytes: u64, sha256: String },
}

/// Encrypts, hashes and cuts a stream.
///
/// Part and volume are ended late, when more is known to come, so that neither is ever empty.
#[derive(Debug)]
pub struct Cutter {
    /// None where it is stored as it comes, and at the end.
    encrypt: Option<Encrypt>,
    /// Encrypted bytes of which the first `taken` are in a part; the buffer is used again.
    ready: Vec<u8>,
    taken: usize,
    part: Vec<u8>,
    part_bytes: usize,
    volume_parts: u32,
    volume: u32,
    /// Parts of the volume so far, the open one not counted.
    number: u32,
    /// Bytes of the volume in these parts.
    bytes: u64,
    digest: Sha256,
}

impl Cutter {
    /// Parts of that length, so many to a volume, encrypted to these recipients; to none: as it comes.
    ///
    /// # Errors
    /// When a recipient cannot be used.
    pub fn new(
        recipients: &Recipients,
        part_bytes: usize,
        volume_parts: u32,
    ) -> Result<Self, EncryptError> {
        let is_plain = recipients.is_empty();
        let encrypt = if is_plain { None } else { Some(Encrypt::new(recipients)?) };
        Ok(Self {
            encrypt,
            ready: Vec::new(),
            taken: 0,
            part: Vec::new(),
            part_bytes: part_bytes.max(1),
            volume_parts: volume_parts.max(1),
            volume: 1,
            number: 0,
            bytes: 0,
            digest: Sha256::new(),
        })
    }

    /// Takes bytes off `bytes` until a message is complete. To be called until there is none: then all
    /// were taken.
    ///
    /// # Errors
    /// Never in practice: see [`Encrypt::push`].
    pub fn push(&mut self, bytes: &mut &[u8]) -> Result<Option<Sealed>, EncryptError> {
        loop {
            if let Some(encrypt) = &mut self.encrypt
                && self.taken == self.ready.len()
                && !bytes.is_empty()
            {
                let (piece, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
                encrypt.push(piece, &mut self.ready)?;
                (self.taken, *bytes) = (0, rest);
                continue;
            }
            let next = if self.encrypt.is_some() { &self.ready[self.taken..] } else { *bytes };
            if next.is_empty() {
                return Ok(None);
            }
            if self.number == self.volume_parts {
                return Ok(Some(self.end_volume()));
            }
            if self.part.len() == self.part_bytes {
                return Ok(Some(self.end_part()));
            }
            if self.part.capacity() == 0 {
                self.part.reserve_exact(self.part_bytes);
            }
            let count = next.len().min(self.part_bytes - self.part.len());
            self.digest.update(&next[..count]);
            self.part.extend_from_slice(&next[..count]);
            if self.encrypt.is_some() {
                self.taken += count;
            } else {
                *bytes = &bytes[count..];
            }
        }
    }

    /// The last messages. Dropped without them, the stream is known to be cut off.
    ///
    /// # Errors
    /// As [`Cutter::push`].
    pub fn finish(mut self) -> Result<Vec<Sealed>, EncryptError> {
        let mut rest = Vec::new();
        if let Some(encrypt) = self.encrypt.take() {
            encrypt.finish(&mut rest)?;
        }
        let mut last = Vec::new();
        let mut rest = rest.as_slice();
        while let Some(message) = self.push(&mut rest)? {
            last.push(message);
        }
        if !self.part.is_empty() {
            last.push(self.end_part());
        }
        last.push(self.end_volume());
        Ok(last)
    }

    fn end_part(&mut self) -> Sealed {
        let bytes = Bytes::from(std::mem::take(&mut self.part));
        self.bytes += bytes.len() as u64;
        self.number += 1;
        Sealed::Part { volume: self.volume, number: self.number, bytes }
    }

    fn end_volume(&mut self) -> Sealed {
        let (volume, bytes) = (self.volume, self.bytes);
        (self.volume, self.number, self.bytes) = (volume + 1, 0, 0);
        Sealed::VolumeEnd { volume, bytes, sha256: hex(&self.digest.finalize_reset()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encrypt::tests::{keys, open};

    /// Volumes with their parts; each is as its end says.
    fn cut(parts: Cutter, pieces: &[&[u8]]) -> Vec<Vec<Bytes>> {
        let mut parts = parts;
        let mut messages = Vec::new();
        for piece in pieces {
            let mut bytes = *piece;
            while let Some(message) = parts.push(&mut bytes).unwrap() {
                messages.push(message);
            }
            assert!(bytes.is_empty());
        }
        messages.extend(parts.finish().unwrap());
        let (mut volumes, mut open) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                Sealed::Part { volume, number, bytes } => {
                    open.push(bytes);
                    let at = (volume as usize, number as usize);
                    assert_eq!(at, (volumes.len() + 1, open.len()));
                }
                Sealed::VolumeEnd { volume, bytes, sha256 } => {
                    let whole = open.concat();
                    assert_eq!((bytes, sha256), (whole.len() as u64, hex(&Sha256::digest(&whole))));
                    volumes.push(std::mem::take(&mut open));
                    assert_eq!(volume as usize, volumes.len());
                }
            }
        }
        assert!(open.is_empty(), "the last volume has ended");
        volumes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However it arrives: parts and volumes are full but for the last, and none is empty.
        #[test]
        fn what_is_cut_joins_to_what_came(
            lengths in proptest::collection::vec(0usize..100_000, 1..5),
            part_bytes in prop_oneof![1000usize..2000, 60_000usize..70_000],
            volume_parts in 1u32..4,
            encrypts: bool,
        ) {
            let (identity, recipients) = keys();
            let recipients = if encrypts { recipients } else { Recipients::default() };
            let plain: Vec<u8> = (0..=250).cycle().take(lengths.iter().sum()).collect();
            let mut pieces = Vec::new();
            let mut rest = plain.as_slice();
            for length in lengths {
                let (piece, more) = rest.split_at(length);
                pieces.push(piece);
                rest = more;
            }
            let parts = Cutter::new(&recipients, part_bytes, volume_parts).unwrap();
            let volumes = cut(parts, &pieces);
            let stored = volumes.concat().concat();
            let stored = if encrypts { open(&stored, &identity).unwrap() } else { stored };
            prop_assert!(stored == plain);
            for (at, volume) in volumes.iter().enumerate() {
                if at + 1 < volumes.len() {
                    prop_assert_eq!(volume.len(), volume_parts as usize);
                }
                for (number, part) in volume.iter().enumerate() {
                    let is_last = at + 1 == volumes.len() && number + 1 == volume.len();
                    prop_assert!(part.len() == part_bytes || is_last && !part.is_empty());
                }
            }
        }
    }
}
