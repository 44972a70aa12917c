//! The byte stream: what pg_dump writes is proven, hashed, compressed and cut into parts on its
//! way to the repositories, in one pass and without a temporary file.

pub mod archive;
pub mod frames;
pub mod globals;
pub mod index;
pub mod proof;
pub mod sealed;
pub mod stream;
