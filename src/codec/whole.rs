//! Small things, compressed whole: what lies beside an archive.

use std::io::{self, Write as _};

/// zstd's own default.
const LEVEL: i32 = 3;

/// Compresses bytes into one frame with a checksum.
///
/// # Errors
/// Never in practice: memory takes what is written to it.
pub fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back() {
        for plain in [&b""[..], b"x", &vec![7; 100_000]] {
            assert_eq!(zstd::stream::decode_all(&compress(plain).unwrap()[..]).unwrap(), plain);
        }
    }
}
