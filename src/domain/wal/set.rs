//! Sets of segments, as bits: a million of them take some hundred kilobytes in whatever order they
//! come, and are read as ranges.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    name::SegmentName,
    position::{SegmentSize, Timeline},
};

/// Segments per chunk.
const CHUNK: u64 = 256;
/// Words of 64 bits in a chunk.
const WORDS: usize = 4;
/// More segments than a set that is read back may have: 1 PiB of the default size.
const READ_MAX: u64 = 1 << 26;

/// Segments of one timeline from `first` to `last`, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    pub timeline: Timeline,
    pub first: u64,
    pub last: u64,
}

impl Span {
    /// How many segments it has.
    pub const fn count(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Its text with names: `000000010000000000000005..000000010000000000000009`.
    pub const fn names(self, size: SegmentSize) -> SpanNames {
        SpanNames(self, size)
    }
}

/// A span with the names of its segments.
#[derive(Debug, Clone, Copy)]
pub struct SpanNames(Span, SegmentSize);

impl fmt::Display for SpanNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(span, size) = self;
        write!(f, "{}", SegmentName::new(span.timeline, span.first, *size))?;
        if span.last > span.first {
            write!(f, "..{}", SegmentName::new(span.timeline, span.last, *size))?;
        }
        Ok(())
    }
}

/// A set of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentSet {
    chunks: BTreeMap<(Timeline, u64), [u64; WORDS]>,
    count: u64,
}

impl SegmentSet {
    /// Adds a segment; false where it is there already.
    pub fn insert(&mut self, timeline: Timeline, number: u64) -> bool {
        let (word, bit) = place(number);
        let words = self.chunks.entry((timeline, number / CHUNK)).or_default();
        let fresh = words[word] & bit == 0;
        words[word] |= bit;
        self.count += u64::from(fresh);
        fresh
    }

    /// Whether it has the segment.
    pub fn contains(&self, timeline: Timeline, number: u64) -> bool {
        let (word, bit) = place(number);
        self.chunks.get(&(timeline, number / CHUNK)).is_some_and(|words| words[word] & bit != 0)
    }

    /// How many segments it has.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The timelines of its segments, in order.
    pub fn timelines(&self) -> Vec<Timeline> {
        let mut timelines: Vec<Timeline> = Vec::new();
        for (timeline, _) in self.chunks.keys() {
            if timelines.last() != Some(timeline) {
                timelines.push(*timeline);
            }
        }
        timelines
    }

    /// The segments of `timeline` from `first` to `last` as ranges, in order.
    pub fn spans(
        &self,
        timeline: Timeline,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = Span> + '_ {
        let chunks = (first <= last)
            .then(|| self.chunks.range((timeline, first / CHUNK)..=(timeline, last / CHUNK)));
        let numbers = chunks.into_iter().flatten().flat_map(|((_, chunk), words)| {
            let base = chunk * CHUNK;
            (0..CHUNK).filter(move |at| is_set(words, *at)).map(move |at| base + at)
        });
        let mut numbers = numbers.filter(move |n| (first..=last).contains(n)).peekable();
        std::iter::from_fn(move || {
            let first = numbers.next()?;
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| *next == last + 1) {
                last = next;
            }
            Some(Span { timeline, first, last })
        })
    }

    /// All its segments as ranges.
    pub fn all(&self) -> impl Iterator<Item = Span> + '_ {
        self.timelines().into_iter().flat_map(|timeline| self.spans(timeline, 0, u64::MAX))
    }

    /// What of `span` it does not have, as ranges in order.
    pub fn missing(&self, span: Span) -> Vec<Span> {
        let Span { timeline, first, last } = span;
        let mut missing = Vec::new();
        let mut next = first;
        for there in self.spans(timeline, first, last) {
            if there.first > next {
                missing.push(Span { timeline, first: next, last: there.first - 1 });
            }
            next = there.last.saturating_add(1);
        }
        if next <= last {
            missing.push(Span { timeline, first: next, last });
        }
        missing
    }

    /// The first segment of a timeline between `first` and `last`.
    pub fn first(&self, timeline: Timeline, first: u64, last: u64) -> Option<u64> {
        self.spans(timeline, first, last).next().map(|span| span.first)
    }

    /// The last segment of a timeline between `first` and `last`.
    pub fn last(&self, timeline: Timeline, first: u64, last: u64) -> Option<u64> {
        if first > last {
            return None;
        }
        let chunks = self.chunks.range((timeline, first / CHUNK)..=(timeline, last / CHUNK));
        let mut numbers = chunks.rev().flat_map(|((_, chunk), words)| {
            let base = chunk * CHUNK;
            (0..CHUNK).rev().filter(move |at| is_set(words, *at)).map(move |at| base + at)
        });
        numbers.find(|number| (first..=last).contains(number))
    }

    /// Forgets what comes after a segment in the order of names: later ones of its timeline, and
    /// every later timeline.
    pub fn forget_after(&mut self, timeline: Timeline, number: u64) {
        let (word, bit) = place(number);
        drop(self.chunks.split_off(&(timeline, number / CHUNK + 1)));
        if let Some(words) = self.chunks.get_mut(&(timeline, number / CHUNK)) {
            words[word] &= bit | (bit - 1);
            words[word + 1..].fill(0);
            if words.iter().all(|word| *word == 0) {
                self.chunks.remove(&(timeline, number / CHUNK));
            }
        }
        self.count = self.chunks.values().flatten().map(|word| u64::from(word.count_ones())).sum();
    }
}

/// The word of a chunk and the bit in it.
fn place(number: u64) -> (usize, u64) {
    let at = number % CHUNK;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

fn is_set(words: &[u64; WORDS], at: u64) -> bool {
    let (word, bit) = place(at);
    words[word] & bit != 0
}

impl Serialize for SegmentSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.all().map(|span| (span.timeline, span.first, span.last)))
    }
}

impl<'de> Deserialize<'de> for SegmentSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spans = Vec::<(Timeline, u64, u64)>::deserialize(deserializer)?;
        let mut set = Self::default();
        for (timeline, first, last) in spans {
            let count = Span { timeline, first, last }.count();
            if first > last || set.count.saturating_add(count) > READ_MAX {
                return Err(D::Error::custom("no set of segments"));
            }
            for number in first..=last {
                set.insert(timeline, number);
            }
        }
        Ok(set)
    }
}
