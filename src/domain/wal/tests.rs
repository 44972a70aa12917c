//! The rules, held against archives that are made up and damaged at random.

use std::{collections::BTreeSet, fmt::Write};

use proptest::prelude::*;

use super::*;

fn tl(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn size(mib: u64) -> SegmentSize {
    SegmentSize::new(mib << 20).unwrap()
}

fn segment(text: &str) -> SegmentName {
    text.parse().unwrap()
}

/// An archive with these files, each of the size of a segment.
fn archive(size: SegmentSize, names: &[&str]) -> Inventory {
    let mut seen = Inventory::new(size, Sizes::Exact);
    for name in names {
        seen.add(name, size.bytes());
    }
    seen
}

fn expecting(since: Since, head: u32) -> Expectation<'static> {
    Expectation {
        since,
        head: tl(head),
        may_lag: false,
        claimed: None,
        written: None,
        told: None,
        known_losses: &[],
    }
}

#[test]
fn positions_are_read_and_written_as_the_server_does() {
    for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
        assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
    }
    for bad in ["", "/", "0", "0/", "0/123456789", "x/0", "+1/0", "-1/0", " 0/0"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
    }
    for bytes in [0, 1, (1 << 20) - 1, 3 << 20, 1 << 19, 1 << 31] {
        assert_eq!(SegmentSize::new(bytes), None);
    }
    assert_eq!(Timeline::new(0), None);
}

#[test]
fn names_wrap_by_the_size_of_segments() {
    for (mib, per_log) in [(1, 4096), (16, 256), (64, 64), (1024, 4)] {
        let size = size(mib);
        assert_eq!(size.per_log(), per_log);
        let last = SegmentName::new(tl(0x1F), per_log - 1, size);
        assert_eq!(last.to_string(), format!("0000001F00000000{:08X}", per_log - 1));
        let next = SegmentName::new(tl(0x1F), per_log, size);
        assert_eq!(next.to_string(), "0000001F0000000100000000");
        assert_eq!(next.number(size), Some(per_log));
        assert_eq!(next.folder(), "0000001F00000001");
        let impossible = segment(&format!("0000000100000000{per_log:08X}"));
        assert_eq!(impossible.number(size), None, "no segment has this name");
    }
    let size = size(16);
    let lsn: Lsn = "1/0".parse().unwrap();
    assert_eq!(size.segment_of(lsn), 256);
    assert_eq!(size.segment_before(lsn), 255);
}

#[test]
fn names_of_archives_are_told_from_foreign_ones() {
    let name = segment("000000010000000A000000FE");
    let sum = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";
    for (ending, compressed) in [
        (String::new(), false),
        (".gz".to_owned(), true),
        (".lz4".to_owned(), true),
        (".zst".to_owned(), true),
        (".br".to_owned(), true),
        (".lzma".to_owned(), true),
        (".xz".to_owned(), true),
        (".bz2".to_owned(), true),
        (".snappy".to_owned(), true),
        (format!("-{sum}"), false),
        (format!("-{sum}.gz"), true),
    ] {
        let summed = ending.starts_with('-');
        let file = WalFile::Segment(name);
        let parsed = ArchivedFile::parse(&format!("{name}{ending}"));
        assert_eq!(parsed, Some(ArchivedFile { file, changed: compressed, summed }), "{ending}");
        let file = WalFile::Partial(name);
        let parsed = ArchivedFile::parse(&format!("{name}.partial{ending}"));
        assert_eq!(parsed, Some(ArchivedFile { file, changed: compressed, summed }), "{ending}");
    }
    let file = WalFile::Backup(name, 0x28);
    let parsed = ArchivedFile::parse(&format!("{name}.00000028.backup.gz"));
    assert_eq!(parsed, Some(ArchivedFile { file, changed: true, summed: false }));
    let file = WalFile::History(tl(0x1F));
    let parsed = ArchivedFile::parse("0000001F.history");
    assert_eq!(parsed, Some(ArchivedFile { file, changed: false, summed: false }));
    for foreign in [
        "",
        "README",
        "archive.info",
        "xlog.db",
        "000000010000000A000000F",
        "000000010000000a000000fe",
        "000000000000000A000000FE",
        "000000010000000A000000FE.tmp",
        "000000010000000A000000FE.gz.tmp",
        "000000010000000A000000FE-abc",
        "000000010000000A000000FE.ready",
        "000000010000000A000000FEé",
        "00000000.history",
        "base_000000010000000A000000FE_backup_stop_sentinel.json",
        &format!("0000001F.history-{sum}"),
    ] {
        assert_eq!(ArchivedFile::parse(foreign), None, "{foreign:?}");
    }
    assert_eq!(WalFile::parse(&format!("{name}.gz")), None, "a server compresses nothing");
}

