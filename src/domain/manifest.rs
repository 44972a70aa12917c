//! The manifest: the commit record of a copy. It is written last; data without one is garbage.
//!
//! It holds all that a person needs to find, check and restore the backup with standard tools,
//! and no secret. It is readable without any key, even where the data is encrypted: names and
//! sizes of databases stand in it.

use std::io::{BufRead as _, BufReader, Read};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    backup::{BackupId, Series},
    recipients::Recipients,
    scope::Scope,
    suspicion::Suspicion,
    wal::Timeline,
};

/// The newest version that this program writes and reads. Readers accept every older one.
///
/// A higher number goes only where an older reader would do harm: it would copy such a backup
/// without what it does not know, and with lines that do not restore it. 2 says that the bytes are
/// encrypted; 3 that it is a selection, that a database is in SQL, or that files lie beside it. All
/// others are still written as 1.
pub const FORMAT_VERSION: u32 = 3;
/// [`Plain::format`] of SQL.
pub const SQL: &str = "sql";
/// The manifest's name in the folder of a backup.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The longest manifest that is written, and so the longest that is read, in bytes.
pub const BYTES_MAX: u64 = 16 << 20;
/// Most volumes of a backup. The smallest that can be configured have 10 MiB (`max_parts = 2`, `part_size =
/// "5MiB"`), so that it takes 380 GiB to get there; with the defaults of S3 it takes 3 PiB.
pub const VOLUMES_MAX: u32 = 39_000;
/// The most that a manifest says of one volume, in bytes: name, length and digest, and the name once more in
/// each line for people that has all names, of which there are up to five.
const VOLUME_BYTES: u64 = 400;
// All of them, and room for the rest.
const _: () = assert!(VOLUMES_MAX as u64 * VOLUME_BYTES + (1 << 20) <= BYTES_MAX);
/// Most values in a manifest, counted by their commas: a few bytes of JSON become many in memory. A
/// selection of 50,000 tables stays below it, and so do all volumes that there can be.
const VALUES_MAX: usize = 256 << 10;

/// Why a manifest was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is damaged")]
    Damaged(#[source] serde_json::Error),
    #[error("the manifest has format version {found}, this pgkeep reads up to {FORMAT_VERSION}")]
    Newer { found: u32 },
    #[error("the manifest says that the bytes were encoded with {found}, which is not known here")]
    Codec { found: String },
    #[error(
        "the manifest says that it is of backup {found}, but it lies in the folder of {expected}"
    )]
    Misplaced { expected: String, found: String },
}

/// The host that writes a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `/etc/machine-id`.
    pub machine_id: String,
    pub host: String,
}

/// The program that made the plain bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `pg_dump` or `pg_dumpall`.
    pub name: String,
    /// What `--version` printed after the name: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// The whole command line; it never holds a secret.
    pub command: Vec<String>,
}

impl Tool {
    /// Whether it was asked for the planner's statistics too.
    pub fn has_statistics(&self) -> bool {
        self.command.iter().any(|word| word == "--statistics")
    }

    /// Its major version.
    pub fn major(&self) -> Option<u32> {
        self.version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

/// An extension that the database uses; its members are not in a dump, so that the server on
/// which it is restored needs the same extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub name: String,
    pub version: String,
    /// Which version the packages of the server would install (`pg_available_extensions`); none
    /// where they do not have it any more, or could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_version: Option<String>,
}

/// A collation whose order is no longer the one that indexes were built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    pub schema: String,
    pub name: String,
    /// `libc` or `icu`
    pub provider: String,
    /// Version of the library when the collation was made, or refreshed.
    pub recorded_version: String,
    /// Version of the library on the server now.
    pub actual_version: String,
}

/// What a new database must look like to take the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    pub name: String,
    pub owner: String,
    /// `UTF8`, `SQL_ASCII`, …
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// Version of the collation when the database was made, where the server records it (15+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    /// Version that the server's library has now (15+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_actual_version: Option<String>,
    /// `libc`, `icu` or `builtin` (15+; before, it is libc).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale_provider: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Rules beside ICU's own (16+).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// Collations that the database uses, and whose recorded version is not that of the library.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collations: Vec<Collation>,
    /// `pg_database_size()`, in bytes, before the dump.
    pub size_bytes: u64,
    pub extensions: Vec<Extension>,
}

/// The moment that the data is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The server's clock when the snapshot was exported.
    pub at: Timestamp,
    /// WAL position before the snapshot was taken, as `X/X`.
    pub lsn_before: String,
    /// WAL position after the snapshot was taken.
    pub lsn_after: String,
    /// The timeline of both; none of a standby, which may learn late of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    pub standby: bool,
}

/// Something that is not in the backup, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub what: String,
    /// Who allowed it, or why it could not be had.
    pub reason: String,
}

/// The bytes as the tool wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// `custom 1.14`, or `sql`.
    pub format: String,
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    pub name: String,
    pub bytes: u64,
    /// SHA-256 of the stored bytes, lower-case hexadecimal.
    pub sha256: String,
}

/// A small file beside the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    #[serde(flatten)]
    pub object: StoredObject,
    /// Where it lies on the server; none for what was made for the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub plain_bytes: u64,
    /// SHA-256 of the file itself, lower-case hexadecimal.
    pub plain_sha256: String,
}

