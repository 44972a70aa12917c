//! The rules by which an archive is whole.
//!
//! The line that a recovery to now follows: the server's timeline, and behind it its ancestors, each
//! up to where the next one left it. The segment in which a timeline was left is needed on the new
//! timeline only, which holds the whole of it; on the old one it may be missing, whole or `.partial`.
//! What lies on that line from the start that was asked for up to the newest segment has to be there.
//! Other timelines count for themselves: a gap in one of them is one in the old window.
//!
//! What can still go wrong: a base backup whose label was not archived is not known here (one taken
//! from a standby has none); name the start then.

use std::collections::BTreeSet;

use super::{
    history::History,
    inventory::Inventory,
    name::SegmentName,
    position::{Lsn, Timeline},
    set::Span,
};

/// From where on an archive has to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Since {
    /// From the oldest base backup on whose first segment is there.
    OldestBackup,
    /// From the newest base backup on.
    NewestBackup,
    /// From a byte of the log on.
    Lsn(Lsn),
    /// From a segment on.
    Segment(SegmentName),
}

/// What is expected of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// From where on it has to be whole.
    pub since: Since,
    /// The server's timeline.
    pub head: Timeline,
    /// Whether the server may lag behind the archive: a standby learns of a new timeline later.
    pub may_lag: bool,
    /// The last segment that the server takes for archived.
    pub claimed: Option<SegmentName>,
    /// Losses that somebody knows of.
    pub known_losses: &'a [Span],
}

/// What an archive is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Continuity {
    /// What has to be there on the line to the server's present: its first and last segment.
    pub window: Option<(SegmentName, SegmentName)>,
    /// Where the newest base backup on that line starts.
    pub newest_backup: Option<Lsn>,
    /// Segments missing since the newest base backup; all of them where none is known.
    pub missing_recent: Vec<Span>,
    /// Segments missing before the newest base backup, or on other timelines.
    pub missing_old: Vec<Span>,
    /// Those of `missing_recent` behind the newest segment that is there: the server takes them for
    /// archived.
    pub never_arrived: Option<Span>,
    /// Timelines with segments and without their history file.
    pub no_history: Vec<Timeline>,
    /// The history of the server's timeline is there and was not read: nothing before it was
    /// looked at as one line.
    pub unread_history: Option<Timeline>,
    /// Timelines that are newer than the server's: a recovery to the latest follows them.
    pub newer: Vec<Timeline>,
    /// Timelines that are no ancestors of the server's.
    pub abandoned: Vec<Timeline>,
    /// Histories that contradict the one of their parent: (timeline, parent).
    pub conflicting: Vec<(Timeline, Timeline)>,
    /// Base backups that start before the oldest segment: expired, or lost.
    pub backups_without_start: u64,
    /// Segments of a wrong size since the newest base backup.
    pub wrong_size_recent: u64,
}

/// A part of the line: a timeline from where it begins to where the next one leaves it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    timeline: Timeline,
    /// The first byte of it.
    begin: Lsn,
    /// The first byte that is no longer on it.
    end: Option<Lsn>,
}

impl Piece {
    /// The segments of it that are needed; none where it begins and ends in one segment.
    fn span(&self, seen: &Inventory) -> Option<Span> {
        let size = seen.size();
        let first = size.segment_of(self.begin);
        let last = match self.end {
            Some(end) => size.segment_of(end).checked_sub(1).filter(|last| *last >= first)?,
            None => u64::MAX,
        };
        Some(Span { timeline: self.timeline, first, last })
    }

    fn holds(&self, lsn: Lsn) -> bool {
        lsn >= self.begin && self.end.is_none_or(|end| lsn < end)
    }
}

