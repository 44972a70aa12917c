//! The byte stream: what pg_dump writes is proven, hashed, compressed and cut into parts on its
//! way to the repositories, in one pass and without a temporary file.

pub mod sealed;
