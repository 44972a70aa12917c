//! The archive's table of contents (`WriteToc`): one entry after the other, each a fixed row of
//! fields. Entries with data are noted in a spool, others are counted.

use std::path::Path;

use super::{
    super::{
        entries::SPOOL_MAX,
        proof::{DataEntry, FormatError, describe},
        spool::{self, Spool, Spooled},
    },
    ids::Ids,
    root,
    scan::{Fault, Scanner, Text},
};
use crate::domain::{manifest::Totals, name::readable};

/// Longest name of an entry with data, in bytes. Identifiers have 63 unless PostgreSQL was built with
/// another NAMEDATALEN; longer tags (functions with their arguments) belong to entries without data.
const MAX_NAME: usize = 1024;
/// The most memory that the reading of the table takes, in bytes: the ids, the spool's buffer, and
/// seven strings.
pub(super) const MEMORY: u64 = Ids::MEMORY + (spool::MEMORY + 16 * MAX_NAME) as u64;

/// `K_OFFSET_POS_NOT_SET`: there is data, at an offset that the writer could not fill in.
const OFFSET_NOT_SET: u8 = 1;
/// `K_OFFSET_POS_SET`
const OFFSET_SET: u8 = 2;
/// `K_OFFSET_NO_DATA`
const NO_DATA: u8 = 3;

macro_rules! fields {
    ($($field:ident)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Field {
            $($field),+
        }

        /// The fields of an entry in their order.
        const FIELDS: &[Field] = &[$(Field::$field),+];
    };
}

fields! {
    DumpId HasData TableOid Oid Tag Kind Section Definition Drop Copy Schema Tablespace AccessMethod
    RelationKind Owner WithOids Dependency Offset
}

/// The table of contents, once it is whole.
#[derive(Debug)]
pub(super) struct Contents {
    /// What is counted in it alone; tables, rows and large objects come later.
    pub(super) totals: Totals,
    pub(super) heads: Spooled,
    pub(super) count: u64,
}

#[derive(Debug)]
pub(super) struct Toc {
    minor: u8,
    done: u64,
    field: usize,
    text: Vec<u8>,
    current: Current,
    totals: Totals,
    ids: Ids,
    heads: Spool,
    count: u64,
}

#[derive(Debug, Default)]
struct Current {
    dump_id: u32,
    has_data: bool,
    kind: Vec<u8>,
    name: Vec<u8>,
    schema: Vec<u8>,
    owner: Vec<u8>,
    /// The statement that loads the data, or its beginning; empty where it is no COPY.
    copy: Vec<u8>,
    via_root: bool,
}

impl Current {
    /// The next entry, in the same memory.
    fn begin(&mut self, dump_id: u32) {
        self.dump_id = dump_id;
        (self.has_data, self.via_root) = (false, false);
        for text in self.texts() {
            text.clear();
        }
    }

    fn texts(&mut self) -> [&mut Vec<u8>; 5] {
        [&mut self.kind, &mut self.name, &mut self.schema, &mut self.owner, &mut self.copy]
    }

    fn schema(&self) -> Option<&[u8]> {
        (!self.schema.is_empty()).then_some(&*self.schema)
    }
}

impl Toc {
    /// A table of `total` entries, noted in `scratch` where there are many.
    pub(super) fn new(minor: u8, total: u64, scratch: &Path) -> Self {
        Self {
            minor,
            done: 0,
            field: 0,
            text: Vec::new(),
            current: Current::default(),
            totals: Totals { entries: total, ..Totals::default() },
            ids: Ids::default(),
            heads: Spool::new(scratch, SPOOL_MAX),
            count: 0,
        }
    }