/// Looks at an archive as a whole.
pub fn examine(seen: &Inventory, expected: &Expectation<'_>) -> Continuity {
    let mut found = Continuity::default();
    let timelines = timelines(seen);
    let newest = timelines.last().copied().filter(|_| expected.may_lag);
    let head = newest.map_or(expected.head, |newest| newest.max(expected.head));
    let line = line(seen, head, &mut found);
    let on_line = |timeline| line.iter().any(|piece: &Piece| piece.timeline == timeline);
    found.newer = timelines.iter().copied().filter(|timeline| *timeline > head).collect();
    found.abandoned = timelines
        .iter()
        .copied()
        .filter(|timeline| *timeline < head && !on_line(*timeline))
        .filter(|_| found.unread_history.is_none() && !found.no_history.contains(&head))
        .collect();
    found.conflicting = conflicting(seen);
    let first_seen = line.iter().find_map(|piece| edge(seen, piece, true));
    let last_seen = line.iter().rev().find_map(|piece| edge(seen, piece, false));
    let claimed = expected.claimed.and_then(|claimed| claimed_number(seen, &line, claimed));
    let start = start(seen, &line, expected, first_seen.or(claimed), &mut found);
    let recent_from = found.newest_backup.map_or(0, |lsn| seen.size().segment_of(lsn));
    let mut missing = Vec::new();
    if let (Some(start), Some(end)) = (start, last_seen.max(claimed)) {
        let names = (name_at(seen, &line, start), name_at(seen, &line, end));
        found.window = names.0.zip(names.1).filter(|_| start <= end);
        missing = missing_on(seen, &line, start, end);
    }
    let missing = without(missing, expected.known_losses);
    (found.missing_old, found.missing_recent) = split(missing, recent_from);
    found.never_arrived = found
        .missing_recent
        .last()
        .copied()
        .filter(|span| last_seen.is_none_or(|last| span.first > last));
    let start = start.unwrap_or(0);
    for timeline in timelines.iter().copied().filter(|timeline| !on_line(*timeline)) {
        found.missing_old.extend(without(inner_gaps(seen, timeline, start), expected.known_losses));
    }
    found.wrong_size_recent = line
        .iter()
        .filter_map(|piece| piece.span(seen))
        .flat_map(|span| {
            seen.wrong_size.spans(span.timeline, span.first.max(recent_from), span.last)
        })
        .map(|span| span.count())
        .sum();
    found
}

/// All timelines of which something is there, in order.
fn timelines(seen: &Inventory) -> Vec<Timeline> {
    let mut all: BTreeSet<Timeline> = seen.segments.timelines().into_iter().collect();
    all.extend(seen.partials.timelines());
    all.extend(seen.histories.keys());
    all.into_iter().collect()
}

/// The line that leads to the present of timeline `head`.
fn line(seen: &Inventory, head: Timeline, found: &mut Continuity) -> Vec<Piece> {
    let mut used = seen.segments.timelines();
    used.extend(seen.partials.timelines());
    used.sort_unstable();
    used.dedup();
    found.no_history = used
        .into_iter()
        .filter(|t| *t > Timeline::FIRST && !seen.histories.contains_key(t))
        .collect();
    let mut line = Vec::new();
    let mut begin = Lsn::default();
    match seen.histories.get(&head) {
        Some(Some(history)) => {
            for switch in &history.switches {
                line.push(Piece { timeline: switch.timeline, begin, end: Some(switch.at) });
                begin = switch.at;
            }
        }
        history => {
            if history.is_some() {
                found.unread_history = Some(head);
            }
            // Where it begins is not known: what is there has to hang together.
            if head > Timeline::FIRST {
                let first = seen.segments.first(head, 0, u64::MAX).unwrap_or(0);
                begin = seen.size().start_of(first);
            }
        }
    }
    line.push(Piece { timeline: head, begin, end: None });
    line
}

/// The first or the last segment of a piece that is there.
fn edge(seen: &Inventory, piece: &Piece, first: bool) -> Option<u64> {
    let span = piece.span(seen)?;
    if first {
        seen.segments.first(span.timeline, span.first, span.last)
    } else {
        seen.segments.last(span.timeline, span.first, span.last)
    }
}

/// The number of a segment that the server takes for archived, if it lies on the line.
fn claimed_number(seen: &Inventory, line: &[Piece], claimed: SegmentName) -> Option<u64> {
    let number = claimed.number(seen.size())?;
    let spans = line.iter().filter_map(|piece| piece.span(seen));
    spans
        .filter(|span| span.timeline == claimed.timeline)
        .any(|span| (span.first..=span.last).contains(&number))
        .then_some(number)
}

