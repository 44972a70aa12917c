//! Counts the rows of a COPY block.
//!
//! In COPY's text format a line end within a value is written as `\n`, so each line is a row, also an
//! empty one (a table without columns, or one text column with an empty string). pg_dump ends the
//! block with the line `\.` and blank lines (`dumpTableData_copy`); they are no rows. A value cannot
//! look like that line, since COPY writes a backslash as two.

/// Enough for the end mark: the line end before it, `\.`, its line end and up to four blank lines.
/// pg_dump writes two.
const TAIL: usize = 8;

#[derive(Debug, Default)]
pub(super) struct CopyRows {
    lines: u64,
    bytes: u64,
    /// The last bytes, right-aligned.
    tail: [u8; TAIL],
}

impl CopyRows {
    /// Counts what goes by.
    pub(super) fn add(&mut self, data: &[u8]) {
        self.lines += line_ends(data);
        self.bytes += data.len() as u64;
        if let Some(last) = data.last_chunk::<TAIL>() {
            self.tail = *last;
        } else {
            self.tail.rotate_left(data.len());
            self.tail[TAIL - data.len()..].copy_from_slice(data);
        }
    }

    /// The number of rows; none if the block did not end with its end mark.
    pub(super) fn finish(&self) -> Option<u64> {
        let known = usize::try_from(self.bytes).unwrap_or(TAIL).min(TAIL);
        let tail = &self.tail[TAIL - known..];
        let blank = tail.iter().rev().take_while(|byte| **byte == b'\n').count();
        let before = tail[..known - blank].strip_suffix(b"\\.")?;
        let starts_a_line = match before.last() {
            Some(byte) => *byte == b'\n',
            None => self.bytes == known as u64,
        };
        (blank > 0 && starts_a_line).then(|| self.lines - blank as u64)
    }
}

/// Counts line ends. Sums of 255 fit a byte, which lets the compiler compare 16 or 32 at a time.
fn line_ends(data: &[u8]) -> u64 {
    data.chunks(255)
        .map(|chunk| u64::from(chunk.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(data: &[u8]) -> Option<u64> {
        let mut whole = CopyRows::default();
        whole.add(data);
        for size in 1..=data.len().min(12) {
            let mut pieces = CopyRows::default();
            data.chunks(size).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces.finish(), whole.finish(), "in pieces of {size}");
        }
        whole.finish()
    }

    #[test]
    fn lines_before_the_end_mark_are_rows() {
        assert_eq!(rows(b"\\.\n\n\n"), Some(0));
        assert_eq!(rows(b"\n\\.\n\n\n"), Some(1));
        assert_eq!(rows(b"\n\n\n\n\n\n\n\n\n\\.\n\n\n"), Some(9));
        assert_eq!(rows(b"1\ta\\nb\n2\t\\\\.\n\\.\n\n\n"), Some(2));
        assert_eq!(rows(b"\\\\.\n\\.\n"), Some(1));
        assert_eq!(rows(&[&b"x\n".repeat(1000)[..], b"\\.\n\n\n"].concat()), Some(1000));
    }

    #[test]
    fn a_block_without_its_end_mark_is_not_whole() {
        for data in [
            &b""[..],
            b"\n",
            b"1\n2\n",
            b"\\.",
            b"1\n\\.",
            b"x\\.\n\n\n",
            b"\\\\.\n\n\n",
            b"\n\n\n\n\n\n",
        ] {
            assert_eq!(rows(data), None, "{}", data.escape_ascii());
        }
        // More blank lines than pg_dump writes: what stands before them is out of sight.
        assert_eq!(rows(b"1\n\\.\n\n\n\n\n\n\n\n\n"), None);
    }
}
