//! The index of an archive, `index.json.zst`: for each entry with data its rows, its position in
//! the plain archive and the range of compressed bytes that holds it.
//!
//! With it a restore reads one table without the rest, and needs no seek table for that: fetch
//! `stored.bytes` bytes at `stored.offset` of the volumes joined together (before encryption),
//! decompress, and go `plain.offset - stored.plain_offset` bytes in. `blake3` is the digest of the
//! `plain.bytes` bytes that are found there (`b3sum`).
//!
//! It is made of the entries one by one and written to a spool: there may be a million of them.
//!
//! The shape is stable: fields are added, never changed; another meaning gets another
//! `format_version`.

use std::{
    cell::RefCell,
    io::{self, BufReader, BufWriter, Read},
};

use serde::{
    Deserialize, Serialize, Serializer,
    ser::{Error as _, SerializeSeq as _},
};

use super::{
    entries::Entries,
    frames::{Frames, Located},
    hex,
    proof::{DataEntry, Structure},
    spool::{Spool, Spooled},
};
use crate::domain::manifest::Totals;

/// The version that this program writes. Readers accept every older one.
pub const FORMAT_VERSION: u32 = 1;
/// zstd's own default; half of what is left are digests.
const LEVEL: i32 = 3;
/// The longest index, compressed: room for ten million entries.
const MAX_BYTES: u64 = 1 << 30;

/// An index as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    pub format: String,
    pub plain_bytes: u64,
    /// Length of the compressed frames, without the seek table.
    pub stored_bytes: u64,
    pub totals: Totals,
    pub toc: Part,
    /// The entries with data, in the order of the table of contents.
    pub entries: Vec<IndexEntry>,
}

/// A part of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub plain: Extent,
    pub stored: Stored,
    /// BLAKE3 of its plain bytes, lower-case hexadecimal; none in an index of pgkeep 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub offset: u64,
    pub bytes: u64,
}

/// A range of compressed bytes: whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub offset: u64,
    pub bytes: u64,
    /// Position in the plain archive of its first plain byte.
    pub plain_offset: u64,
}

/// An entry with data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    pub dump_id: u32,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    pub name: String,
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statements: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_object_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub via_root: bool,
    /// Where in the plain archive its offset field stands: a state byte, then the offset.
    pub offset_field: Extent,
    #[serde(flatten)]
    pub data: Part,
}

/// Why an index was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index is damaged")]
    Damaged(#[source] serde_json::Error),
    #[error("the index cannot be read")]
    Io(#[source] io::Error),
    #[error("the index cannot be made")]
    Scratch(#[source] io::Error),
    #[error("the index has format version {found}, this pgkeep reads up to {FORMAT_VERSION}")]
    Newer { found: u32 },
    #[error("{entry} does not lie within the compressed frames")]
    Outside { entry: String },
}

/// The index of an archive as it is stored: JSON, compressed, in the folder in which the
/// entries are kept. It takes a few MiB of memory, and seconds where there are a million entries.
///
/// # Errors
/// [`IndexError::Outside`] if structure and frames do not belong together;
/// [`IndexError::Scratch`] if it cannot be written there.
pub fn encode(structure: &Structure, frames: &Frames) -> Result<Spooled, IndexError> {
    #[derive(Serialize)]
    struct Document<'a> {
        format_version: u32,
        format: &'a str,
        plain_bytes: u64,
        stored_bytes: u64,
        totals: &'a Totals,
        toc: Part,
        entries: InTurn<'a>,
    }
    let failed = RefCell::new(None);
    let toc = part(frames, 0, structure.toc_end, structure.toc_digest)
        .ok_or_else(|| IndexError::Outside { entry: "the table of contents".to_owned() })?;
    let document = Document {
        format_version: FORMAT_VERSION,
        format: &structure.format,
        plain_bytes: frames.plain_bytes(),
        stored_bytes: frames.stored_bytes(),
        totals: &structure.totals,
        toc,
        entries: InTurn { entries: &structure.entries, frames, failed: &failed },
    };
    let spool = Spool::new(structure.entries.folder(), MAX_BYTES);
    let encoder = zstd::stream::write::Encoder::new(spool, LEVEL);
    let mut encoder = encoder.map_err(IndexError::Scratch)?;
    encoder.include_checksum(true).map_err(IndexError::Scratch)?;
    let mut writer = BufWriter::with_capacity(64 << 10, encoder);
    let written = serde_json::to_writer(&mut writer, &document);
    if let Some(error) = failed.take() {
        return Err(error);
    }
    written.map_err(|error| IndexError::Scratch(error.into()))?;
    let encoder = writer.into_inner().map_err(|error| IndexError::Scratch(error.into_error()))?;
    encoder.finish().and_then(Spool::finish).map_err(IndexError::Scratch)
}

/// Reads an index back from its stored form.
///
/// # Errors
/// See [`IndexError`]. A newer format is told apart from damage.
pub fn decode(stored: &[u8]) -> Result<Index, IndexError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        format_version: u32,
    }
    let mut json = Vec::new();
    BufReader::new(zstd::stream::read::Decoder::new(stored).map_err(IndexError::Io)?)
        .read_to_end(&mut json)
        .map_err(IndexError::Io)?;
    let version: VersionOnly = serde_json::from_slice(&json).map_err(IndexError::Damaged)?;
    if version.format_version > FORMAT_VERSION {
        return Err(IndexError::Newer { found: version.format_version });
    }
    serde_json::from_slice(&json).map_err(IndexError::Damaged)
}

