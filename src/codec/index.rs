//! The index of an archive, `index.json.zst`: for each entry with data its rows, its position in
//! the plain archive and the range of compressed bytes that holds it.
//!
//! With it a restore reads one table without the rest, and needs no seek table for that: fetch
//! `stored.bytes` bytes at `stored.offset` of the volumes joined together (before encryption),
//! decompress, and go `plain.offset - stored.plain_offset` bytes in.
//!
//! The shape is stable: fields are added, never changed; another meaning gets another
//! `format_version`.

use std::io::{self, BufReader, Read};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    frames::{Frames, Located},
    proof::{DataEntry, Structure},
};
use crate::domain::manifest::Totals;

/// The version that this program writes. Readers accept every older one.
pub const FORMAT_VERSION: u32 = 1;
/// zstd's own default; the index is small.
const LEVEL: i32 = 3;

/// An index as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// `custom 1.14`
    pub format: String,
    /// Length of the plain archive.
    pub plain_bytes: u64,
    /// Length of the compressed frames, without the seek table.
    pub stored_bytes: u64,
    /// Counts over all of it.
    pub totals: Totals,
    /// Header and table of contents.
    pub toc: Part,
    /// The entries with data, in the order of the table of contents.
    pub entries: Vec<IndexEntry>,
}

/// A part of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is in the plain archive.
    pub plain: Extent,
    /// The frames that hold it.
    pub stored: Stored,
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// A range of compressed bytes: whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Where it begins in the compressed stream.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Position in the plain archive of its first plain byte.
    pub plain_offset: u64,
}

/// An entry with data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The entry's id in the archive.
    pub dump_id: u32,
    /// `TABLE DATA`, `BLOBS`
    pub kind: String,
    /// The schema, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table's name.
    pub name: String,
    /// The owner's role name.
    pub owner: String,
    /// Rows of a COPY block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Large objects of the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<u64>,
    /// Where in the plain archive its offset field stands: a state byte, then the offset.
    pub offset_field: Extent,
    /// Its data block.
    #[serde(flatten)]
    pub data: Part,
}

/// Why an index was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is no zstd, or no JSON of this shape.
    #[error("the index is damaged")]
    Damaged(#[source] serde_json::Error),
    /// It cannot be decompressed or written.
    #[error("the index cannot be read")]
    Io(#[source] io::Error),
    /// It was written by a newer pgkeep.
    #[error("the index has format version {found}, this pgkeep reads up to {FORMAT_VERSION}")]
    Newer {
        /// The version that it states.
        found: u32,
    },
    /// An entry lies outside of the frames: the two are not of the same stream.
    #[error("{entry} does not lie within the compressed frames")]
    Outside {
        /// The entry.
        entry: String,
    },
}

/// The index of an archive as it is stored: JSON, compressed.
///
/// # Errors
/// [`IndexError::Outside`] if structure and frames do not belong together.
pub fn encode(structure: &Structure, frames: &Frames) -> Result<Vec<u8>, IndexError> {
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
    let outside = |entry: String| move || IndexError::Outside { entry };
    // All are checked before, so that the entries can be made one by one while they are written.
    for entry in &structure.entries {
        part(frames, entry.offset, entry.length).ok_or_else(outside(entry.describe()))?;
    }
    let toc = part(frames, 0, structure.toc_end)
        .ok_or_else(outside("the table of contents".to_owned()))?;
    let document = Document {
        format_version: FORMAT_VERSION,
        format: &structure.format,
        plain_bytes: frames.plain_bytes(),
        stored_bytes: frames.stored_bytes(),
        totals: &structure.totals,
        toc,
        entries: InTurn { entries: &structure.entries, frames },
    };
    let mut encoder =
        zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(IndexError::Io)?;
    encoder.include_checksum(true).map_err(IndexError::Io)?;
    serde_json::to_writer(&mut encoder, &document).map_err(IndexError::Damaged)?;
    encoder.finish().map_err(IndexError::Io)
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

/// Serialises the entries without holding a second copy of them all.
struct InTurn<'a> {
    entries: &'a [DataEntry],
    frames: &'a Frames,
}

impl Serialize for InTurn<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.entries.iter().filter_map(|entry| {
            let data = part(self.frames, entry.offset, entry.length)?;
            Some(index_entry(entry, data))
        }))
    }
}

fn index_entry(entry: &DataEntry, data: Part) -> IndexEntry {
    let field = &entry.offset_field;
    IndexEntry {
        dump_id: entry.dump_id,
        kind: entry.kind.to_string(),
        schema: entry.schema.as_deref().map(str::to_owned),
        name: entry.name.to_string(),
        owner: entry.owner.to_string(),
        rows: entry.rows,
        large_objects: entry.large_objects,
        offset_field: Extent { offset: field.start, bytes: field.end - field.start },
        data,
    }
}

fn part(frames: &Frames, offset: u64, bytes: u64) -> Option<Part> {
    let Located { offset: at, bytes: stored, plain_offset } =
        frames.locate(offset..offset.checked_add(bytes)?)?;
    Some(Part {
        plain: Extent { offset, bytes },
        stored: Stored { offset: at, bytes: stored, plain_offset },
    })
}
