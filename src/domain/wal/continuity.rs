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
    set::{SegmentSet, Span},
    spans::{expired, split, without},
};

/// From where on an archive has to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Since {
    /// From the oldest base backup on whose first segment is there.
    OldestBackup,
    NewestBackup,
    Lsn(Lsn),
    Segment(SegmentName),
}

/// What is expected of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// From where on it has to be whole.
    pub since: Since,
    pub head: Timeline,
    /// Whether the server may lag behind the archive: a standby learns of a new timeline later.
    pub may_lag: bool,
    /// The last segment that the server takes for archived.
    pub claimed: Option<SegmentName>,
    /// What the server had written, on which timeline, long enough ago: every segment before the one with
    /// this byte has to be there. None where only its own word on archiving tells.
    pub written: Option<(Timeline, Lsn)>,
    /// The history of a timeline, by the server's word.
    pub told: Option<(Timeline, &'a History)>,
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
    /// Those of `missing_recent` behind the newest segment that is there which the server takes for
    /// archived.
    pub never_arrived: Vec<Span>,
    /// Those behind it and behind what the server takes for archived: it wrote them long enough ago.
    pub behind: Vec<Span>,
    /// Segments missing between two base backups, where pgBackRest leaves none on purpose.
    pub expired: Vec<Span>,
    /// Timelines with segments and without their history file.
    pub no_history: Vec<Timeline>,
    /// The history of the server's timeline is there and was not read, nor did the server tell it: nothing
    /// before it was looked at as one line.
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

/// The timeline whose history says what belongs together, where the archive does not tell it: it is
/// missing, or was not read.
pub fn untold(seen: &Inventory, expected: &Expectation<'_>) -> Option<Timeline> {
    let head = head(seen, expected);
    let told = seen.histories.get(&head).is_some_and(Option::is_some);
    (head > Timeline::FIRST && !told).then_some(head)
}

/// The timeline that a recovery to the latest follows, as far as the server's concerns go.
fn head(seen: &Inventory, expected: &Expectation<'_>) -> Timeline {
    let newest = timelines(seen).last().copied().filter(|_| expected.may_lag);
    newest.map_or(expected.head, |newest| newest.max(expected.head))
}

/// Looks at an archive as a whole.
pub fn examine(seen: &Inventory, expected: &Expectation<'_>) -> Continuity {
    let mut found = Continuity::default();
    let timelines = timelines(seen);
    let head = head(seen, expected);
    let line = line(seen, head, expected.told, &mut found);
    let on_line = |timeline| line.iter().any(|piece: &Piece| piece.timeline == timeline);
    found.newer = timelines.iter().copied().filter(|timeline| *timeline > head).collect();
    found.abandoned = timelines
        .iter()
        .copied()
        .filter(|timeline| *timeline < head && !on_line(*timeline))
        .filter(|_| found.unread_history.is_none() && !found.no_history.contains(&head))
        .collect();
    found.conflicting = conflicting(seen);
    let start = holes(seen, &line, expected, &mut found).unwrap_or(0);
    for timeline in timelines.iter().copied().filter(|timeline| !on_line(*timeline)) {
        found.missing_old.extend(without(inner_gaps(seen, timeline, start), expected.known_losses));
    }
    let recent_from = found.newest_backup.map_or(0, |lsn| seen.size().segment_of(lsn));
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

/// What is missing on the line; the answer is where it has to begin.
fn holes(
    seen: &Inventory,
    line: &[Piece],
    expected: &Expectation<'_>,
    found: &mut Continuity,
) -> Option<u64> {
    let first_seen = line.iter().find_map(|piece| edge(&seen.segments, seen, piece, true));
    let last_seen = line.iter().rev().find_map(|piece| edge(&seen.segments, seen, piece, false));
    let claimed = expected.claimed.and_then(|claimed| claimed_number(seen, line, claimed));
    let written = expected.written.and_then(|written| written_number(seen, line, written));
    // A receiver that was started just now has a first segment that is not whole yet.
    let begun = line.iter().find_map(|piece| edge(&seen.partials, seen, piece, true));
    let first = first_seen.or(claimed).or(begun).or(written);
    let start = start(seen, line, expected, first, found);
    let mut missing = Vec::new();
    if let (Some(start), Some(end)) = (start, last_seen.max(claimed).max(written)) {
        let names = (name_at(seen, line, start), name_at(seen, line, end));
        found.window = names.0.zip(names.1).filter(|_| start <= end);
        missing = missing_on(seen, line, start, end);
    }
    let recent_from = found.newest_backup.map_or(0, |lsn| seen.size().segment_of(lsn));
    if let Some(head) = found.unread_history {
        missing.splice(0..0, before(seen, head));
    }
    let missing = without(missing, expected.known_losses);
    let (old, recent) = split(missing, recent_from);
    (found.expired, found.missing_old) = if seen.summed {
        let starts = seen.backups.iter().map(|(lsn, _)| seen.size().segment_of(*lsn));
        expired(&old, &starts.collect())
    } else {
        (Vec::new(), old)
    };
    let (inner, tail) = split(recent, last_seen.map_or(0, |last| last + 1));
    (found.never_arrived, found.behind) = split(tail, claimed.map_or(0, |claimed| claimed + 1));
    found.missing_recent = [inner, found.never_arrived.clone(), found.behind.clone()].concat();
    start
}

/// All timelines of which something is there, in order.
fn timelines(seen: &Inventory) -> Vec<Timeline> {
    let mut all: BTreeSet<Timeline> = seen.segments.timelines().into_iter().collect();
    all.extend(seen.partials.timelines());
    all.extend(seen.histories.keys());
    all.into_iter().collect()
}

/// The line that leads to the present of timeline `head`.
fn line(
    seen: &Inventory,
    head: Timeline,
    told: Option<(Timeline, &History)>,
    found: &mut Continuity,
) -> Vec<Piece> {
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
    let archived = seen.histories.get(&head);
    let told = told.filter(|(of, _)| *of == head).map(|(_, history)| history);
    if let Some(history) = archived.and_then(Option::as_ref).or(told) {
        for switch in &history.switches {
            line.push(Piece { timeline: switch.timeline, begin, end: Some(switch.at) });
            begin = switch.at;
        }
    } else {
        found.unread_history = archived.map(|_| head);
        // Where it begins is not known: what is there has to hang together.
        if head > Timeline::FIRST {
            let first = seen.segments.first(head, 0, u64::MAX).unwrap_or(0);
            begin = seen.size().start_of(first);
        }
    }
    line.push(Piece { timeline: head, begin, end: None });
    line
}

/// The first or the last segment of a piece that is in a set.
fn edge(set: &SegmentSet, seen: &Inventory, piece: &Piece, first: bool) -> Option<u64> {
    let span = piece.span(seen)?;
    if first {
        set.first(span.timeline, span.first, span.last)
    } else {
        set.last(span.timeline, span.first, span.last)
    }
}

fn is_on(line: &[Piece], lsn: Lsn, timeline: Timeline) -> bool {
    line.iter().any(|piece| piece.timeline == timeline && piece.holds(lsn))
}

/// What is missing right before the first segment of a timeline whose history nobody tells: some earlier
/// timeline has to lead up to it.
fn before(seen: &Inventory, head: Timeline) -> Option<Span> {
    let first = seen.segments.first(head, 0, u64::MAX)?;
    let end = first.checked_sub(1)?;
    let earlier = seen.segments.timelines().into_iter().filter(|timeline| *timeline < head);
    let last =
        earlier.filter_map(|timeline| Some((seen.segments.last(timeline, 0, end)?, timeline)));
    let (last, timeline) = last.max()?;
    (last < end).then_some(Span { timeline, first: last + 1, last: end })
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

/// The number of the last segment that was whole when the server had written so much. What it wrote
/// behind the point where its timeline was left is on no line.
fn written_number(
    seen: &Inventory,
    line: &[Piece],
    (timeline, lsn): (Timeline, Lsn),
) -> Option<u64> {
    let piece = line.iter().find(|piece| piece.timeline == timeline)?;
    let lsn = piece.end.map_or(lsn, |end| lsn.min(end));
    seen.size().segment_of(lsn).checked_sub(1)
}

/// Number of the first segment that has to be there. `first` is the first that is, or is due.
fn start(
    seen: &Inventory,
    line: &[Piece],
    expected: &Expectation<'_>,
    first: Option<u64>,
    found: &mut Continuity,
) -> Option<u64> {
    let size = seen.size();
    let on_line = |(lsn, timeline): &&(Lsn, Timeline)| is_on(line, *lsn, *timeline);
    let backups: Vec<Lsn> = seen.backups.iter().filter(on_line).map(|(lsn, _)| *lsn).collect();
    found.newest_backup = backups.last().copied();
    let begins_before = |lsn: &&Lsn| first.is_some_and(|first| size.segment_of(**lsn) < first);
    found.backups_without_start = backups.iter().filter(begins_before).count() as u64;
    let newest = found.newest_backup.map(|lsn| size.segment_of(lsn));
    match expected.since {
        Since::OldestBackup => {
            let whole = backups.iter().find(|lsn| !begins_before(lsn));
            whole.map(|lsn| size.segment_of(*lsn)).or(newest).or(first)
        }
        Since::NewestBackup => newest.or(first),
        Since::Lsn(lsn) => Some(size.segment_of(lsn)),
        // A name of another segment size says nothing: better all of it than nothing.
        Since::Segment(name) => name.number(size).or(first),
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
