//! Lists of spans: one without another, parted at a segment, parted by what leaves them out on purpose.

use std::collections::BTreeSet;

use super::set::Span;

/// The spans without what others cover.
pub(super) fn without(spans: Vec<Span>, others: &[Span]) -> Vec<Span> {
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
pub(super) fn split(spans: Vec<Span>, from: u64) -> (Vec<Span>, Vec<Span>) {
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

/// Parts what pgBackRest leaves out on purpose from the rest. With `repo-retention-archive` below
/// `repo-retention-full` it keeps of older base backups the segments that each needs to be recovered as it
/// is: what is missing begins somewhere behind the start of one, and ends right before that of the next.
pub(super) fn expired(missing: &[Span], starts: &BTreeSet<u64>) -> (Vec<Span>, Vec<Span>) {
    // A gap that runs over the end of a timeline has a span on each.
    let follows = |a: &Span, b: &Span| b.first == a.last + 1;
    let (mut on_purpose, mut others) = (Vec::new(), Vec::new());
    let mut before = None;
    for gap in missing.chunk_by(follows) {
        let (Some(first), Some(last)) = (gap.first(), gap.last()) else { continue };
        let needed = starts.range(..first.first).next_back();
        let kept = needed.is_some_and(|needed| before.is_none_or(|before| before < *needed));
        let ends_well = starts.contains(&(last.last + 1));
        if kept && ends_well { &mut on_purpose } else { &mut others }.extend_from_slice(gap);
        before = Some(last.last);
    }
    (on_purpose, others)
}
