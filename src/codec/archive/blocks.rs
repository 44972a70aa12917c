//! The archive's data blocks (`_StartData`, `_StartLOs` in pg_backup_custom.c): a type, the entry's
//! dump id, then chunks of a stated length up to a length of zero. Large objects come as one such
//! run of chunks for each OID, up to an OID of zero.
//!
//! They stand in the order of the table of contents, whoever wrote the archive: so the entries are
//! read from their spool one by one, and only the next is awaited.

use std::io::BufReader;

use super::{
    super::{
        entries::{Entries, SPOOL_MAX},
        proof::{DataEntry, FormatError, Structure},
        spool::{self, Spool, SpoolReader, Spooled},
    },
    copy::CopyRows,
    digest::Digest,
    inserts::Inserts,
    scan::{Fault, Scanner},
    toc::Contents,
};
use crate::domain::manifest::Totals;

/// The most memory that the reading of the blocks takes, in bytes: the buffers of what is read of
/// the entries, twice while one is looked for, and of what is written.
pub(super) const MEMORY: u64 = 3 * spool::MEMORY as u64;

/// `BLK_DATA`: a table.
const DATA: u8 = 1;
/// `BLK_BLOBS`: large objects.
const BLOBS: u8 = 3;
/// The description of entries whose block is of that type (`WriteDataChunksForTocEntry`).
const BLOBS_KIND: &str = "BLOBS";

#[derive(Debug)]
pub(super) struct Blocks {
    totals: Totals,
    toc: (u64, [u8; 32]),
    heads: Spooled,
    reader: BufReader<SpoolReader>,
    count: u64,
    /// The entry whose block is awaited or read; none behind the last.
    next: Option<DataEntry>,
    done: u64,
    found: Spool,
    step: Step,
    start: u64,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Type,
    DumpId { blobs: bool },
    LargeObject,
    Length,
    Chunk { remaining: u64 },
    Ended,
}

/// What the block holds.
#[derive(Debug)]
enum Content {
    Copy(CopyRows),
    Inserts(Inserts),
    LargeObjects { count: u64, bytes: u64 },
}

impl Blocks {
    /// What follows a table of contents that ends at that position and has that digest.
    pub(super) fn new(contents: Contents, toc: (u64, [u8; 32])) -> Result<Self, FormatError> {
        let Contents { totals, heads, count } = contents;
        let mut blocks = Self {
            totals,
            toc,
            reader: heads.reader(),
            found: Spool::new(heads.folder(), SPOOL_MAX),
            heads,
            count,
            next: None,
            done: 0,
            step: Step::Type,
            start: 0,
            content: Content::Inserts(Inserts::default()),
        };
        blocks.await_next()?;
        Ok(blocks)
    }

    fn await_next(&mut self) -> Result<(), FormatError> {
        let is_last = self.done == self.count;
        self.next = if is_last { None } else { Some(DataEntry::read_head(&mut self.reader)?) };
        Ok(())
    }

