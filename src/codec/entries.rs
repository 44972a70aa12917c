//! The entries of an archive that have data, kept outside of memory.
//!
//! There may be a million of them. What the table of contents says of each is written to one
//! spool, what its data block was found to be to another; both are in the same order, because
//! pg_dump writes the blocks in the order of the entries. They are read side by side.

use std::{
    io::{self, BufReader, ErrorKind, Read, Write},
    path::Path,
};

use super::{
    proof::DataEntry,
    spool::{Spool, SpoolReader, Spooled},
};

/// The most that is written about the entries of one archive, in bytes, in each of two files: room
/// for ten million with names of usual length.
pub const SPOOL_MAX: u64 = 1 << 30;
/// Longest text in a record: four times what the reader of the archive keeps of a name.
const TEXT_MAX: u64 = 4 << 10;

impl DataEntry {
    /// What the table of contents says of it.
    pub(super) fn write_head(&self, to: &mut Spool) -> io::Result<()> {
        let mut record = Vec::with_capacity(128);
        put(&mut record, self.dump_id.into());
        for text in [Some(&self.kind), self.schema.as_ref(), Some(&self.name), Some(&self.owner)] {
            put(&mut record, text.map_or(0, |text| text.len() as u64 + 1));
            record.extend_from_slice(text.map_or(&[], |text| text.as_bytes()));
        }
        put(&mut record, self.offset_field.start);
        put(&mut record, self.offset_field.end);
        record.extend([u8::from(self.copy), u8::from(self.via_root)]);
        put_option(&mut record, self.stated);
        to.write_all(&record)
    }

    pub(super) fn read_head(from: &mut impl Read) -> io::Result<Self> {
        let dump_id = u32::try_from(number(from)?).map_err(|_| damaged())?;
        let (kind, schema, name, owner) = (text(from)?, text(from)?, text(from)?, text(from)?);
        let offset_field = number(from)?..number(from)?;
        let mut flags = [0; 2];
        from.read_exact(&mut flags)?;
        Ok(Self {
            dump_id,
            kind: kind.unwrap_or_default(),
            schema,
            name: name.unwrap_or_default(),
            owner: owner.unwrap_or_default(),
            offset_field,
            stated: option(from)?,
            copy: flags[0] != 0,
            via_root: flags[1] != 0,
            ..Self::default()
        })
    }

    /// What its data block was found to be.
    pub(super) fn write_block(&self, to: &mut Spool) -> io::Result<()> {
        let mut record = Vec::with_capacity(128);
        put(&mut record, self.offset);
        put(&mut record, self.length);
        for count in [self.rows, self.statements, self.large_objects, self.large_object_bytes] {
            put_option(&mut record, count);
        }
        record.extend(self.digest);
        to.write_all(&record)
    }

    fn read_block(&mut self, from: &mut impl Read) -> io::Result<()> {
        (self.offset, self.length) = (number(from)?, number(from)?);
        (self.rows, self.statements) = (option(from)?, option(from)?);
        (self.large_objects, self.large_object_bytes) = (option(from)?, option(from)?);
        from.read_exact(&mut self.digest)
    }
}

/// The entries of an archive that have data, in the order of its table of contents. Clones share
/// what they hold.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    count: u64,
    heads: Spooled,
    found: Spooled,
}

impl Entries {
    pub(super) fn new(count: u64, heads: Spooled, found: Spooled) -> Self {
        Self { count, heads, found }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The folder in which they are kept where they are many.
    pub fn folder(&self) -> &Path {
        self.heads.folder()
    }

    /// Reads them one after the other. After an error there are no more.
    pub fn iter(&self) -> Iter {
        Iter { left: self.count, heads: self.heads.reader(), found: self.found.reader() }
    }
}

/// For tests: two are the same when what is read of them is.
#[cfg(test)]
impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.iter().map(Result::ok).eq(other.iter().map(Result::ok))
    }
}

impl IntoIterator for &Entries {
    type Item = io::Result<DataEntry>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

/// Reads entries one after the other.
#[derive(Debug)]
pub struct Iter {
    left: u64,
    heads: BufReader<SpoolReader>,
    found: BufReader<SpoolReader>,
}

impl Iterator for Iter {
    type Item = io::Result<DataEntry>;

    fn next(&mut self) -> Option<io::Result<DataEntry>> {
        self.left = self.left.checked_sub(1)?;
        let entry = DataEntry::read_head(&mut self.heads)
            .and_then(|mut entry| entry.read_block(&mut self.found).map(|()| entry));
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put(record: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        record.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    record.push(value.to_le_bytes()[0]);
}

fn put_option(record: &mut Vec<u8>, value: Option<u64>) {
    record.push(u8::from(value.is_some()));
    put(record, value.unwrap_or(0));
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7F) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn option(from: &mut impl Read) -> io::Result<Option<u64>> {
    let mut some = [0];
    from.read_exact(&mut some)?;
    let value = number(from)?;
    Ok((some[0] != 0).then_some(value))
}

fn text(from: &mut impl Read) -> io::Result<Option<String>> {
    let Some(length) = number(from)?.checked_sub(1) else { return Ok(None) };
    if length > TEXT_MAX {
        return Err(damaged());
    }
    let mut text = String::new();
    from.take(length).read_to_string(&mut text)?;
    if text.len() as u64 == length { Ok(Some(text)) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the scratch file was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (mut heads, mut founds) =
            (Spool::new(folder.path(), SPOOL_MAX), Spool::new(folder.path(), SPOOL_MAX));
        let entry = |n: u32| DataEntry {
            dump_id: n,
            kind: "TABLE DATA".into(),
            schema: (n.is_multiple_of(2)).then(|| "s".repeat(n as usize % 300)),
            name: format!("é{n}"),
            owner: String::new(),
            offset_field: u64::MAX - 9..u64::MAX,
            stated: (n.is_multiple_of(3)).then_some(u64::MAX),
            copy: n.is_multiple_of(5),
            via_root: n.is_multiple_of(7),
            offset: u64::from(n) << 40,
            length: n.into(),
            rows: (n.is_multiple_of(2)).then_some(0),
            statements: (!n.is_multiple_of(2)).then_some(n.into()),
            large_objects: None,
            large_object_bytes: Some(128),
            digest: [n.to_le_bytes()[0]; 32],
        };
        for n in 0..5000 {
            entry(n).write_head(&mut heads).unwrap();
            entry(n).write_block(&mut founds).unwrap();
        }
        let (heads, founds) = (heads.finish().unwrap(), founds.finish().unwrap());
        let head = DataEntry::read_head(&mut heads.reader()).unwrap();
        assert_eq!((head.describe(), head.copy), (entry(0).describe(), true));
        let entries = Entries::new(5000, heads.clone(), founds);
        for (n, read) in (0..).zip(&entries) {
            assert_eq!(read.unwrap(), entry(n));
        }
        assert_eq!(entries.iter().count(), 5000);
        // What is not there is an error, once.
        let short = Entries::new(10, heads, Spooled::default());
        assert_eq!(short.iter().map(|it| u8::from(it.is_err())).collect::<Vec<_>>(), [1]);
    }
}
