//! Names of files in `pg_wal` and in archives.
//!
//! A server knows four sorts: `TTTTTTTTLLLLLLLLSSSSSSSS`, the same with `.partial`, the same with
//! `.OOOOOOOO.backup`, and `TTTTTTTT.history`. Archives add endings of their own, for compressing,
//! encrypting, or both: whatever it is, a name that goes on with a point is a form of that file, unless
//! the ending says that it is another's. Folders play no part. What is none of these is foreign.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    position::{Lsn, PositionError, SegmentSize, Timeline},
    set::Span,
};

/// Digits of a segment's name.
const NAME_LEN: usize = 24;
/// Hexadecimal digits of a SHA-1, as pgBackRest puts them behind a name.
const SHA1_LEN: usize = 40;
/// Endings of what is no form of the file whose name they follow: it is not finished, was put aside, or
/// says something of it (digests, signatures, descriptions).
const BESIDE: &[&str] = &[
    "tmp",
    "temp",
    "part",
    "filepart",
    "new",
    "lock",
    "ready",
    "done",
    "ok",
    "bad",
    "corrupt",
    "error",
    "unknown",
    "duplicate",
    "bak",
    "old",
    "orig",
    "md5",
    "md5sum",
    "sha1",
    "sha1sum",
    "sha224",
    "sha224sum",
    "sha256",
    "sha256sum",
    "sha384",
    "sha384sum",
    "sha512",
    "sha512sum",
    "crc",
    "sum",
    "sig",
    "asc",
    "minisig",
    "info",
    "metadata",
    "meta",
    "json",
    "txt",
    "log",
    "par2",
];
/// What stands among the endings of a segment that is not whole: `.gz.partial` (pg_receivewal),
/// `.partial.gz` (barman-cloud).
const PARTIAL: &str = "partial";

/// The name of a segment. Which number it has depends on the size of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    pub timeline: Timeline,
    log: u32,
    part: u32,
}

impl SegmentName {
    /// The name of the segment of that number; numbers past the end of the log wrap.
    pub fn new(timeline: Timeline, number: u64, size: SegmentSize) -> Self {
        let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
        Self { timeline, log: half(number / size.per_log()), part: half(number % size.per_log()) }
    }

    /// The segment that holds the byte at `lsn`.
    pub fn at(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self::new(timeline, size.segment_of(lsn), size)
    }

    /// Its number; none where no segment of that size has this name.
    pub fn number(self, size: SegmentSize) -> Option<u64> {
        let part = u64::from(self.part);
        (part < size.per_log()).then(|| u64::from(self.log) * size.per_log() + part)
    }

    /// The first 16 digits: the folder that pgBackRest and Barman put it in.
    pub fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline.number(), self.log)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:08X}{:08X}{:08X}", self.timeline.number(), self.log, self.part))
    }
}

impl FromStr for SegmentName {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        split_segment(text)
            .filter(|(_, rest)| rest.is_empty())
            .map(|(name, _)| name)
            .ok_or_else(|| PositionError::new("name of a segment (24 digits, 0-9 and A-F)", text))
    }
}

impl TryFrom<String> for SegmentName {
    type Error = PositionError;
    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

/// A loss that somebody knows of, by the names of its first and its last segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KnownLoss {
    first: SegmentName,
    last: SegmentName,
}

impl KnownLoss {
    /// Its segments; none where no segments of that size have these names.
    pub fn span(self, size: SegmentSize) -> Option<Span> {
        let (first, last) = (self.first.number(size)?, self.last.number(size)?);
        Some(Span { timeline: self.first.timeline, first, last })
    }
}

impl fmt::Display for KnownLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

impl FromStr for KnownLoss {
    type Err = PositionError;

    /// Reads `FIRST..LAST`, or one name; both ends on one timeline.
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let (first, last): (SegmentName, SegmentName) =
            (first.trim().parse()?, last.trim().parse()?);
        if first.timeline != last.timeline || first > last {
            let what = "range of segments (both on one timeline, the first before the last)";
            return Err(PositionError::new(what, text));
        }
        Ok(Self { first, last })
    }
}