#[test]
fn histories_are_read_as_the_server_reads_them() {
    let text = "# made by hand\n\n1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\t\n";
    let history = History::parse(text).unwrap();
    assert_eq!(history.switches.len(), 2);
    assert_eq!(history.switches[0].reason, "no recovery target specified");
    assert_eq!(history.parent().unwrap().timeline, tl(2));
    assert_eq!(History::parse(""), Err(HistoryError::Empty));
    assert_eq!(History::parse("1\tx\n"), Err(HistoryError::Line { line: 1 }));
    assert_eq!(History::parse("2\t0/5\n1\t0/6\n"), Err(HistoryError::Order { line: 2 }));
    assert_eq!(History::parse("1\t0/5\n2\t0/4\n"), Err(HistoryError::Order { line: 2 }));
}

#[test]
fn lengths_count_only_where_they_tell_something() {
    let size = size(16);
    let mut seen = Inventory::new(size, Sizes::Exact);
    seen.add("000000010000000000000001", size.bytes());
    seen.add("000000010000000000000002", 4096);
    seen.add("000000010000000000000003.gz", 4096);
    seen.add("000000010000000000000004.gz", 0);
    seen.add("000000010000000000000005.partial", 17);
    assert_eq!(seen.wrong_size.all().map(|span| span.first).collect::<Vec<_>>(), [2, 4]);
    let mut any = Inventory::new(size, Sizes::Any);
    any.add("000000010000000000000002", 4096);
    any.add("000000010000000000000003", 0);
    assert_eq!(any.wrong_size.all().map(|span| span.first).collect::<Vec<_>>(), [3]);
}

#[test]
fn what_is_there_twice_is_one_segment_and_a_duplicate() {
    let seen = archive(
        size(16),
        &["000000010000000000000001", "000000010000000000000001.gz", "0000000100000000000000FF"],
    );
    assert_eq!((seen.segments.len(), seen.duplicates.len(), seen.misnamed), (2, 1, 0));
    assert_eq!(archive(size(64), &["0000000100000000000000FF"]).misnamed, 1);
}

#[test]
fn a_gap_is_recent_or_old_by_the_newest_base_backup() {
    let names: Vec<String> = (1..=20)
        .filter(|n| ![5, 15].contains(n))
        .map(|n| format!("0000000100000000000000{n:02X}"))
        .collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("000000010000000000000003.00000028.backup");
    names.push("00000001000000000000000A.00000028.backup");
    let seen = archive(size(16), &names);
    let gap = |n| vec![Span { timeline: tl(1), first: n, last: n }];
    let found = examine(&seen, &expecting(Since::OldestBackup, 1));
    assert_eq!((found.missing_old, found.missing_recent), (gap(5), gap(15)));
    assert_eq!(found.window, Some((segment(names[2]), segment(names[17]))));
    let found = examine(&seen, &expecting(Since::NewestBackup, 1));
    assert_eq!((found.missing_old, found.missing_recent), (vec![], gap(15)));
    let known = gap(15);
    let expected = Expectation { known_losses: &known, ..expecting(Since::OldestBackup, 1) };
    assert_eq!(examine(&seen, &expected).missing_recent, []);
}

