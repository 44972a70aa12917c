//! Reads an archive of pg_dump's custom format while it streams by.
//!
//! Why not wait for `pg_restore`: a dump that broke off must be known before anything is committed,
//! and the positions that are found here let a later restore fetch one table out of many. The
//! format has no end mark and no check sum: a stream cut off between two data blocks is known only
//! by the entries whose data never came, so each entry of the table of contents that has data
//! must get exactly one block, and nothing may follow.
//!
//! Versions 1.13 to 1.16 are read (pg_dump 10.3 to 18): 1.14 added the table access method, 1.15 the
//! compression algorithm, 1.16 the relation kind (`K_VERS_*` in PostgreSQL's
//! `src/bin/pg_dump/pg_backup_archiver.h`). Memory is bounded by the entries that have data; no
//! length that the stream states is ever allocated.
//!
//! What can still go wrong: the contents of rows are not looked at, so bytes changed within a
//! row are noticed by the SHA-256 of the stream, not here.

mod blocks;
mod copy;
mod header;
mod scan;
#[cfg(test)]
pub(super) mod synth;
#[cfg(test)]
mod tests;
mod toc;

use self::{blocks::Blocks, header::Header, scan::Scanner, toc::Toc};
use super::proof::{FormatError, Proof, Structure};

/// The proof of an archive in the custom format, uncompressed (`pg_dump -Fc -Z0`).
#[derive(Debug)]
pub struct ArchiveProof {
    scan: Scanner,
    minor: u8,
    stage: Stage,
    failed: Option<FormatError>,
}

#[derive(Debug)]
enum Stage {
    Header(Header),
    Toc(Toc),
    Blocks(Blocks),
}

impl Default for ArchiveProof {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveProof {
    /// A proof that has seen nothing yet.
    pub fn new() -> Self {
        Self {
            scan: Scanner::default(),
            minor: 0,
            stage: Stage::Header(Header::default()),
            failed: None,
        }
    }

    fn read(&mut self, bytes: &[u8], cuts: &mut Vec<usize>) -> Result<(), FormatError> {
        let input = &mut &*bytes;
        loop {
            match &mut self.stage {
                Stage::Header(header) => {
                    let Some(found) = header.read(&mut self.scan, input)? else { return Ok(()) };
                    self.minor = found.minor;
                    self.stage = Stage::Toc(Toc::new(found.minor, found.entries));
                }
                Stage::Toc(toc) => {
                    if !toc.read(&mut self.scan, input)? {
                        return Ok(());
                    }
                    let (total, entries) = toc.take();
                    self.stage = Stage::Blocks(Blocks::new(total, self.scan.position(), entries));
                }
                Stage::Blocks(blocks) => {
                    return blocks.read(&mut self.scan, input, bytes.len(), cuts);
                }
            }
        }
    }

    /// Bytes held between two calls, without the entries themselves.
    #[cfg(test)]
    fn scratch_bytes(&self) -> usize {
        match &self.stage {
            Stage::Toc(toc) => toc.scratch_bytes(),
            _ => 0,
        }
    }
}

impl Proof for ArchiveProof {
    fn feed(&mut self, bytes: &[u8], cuts: &mut Vec<usize>) -> Result<(), FormatError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read(bytes, cuts).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn finish(self: Box<Self>) -> Result<Structure, FormatError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let offset = self.scan.position();
        match self.stage {
            _ if offset == 0 => Err(FormatError::Empty),
            Stage::Header(_) => {
                Err(FormatError::EndsEarly { offset, place: header::PLACE.to_owned() })
            }
            Stage::Toc(toc) => Err(FormatError::EndsEarly { offset, place: toc.place() }),
            Stage::Blocks(blocks) => blocks.finish(offset, format!("custom 1.{}", self.minor)),
        }
    }
}
