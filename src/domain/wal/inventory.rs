//! What was seen in an archive, file by file, in any order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    history::History,
    name::{ArchivedFile, SegmentName, WalFile},
    position::{Lsn, SegmentSize, Timeline},
    set::SegmentSet,
};

/// Entries of histories that are kept; a history past that is as good as unread.
const SWITCHES_MAX: usize = 1_000_000;
/// Labels of base backups that are kept.
const BACKUPS_MAX: usize = 1_000_000;

/// What lengths tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sizes {
    /// A segment whose name has no ending of its archive has exactly the size of a segment.
    Exact,
    /// Nothing, but that an empty file is none: it is compressed or encrypted without an ending.
    Any,
}

/// What was seen in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    size: SegmentSize,
    sizes: Sizes,
    /// Whole segments, by their names.
    pub segments: SegmentSet,
    /// Segments that are there as `.partial`.
    pub partials: SegmentSet,
    /// Those of `segments` that have a length that none can have.
    pub wrong_size: SegmentSet,
    /// Those of `segments` that are there more than once.
    pub duplicates: SegmentSet,
    /// Names of segments that no segment of this size has.
    pub misnamed: u64,
    pub foreign: u64,
    /// Whether segments have digests in their names: pgBackRest keeps the archive.
    #[serde(default)]
    pub summed: bool,
    /// Histories of timelines; none: the file is there and its content was not read.
    #[serde(with = "as_list")]
    pub histories: BTreeMap<Timeline, Option<History>>,
    /// Where base backups start, with their timelines, in order.
    pub backups: BTreeSet<(Lsn, Timeline)>,
    switches: usize,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Segment(SegmentName),
    /// Some other file of an archive.
    Other,
    /// A history: its content is wanted, see [`Inventory::add_history`].
    History(Timeline),
    Foreign,
}

impl Inventory {
    /// An empty one for segments of that size.
    pub fn new(size: SegmentSize, sizes: Sizes) -> Self {
        Self {
            size,
            sizes,
            segments: SegmentSet::default(),
            partials: SegmentSet::default(),
            wrong_size: SegmentSet::default(),
            duplicates: SegmentSet::default(),
            misnamed: 0,
            foreign: 0,
            summed: false,
            histories: BTreeMap::new(),
            backups: BTreeSet::new(),
            switches: 0,
        }
    }

    /// The size of segments.
    pub const fn size(&self) -> SegmentSize {
        self.size
    }

    /// What lengths tell.
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Takes a file by its name (without folders) and its length.
    pub fn add(&mut self, name: &str, bytes: u64) -> Noted {
        let Some(ArchivedFile { file, changed, summed }) = ArchivedFile::parse(name) else {
            self.foreign += 1;
            return Noted::Foreign;
        };
        self.summed |= summed;
        let number = match file {
            WalFile::History(timeline) => {
                self.histories.entry(timeline).or_default();
                return Noted::History(timeline);
            }
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::Backup(name, _) => {
                name.number(self.size)
            }
        };
        let Some(number) = number else {
            self.misnamed += 1;
            return Noted::Other;
        };
        match file {
            WalFile::Segment(name) => {
                if !self.segments.insert(name.timeline, number) {
                    self.duplicates.insert(name.timeline, number);
                }
                let exact = self.sizes == Sizes::Any || changed || bytes == self.size.bytes();
                if bytes == 0 || !exact {
                    self.wrong_size.insert(name.timeline, number);
                }
                return Noted::Segment(name);
            }
            WalFile::Partial(name) => {
                self.partials.insert(name.timeline, number);
            }
            WalFile::Backup(name, offset) if self.backups.len() < BACKUPS_MAX => {
                let start = Lsn(self.size.start_of(number).0.saturating_add(u64::from(offset)));
                self.backups.insert((start, name.timeline));
            }
            WalFile::Backup(..) | WalFile::History(_) => {}
        }
        Noted::Other
    }

    /// Takes what the history file of a timeline says. The reasons are not kept.
    pub fn add_history(&mut self, timeline: Timeline, mut history: History) {
        if self.switches + history.switches.len() > SWITCHES_MAX {
            return;
        }
        self.switches += history.switches.len();
        history.switches.iter_mut().for_each(|switch| switch.reason = String::new());
        self.histories.insert(timeline, Some(history));
    }

    /// Whether nothing of an archive was seen.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.histories.is_empty() && self.partials.is_empty()
    }

    /// Forgets what comes after a segment in the order of names, so that it can be seen again.
    /// Histories of that timeline and of earlier ones stay: they come before the segments of their
    /// timeline, and do not change.
    pub fn forget_after(&mut self, timeline: Timeline, number: u64) {
        for set in
            [&mut self.segments, &mut self.partials, &mut self.wrong_size, &mut self.duplicates]
        {
            set.forget_after(timeline, number);
        }
        self.histories.retain(|of, _| *of <= timeline);
        self.switches = self.histories.values().flatten().map(|it| it.switches.len()).sum();
    }
}

mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{History, Timeline};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<Timeline, Option<History>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Timeline, Option<History>>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}
