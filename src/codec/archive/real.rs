//! Real archives of each version, as they are and changed.
//!
//! `tests/tools/archive_fixtures.sh` made them of `tests/fixtures/archive/kinds.sql`.

use proptest::prelude::*;

use super::{
    tests::{Seen, prove, seen},
    *,
};
use crate::codec::proof::DataEntry;

macro_rules! fixtures {
    ($($name:literal),+) => {
        [$(($name, include_bytes!(concat!("../../../tests/fixtures/archive/", $name, ".dump")))),+]
    };
}

/// With COPY, partitions through their root; 18 with statistics. Written to a pipe.
const COPIES: [(&str, &[u8]); 4] = fixtures!("kinds-15", "kinds-16", "kinds-17", "kinds-18");
/// With `--inserts --rows-per-insert=2`.
const INSERTS: [(&str, &[u8]); 4] =
    fixtures!("kinds-inserts-15", "kinds-inserts-16", "kinds-inserts-17", "kinds-inserts-18");

fn bytes(archive: &[u8], offset: u64, length: u64) -> &[u8] {
    let at = usize::try_from(offset).unwrap();
    &archive[at..at + usize::try_from(length).unwrap()]
}

/// What is the same in every version: by schema and name.
fn counts(seen: &Seen) -> Vec<(String, Option<u64>, Option<u64>, bool)> {
    let table = |it: &&DataEntry| it.kind == "TABLE DATA";
    let counts = seen.entries.iter().filter(table).map(|it| {
        let name = format!("{}.{}", it.schema.as_deref().unwrap(), it.name);
        (name, it.rows, it.statements, it.via_root)
    });
    counts.collect()
}

#[test]
fn each_version_is_read_as_what_it_holds() {
    let expected: [(&str, u64, bool); 6] = [
        ("s.a;'\"b", 2, false),
        ("s.empty", 0, false),
        ("s.leaf_1", 1, true),
        ("s.leaf_2", 2, true),
        ("s.no_columns", 3, false),
        ("s.t", 7, false),
    ];
    for (name, archive) in COPIES {
        let seen = prove(archive).unwrap();
        let rows = expected.map(|(table, rows, root)| (table.to_owned(), Some(rows), None, root));
        assert_eq!(counts(&seen), rows, "{name}");
        let totals = &seen.totals;
        assert_eq!((totals.tables, totals.rows, totals.tables_via_root), (6, 15, 2), "{name}");
        check_the_rest(name, archive, &seen);
    }
    for (name, archive) in INSERTS {
        let seen = prove(archive).unwrap();
        // Two rows a statement; a table without columns knows only DEFAULT VALUES, one by one.
        let statements = [1, 0, 1, 1, 3, 4];
        let expected = expected.map(|(table, ..)| (table.to_owned(), None));
        let expected = expected.into_iter().zip(statements);
        let expected: Vec<_> =
            expected.map(|((table, rows), count)| (table, rows, Some(count), false)).collect();
        assert_eq!(counts(&seen), expected, "{name}");
        assert_eq!((seen.totals.rows, seen.totals.statements), (0, 10), "{name}");
        check_the_rest(name, archive, &seen);
    }
}

fn check_the_rest(name: &str, archive: &[u8], seen: &Seen) {
    let totals = &seen.totals;
    assert_eq!((totals.large_objects, totals.large_object_bytes), (3, 6 + 3000), "{name}");
    let statistics = if name.ends_with("18") { 8 } else { 0 };
    let others = (totals.sequences, totals.refreshes, totals.statistics);
    assert_eq!(others, (2, 1, statistics), "{name}");
    let toc = bytes(archive, 0, seen.toc_end);
    assert_eq!(seen.toc_digest, Some(*blake3::hash(toc).as_bytes()), "{name}");
    for entry in &seen.entries {
        let block = bytes(archive, entry.offset, entry.length);
        assert_eq!(entry.digest, *blake3::hash(block).as_bytes(), "{name}: {}", entry.describe());
    }
    let objects = seen.entries.iter().filter(|it| it.kind == "BLOBS");
    let objects: Vec<_> = objects.map(|it| (it.large_objects, it.large_object_bytes)).collect();
    assert_eq!(objects, [(Some(3), Some(3006))], "{name}");
}

#[test]
fn a_cut_at_any_byte_is_an_early_end() {
    let step = if std::env::var_os("PGKEEP_LONG").is_some() { 1 } else { 17 };
    for (name, archive) in COPIES.into_iter().chain(INSERTS) {
        for length in (1..archive.len()).step_by(step) {
            let error = prove(&archive[..length]).unwrap_err();
            let early =
                matches!(error, FormatError::EndsEarly { .. } | FormatError::DataMissing { .. });
            assert!(early, "{name} at {length}: {error}");
        }
    }
}