#[test]
fn labels_of_expired_base_backups_ask_for_nothing() {
    let seen = archive(
        size(16),
        &[
            "000000010000000000000003.00000028.backup",
            "000000010000000000000008",
            "000000010000000000000009",
            "000000010000000000000009.00000028.backup",
        ],
    );
    let found = examine(&seen, &expecting(Since::OldestBackup, 1));
    assert_eq!((found.missing_old.len(), found.missing_recent.len()), (0, 0));
    assert_eq!(found.backups_without_start, 1);
    // The newest is never taken for expired.
    let seen = archive(
        size(16),
        &["000000010000000000000003.00000028.backup", "000000010000000000000005"],
    );
    let found = examine(&seen, &expecting(Since::OldestBackup, 1));
    assert_eq!(found.missing_recent, [Span { timeline: tl(1), first: 3, last: 4 }]);
}

#[test]
fn what_the_server_takes_for_archived_has_to_be_there() {
    let seen = archive(size(16), &["000000010000000000000001"]);
    let claimed = Some(segment("000000010000000000000003"));
    let expected = Expectation { claimed, ..expecting(Since::OldestBackup, 1) };
    let span = Span { timeline: tl(1), first: 2, last: 3 };
    let found = examine(&seen, &expected);
    assert_eq!((found.never_arrived, found.missing_recent), (vec![span], vec![span]));
    let found = examine(&archive(size(16), &[]), &expected);
    assert_eq!(found.missing_recent.len(), 1, "an empty archive is no whole one");
    let found = examine(&archive(size(16), &[]), &expecting(Since::OldestBackup, 1));
    assert_eq!(found, Continuity::default());
}

/// Timeline 1 up to the middle of segment 3, then timeline 0x1F.
fn promoted(mut names: Vec<&str>) -> Inventory {
    names.extend(["000000010000000000000001", "000000010000000000000002"]);
    names.extend(["0000001F0000000000000003", "0000001F0000000000000004"]);
    archive(size(16), &names)
}

#[test]
fn the_segment_of_a_switch_is_needed_on_the_new_timeline_only() {
    let history = History::parse("1\t0/3000148\tpromoted\n").unwrap();
    for extra in [
        vec![],
        vec!["000000010000000000000003.partial"],
        vec!["000000010000000000000003"],
        // The old primary went on.
        vec!["000000010000000000000003", "000000010000000000000009"],
    ] {
        let mut seen = promoted(extra);
        seen.add("0000001F.history", 40);
        seen.add_history(tl(0x1F), history.clone());
        let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
        assert_eq!(found.missing_recent, []);
        assert_eq!(found.missing_old, []);
        assert_eq!((found.no_history, found.abandoned, found.newer), (vec![], vec![], vec![]));
    }
    let mut seen = archive(
        size(16),
        &[
            "000000010000000000000002",
            "000000010000000000000003.partial",
            "0000001F0000000000000004",
        ],
    );
    seen.add_history(tl(0x1F), history);
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    let lost = Span { timeline: tl(0x1F), first: 3, last: 3 };
    assert_eq!(found.missing_recent, [lost], "a partial segment fills no gap");
}

#[test]
fn timelines_that_do_not_hang_together_are_named() {
    let seen = promoted(vec![]);
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    assert_eq!(found.no_history, [tl(0x1F)]);
    let mut seen = promoted(vec!["0000001F.history"]);
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    assert_eq!((found.no_history, found.unread_history), (vec![], Some(tl(0x1F))));
    // The server is on timeline 1: somebody else was promoted and archives here as well.
    let found = examine(&seen, &expecting(Since::OldestBackup, 1));
    assert_eq!(found.newer, [tl(0x1F)]);
    let lagging = Expectation { may_lag: true, ..expecting(Since::OldestBackup, 1) };
    assert_eq!(examine(&seen, &lagging).newer, []);
    // Timeline 2 left timeline 1 elsewhere than the history of 0x1F says.
    seen.add_history(tl(2), History::parse("1\t0/2000000\n").unwrap());
    seen.add_history(tl(0x1F), History::parse("1\t0/3000000\n2\t0/3000148\n").unwrap());
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    assert_eq!(found.conflicting, [(tl(0x1F), tl(2))]);
    seen.add_history(tl(0x1F), History::parse("1\t0/3000148\n").unwrap());
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    assert_eq!((found.conflicting, found.abandoned), (vec![], vec![tl(2)]));
}