    /// Reads on; true once the table is whole.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner,
        input: &mut &[u8],
    ) -> Result<bool, FormatError> {
        while self.done < self.totals.entries {
            match self.field(scan, input) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(fault) => return Err(fault.within(|| self.place())),
            }
        }
        Ok(true)
    }

    /// What it holds.
    pub(super) fn finish(self) -> Result<Contents, FormatError> {
        Ok(Contents { totals: self.totals, heads: self.heads.finish()?, count: self.count })
    }

    /// Where the reading stands, for messages.
    pub(super) fn place(&self) -> String {
        let place =
            format!("the table of contents, entry {} of {}", self.done + 1, self.totals.entries);
        let current = &self.current;
        if self.field <= 1 {
            return place;
        }
        let kind = if current.kind.is_empty() { "entry".into() } else { readable(&current.kind) };
        let schema = current.schema().map(readable);
        let name = readable(&current.name);
        format!("{place}, {}", describe(&kind, schema.as_deref(), &name, current.dump_id))
    }

    #[cfg(test)]
    pub(super) fn scratch_bytes(&mut self) -> usize {
        let texts = self.current.texts().map(|text| text.capacity());
        self.text.capacity() + texts.iter().sum::<usize>()
    }

    fn field(&mut self, scan: &mut Scanner, input: &mut &[u8]) -> Result<bool, Fault> {
        let field = FIELDS[self.field];
        match field {
            Field::AccessMethod if self.minor < 14 => {}
            Field::RelationKind if self.minor < 16 => {}
            Field::DumpId | Field::HasData | Field::Section | Field::RelationKind => {
                let Some(value) = scan.int(input)? else { return Ok(false) };
                self.number(scan, field, value)?;
            }
            Field::Offset => {
                let Some((state, offset)) = scan.offset(input) else { return Ok(false) };
                self.end_entry(scan, state, offset)?;
                self.done += 1;
                self.field = 0;
                return Ok(true);
            }
            _ => {
                let Some(text) = scan.text(input, &mut self.text, MAX_NAME)? else {
                    return Ok(false);
                };
                self.string(scan, field, text)?;
                if field == Field::Dependency && text.length.is_some() {
                    return Ok(true);
                }
            }
        }
        self.field += 1;
        Ok(true)
    }

    fn number(&mut self, scan: &Scanner, field: Field, value: i64) -> Result<(), Fault> {
        match (field, u32::try_from(value)) {
            (Field::DumpId, Ok(id @ 1..)) => {
                self.current.begin(id);
                match self.ids.insert(id) {
                    Some(true) => {}
                    Some(false) => {
                        return scan.fault(format!("two entries have the same dump id {id}"));
                    }
                    None => {
                        let what = "the dump has more entries than can be told apart".into();
                        return Err(Fault::Other(FormatError::Unsupported { what }));
                    }
                }
            }
            (Field::HasData, Ok(flag @ 0..=1)) => self.current.has_data = flag == 1,
            // teSection of pg_backup.h: none, pre-data, data, post-data.
            (Field::Section, Ok(1..=4)) | (Field::RelationKind, Ok(0..=127)) => {}
            _ => return scan.fault(format!("{field:?} is {value}")),
        }
        Ok(())
    }

    fn string(&mut self, scan: &Scanner, field: Field, text: Text) -> Result<(), Fault> {
        let current = &mut self.current;
        let too_long = text.length.is_some_and(|length| length > MAX_NAME as u64);
        let named = matches!(field, Field::Tag | Field::Kind | Field::Schema | Field::Owner);
        if named && too_long && current.has_data {
            return scan.fault(format!("{field:?} is longer than {MAX_NAME} bytes"));
        }
        let null = text.length.is_none();
        match field {
            Field::Tag | Field::Kind | Field::TableOid | Field::Oid | Field::WithOids if null => {
                return scan.fault(format!("{field:?} is NULL"));
            }
            Field::Tag => current.name.clone_from(&self.text),
            Field::Kind => current.kind.clone_from(&self.text),
            Field::Schema if !null => current.schema.clone_from(&self.text),
            Field::Definition if !null => current.via_root = root::is_in_definition(&self.text),
            Field::Owner if !null => current.owner.clone_from(&self.text),
            Field::Copy if !null && !self.text.is_empty() => {
                if !self.text.starts_with(b"COPY ") {
                    return scan.fault("the statement that loads the data is no COPY");
                }
                current.copy.clone_from(&self.text);
            }
            Field::TableOid | Field::Oid => digits(scan, field, &self.text)?,
            Field::Dependency if !null => digits(scan, field, &self.text)?,
            Field::WithOids if self.text != b"false" && self.text != b"true" => {
                return scan.fault(format!("{field:?} is neither true nor false"));
            }
            _ => {}
        }
        Ok(())
    }

    fn end_entry(&mut self, scan: &Scanner, state: u8, offset: u64) -> Result<(), Fault> {
        let current = &self.current;
        let stated = match (state, current.has_data) {
            (NO_DATA, false) => {
                self.count_without_data();
                return Ok(());
            }
            (OFFSET_NOT_SET, true) => None,
            (OFFSET_SET, true) => Some(offset),
            _ => return scan.fault(format!("the state of the data offset is {state}")),
        };
        let via_root =
            current.via_root || root::names_another(&current.copy, current.schema(), &current.name);
        let field_bytes = scan.offset_field_bytes() as u64;
        let entry = DataEntry {
            dump_id: current.dump_id,
            kind: readable(&current.kind),
            schema: current.schema().map(readable),
            name: readable(&current.name),
            owner: readable(&current.owner),
            offset_field: scan.position() - field_bytes..scan.position(),
            stated,
            copy: !current.copy.is_empty(),
            via_root,
            ..DataEntry::default()
        };
        entry.write_head(&mut self.heads)?;
        self.count += 1;
        Ok(())
    }

    /// What a restore does besides loading data, by pg_dump's descriptions.
    fn count_without_data(&mut self) {
        let totals = &mut self.totals;
        match &*self.current.kind {
            b"SEQUENCE SET" => totals.sequences += 1,
            b"MATERIALIZED VIEW DATA" => totals.refreshes += 1,
            b"STATISTICS DATA" | b"EXTENDED STATISTICS DATA" => totals.statistics += 1,
            _ => {}
        }
    }
}

fn digits(scan: &Scanner, field: Field, text: &[u8]) -> Result<(), Fault> {
    // OIDs and dump ids have ten digits at most.
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return scan.fault(format!("{field:?} is no number"));
    }
    Ok(())
}
