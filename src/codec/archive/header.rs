//! The archive's header (`WriteHead`): version, widths, compression, date, names.

use super::{
    super::proof::FormatError,
    scan::{Fault, Scanner},
};

/// The header in messages.
pub(super) const PLACE: &str = "the header";

const MAGIC: &[u8] = b"PGDMP";
/// `archCustom` of `ArchiveFormat` in pg_backup.h.
const CUSTOM: u8 = 1;
/// The names of `ArchiveFormat`, for messages.
const FORMATS: [&str; 6] = ["unknown", "custom", "files", "tar", "null", "directory"];
/// `struct tm` without its last two members, as `WriteHead` writes it.
const DATE_FIELDS: u8 = 7;

#[derive(Debug, Default)]
pub(super) struct Header {
    step: Step,
    minor: u8,
    nothing: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Step {
    #[default]
    Magic,
    Compression,
    Date(u8),
    /// Name of the database, version of the server, version of pg_dump.
    Name(u8),
    Entries,
}

/// What the header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preamble {
    /// The archive's version is 1.`minor`.
    pub(super) minor: u8,
    pub(super) entries: u64,
}

impl Header {
    /// Reads on; gives what the header says once it is whole.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner,
        input: &mut &[u8],
    ) -> Result<Option<Preamble>, FormatError> {
        loop {
            self.step = match self.step {
                Step::Magic => {
                    let Some(raw) = scan.bytes(input, MAGIC.len() + 6) else { return Ok(None) };
                    let (minor, int_bytes, offset_bytes) = versions(raw)?;
                    self.minor = minor;
                    scan.set_widths(int_bytes, offset_bytes);
                    Step::Compression
                }
                Step::Compression => {
                    if !self.compression(scan, input)? {
                        return Ok(None);
                    }
                    Step::Date(0)
                }
                Step::Date(done) => {
                    if scan.int(input).map_err(damaged)?.is_none() {
                        return Ok(None);
                    }
                    if done + 1 < DATE_FIELDS { Step::Date(done + 1) } else { Step::Name(0) }
                }
                Step::Name(done) => {
                    let text = scan.text(input, &mut self.nothing, 0).map_err(damaged)?;
                    if text.is_none() {
                        return Ok(None);
                    }
                    if done < 2 { Step::Name(done + 1) } else { Step::Entries }
                }
                Step::Entries => {
                    let Some(count) = scan.int(input).map_err(damaged)? else { return Ok(None) };
                    let Ok(entries) = u64::try_from(count) else {
                        return scan.fault("the number of entries is negative").map_err(damaged);
                    };
                    return Ok(Some(Preamble { minor: self.minor, entries }));
                }
            }
        }
    }

    fn compression(&self, scan: &mut Scanner, input: &mut &[u8]) -> Result<bool, FormatError> {
        // Up to 1.14 zlib's level as an integer, 0 for none; then the algorithm as a byte
        // (`pg_compress_algorithm` in common/compression.h).
        let compressed = if self.minor >= 15 {
            scan.bytes(input, 1).map(|raw| raw[0] != 0)
        } else {
            scan.int(input).map_err(damaged)?.map(|level| level != 0)
        };
        match compressed {
            None => Ok(false),
            Some(false) => Ok(true),
            Some(true) => Err(FormatError::Unsupported {
                what: "the archive is compressed by pg_dump; it must be written with -Z0".into(),
            }),
        }
    }
}

fn damaged(fault: Fault) -> FormatError {
    fault.within(|| PLACE.to_owned())
}

/// Minor version, bytes of an integer, bytes of an offset.
fn versions(raw: &[u8]) -> Result<(u8, usize, usize), FormatError> {
    let unsupported = |what: String| Err(FormatError::Unsupported { what });
    let (magic, rest) = raw.split_at(MAGIC.len());
    let [major, minor, revision, int_bytes, offset_bytes, format] = *rest else {
        return unsupported("the header is too short".into());
    };
    if magic != MAGIC {
        return unsupported(format!(
            "the dump is no archive of pg_dump's custom format: it begins with \"{}\"",
            raw.escape_ascii()
        ));
    }
    if major != 1 || !(13..=16).contains(&minor) {
        return unsupported(format!(
            "the archive has version {major}.{minor}; versions 1.13 to 1.16 can be read"
        ));
    }
    // K_VERS_1_13 to K_VERS_1_16 in pg_backup_archiver.h; pg_restore crashes at 128.
    if revision != 0 {
        return unsupported(format!(
            "the archive has version {major}.{minor}.{revision}; pg_dump writes {major}.{minor}.0"
        ));
    }
    // pg_dump writes `sizeof(int)` and `sizeof(pgoff_t)`: 4 and 8 wherever PostgreSQL runs today.
    if !matches!(int_bytes, 4 | 8) || !matches!(offset_bytes, 4 | 8) {
        return unsupported(format!(
            "the archive has integers of {int_bytes} and offsets of {offset_bytes} bytes"
        ));
    }
    if format != CUSTOM {
        let name = FORMATS.get(usize::from(format)).unwrap_or(&"unknown");
        return unsupported(format!("the archive has format \"{name}\", not \"custom\""));
    }
    Ok((minor, usize::from(int_bytes), usize::from(offset_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dump_never_writes_is_refused() {
        let head = *b"PGDMP\x01\x0e\x00\x04\x08\x01";
        assert_eq!(versions(&head).unwrap(), (14, 4, 8));
        for (at, other) in
            [(4, b'Q'), (5, 2), (6, 12), (6, 17), (7, 1), (7, 128), (8, 5), (9, 0), (10, 3)]
        {
            let mut damaged = head;
            damaged[at] = other;
            assert!(versions(&damaged).is_err(), "byte {at}: {other}");
        }
    }
}
