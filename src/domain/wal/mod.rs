//! Write-ahead log as an archive sees it: positions, names of files, histories of timelines, and
//! the rules by which an archive is whole.
//!
//! A million segments are a few hundred ranges: what is seen is kept as bits and answered as
//! ranges, never as a set of names. What can still go wrong: names say nothing of contents; a segment
//! of the right name and length may hold anything.

#[cfg(test)]
mod archive_tests;
mod continuity;
mod history;
mod inventory;
mod name;
mod position;
mod set;
mod spans;
#[cfg(test)]
mod tests;

pub use self::{
    continuity::{Continuity, Expectation, Since, examine, untold},
    history::{History, HistoryError, Switch},
    inventory::{Inventory, Noted, Sizes},
    name::{ArchivedFile, KnownLoss, SegmentName, WalFile},
    position::{Lsn, PositionError, SegmentSize, Timeline},
    set::{SegmentSet, Span, SpanNames},
};