/// A file of `pg_wal`, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFile {
    Segment(SegmentName),
    /// What of a segment was there when the server was promoted. It never stands for the whole.
    Partial(SegmentName),
    /// The label of a base backup: the segment and the offset at which it starts.
    Backup(SegmentName, u32),
    /// Where a timeline comes from.
    History(Timeline),
}

impl WalFile {
    /// Reads a name as the server writes it; none for any other name.
    pub fn parse(name: &str) -> Option<Self> {
        let (file, rest) = split_file(name)?;
        rest.is_empty().then_some(file)
    }

    /// What sort of file it is, in metrics and messages.
    pub const fn sort(self) -> &'static str {
        match self {
            Self::Segment(_) => "segment",
            Self::Partial(_) => "partial",
            Self::Backup(..) => "backup",
            Self::History(_) => "history",
        }
    }
}

/// A file of an archive, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArchivedFile {
    pub file: WalFile,
    /// Whether its name has endings of a compressor or a cipher: its length then tells nothing.
    pub changed: bool,
    /// Whether its name has a digest, as those of pgBackRest have.
    pub summed: bool,
}

impl ArchivedFile {
    /// Reads the last part of a path or key; none for what is not WAL.
    pub fn parse(name: &str) -> Option<Self> {
        let (mut file, mut rest) = split_file(name)?;
        let mut summed = false;
        // Only segments get pgBackRest's digest.
        if matches!(file, WalFile::Segment(_) | WalFile::Partial(_)) {
            let without = without_digest(rest)?;
            summed = without.len() < rest.len();
            rest = without;
        }
        let changed = !rest.is_empty();
        if changed {
            for ending in rest.strip_prefix('.')?.split('.') {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_+".contains(&b);
                let beside = BESIDE.iter().any(|known| ending.eq_ignore_ascii_case(known));
                // Digits alone number copies that were put aside (`.1`). An empty ending is none, either.
                let numbers = ending.bytes().all(|b| b.is_ascii_digit());
                if numbers || !ending.bytes().all(plain) || beside {
                    return None;
                }
                if ending.eq_ignore_ascii_case(PARTIAL) {
                    let (WalFile::Segment(name) | WalFile::Partial(name)) = file else {
                        return None;
                    };
                    file = WalFile::Partial(name);
                }
            }
        }
        Some(Self { file, changed, summed })
    }
}

/// `-<40 hexadecimal digits>` and what follows; the text itself where it does not start with `-`.
fn without_digest(rest: &str) -> Option<&str> {
    let Some(rest) = rest.strip_prefix('-') else { return Some(rest) };
    let (digest, rest) = rest.split_at_checked(SHA1_LEN)?;
    let digits = digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    digits.then_some(rest)
}

/// A file at the start of a name, and the rest of the name.
fn split_file(name: &str) -> Option<(WalFile, &str)> {
    if let Some((segment, rest)) = split_segment(name) {
        if let Some(rest) = rest.strip_prefix(".partial") {
            return Some((WalFile::Partial(segment), rest));
        }
        if let Some((offset, rest)) = rest.strip_prefix('.').and_then(split_hex8)
            && let Some(rest) = rest.strip_prefix(".backup")
        {
            return Some((WalFile::Backup(segment, offset), rest));
        }
        return Some((WalFile::Segment(segment), rest));
    }
    let (timeline, rest) = split_hex8(name)?;
    let rest = rest.strip_prefix(".history")?;
    Some((WalFile::History(Timeline::new(timeline)?), rest))
}

fn split_segment(text: &str) -> Option<(SegmentName, &str)> {
    let (timeline, rest) = split_hex8(text)?;
    let (log, rest) = split_hex8(rest)?;
    let (part, rest) = split_hex8(rest)?;
    debug_assert_eq!(text.len() - rest.len(), NAME_LEN);
    Some((SegmentName { timeline: Timeline::new(timeline)?, log, part }, rest))
}

/// Eight digits as the server writes them: no lower case, no sign.
fn split_hex8(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(8)?;
    let fine = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    Some((fine.then(|| u32::from_str_radix(digits, 16).ok()).flatten()?, rest))
}
