//! Archives as tools of these days leave them, by the names that they were seen to have, and what is held
//! against them.

use super::*;

fn tl(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn span(timeline: u32, first: u64, last: u64) -> Span {
    Span { timeline: tl(timeline), first, last }
}

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn archive<'a>(names: impl IntoIterator<Item = &'a str>) -> Inventory {
    let mut seen = Inventory::new(SIZE, Sizes::Exact);
    for name in names {
        seen.add(name, 4096);
    }
    seen
}

fn expecting(head: u32) -> Expectation<'static> {
    Expectation {
        since: Since::OldestBackup,
        head: tl(head),
        may_lag: false,
        claimed: None,
        written: None,
        told: None,
        known_losses: &[],
    }
}

fn name(timeline: u32, number: u64) -> String {
    SegmentName::new(tl(timeline), number, SIZE).to_string()
}

const SUM: &str = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";

#[test]
fn a_name_that_goes_on_with_a_point_is_a_form_of_its_file() {
    let segment: SegmentName = "000000010000000A000000FE".parse().unwrap();
    let forms = [
        (WalFile::Segment(segment), segment.to_string()),
        (WalFile::Partial(segment), format!("{segment}.partial")),
        (WalFile::Backup(segment, 0x28), format!("{segment}.00000028.backup")),
        (WalFile::History(tl(0x1F)), "0000001F.history".to_owned()),
    ];
    for (file, name) in forms {
        for ending in
            [".gpg", ".lzo", ".age", ".gz.gpg", ".zst.age", ".Z", ".lz", ".7z", ".enc", ".v2"]
        {
            let parsed = ArchivedFile::parse(&format!("{name}{ending}"));
            assert_eq!(
                parsed,
                Some(ArchivedFile { file, changed: true, summed: false }),
                "{ending}"
            );
        }
        for beside in [
            ".sha256",
            ".md5",
            ".gz.sig",
            ".gpg.tmp",
            ".metadata",
            ".json",
            ".",
            "..gz",
            ".a b",
            ".md5sum",
            ".gz.sha1sum",
            ".SHA256SUM",
            ".sha512sum",
            ".asc",
            ".zst.minisig",
            ".new",
            ".filepart",
            ".info",
            ".1",
            ".gz.2",
        ] {
            assert_eq!(ArchivedFile::parse(&format!("{name}{beside}")), None, "{name}{beside}");
        }
    }
}

#[test]
fn what_is_not_whole_stays_so_whatever_stands_around_it() {
    let segment: SegmentName = "000000010000000A000000FE".parse().unwrap();
    for name in [
        format!("{segment}.partial"),
        format!("{segment}.gz.partial"),
        format!("{segment}.lz4.partial"),
        format!("{segment}.partial.gz"),
        format!("{segment}.partial.gz.gpg"),
        format!("{segment}.partial-{SUM}.zst"),
    ] {
        let parsed = ArchivedFile::parse(&name).unwrap();
        assert_eq!(parsed.file, WalFile::Partial(segment), "{name}");
    }
    assert_eq!(ArchivedFile::parse("0000001F.history.gz.partial"), None);
}

