//! What a stream must show before it counts as a backup: that it ends where its format says so.
//!
//! A [`Proof`] reads the plain bytes while they go by, in chunks of any size, and keeps only what a
//! restore will ask for later. It does not prove that the server's data is right, nor that the
//! program that wrote it exited with 0: the caller holds that against it.

use std::{io, ops::Range};

use super::{archive::ArchiveProof, entries::Entries};
use crate::domain::manifest::Totals;

/// The most memory that any proof takes, in bytes, whatever it reads.
pub const MEMORY: u64 = ArchiveProof::MEMORY;

/// Reads a stream as it goes by.
pub trait Proof: Send {
    /// Reads the next bytes. To `cuts` it adds the positions within `bytes` at which a data block
    /// begins, in rising order: good places to begin a compressed frame.
    ///
    /// # Errors
    /// The stream is not what its format says. Every later call gives the same error.
    fn feed(&mut self, bytes: &[u8], cuts: &mut Vec<usize>) -> Result<(), FormatError>;

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// It ended too early, was empty, or an earlier call had failed.
    fn finish(self: Box<Self>) -> Result<Structure, FormatError>;
}

/// What a stream was found to hold.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub struct Structure {
    /// `custom 1.14`, or `sql`.
    pub format: String,
    pub totals: Totals,
    /// Where the archive's table of contents ends and its data begins, in plain bytes; 0 for `sql`.
    pub toc_end: u64,
    /// BLAKE3 of the plain bytes up to there; none for `sql`.
    pub toc_digest: Option<[u8; 32]>,
    /// The entries that have data, in the order of the table of contents; none for `sql`.
    pub entries: Entries,
}

/// An entry of an archive's table of contents that has a data block.
///
/// Names are as in the archive; bytes that are no UTF-8 (a database in `LATIN1`, `SQL_ASCII`) are
/// written as `\xE9`. The dump id tells entries apart, the names are for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataEntry {
    pub dump_id: u32,
    /// pg_dump's description: `TABLE DATA`, `BLOBS`.
    pub kind: String,
    pub schema: Option<String>,
    pub name: String,
    /// The owner's role name; empty where there is none.
    pub owner: String,
    /// Whether the data of this partition is loaded through the root of its partitioned table.
    pub via_root: bool,
    /// Where in the plain stream the entry's offset field stands: one byte that says whether the
    /// offset is known, then the offset, little-endian.
    pub offset_field: Range<u64>,
    /// Where the data is said to be, where the writer knew.
    pub(super) stated: Option<u64>,
    /// Whether its data is a COPY block.
    pub(super) copy: bool,
    /// Where in the plain stream the data block begins.
    pub offset: u64,
    /// Length of the data block in plain bytes, with its framing.
    pub length: u64,
    /// Rows of a COPY block; none for INSERT statements and large objects.
    pub rows: Option<u64>,
    /// Statements of a block of INSERT statements; none for others.
    pub statements: Option<u64>,
    /// Large objects in the block; none for tables.
    pub large_objects: Option<u64>,
    /// Bytes of the large objects in the block, without their framing; none for tables.
    pub large_object_bytes: Option<u64>,
    /// BLAKE3 of the data block: of the `length` plain bytes from `offset` on.
    pub digest: [u8; 32],
}

impl DataEntry {
    /// The entry for messages: `TABLE DATA public.orders (dump id 215)`.
    pub fn describe(&self) -> String {
        describe(&self.kind, self.schema.as_deref(), &self.name, self.dump_id)
    }
}

pub(super) fn describe(kind: &str, schema: Option<&str>, name: &str, dump_id: u32) -> String {
    match schema {
        Some(schema) => format!("{kind} {schema}.{name} (dump id {dump_id})"),
        None => format!("{kind} {name} (dump id {dump_id})"),
    }
}

/// Why a stream is no backup. Offsets are positions in the plain stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("the dump is empty")]
    Empty,
    #[error("{what}")]
    Unsupported { what: String },
    #[error("the dump is damaged at byte {offset}, in {place}: {what}")]
    Damaged { offset: u64, place: String, what: String },
    #[error("the dump ends early, at byte {offset}, in {place}")]
    EndsEarly { offset: u64, place: String },
    #[error("the dump ends early, at byte {offset}: the data of {entry} is missing{}", and_more(*more))]
    DataMissing { offset: u64, entry: String, more: u64 },
    #[error("what the dump holds cannot be noted in the scratch folder: {what}")]
    Scratch { kind: io::ErrorKind, what: String },
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::FileTooLarge => Self::Unsupported {
                what: format!("the dump has more entries than can be noted: {error}"),
            },
            kind => Self::Scratch { kind, what: error.to_string() },
        }
    }
}

fn and_more(more: u64) -> String {
    if more == 0 { String::new() } else { format!(", and that of {more} more") }
}