/// What the plain bytes were found to hold while they went by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Entries of the archive's table of contents.
    pub entries: u64,
    pub tables: u64,
    /// Rows of all COPY blocks.
    pub rows: u64,
    pub large_objects: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub large_object_bytes: u64,
    /// Of the tables, the partitions whose data is loaded through the root of their partitioned table.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tables_via_root: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub statements: u64,
    /// Sequences that are set to their value (`SEQUENCE SET`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sequences: u64,
    /// Materialized views that a restore fills anew (`MATERIALIZED VIEW DATA`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refreshes: u64,
    /// Entries with statistics of the planner (`STATISTICS DATA` of pg_dump 18, and `EXTENDED STATISTICS
    /// DATA` of 19).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub statistics: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The commit record of one copy of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    pub id: BackupId,
    pub series: Series,
    pub owner: Owner,
    pub pgkeep_version: String,
    pub server_version: String,
    pub server_version_num: u32,
    pub tool: Tool,
    /// What of the database it holds; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Scope>,
    /// The database; none for globals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseFacts>,
    pub snapshot: Snapshot,
    /// When the run began on it, by the host's clock.
    pub started_at: Timestamp,
    /// When the last byte was stored, by the host's clock.
    pub finished_at: Timestamp,
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    pub plain: Plain,
    /// What was done to them, in order: `zstd`, then `age` where they are encrypted.
    pub codec: Vec<String>,
    /// The recipients of the encryption; empty: they are not encrypted.
    #[serde(default, skip_serializing_if = "Recipients::is_empty")]
    pub recipients: Recipients,
    /// The archive's volumes, in the order in which `cat` joins them.
    pub objects: Vec<StoredObject>,
    /// The index of the archive (`index.json.zst`, `index.json.zst.age`); none for globals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<StoredObject>,
    /// Files beside the archive, compressed and encrypted as it is, each for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<StoredFile>,
    pub totals: Totals,
    /// Why it looks as if something were missing in it; empty: it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspicions: Vec<Suspicion>,
    /// How to restore by hand, one command per line; lines that start with `#` explain.
    pub restore: Vec<String>,
}

/// What is done to bytes that are encrypted so, in order.
pub fn codec(recipients: &Recipients) -> Vec<String> {
    let chain: &[&str] = if recipients.is_empty() { &["zstd"] } else { &["zstd", "age"] };
    chain.iter().map(ToString::to_string).collect()
}

impl Manifest {
    /// States the lowest format version whose readers understand it.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        let is_new = self.selection.is_some() || !self.files.is_empty() || self.is_script();
        self.format_version = if is_new {
            3
        } else if self.recipients.is_empty() {
            1
        } else {
            2
        };
        self
    }

    /// Whether it is a database as SQL for psql, not an archive for pg_restore.
    pub fn is_script(&self) -> bool {
        self.database.is_some() && self.plain.format == SQL
    }

    /// Every object but the manifest itself: volumes, index, files.
    pub fn stored(&self) -> impl Iterator<Item = &StoredObject> {
        let files = self.files.iter().map(|file| &file.object);
        self.objects.iter().chain(&self.index).chain(files)
    }

    /// The manifest as it is stored: JSON with line ends, for people.
    ///
    /// # Errors
    /// When it is longer, or has more values, than a reader takes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > BYTES_MAX {
            let what = format!("the manifest is longer than {BYTES_MAX} bytes");
            return Err(serde::ser::Error::custom(what));
        }
        check_values(&*bytes)?;
        Ok(bytes)
    }

    /// Reads a manifest and checks that it is the one of `series` and `id`.
    ///
    /// # Errors
    /// See [`ManifestError`]. A newer format is told apart from damage.
    pub fn from_bytes(bytes: &[u8], series: &Series, id: &BackupId) -> Result<Self, ManifestError> {
        Self::from_reader(bytes, series, id)
    }

    /// The same of a reader whose clones read the same bytes. It is looked at several times, and parsed while it is
    /// read for the last time.
    ///
    /// # Errors
    /// As [`Manifest::from_bytes`].
    pub fn from_reader(
        reader: impl Read + Clone,
        series: &Series,
        id: &BackupId,
    ) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct VersionOnly {
            format_version: u32,
        }
        check_values(reader.clone()).map_err(ManifestError::Damaged)?;
        let version: VersionOnly = parse(reader.clone())?;
        if version.format_version > FORMAT_VERSION {
            return Err(ManifestError::Newer { found: version.format_version });
        }
        let manifest: Self = parse(reader)?;
        if manifest.codec != codec(&manifest.recipients) {
            let mut found = manifest.codec.join(", ");
            if !manifest.recipients.is_empty() {
                found = format!("{found} for {}", manifest.recipients);
            }
            return Err(ManifestError::Codec { found });
        }
        if manifest.id != *id || manifest.series != *series {
            return Err(ManifestError::Misplaced {
                expected: format!("{}/{id}", series.path()),
                found: format!("{}/{}", manifest.series.path(), manifest.id),
            });
        }
        Ok(manifest)
    }

    /// Bytes of all stored objects, without the manifest.
    pub fn stored_bytes(&self) -> u64 {
        self.stored().map(|object| object.bytes).sum()
    }
}

fn parse<T: DeserializeOwned>(reader: impl Read) -> Result<T, ManifestError> {
    serde_json::from_reader(BufReader::new(reader)).map_err(ManifestError::Damaged)
}

/// Refuses what would take far more memory than it has bytes.
fn check_values(reader: impl Read) -> Result<(), serde_json::Error> {
    let mut reader = BufReader::new(reader);
    let mut values = 1;
    loop {
        let bytes = reader.fill_buf().map_err(serde_json::Error::io)?;
        let length = bytes.len();
        values += bytes.split(|byte| *byte == b',').count() - 1;
        if values > VALUES_MAX {
            return Err(serde::de::Error::custom(format!("it has more than {VALUES_MAX} values")));
        }
        if length == 0 {
            return Ok(());
        }
        reader.consume(length);
    }
}