#[test]
fn archives_of_these_tools_are_whole() {
    let barman = [
        "main-xlog.db",
        "0000000100000000/000000010000000000000003.00000028.backup",
        "0000000100000000/000000010000000000000003",
        "0000000100000000/000000010000000000000004",
        "00000002.history",
        "0000000200000000/000000020000000000000005",
    ];
    let cloud = [
        "000000010000000000000003.gz",
        "000000010000000000000003.00000028.backup.gz",
        "000000010000000000000004.gz",
        "000000010000000000000005.partial.gz",
        "00000002.history.gz",
        "000000020000000000000005.gz",
    ];
    let receiver = [
        "000000010000000000000003.lz4",
        "000000010000000000000004.lz4",
        "000000010000000000000005.lz4.partial",
        "00000002.history.lz4",
        "000000020000000000000005.lz4",
    ];
    let own = [
        "000000010000000000000003.gz.gpg",
        "000000010000000000000004.gz.gpg",
        "00000002.history.gz.gpg",
        "000000020000000000000005.gz.gpg",
    ];
    let history = History::parse("1\t0/5000148\tx\n").unwrap();
    for names in [&barman[..], &cloud, &receiver, &own] {
        let mut seen = archive(names.iter().map(|path| path.rsplit('/').next().unwrap()));
        assert_eq!(seen.segments.len(), 3, "{names:?}");
        assert!(seen.foreign <= 1 && seen.duplicates.is_empty(), "{names:?}");
        let told = Expectation { told: Some((tl(2), &history)), ..expecting(2) };
        assert_eq!(untold(&seen, &told), Some(tl(2)));
        let found = examine(&seen, &told);
        assert_eq!((&found.missing_recent, &found.missing_old), (&vec![], &vec![]), "{names:?}");
        assert_eq!((found.unread_history, found.no_history), (None, vec![]), "{names:?}");
        seen.add_history(tl(2), history.clone());
        assert_eq!(untold(&seen, &told), None);
    }
}

/// What pgBackRest 2.45 and 2.60 leave with repo-retention-full = 3 and repo-retention-archive = 1: of the
/// two older base backups what each needs, and everything since the third.
fn pgbackrest() -> Vec<String> {
    let mut names: Vec<String> = [0x0C, 0x11, 0x16, 0x17, 0x18]
        .into_iter()
        .map(|number| format!("{}-{SUM}.zst", name(1, number)))
        .collect();
    names.extend([0x0C, 0x11, 0x16].map(|number| format!("{}.00000028.backup", name(1, number))));
    names
}

#[test]
fn what_pgbackrest_leaves_out_on_purpose_is_no_loss() {
    let names = pgbackrest();
    let found = examine(&archive(names.iter().map(String::as_str)), &expecting(1));
    assert_eq!(found.expired, [span(1, 0x0D, 0x10), span(1, 0x12, 0x15)]);
    assert_eq!((found.missing_old, found.missing_recent), (vec![], vec![]));
    // One that does not end where a base backup starts is a loss, and so is what follows it.
    let lost = names.iter().filter(|name| !name.contains("00000011.0"));
    let found = examine(&archive(lost.map(String::as_str)), &expecting(1));
    assert_eq!(found.expired, []);
    assert_eq!(found.missing_old, [span(1, 0x0D, 0x10), span(1, 0x12, 0x15)]);
    let lost = names.iter().filter(|name| !name.contains("00000017"));
    let found = examine(&archive(lost.map(String::as_str)), &expecting(1));
    assert_eq!(found.missing_recent, [span(1, 0x17, 0x17)]);
    // Other tools remove only what is oldest.
    let plain: Vec<String> =
        names.iter().map(|name| name.replace(&format!("-{SUM}.zst"), "")).collect();
    let found = examine(&archive(plain.iter().map(String::as_str)), &expecting(1));
    assert_eq!(found.missing_old, [span(1, 0x0D, 0x10), span(1, 0x12, 0x15)]);
}

/// Segments 3 to 9 of timeline 1.
fn received() -> Vec<String> {
    (3..=9).map(|number| format!("{}.gz", name(1, number))).collect()
}

