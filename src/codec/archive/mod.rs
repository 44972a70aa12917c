//! Reads an archive of pg_dump's custom format while it streams by.
//!
//! Why not wait for `pg_restore`: a dump that broke off must be known before anything is committed,
//! and the positions that are found here let a later restore fetch one table out of many. The
//! format has no end mark and no check sum: a stream cut off between two data blocks is known only
//! by the entries whose data never came, so each entry of the table of contents that has data
//! must get exactly one block, and nothing may follow.
//!
//! Versions 1.13 to 1.16 are read (pg_dump 10.3 to 19): 1.14 added the table access method, 1.15 the
//! compression algorithm, 1.16 the relation kind (`K_VERS_*` in PostgreSQL's
//! `src/bin/pg_dump/pg_backup_archiver.h`). No length that the stream states is ever allocated, and
//! the entries are not kept in memory: pg_dump writes the data blocks in the order of the entries
//! (`WriteDataChunks`), so that only the next one is awaited, and what is known of all of them goes
//! to a file in the run's scratch folder. [`ArchiveProof::MEMORY`] is the bound.
//!
//! Each block, and the table of contents, gets a digest, so that whoever fetches it alone can prove
//! what was fetched.
//!
//! What can still go wrong: the contents of rows are not looked at, so bytes changed within a
//! row are noticed by the SHA-256 of the stream, not here.

mod blocks;
mod copy;
mod digest;
mod header;
mod ids;
mod inserts;
#[cfg(test)]
mod real;
mod root;
mod scan;
#[cfg(test)]
pub(super) mod synth;
#[cfg(test)]
mod tests;
mod toc;

use std::path::{Path, PathBuf};

use self::{blocks::Blocks, digest::Digest, header::Header, scan::Scanner, toc::Toc};
use super::proof::{FormatError, Proof, Structure};

/// The proof of an archive in the custom format, uncompressed (`pg_dump -Fc -Z0`).
#[derive(Debug)]
pub struct ArchiveProof {
    scratch: PathBuf,
    scan: Scanner,
    digest: Digest,
    minor: u8,
    stage: Stage,
    failed: Option<FormatError>,
}

#[derive(Debug)]
enum Stage {
    Header(Header),
    Toc(Box<Toc>),
    Blocks(Box<Blocks>),
}

impl ArchiveProof {
    /// The most memory that it takes, in bytes: the ids of the table of contents, then the buffers
    /// of three spools.
    pub const MEMORY: u64 = toc::MEMORY + blocks::MEMORY;

    /// A proof that has seen nothing yet. What it finds is noted in the folder `scratch` where there
    /// is much of it, in files without a name.
    pub fn new(scratch: impl AsRef<Path>) -> Self {
        Self {
            scratch: scratch.as_ref().to_owned(),
            scan: Scanner::default(),
            digest: Digest::default(),
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
                    let toc = Toc::new(found.minor, found.entries, &self.scratch);
                    self.stage = Stage::Toc(Box::new(toc));
                }
                Stage::Toc(toc) => {
                    if !toc.read(&mut self.scan, input)? {
                        return Ok(());
                    }
                    let empty = Box::new(Toc::new(self.minor, 0, &self.scratch));
                    let contents = std::mem::replace(toc, empty).finish()?;
                    let digest = self.digest.end(bytes, bytes.len() - input.len());
                    let end = (self.scan.position(), digest);
                    self.stage = Stage::Blocks(Box::new(Blocks::new(contents, end)?));
                }
                Stage::Blocks(blocks) => {
                    return blocks.read(&mut self.scan, &mut self.digest, bytes, input, cuts);
                }
            }
        }
    }

    /// Bytes held between two calls, without the entries themselves.
    #[cfg(test)]
    fn scratch_bytes(&mut self) -> usize {
        match &mut self.stage {
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
        self.read(bytes, cuts).inspect_err(|error| self.failed = Some(error.clone()))?;
        self.digest.chunk_ends(bytes);
        Ok(())
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
