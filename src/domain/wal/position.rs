//! Places in the write-ahead log: LSN, timeline, and the size of a segment.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes that the first half of a segment's number counts (xlog_internal.h,
/// `XLogSegmentsPerXLogId`).
const LOG_BYTES: u64 = 1 << 32;

/// Why a text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct PositionError {
    what: &'static str,
    text: String,
}

impl PositionError {
    pub(super) fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(80).collect() }
    }
}

/// A byte of the log, counted from the cluster's beginning: `16/B374D848`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to here; 0 where it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & (LOG_BYTES - 1)))
    }
}

impl FromStr for Lsn {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let half = |half: &str| {
            let digits =
                (1..=8).contains(&half.len()) && half.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(half, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self((half(high)? << 32) | half(low)?)))
            .ok_or_else(|| PositionError::new("LSN", text))
    }
}

impl TryFrom<String> for Lsn {
    type Error = PositionError;
    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// A line of history: 1 from initdb on, another after each promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timeline(NonZeroU32);

impl Timeline {
    /// The timeline of a new cluster.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline of that number; there is none of number 0.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// `wal_segment_size`: a power of two from 1 MiB to 1 GiB (xlog_internal.h,
/// `IsValidWalSegSize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The size that initdb takes unless told otherwise.
    pub const DEFAULT: Self = Self(16 << 20);

    /// The size of so many bytes.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// Bytes of a segment.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Segments per 4 GiB: the second half of a segment's number wraps there.
    pub const fn per_log(self) -> u64 {
        LOG_BYTES / self.0
    }

    /// The number of the segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.0
    }

    /// The number of the segment that holds the byte before `lsn`: a record's end that lies on a
    /// boundary belongs to the segment before it (`XLByteToPrevSeg`).
    pub const fn segment_before(self, lsn: Lsn) -> u64 {
        lsn.0.saturating_sub(1) / self.0
    }

    /// Where the segment of that number begins.
    pub const fn start_of(self, segment: u64) -> Lsn {
        Lsn(segment.saturating_mul(self.0))
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = PositionError;
    fn try_from(bytes: u64) -> Result<Self, PositionError> {
        Self::new(bytes).ok_or_else(|| PositionError::new("size of a segment", &bytes.to_string()))
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}