#[test]
fn what_was_written_has_to_be_there() {
    let names = received();
    let mut seen = archive(names.iter().map(String::as_str));
    seen.add(&format!("{}.gz.partial", name(1, 10)), 17);
    let at = |timeline, lsn: &str| Expectation {
        written: Some((tl(timeline), lsn.parse().unwrap())),
        ..expecting(1)
    };
    // The segment that is being written is not due, to its first byte and to its last.
    for lsn in ["0/A000000", "0/A000001", "0/AFFFFFF", "0/3000000"] {
        assert_eq!(examine(&seen, &at(1, lsn)).missing_recent, [], "{lsn}");
    }
    let found = examine(&seen, &at(1, "0/B000000"));
    assert_eq!((found.behind, found.never_arrived), (vec![span(1, 10, 10)], vec![]));
    let claimed = Some(name(1, 11).parse().unwrap());
    let found = examine(&seen, &Expectation { claimed, ..at(1, "0/F000000") });
    assert_eq!((found.never_arrived, found.behind), (vec![span(1, 10, 11)], vec![span(1, 12, 14)]));
    assert_eq!(found.missing_recent, [span(1, 10, 11), span(1, 12, 14)]);
    assert_eq!(examine(&seen, &at(2, "0/F000000")).behind, [], "that timeline is not on the line");
}

#[test]
fn a_receiver_that_has_only_begun_owes_nothing_from_before() {
    let written = Some((tl(1), "0/A000028".parse().unwrap()));
    let begun = archive(["00000001000000000000000A.partial"]);
    let expected = Expectation { written, ..expecting(1) };
    assert_eq!(examine(&begun, &expected).missing_recent, []);
    let found = examine(&archive([]), &expected);
    assert_eq!(found.behind, [span(1, 9, 9)], "an empty archive is no whole one");
}

#[test]
fn what_was_written_behind_a_switch_is_due_on_no_line() {
    // An old primary went on to 0/F000000; the new one left its timeline in segment 7.
    let names = received();
    let mut seen = archive(names.iter().take(4).map(String::as_str));
    seen.add("000000020000000000000007", SIZE.bytes());
    seen.add_history(tl(2), History::parse("1\t0/7000148\tx\n").unwrap());
    let written = Some((tl(1), "0/F000000".parse().unwrap()));
    let expected = Expectation { written, ..expecting(2) };
    assert_eq!(examine(&seen, &expected).missing_recent, []);
    let mut seen = archive(names.iter().take(3).map(String::as_str));
    seen.add_history(tl(2), History::parse("1\t0/7000148\tx\n").unwrap());
    let found = examine(&seen, &expected);
    assert_eq!(found.behind, [span(1, 6, 6)], "dead before the promotion");
    let written = Some((tl(2), "0/9000000".parse().unwrap()));
    let found = examine(&seen, &Expectation { written, ..expected });
    assert_eq!(found.behind, [span(1, 6, 6), span(2, 7, 8)]);
}

#[test]
fn a_hole_at_a_promotion_shows_without_the_history() {
    let names = [
        "000000010000000000000003.gpg",
        "000000010000000000000004.gpg",
        "00000002.history.gpg",
        "000000020000000000000006.gpg",
    ];
    let found = examine(&archive(names), &expecting(2));
    assert_eq!(found.missing_recent, [span(1, 5, 5)]);
    assert_eq!(found.unread_history, Some(tl(2)));
    let found = examine(&archive(names[2..].iter().copied()), &expecting(2));
    assert_eq!(found.missing_recent, [], "older timelines are expired");
}

#[test]
fn known_losses_are_read_and_written() {
    let text = "000000010000000000000005..000000010000000000000009";
    let loss: KnownLoss = text.parse().unwrap();
    let span = loss.span(SIZE).unwrap();
    assert_eq!((span.first, span.last, span.count()), (5, 9, 5));
    assert_eq!(
        (span.names(SIZE).to_string(), loss.to_string()),
        (text.to_owned(), text.to_owned())
    );
    for bad in [
        "000000010000000000000009..000000010000000000000005",
        "000000010000000000000005..000000020000000000000009",
        "5..9",
        "",
    ] {
        assert!(bad.parse::<KnownLoss>().is_err(), "{bad:?}");
    }
    let wide: KnownLoss = "0000000100000000000000FF".parse().unwrap();
    assert_eq!(wide.span(SegmentSize::new(64 << 20).unwrap()), None);
}
