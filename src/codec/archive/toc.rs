//! The archive's table of contents (`WriteToc`): one entry after the other, each a fixed row of
//! fields. Only entries with data are kept.

use std::{collections::HashSet, sync::Arc};

use super::{
    super::proof::{DataEntry, FormatError, describe},
    scan::{Fault, Scanner, Text},
};

/// Longest name of an entry with data, in bytes. Identifiers have 63 unless PostgreSQL was built with
/// another NAMEDATALEN; longer tags (functions with their arguments) belong to entries without data.
const MAX_NAME: usize = 1024;
/// Most entries with data. Each costs about 200 bytes here; pg_dump needs kilobytes for each.
const MAX_DATA_ENTRIES: usize = 4_000_000;

/// `K_OFFSET_POS_NOT_SET`: there is data, at an offset that the writer could not fill in.
const OFFSET_NOT_SET: u8 = 1;
/// `K_OFFSET_POS_SET`
const OFFSET_SET: u8 = 2;
/// `K_OFFSET_NO_DATA`
const NO_DATA: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    DumpId,
    HasData,
    TableOid,
    Oid,
    Tag,
    Kind,
    Section,
    Definition,
    Drop,
    Copy,
    Schema,
    Tablespace,
    AccessMethod,
    RelationKind,
    Owner,
    WithOids,
    Dependency,
    Offset,
}

const FIELDS: [Field; 18] = {
    use Field::{
        AccessMethod, Copy, Definition, Dependency, Drop, DumpId, HasData, Kind, Offset, Oid,
        Owner, RelationKind, Schema, Section, TableOid, Tablespace, Tag, WithOids,
    };
    [
        DumpId,
        HasData,
        TableOid,
        Oid,
        Tag,
        Kind,
        Section,
        Definition,
        Drop,
        Copy,
        Schema,
        Tablespace,
        AccessMethod,
        RelationKind,
        Owner,
        WithOids,
        Dependency,
        Offset,
    ]
};

/// A kept entry with what is needed until its data has gone by.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) entry: DataEntry,
    /// Where the data is said to be, where the writer knew.
    pub(super) stated: Option<u64>,
    /// Its data is a COPY block.
    pub(super) copy: bool,
}

#[derive(Debug)]
pub(super) struct Toc {
    minor: u8,
    total: u64,
    done: u64,
    field: usize,
    text: Vec<u8>,
    current: Current,
    kept: Vec<Awaited>,
    names: HashSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Current {
    dump_id: u32,
    has_data: bool,
    kind: Vec<u8>,
    name: Vec<u8>,
    schema: Option<Vec<u8>>,
    owner: Vec<u8>,
    copy: bool,
}

impl Toc {
    pub(super) fn new(minor: u8, total: u64) -> Self {
        Self {
            minor,
            total,
            done: 0,
            field: 0,
            text: Vec::new(),
            current: Current::default(),
            kept: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Reads on; true once the table is whole.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner,
        input: &mut &[u8],
    ) -> Result<bool, FormatError> {
        while self.done < self.total {
            match self.field(scan, input) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(fault) => return Err(fault.within(self.place())),
            }
        }
        Ok(true)
    }

    /// The number of all entries, and those with data.
    pub(super) fn take(&mut self) -> (u64, Vec<Awaited>) {
        (self.total, std::mem::take(&mut self.kept))
    }

    /// Where the reading stands, for messages.
    pub(super) fn place(&self) -> String {
        let place = format!("the table of contents, entry {} of {}", self.done + 1, self.total);
        let current = &self.current;
        if self.field <= 1 {
            return place;
        }
        let kind = if current.kind.is_empty() { "entry".into() } else { readable(&current.kind) };
        let schema = current.schema.as_deref().map(readable);
        let name = readable(&current.name);
        format!("{place}, {}", describe(&kind, schema.as_deref(), &name, current.dump_id))
    }

    #[cfg(test)]
    pub(super) fn scratch_bytes(&self) -> usize {
        let current = &self.current;
        self.text.capacity()
            + current.kind.capacity()
            + current.name.capacity()
            + current.owner.capacity()
            + current.schema.as_ref().map_or(0, Vec::capacity)
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
                self.current = Current { dump_id: id, ..Current::default() };
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
            Field::Schema if !null && !self.text.is_empty() => {
                current.schema = Some(self.text.clone());
            }
            Field::Owner if !null => current.owner.clone_from(&self.text),
            Field::Copy if !null && !self.text.is_empty() => {
                if !self.text.starts_with(b"COPY ") {
                    return scan.fault("the statement that loads the data is no COPY");
                }
                current.copy = true;
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
        let current = std::mem::take(&mut self.current);
        let stated = match (state, current.has_data) {
            (NO_DATA, false) => return Ok(()),
            (OFFSET_NOT_SET, true) => None,
            (OFFSET_SET, true) => Some(offset),
            _ => {
                self.current = current;
                return scan.fault(format!("the state of the data offset is {state}"));
            }
        };
        if self.kept.len() >= MAX_DATA_ENTRIES {
            return scan.fault(format!("more than {MAX_DATA_ENTRIES} entries have data"));
        }
        let end = scan.position();
        let entry = DataEntry {
            dump_id: current.dump_id,
            kind: self.shared(&current.kind),
            schema: current.schema.as_deref().map(|schema| self.shared(schema)),
            name: readable(&current.name).into_boxed_str(),
            owner: self.shared(&current.owner),
            offset_field: end - scan.offset_field_bytes() as u64..end,
            offset: 0,
            length: 0,
            rows: None,
            large_objects: None,
        };
        self.kept.push(Awaited { entry, stated, copy: current.copy });
        Ok(())
    }

    /// One string for all entries that share it: schemas and owners repeat.
    fn shared(&mut self, bytes: &[u8]) -> Arc<str> {
        let text = readable(bytes);
        if let Some(known) = self.names.get(text.as_str()) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.names.insert(Arc::clone(&new));
        new
    }
}

fn digits(scan: &Scanner, field: Field, text: &[u8]) -> Result<(), Fault> {
    // OIDs and dump ids have ten digits at most.
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return scan.fault(format!("{field:?} is no number"));
    }
    Ok(())
}

/// The bytes as text; what is no UTF-8 as `\xE9`.
fn readable(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            write!(text, "\\x{byte:02X}").unwrap_or_default();
        }
    }
    text
}