/// Number of the first segment that has to be there.
fn start(
    seen: &Inventory,
    line: &[Piece],
    expected: &Expectation<'_>,
    first_seen: Option<u64>,
    found: &mut Continuity,
) -> Option<u64> {
    let size = seen.size();
    let on_line = |(lsn, timeline): &&(Lsn, Timeline)| {
        line.iter().any(|piece| piece.timeline == *timeline && piece.holds(*lsn))
    };
    let backups: Vec<Lsn> = seen.backups.iter().filter(on_line).map(|(lsn, _)| *lsn).collect();
    found.newest_backup = backups.last().copied();
    let begins_before = |lsn: &&Lsn| first_seen.is_some_and(|first| size.segment_of(**lsn) < first);
    found.backups_without_start = backups.iter().filter(begins_before).count() as u64;
    let newest = found.newest_backup.map(|lsn| size.segment_of(lsn));
    match expected.since {
        Since::OldestBackup => {
            let whole = backups.iter().find(|lsn| !begins_before(lsn));
            whole.map(|lsn| size.segment_of(*lsn)).or(newest).or(first_seen)
        }
        Since::NewestBackup => newest.or(first_seen),
        Since::Lsn(lsn) => Some(size.segment_of(lsn)),
        // A name of another segment size says nothing: better all of it than nothing.
        Since::Segment(name) => name.number(size).or(first_seen),
    }
}

/// What is missing on the line from segment `start` to segment `end`.
fn missing_on(seen: &Inventory, line: &[Piece], start: u64, end: u64) -> Vec<Span> {
    let spans = line.iter().filter_map(|piece| piece.span(seen));
    let clipped = spans.filter_map(|span| {
        let (first, last) = (span.first.max(start), span.last.min(end));
        (first <= last).then_some(Span { first, last, ..span })
    });
    clipped.flat_map(|span| seen.segments.missing(span)).collect()
}

/// The gaps between the first and the last segment of a timeline that is not on the line.
fn inner_gaps(seen: &Inventory, timeline: Timeline, start: u64) -> Vec<Span> {
    let first = seen.segments.first(timeline, start, u64::MAX);
    let last = seen.segments.last(timeline, start, u64::MAX);
    match first.zip(last) {
        Some((first, last)) => seen.segments.missing(Span { timeline, first, last }),
        None => Vec::new(),
    }
}

fn name_at(seen: &Inventory, line: &[Piece], number: u64) -> Option<SegmentName> {
    let mut spans = line.iter().filter_map(|piece| piece.span(seen));
    let span = spans.find(|span| (span.first..=span.last).contains(&number))?;
    Some(SegmentName::new(span.timeline, number, seen.size()))
}

/// The spans without what others cover.
fn without(spans: Vec<Span>, others: &[Span]) -> Vec<Span> {
    let mut left = spans;
    for other in others {
        let mut rest = Vec::with_capacity(left.len());
        for span in left {
            if span.timeline != other.timeline || other.last < span.first || other.first > span.last
            {
                rest.push(span);
                continue;
            }
            if span.first < other.first {
                rest.push(Span { last: other.first - 1, ..span });
            }
            if span.last > other.last {
                rest.push(Span { first: other.last + 1, ..span });
            }
        }
        left = rest;
    }
    left
}

/// Parts what lies before segment `from` from the rest.
fn split(spans: Vec<Span>, from: u64) -> (Vec<Span>, Vec<Span>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for span in spans {
        if span.first < from {
            before.push(Span { last: span.last.min(from - 1), ..span });
        }
        if span.last >= from {
            after.push(Span { first: span.first.max(from), ..span });
        }
    }
    (before, after)
}

/// Histories that do not continue the history of their parent.
fn conflicting(seen: &Inventory) -> Vec<(Timeline, Timeline)> {
    let read = |timeline: &Timeline| seen.histories.get(timeline).and_then(Option::as_ref);
    let mut found = Vec::new();
    for (timeline, history) in &seen.histories {
        let Some(history) = history else { continue };
        let Some(parent) = history.parent() else { continue };
        let grown = parent.timeline < *timeline;
        let ancestors = &history.switches[..history.switches.len() - 1];
        let same = match read(&parent.timeline) {
            Some(History { switches }) => ancestors == switches.as_slice(),
            None => parent.timeline > Timeline::FIRST || ancestors.is_empty(),
        };
        if !grown || !same {
            found.push((*timeline, parent.timeline));
        }
    }
    found
}
