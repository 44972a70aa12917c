//! The archive's few basic forms, read from chunks of any size: bytes, integers, strings, offsets.
//!
//! A call either completes or has used up its input; the same call with more input goes on where
//! it was. Nothing is ever allocated by a stated length: a string is skipped, and only as much of
//! it is kept as the caller asked for.

use std::io;

use super::super::proof::FormatError;

/// What went wrong, before it is known in which part of the dump.
#[derive(Debug)]
pub(super) enum Fault {
    Damaged {
        at: u64,
        what: String,
    },
    /// What has nothing to do with the place.
    Other(FormatError),
}

impl Fault {
    /// The error with its place.
    pub(super) fn within(self, place: impl FnOnce() -> String) -> FormatError {
        match self {
            Self::Damaged { at, what } => FormatError::Damaged { offset: at, place: place(), what },
            Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Other(error.into())
    }
}

/// A string went by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    /// Its length in bytes; none for SQL's NULL (a length of -1).
    pub(super) length: Option<u64>,
}

/// The largest fixed form: the magic string with its six version bytes.
const SMALL: usize = 11;

/// Where the reading stands.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    int_bytes: usize,
    offset_bytes: usize,
    position: u64,
    small: [u8; SMALL],
    have: usize,
    /// Whole and remaining length of the string that is being read.
    string: Option<(u64, u64)>,
}

impl Scanner {
    /// Sets the widths that the header states. Widths above 8 do not occur.
    pub(super) fn set_widths(&mut self, int_bytes: usize, offset_bytes: usize) {
        self.int_bytes = int_bytes.min(8);
        self.offset_bytes = offset_bytes.min(8);
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// A contradiction in what was read last.
    pub(super) fn fault<T>(&self, what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault::Damaged { at: self.position, what: what.into() })
    }

    /// `count` bytes, at most [`SMALL`].
    pub(super) fn bytes(&mut self, input: &mut &[u8], count: usize) -> Option<&[u8]> {
        let taken = count.saturating_sub(self.have).min(input.len());
        let (head, rest) = input.split_at(taken);
        self.small[self.have..self.have + taken].copy_from_slice(head);
        *input = rest;
        self.have += taken;
        self.position += taken as u64;
        if self.have < count {
            return None;
        }
        self.have = 0;
        Some(&self.small[..count])
    }

    /// An integer: a byte for the sign, then the magnitude, little-endian (`WriteInt`).
    pub(super) fn int(&mut self, input: &mut &[u8]) -> Result<Option<i64>, Fault> {
        // The common case, once per row: four bytes that are all there.
        if let ([0, a, b, c, d, rest @ ..], 4, 0) = (*input, self.int_bytes, self.have)
            && *d < 0x80
        {
            *input = rest;
            self.position += 5;
            return Ok(Some(i64::from(u32::from_le_bytes([*a, *b, *c, *d]))));
        }
        let count = 1 + self.int_bytes;
        let Some(raw) = self.bytes(input, count) else { return Ok(None) };
        let sign = raw[0];
        let magnitude = little_endian(&raw[1..]);
        // The writer's int has 32 bits; an OID above 2^31 appears as a negative number, the
        // smallest one with a magnitude of 2^31.
        let limit = if sign == 0 { 0x7FFF_FFFF } else { 0x8000_0000 };
        if sign > 1 || magnitude > limit {
            return self.fault("an integer is out of range");
        }
        let value = i64::try_from(magnitude).unwrap_or(i64::MAX);
        Ok(Some(if sign == 0 { value } else { -value }))
    }

    /// A string: its length, then its bytes (`WriteStr`). The first `limit` bytes of it are put
    /// into `kept`, which holds nothing else afterwards.
    pub(super) fn text(
        &mut self,
        input: &mut &[u8],
        kept: &mut Vec<u8>,
        limit: usize,
    ) -> Result<Option<Text>, Fault> {
        let (whole, remaining) = if let Some(state) = self.string {
            state
        } else {
            let Some(length) = self.int(input)? else { return Ok(None) };
            kept.clear();
            match u64::try_from(length) {
                Ok(length) => (length, length),
                Err(_) if length == -1 => return Ok(Some(Text { length: None })),
                Err(_) => return self.fault("a string has a negative length"),
            }
        };
        let taken = usize::try_from(remaining).unwrap_or(usize::MAX).min(input.len());
        let (head, rest) = input.split_at(taken);
        kept.extend_from_slice(&head[..taken.min(limit.saturating_sub(kept.len()))]);
        *input = rest;
        self.position += taken as u64;
        let remaining = remaining - taken as u64;
        if remaining > 0 {
            self.string = Some((whole, remaining));
            return Ok(None);
        }
        self.string = None;
        Ok(Some(Text { length: Some(whole) }))
    }

    /// A data offset: a byte that says whether it is known, then the offset (`WriteOffset`).
    pub(super) fn offset(&mut self, input: &mut &[u8]) -> Option<(u8, u64)> {
        let count = self.offset_field_bytes();
        let raw = self.bytes(input, count)?;
        Some((raw[0], little_endian(&raw[1..])))
    }

    /// Length of an offset field in bytes.
    pub(super) fn offset_field_bytes(&self) -> usize {
        1 + self.offset_bytes
    }

    /// Up to `limit` bytes of contents, without a copy.
    pub(super) fn contents<'a>(&mut self, input: &mut &'a [u8], limit: u64) -> &'a [u8] {
        let taken = usize::try_from(limit).unwrap_or(usize::MAX).min(input.len());
        let (head, rest) = input.split_at(taken);
        *input = rest;
        self.position += taken as u64;
        head
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
