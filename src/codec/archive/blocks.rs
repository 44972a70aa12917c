//! The archive's data blocks (`_StartData`, `_StartLOs` in pg_backup_custom.c): a type, the entry's
//! dump id, then chunks of a stated length up to a length of zero. Large objects come as one such
//! run of chunks for each OID, up to an OID of zero.

use std::collections::HashMap;

use super::{
    super::proof::{FormatError, Structure},
    copy::CopyRows,
    scan::{Fault, Scanner},
    toc::Awaited,
};
use crate::domain::manifest::Totals;

/// `BLK_DATA`: a table.
const DATA: u8 = 1;
/// `BLK_BLOBS`: large objects.
const BLOBS: u8 = 3;
/// The description of entries whose block is of that type (`WriteDataChunksForTocEntry`).
const BLOBS_KIND: &str = "BLOBS";

#[derive(Debug)]
pub(super) struct Blocks {
    total: u64,
    toc_end: u64,
    entries: Vec<Awaited>,
    by_id: HashMap<u32, usize>,
    /// Entries whose block has not come yet.
    missing: u64,
    step: Step,
    current: usize,
    rows: Option<CopyRows>,
    large_objects: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Type,
    DumpId { start: u64, blobs: bool },
    LargeObject,
    Length,
    Chunk { remaining: u64 },
}

impl Blocks {
    pub(super) fn new(total: u64, toc_end: u64, entries: Vec<Awaited>) -> Self {
        let by_id = entries.iter().enumerate().map(|(i, it)| (it.entry.dump_id, i)).collect();
        Self {
            total,
            toc_end,
            missing: entries.len() as u64,
            entries,
            by_id,
            step: Step::Type,
            current: 0,
            rows: None,
            large_objects: None,
        }
    }

    /// Reads all of the input. `whole` is the length of the chunk that `input` is the rest of.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner,
        input: &mut &[u8],
        whole: usize,
        cuts: &mut Vec<usize>,
    ) -> Result<(), FormatError> {
        if self.by_id.len() < self.entries.len() {
            let fault = scan.fault("two entries have the same dump id");
            return fault.map_err(|fault| fault.within("the table of contents".to_owned()));
        }
        while !input.is_empty() {
            if matches!(self.step, Step::Type) {
                cuts.push(whole - input.len());
            }
            self.step(scan, input).map_err(|fault| fault.within(self.place()))?;
        }
        Ok(())
    }

    /// The stream has ended.
    pub(super) fn finish(self, offset: u64, format: String) -> Result<Structure, FormatError> {
        if !matches!(self.step, Step::Type) {
            return Err(FormatError::EndsEarly { offset, place: self.place() });
        }
        if let Some(first) = self.entries.iter().find(|it| it.entry.length == 0) {
            let more = self.missing.saturating_sub(1);
            return Err(FormatError::DataMissing { offset, entry: first.entry.describe(), more });
        }
        let mut totals = Totals { entries: self.total, ..Totals::default() };
        for Awaited { entry, .. } in &self.entries {
            totals.tables += u64::from(entry.large_objects.is_none());
            totals.rows += entry.rows.unwrap_or(0);
            totals.large_objects += entry.large_objects.unwrap_or(0);
        }
        let entries = self.entries.into_iter().map(|it| it.entry).collect();
        Ok(Structure { format, totals, toc_end: self.toc_end, entries })
    }

    fn step(&mut self, scan: &mut Scanner, input: &mut &[u8]) -> Result<(), Fault> {
        match self.step {
            Step::Type => self.begin(scan, input),
            Step::DumpId { start, blobs } => {
                let Some(id) = scan.int(input)? else { return Ok(()) };
                self.enter(scan, id, start, blobs)
            }
            Step::LargeObject => {
                let Some(oid) = scan.int(input)? else { return Ok(()) };
                if oid == 0 {
                    return self.end(scan);
                }
                self.large_objects = self.large_objects.map(|count| count + 1);
                self.step = Step::Length;
                Ok(())
            }
            Step::Length => {
                let Some(length) = scan.int(input)? else { return Ok(()) };
                match u64::try_from(length) {
                    Ok(0) if self.large_objects.is_some() => self.step = Step::LargeObject,
                    Ok(0) => return self.end(scan),
                    Ok(remaining) => self.step = Step::Chunk { remaining },
                    Err(_) => return scan.fault("a chunk has a negative length"),
                }
                Ok(())
            }
            Step::Chunk { remaining } => {
                let data = scan.contents(input, remaining);
                if let Some(rows) = &mut self.rows {
                    rows.add(data);
                }
                let remaining = remaining - data.len() as u64;
                self.step = if remaining == 0 { Step::Length } else { Step::Chunk { remaining } };
                Ok(())
            }
        }
    }

    fn begin(&mut self, scan: &mut Scanner, input: &mut &[u8]) -> Result<(), Fault> {
        let start = scan.position();
        let Some(&[kind]) = scan.bytes(input, 1) else { return Ok(()) };
        if self.missing == 0 {
            return scan.fault("bytes follow the last data block");
        }
        if kind != DATA && kind != BLOBS {
            return scan.fault(format!("the data block has the unknown type {kind}"));
        }
        self.step = Step::DumpId { start, blobs: kind == BLOBS };
        Ok(())
    }

    fn enter(&mut self, scan: &Scanner, id: i64, start: u64, blobs: bool) -> Result<(), Fault> {
        let known = u32::try_from(id).ok().and_then(|id| self.by_id.get(&id));
        let Some(&index) = known else {
            return scan.fault(format!("no entry with data has the dump id {id}"));
        };
        let awaited = &mut self.entries[index];
        if awaited.entry.length != 0 {
            let name = awaited.entry.describe();
            return scan.fault(format!("the data of {name} comes a second time"));
        }
        if blobs != (&*awaited.entry.kind == BLOBS_KIND) {
            let name = awaited.entry.describe();
            return scan.fault(format!("the data block is of the wrong type for {name}"));
        }
        if let Some(stated) = awaited.stated.filter(|stated| *stated != start) {
            let name = awaited.entry.describe();
            return scan.fault(format!("the data of {name} was to begin at byte {stated}"));
        }
        awaited.entry.offset = start;
        self.rows = awaited.copy.then(CopyRows::default);
        self.large_objects = blobs.then_some(0);
        self.current = index;
        self.step = if blobs { Step::LargeObject } else { Step::Length };
        Ok(())
    }

    fn end(&mut self, scan: &Scanner) -> Result<(), Fault> {
        let rows = match self.rows.take().map(|rows| rows.finish()) {
            Some(None) => return scan.fault("the COPY data does not end with the line \\."),
            Some(rows) => rows,
            None => None,
        };
        let entry = &mut self.entries[self.current].entry;
        entry.rows = rows;
        entry.large_objects = self.large_objects.take();
        entry.length = scan.position() - entry.offset;
        self.missing -= 1;
        self.step = Step::Type;
        Ok(())
    }

    fn place(&self) -> String {
        match self.step {
            Step::Type | Step::DumpId { .. } => {
                let Some(next) = self.entries.iter().find(|it| it.entry.length == 0) else {
                    return "what follows the last data block".to_owned();
                };
                let count = self.entries.len() as u64;
                let number = count - self.missing + 1;
                let next = next.entry.describe();
                format!("the head of data block {number} of {count}, probably that of {next}")
            }
            _ => format!("the data of {}", self.entries[self.current].entry.describe()),
        }
    }
}