    /// Reads all of the input: what is left of the chunk.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner,
        digest: &mut Digest,
        chunk: &[u8],
        input: &mut &[u8],
        cuts: &mut Vec<usize>,
    ) -> Result<(), FormatError> {
        while !input.is_empty() {
            if matches!(self.step, Step::Type) {
                cuts.push(chunk.len() - input.len());
            }
            self.step(scan, input).map_err(|fault| fault.within(|| self.place()))?;
            if matches!(self.step, Step::Ended) {
                let digest = digest.end(chunk, chunk.len() - input.len());
                self.end(scan, digest).map_err(|fault| fault.within(|| self.place()))?;
            }
        }
        Ok(())
    }

    /// The stream has ended.
    pub(super) fn finish(self, offset: u64, format: String) -> Result<Structure, FormatError> {
        if !matches!(self.step, Step::Type) {
            return Err(FormatError::EndsEarly { offset, place: self.place() });
        }
        if let Some(first) = &self.next {
            let more = self.count - self.done - 1;
            return Err(FormatError::DataMissing { offset, entry: first.describe(), more });
        }
        let entries = Entries::new(self.count, self.heads, self.found.finish()?);
        let (toc_end, toc_digest) = (self.toc.0, Some(self.toc.1));
        Ok(Structure { format, totals: self.totals, toc_end, toc_digest, entries })
    }

    fn step(&mut self, scan: &mut Scanner, input: &mut &[u8]) -> Result<(), Fault> {
        match self.step {
            Step::Type => self.begin(scan, input),
            Step::DumpId { blobs } => {
                let Some(id) = scan.int(input)? else { return Ok(()) };
                self.enter(scan, id, blobs)
            }
            Step::LargeObject => {
                let Some(oid) = scan.int(input)? else { return Ok(()) };
                self.step = if oid == 0 { Step::Ended } else { Step::Length };
                if let (Content::LargeObjects { count, .. }, 1.. | ..=-1) = (&mut self.content, oid)
                {
                    *count += 1;
                }
                Ok(())
            }
            Step::Length => {
                let Some(length) = scan.int(input)? else { return Ok(()) };
                self.step = match u64::try_from(length) {
                    Ok(0) if matches!(self.content, Content::LargeObjects { .. }) => {
                        Step::LargeObject
                    }
                    Ok(0) => Step::Ended,
                    Ok(remaining) => Step::Chunk { remaining },
                    Err(_) => return scan.fault("a chunk has a negative length"),
                };
                Ok(())
            }
            Step::Chunk { remaining } => {
                let data = scan.contents(input, remaining);
                match &mut self.content {
                    Content::Copy(rows) => rows.add(data),
                    Content::Inserts(inserts) => inserts.add(data),
                    Content::LargeObjects { bytes, .. } => *bytes += data.len() as u64,
                }
                let remaining = remaining - data.len() as u64;
                self.step = if remaining == 0 { Step::Length } else { Step::Chunk { remaining } };
                Ok(())
            }
            Step::Ended => Ok(()),
        }
    }

    fn begin(&mut self, scan: &mut Scanner, input: &mut &[u8]) -> Result<(), Fault> {
        self.start = scan.position();
        let Some(&[kind]) = scan.bytes(input, 1) else { return Ok(()) };
        if self.next.is_none() {
            return scan.fault("bytes follow the last data block");
        }
        if kind != DATA && kind != BLOBS {
            return scan.fault(format!("the data block has the unknown type {kind}"));
        }
        self.step = Step::DumpId { blobs: kind == BLOBS };
        Ok(())
    }

    fn enter(&mut self, scan: &Scanner, id: i64, blobs: bool) -> Result<(), Fault> {
        let Some(awaited) = self.next.as_ref().filter(|next| i64::from(next.dump_id) == id) else {
            return self.out_of_order(scan, id);
        };
        if blobs != (awaited.kind == BLOBS_KIND) {
            let name = awaited.describe();
            return scan.fault(format!("the data block is of the wrong type for {name}"));
        }
        if let Some(stated) = awaited.stated.filter(|stated| *stated != self.start) {
            let name = awaited.describe();
            return scan.fault(format!("the data of {name} was to begin at byte {stated}"));
        }
        (self.content, self.step) = if blobs {
            (Content::LargeObjects { count: 0, bytes: 0 }, Step::LargeObject)
        } else if awaited.copy {
            (Content::Copy(CopyRows::default()), Step::Length)
        } else {
            (Content::Inserts(Inserts::default()), Step::Length)
        };
        Ok(())
    }

    /// Says of a block that is not the awaited one whose it is.
    fn out_of_order(&self, scan: &Scanner, id: i64) -> Result<(), Fault> {
        let mut entries = self.heads.reader();
        for number in 0..self.count {
            let head = DataEntry::read_head(&mut entries)?;
            if i64::from(head.dump_id) == id {
                let name = head.describe();
                return scan.fault(if number < self.done {
                    format!("the data of {name} comes a second time")
                } else {
                    format!("the data of {name} comes out of its order")
                });
            }
        }
        scan.fault(format!("no entry with data has the dump id {id}"))
    }

    fn end(&mut self, scan: &Scanner, digest: [u8; 32]) -> Result<(), Fault> {
        let (totals, Some(entry)) = (&mut self.totals, &mut self.next) else { return Ok(()) };
        (entry.offset, entry.length) = (self.start, scan.position() - self.start);
        entry.digest = digest;
        match &self.content {
            Content::Copy(rows) => {
                let Some(rows) = rows.finish() else {
                    return scan.fault("the COPY data does not end with the line \\.");
                };
                entry.rows = Some(rows);
                totals.rows += rows;
            }
            Content::Inserts(inserts) => {
                let Some(statements) = inserts.finish() else {
                    return scan.fault("the last INSERT statement has no end");
                };
                entry.statements = Some(statements);
                totals.statements += statements;
            }
            Content::LargeObjects { count, bytes } => {
                entry.large_objects = Some(*count);
                entry.large_object_bytes = Some(*bytes);
                totals.large_objects += count;
                totals.large_object_bytes += bytes;
            }
        }
        totals.tables += u64::from(entry.large_objects.is_none());
        totals.tables_via_root += u64::from(entry.via_root);
        entry.write_block(&mut self.found)?;
        self.done += 1;
        self.step = Step::Type;
        self.await_next().map_err(Fault::Other)
    }

    fn place(&self) -> String {
        let Some(next) = &self.next else { return "what follows the last data block".to_owned() };
        let (name, count) = (next.describe(), self.count);
        match self.step {
            Step::Type | Step::DumpId { .. } => {
                let number = self.done + 1;
                format!("the head of data block {number} of {count}, probably that of {name}")
            }
            _ => format!("the data of {name}"),
        }
    }
}
