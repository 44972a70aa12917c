//! The byte stream: what pg_dump writes is proven, hashed, compressed, encrypted and cut into parts
//! on its way to the repositories, in one pass and without a temporary file.

pub mod archive;
pub mod encrypt;
pub mod entries;
pub mod frames;
pub mod identity;
pub mod index;
pub mod parts;
pub mod plain;
pub mod proof;
pub mod spool;
pub mod stream;

/// A digest as lower-case hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