/// Feeds it in pieces of these sizes, over and over, and looks at the memory on the way.
fn prove_changed(changed: &[u8], sizes: &[usize]) -> Result<Seen, FormatError> {
    let mut proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
    let (mut rest, mut cuts, mut sizes) = (changed, Vec::new(), sizes.iter().cycle());
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        let fed = proof.feed(head, &mut cuts);
        // Six strings of at most 1 KiB, each rounded up by Vec.
        assert!(proof.scratch_bytes() <= 16 << 10);
        fed?;
        rest = tail;
    }
    proof.finish().map(|structure| seen(&structure))
}

/// What was accepted although it was changed has the same blocks at the same places. What lies
/// within a block or a string may differ, and then the digest does.
fn check_accepted(name: &str, (original, before): (&[u8], &Seen), changed: &[u8], after: &Seen) {
    assert_eq!(changed.len(), original.len(), "{name}: what is longer or shorter is refused");
    assert_eq!(after.toc_end, before.toc_end, "{name}");
    assert_eq!(after.entries.len(), before.entries.len(), "{name}");
    let is_same = |at: u64, length| bytes(original, at, length) == bytes(changed, at, length);
    let same_toc = is_same(0, after.toc_end);
    assert_eq!(after.toc_digest == before.toc_digest, same_toc, "{name}");
    for (entry, before) in after.entries.iter().zip(&before.entries) {
        let place = |it: &DataEntry| (it.dump_id, it.offset, it.length, it.offset_field.clone());
        assert_eq!(place(entry), place(before), "{name}: {}", before.describe());
        let same = is_same(entry.offset, entry.length);
        assert_eq!(entry.digest == before.digest, same, "{name}: {}", before.describe());
        assert!(entry == before || !same || !same_toc, "{name}: {}", before.describe());
    }
}

#[test]
fn any_changed_byte_is_refused_or_changes_no_place() {
    let is_long = std::env::var_os("PGKEEP_LONG").is_some();
    for (name, archive) in COPIES.into_iter().chain(INSERTS) {
        let (mut refused, mut accepted) = (0, 0);
        let before = prove(archive).unwrap();
        let toc_end = usize::try_from(before.toc_end).unwrap();
        let mut at = 0;
        while at < archive.len() {
            let mut changed = archive.to_vec();
            changed[at] ^= [0x01, 0x80, 0xFF][at % 3];
            match prove_changed(&changed, &[4096]) {
                Ok(after) => {
                    check_accepted(name, (archive, &before), &changed, &after);
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
            at += if is_long {
                1
            } else if at < toc_end {
                29
            } else {
                5
            };
        }
        assert!(refused > 50 && accepted > 50, "{name}: {refused}, {accepted}");
    }
}

/// What is done to an archive.
#[derive(Debug, Clone)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
        1 => (place(), 1..40usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, more)| Change::Insert(at, more)),
        1 => (place(), place(), 1..200usize).prop_map(|(from, to, count)| Change::Repeat(from, to, count)),
    ]
}

fn apply(archive: &mut Vec<u8>, change: &Change) {
    let length = archive.len();
    match change {
        Change::Set(at, to) => archive[at.index(length)] = *to,
        Change::Remove(at, count) => {
            let at = at.index(length);
            archive.drain(at..length.min(at + count));
        }
        Change::Insert(at, more) => {
            let at = at.index(length);
            archive.splice(at..at, more.iter().copied());
        }
        Change::Repeat(from, to, count) => {
            let from = from.index(length);
            let piece = archive[from..length.min(from + count)].to_vec();
            let to = to.index(length);
            let end = length.min(to + piece.len());
            archive.splice(to..end, piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        if std::env::var_os("PGKEEP_LONG").is_some() { 20_000 } else { 300 }
    ))]

    #[test]
    fn changed_archives_neither_panic_nor_deceive(
        which in 0..8usize,
        changes in prop::collection::vec(change(), 1..4),
        sizes in prop::collection::vec(1..3000usize, 1..20),
    ) {
        let (name, archive) = if which < 4 { COPIES[which] } else { INSERTS[which - 4] };
        let mut changed = archive.to_vec();
        for change in &changes {
            apply(&mut changed, change);
        }
        if let Ok(after) = prove_changed(&changed, &sizes) {
            let before = prove(archive).unwrap();
            if changes.iter().all(|change| matches!(change, Change::Set(..))) {
                check_accepted(name, (archive, &before), &changed, &after);
            } else {
                // A whole chunk may be gone or come twice: a row of its own. The structure cannot
                // tell, the digests do.
                let ids = |it: &Seen| it.entries.iter().map(|it| it.dump_id).collect::<Vec<_>>();
                prop_assert_eq!(ids(&after), ids(&before));
                let digests =
                    |it: &Seen| it.entries.iter().map(|it| it.digest).collect::<Vec<_>>();
                let same = after.toc_digest == before.toc_digest
                    && digests(&after) == digests(&before);
                prop_assert_eq!(same, changed == archive);
            }
        }
    }
}