/// A line of timelines and what of it is needed.
#[derive(Debug, Clone)]
struct Made {
    size: SegmentSize,
    history: String,
    head: Timeline,
    /// All segments that are needed, in order.
    needed: Vec<(Timeline, u64)>,
    /// Files beside them.
    extra: Vec<String>,
}

prop_compose! {
    fn made()(
        mib in prop::sample::select(vec![1_u64, 16, 64, 1024]),
        lengths in prop::collection::vec((1_u64..40, 0_u64..3, 0_u8..4), 1..5),
        steps in prop::collection::vec(1_u32..40, 5),
        before_the_wrap in 0_u64..60,
    ) -> Made {
        let size = size(mib);
        let first = size.per_log().saturating_sub(before_the_wrap).max(1);
        let (mut at, mut timeline) = (size.start_of(first), 1_u32);
        let (mut needed, mut extra, mut history) = (Vec::new(), Vec::new(), String::new());
        for (index, (segments, offset, beside)) in lengths.iter().enumerate() {
            let begins = size.segment_of(at);
            if index + 1 == lengths.len() {
                needed.extend((begins..begins + segments).map(|number| (tl(timeline), number)));
                break;
            }
            // At the segment's very beginning, in its middle, at its last byte.
            let within = [0, size.bytes() / 2, size.bytes() - 1][usize::try_from(*offset).unwrap()];
            let switch = Lsn(size.start_of(begins + segments).0 + within);
            let left = size.segment_of(switch);
            needed.extend((begins..left).map(|number| (tl(timeline), number)));
            let name = SegmentName::new(tl(timeline), left, size);
            match beside {
                1 => extra.push(format!("{name}.partial")),
                2 => extra.push(name.to_string()),
                3 => extra.extend([name.to_string(), SegmentName::new(tl(timeline), left + 1, size).to_string()]),
                _ => {}
            }
            writeln!(history, "{timeline}\t{switch}\tpromoted").unwrap();
            (at, timeline) = (switch, timeline + steps[index]);
        }
        Made { size, history, head: tl(timeline), needed, extra }
    }
}

impl Made {
    fn archive(&self, removed: &BTreeSet<(Timeline, u64)>) -> Inventory {
        let mut seen = Inventory::new(self.size, Sizes::Exact);
        let left = self.needed.iter().filter(|segment| !removed.contains(segment));
        for (timeline, number) in left.rev() {
            seen.add(
                &SegmentName::new(*timeline, *number, self.size).to_string(),
                self.size.bytes(),
            );
        }
        for name in &self.extra {
            seen.add(name, self.size.bytes());
        }
        if self.head > Timeline::FIRST {
            seen.add_history(self.head, History::parse(&self.history).unwrap());
        }
        seen
    }
}

fn flat(spans: &[Span]) -> BTreeSet<(Timeline, u64)> {
    spans.iter().flat_map(|s| (s.first..=s.last).map(|n| (s.timeline, n))).collect()
}

