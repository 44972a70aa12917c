//! Archives of write-ahead log: what lists them and looks into them, and the probe that a segment arrives.

pub mod archive;
mod bucket;
mod directory;
pub mod end_to_end;
pub mod space;
