//! The digest of each part of an archive: BLAKE3 over its bytes as they stand in the stream.
//!
//! Fed with all that came at once, not row by row: BLAKE3 is fast only on kilobytes at a time.

/// BLAKE3 of the part that is being read.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// Two kilobytes: too much to be moved about.
    hash: Box<blake3::Hasher>,
    /// Up to where in the present chunk it was hashed.
    done: usize,
}

impl Digest {
    /// The part ends at `end` of the chunk; the next begins there.
    pub(super) fn end(&mut self, chunk: &[u8], end: usize) -> [u8; 32] {
        self.hash.update(&chunk[self.done..end]);
        self.done = end;
        let digest = self.hash.finalize().into();
        self.hash.reset();
        digest
    }

    /// The chunk has been read.
    pub(super) fn chunk_ends(&mut self, chunk: &[u8]) {
        self.hash.update(&chunk[self.done..]);
        self.done = 0;
    }
}