proptest! {
    #[test]
    fn what_is_removed_is_what_is_missing(made in made(), seed in any::<u64>()) {
        let pick = |index: usize| (seed.rotate_left(u32::try_from(index % 64).unwrap()) ^ index as u64).is_multiple_of(3);
        let chosen = made.needed.iter().enumerate().filter(|(index, _)| pick(*index));
        let removed: BTreeSet<_> = chosen.map(|(_, segment)| *segment).collect();
        let name = |(timeline, number): (Timeline, u64)| SegmentName::new(timeline, number, made.size);
        let (first, last) = (made.needed[0], *made.needed.last().unwrap());
        let expected = Expectation {
            since: Since::Segment(name(first)),
            head: made.head,
            may_lag: false,
            claimed: Some(name(last)),
            written: None,
            told: None,
            known_losses: &[],
        };
        let seen = made.archive(&removed);
        let found = examine(&seen, &expected);
        prop_assert_eq!(flat(&found.missing_recent), removed.clone());
        prop_assert!(found.missing_old.is_empty());
        // What somebody knows of is not missing.
        let losses = found.missing_recent.clone();
        let found = examine(&seen, &Expectation { known_losses: &losses, ..expected });
        prop_assert!(found.missing_recent.is_empty());
        // Written and read back it says the same.
        let json = serde_json::to_string(&seen).unwrap();
        prop_assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), seen);
    }

    #[test]
    fn a_set_is_its_ranges(numbers in prop::collection::btree_set(0_u64..2000, 0..300), cut in 0_u64..2000) {
        let mut set = SegmentSet::default();
        for number in &numbers {
            prop_assert!(set.insert(tl(7), *number));
            prop_assert!(!set.insert(tl(7), *number));
        }
        set.insert(tl(8), 1);
        let spans: Vec<Span> = set.spans(tl(7), 0, u64::MAX).collect();
        prop_assert!(spans.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
        let all: BTreeSet<u64> = flat(&spans).into_iter().map(|(_, number)| number).collect();
        prop_assert_eq!(&all, &numbers);
        prop_assert_eq!(set.first(tl(7), cut, u64::MAX), numbers.range(cut..).next().copied());
        prop_assert_eq!(set.last(tl(7), 0, cut), numbers.range(..=cut).next_back().copied());
        let missing = flat(&set.missing(Span { timeline: tl(7), first: 0, last: 1999 }));
        prop_assert_eq!(missing.len(), 2000 - numbers.len());
        set.forget_after(tl(7), cut);
        let left: BTreeSet<u64> = flat(&set.all().collect::<Vec<_>>()).into_iter().map(|(_, n)| n).collect();
        let wanted: BTreeSet<u64> = numbers.range(..=cut).copied().collect();
        prop_assert_eq!(set.len(), wanted.len() as u64);
        prop_assert_eq!(left, wanted);
    }

    #[test]
    fn what_is_parsed_is_what_stands_there(name in "[0-9A-Fa-f]{8}([0-9A-F]{16})?[.a-z0-9-]{0,60}\\PC{0,4}") {
        match ArchivedFile::parse(&name).map(|archived| archived.file) {
            Some(WalFile::Segment(segment) | WalFile::Partial(segment) | WalFile::Backup(segment, _)) => {
                prop_assert!(name.starts_with(&segment.to_string()));
            }
            Some(WalFile::History(timeline)) => {
                let start = format!("{:08X}.history", timeline.number());
                prop_assert!(name.starts_with(&start));
            }
            None => prop_assert_eq!(WalFile::parse(&name), None),
        }
    }
}

/// A million segments, in an order that no listing has.
#[test]
fn a_million_segments_take_little_room_and_time() {
    let size = size(16);
    let mut seen = Inventory::new(size, Sizes::Exact);
    let count = 1_000_000_u64;
    for index in 0..count {
        let number = index * 611_953 % count; // 611953 is prime
        if number != 123_456 {
            seen.add(&SegmentName::new(tl(0x1F), number, size).to_string(), size.bytes());
        }
    }
    let found = examine(&seen, &expecting(Since::OldestBackup, 0x1F));
    assert_eq!(flat(&found.missing_recent), BTreeSet::from([(tl(0x1F), 123_456)]));
    assert!(serde_json::to_string(&seen).unwrap().len() < 1000, "ranges, not names");
}