/// Serialises the entries one by one, as they are read.
struct InTurn<'a> {
    entries: &'a Entries,
    frames: &'a Frames,
    /// Why it stopped: serde knows only text.
    failed: &'a RefCell<Option<IndexError>>,
}

impl Serialize for InTurn<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(None)?;
        for entry in self.entries {
            let entry = entry.map_err(IndexError::Scratch);
            match entry.and_then(|entry| index_entry(entry, self.frames)) {
                Ok(entry) => sequence.serialize_element(&entry)?,
                Err(error) => {
                    let text = error.to_string();
                    self.failed.replace(Some(error));
                    return Err(S::Error::custom(text));
                }
            }
        }
        sequence.end()
    }
}

fn index_entry(entry: DataEntry, frames: &Frames) -> Result<IndexEntry, IndexError> {
    let field = &entry.offset_field;
    let data = part(frames, entry.offset, entry.length, Some(entry.digest));
    Ok(IndexEntry {
        dump_id: entry.dump_id,
        offset_field: Extent { offset: field.start, bytes: field.end - field.start },
        data: data.ok_or_else(|| IndexError::Outside { entry: entry.describe() })?,
        kind: entry.kind,
        schema: entry.schema,
        name: entry.name,
        owner: entry.owner,
        rows: entry.rows,
        statements: entry.statements,
        large_objects: entry.large_objects,
        large_object_bytes: entry.large_object_bytes,
        via_root: entry.via_root,
    })
}

fn part(frames: &Frames, offset: u64, bytes: u64, digest: Option<[u8; 32]>) -> Option<Part> {
    let Located { offset: at, bytes: stored, plain_offset } =
        frames.locate(offset..offset.checked_add(bytes)?)?;
    Some(Part {
        plain: Extent { offset, bytes },
        stored: Stored { offset: at, bytes: stored, plain_offset },
        blake3: digest.map(|digest| hex(&digest)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_digests_is_read() {
        let old = r#"{"format_version":1,"format":"custom 1.14","plain_bytes":40,"stored_bytes":20,
            "totals":{"entries":1,"tables":1,"rows":2,"large_objects":0},
            "toc":{"plain":{"offset":0,"bytes":30},
                "stored":{"offset":0,"bytes":20,"plain_offset":0}},
            "entries":[{"dump_id":7,"kind":"TABLE DATA","schema":"s","name":"t","owner":"o","rows":2,
                "offset_field":{"offset":20,"bytes":9},"plain":{"offset":30,"bytes":10},
                "stored":{"offset":0,"bytes":20,"plain_offset":0}}]}"#;
        let index = decode(&zstd::encode_all(old.as_bytes(), 3).unwrap()).unwrap();
        let entry = &index.entries[0];
        assert_eq!((entry.rows, entry.statements, entry.via_root), (Some(2), None, false));
        assert_eq!((&entry.data.blake3, &index.toc.blake3), (&None, &None));
        assert_eq!(index.totals, Totals { entries: 1, tables: 1, rows: 2, ..Totals::default() });
        // And what is not there is not written.
        let totals = serde_json::to_string(&index.totals).unwrap();
        assert_eq!(totals, r#"{"entries":1,"tables":1,"rows":2,"large_objects":0}"#);
    }
}
