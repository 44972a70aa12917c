use proptest::prelude::*;

use super::{
    synth::{Entry, Synth, blobs, rows, schema_only, table},
    *,
};
use crate::{codec::proof::DataEntry, domain::manifest::Totals};

/// Written by pg_dump 15.18: COPY data, a table without columns, an empty one, odd names, a
/// sequence, a materialized view, three large objects (one empty, with an OID above 2^31).
const SMALL: &[u8] = include_bytes!("../../../tests/fixtures/archive/small-15.dump");
/// Written by pg_dump 15.18 with `--inserts`.
const INSERTS: &[u8] = include_bytes!("../../../tests/fixtures/archive/inserts-15.dump");

/// A structure with its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) format: String,
    pub(super) totals: Totals,
    pub(super) toc_end: u64,
    pub(super) toc_digest: Option<[u8; 32]>,
    pub(super) entries: Vec<DataEntry>,
}

pub(super) fn prove(bytes: &[u8]) -> Result<Seen, FormatError> {
    prove_in(&[bytes]).map(|(structure, _)| structure)
}

/// The structure, and the cuts as positions in the stream.
pub(super) fn prove_in(pieces: &[&[u8]]) -> Result<(Seen, Vec<usize>), FormatError> {
    let mut proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
    let (mut all, mut cuts, mut base) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        proof.feed(piece, &mut cuts)?;
        all.extend(cuts.drain(..).map(|cut| base + cut));
        base += piece.len();
    }
    Ok((seen(&proof.finish()?), all))
}

/// The structure with its entries.
pub(super) fn seen(structure: &Structure) -> Seen {
    Seen {
        format: structure.format.clone(),
        totals: structure.totals.clone(),
        toc_end: structure.toc_end,
        toc_digest: structure.toc_digest,
        entries: structure.entries.iter().collect::<Result<_, _>>().unwrap(),
    }
}

fn damage(bytes: &[u8]) -> String {
    prove(bytes).unwrap_err().to_string()
}

#[test]
fn a_real_archive_is_read_whole() {
    let structure = prove(SMALL).unwrap();
    assert_eq!(structure.format, "custom 1.14");
    let totals = &structure.totals;
    // `pg_restore -l` says: TOC Entries: 23.
    assert_eq!((totals.entries, totals.tables, totals.rows), (23, 4, 9));
    assert_eq!(totals.large_objects, 3);
    let found: Vec<_> =
        structure.entries.iter().map(|it| (it.describe(), it.rows, it.large_objects)).collect();
    let expected = [
        ("TABLE DATA public.e (dump id 3359)", Some(0), None),
        ("TABLE DATA public.t (dump id 3358)", Some(5), None),
        ("TABLE DATA public.z (dump id 3360)", Some(2), None),
        ("TABLE DATA s.odd \"name\" ü (dump id 3362)", Some(2), None),
        ("BLOBS BLOBS (dump id 3367)", None, Some(3)),
    ];
    assert_eq!(found, expected.map(|(name, rows, objects)| (name.to_owned(), rows, objects)));
    // The blocks lie one behind the other, from the table of contents to the last byte.
    let mut end = structure.toc_end;
    for entry in &structure.entries {
        assert_eq!(entry.offset, end);
        end += entry.length;
        let field = usize::try_from(entry.offset_field.start).unwrap();
        assert_eq!(SMALL[field..field + 9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(end, SMALL.len() as u64);
    assert_eq!(structure.entries[0].owner, "postgres");
}

#[test]
fn insert_statements_have_no_number_of_rows() {
    let structure = prove(INSERTS).unwrap();
    assert_eq!((structure.totals.tables, structure.totals.rows), (1, 0));
    // `strings` shows five.
    assert_eq!((structure.entries[0].rows, structure.entries[0].statements), (None, Some(5)));
    assert_eq!(structure.totals.statements, 5);
}

#[test]
fn cuts_are_where_the_blocks_begin() {
    let (structure, cuts) = prove_in(&[SMALL]).unwrap();
    let starts: Vec<_> = structure.entries.iter().map(|it| it.offset).collect();
    assert_eq!(cuts.iter().map(|cut| *cut as u64).collect::<Vec<_>>(), starts);
}

#[test]
fn a_cut_at_any_byte_is_an_early_end() {
    for archive in [SMALL, INSERTS] {
        assert_eq!(prove(b""), Err(FormatError::Empty));
        let toc_end = usize::try_from(prove(archive).unwrap().toc_end).unwrap();
        for length in 1..archive.len() {
            let error = prove(&archive[..length]).unwrap_err();
            let early =
                matches!(error, FormatError::EndsEarly { .. } | FormatError::DataMissing { .. });
            assert!(early, "{length}: {error}");
            if length >= toc_end {
                assert!(error.to_string().contains("dump id"), "{length}: {error}");
            }
        }
    }
}

#[test]
fn changed_bytes_neither_panic_nor_take_memory() {
    for archive in [SMALL, INSERTS] {
        let mut refused = 0;
        for at in 0..archive.len() {
            for change in [0x01, 0x80, 0xFF] {
                let mut bytes = archive.to_vec();
                bytes[at] ^= change;
                let mut proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
                let mut failed = false;
                for piece in bytes.chunks(97) {
                    failed |= proof.feed(piece, &mut Vec::new()).is_err();
                    // Six strings of at most 1 KiB, each rounded up by Vec.
                    assert!(proof.scratch_bytes() <= 16 << 10, "byte {at}");
                }
                failed |= proof.finish().is_err();
                refused += u32::from(failed);
            }
        }
        assert!(refused > 0);
    }
}

#[test]
fn a_hostile_length_is_not_allocated() {
    let mut archive = Synth::new(14, &[]);
    archive.bytes.truncate(archive.bytes.len() - 5);
    archive.int(0x7FFF_FFFF);
    archive.int(7);
    archive.int(1);
    archive.int(0x7FFF_FFFF);
    let mut proof = ArchiveProof::new(std::env::temp_dir());
    proof.feed(&archive.bytes, &mut Vec::new()).unwrap();
    for _ in 0..64 {
        proof.feed(&[b'7'; 4096], &mut Vec::new()).unwrap();
    }
    assert!(proof.scratch_bytes() <= 4096, "{}", proof.scratch_bytes());
}

fn sample(minor: u8, int_bytes: u8, offset_bytes: u8) -> Synth {
    let entries = [table(7, "a"), schema_only(5, "a"), blobs(8), table(9, "b"), blobs(10)];
    let mut it = Synth::with_widths(minor, int_bytes, offset_bytes, 0, &entries);
    it.data(7, rows(&[b"1\n", b"2\n"]));
    it.large_objects(8, &[1, -294_967_296, -2_147_483_648]);
    // As pg_dump 19 writes: many rows in one chunk, borders anywhere.
    it.data(9, [&b"1\n2\n3"[..], b"\n4\n\\", b".\n\n\n"]);
    it.large_objects(10, &[]);
    it
}

#[test]
fn every_version_and_width_is_read() {
    for (minor, int_bytes, offset_bytes) in
        [(13, 4, 8), (14, 4, 8), (15, 4, 8), (16, 4, 8), (16, 8, 8), (13, 4, 4)]
    {
        let structure = prove(&sample(minor, int_bytes, offset_bytes).bytes).unwrap();
        assert_eq!(structure.format, format!("custom 1.{minor}"));
        let Totals { entries, tables, rows, large_objects, .. } = structure.totals;
        assert_eq!((entries, tables, rows, large_objects), (5, 2, 6, 3));
        assert_eq!(structure.totals.large_object_bytes, 3 * b"contents\n".len() as u64);
        for entry in &structure.entries {
            let field = &entry.offset_field;
            assert_eq!(field.end - field.start, u64::from(offset_bytes) + 1);
        }
    }
}

#[test]
fn every_version_can_be_cut_and_is_noticed() {
    for minor in 13..=16 {
        let archive = sample(minor, 4, 8).bytes;
        for length in 0..archive.len() {
            assert!(prove(&archive[..length]).is_err(), "1.{minor} at {length}");
        }
    }
}

#[test]
fn what_is_not_supported_is_said() {
    let says = |bytes: &[u8], what: &str| {
        let error = prove(bytes).unwrap_err();
        assert!(matches!(error, FormatError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    says(&Synth::with_widths(14, 4, 8, 6, &[]).bytes, "must be written with -Z0");
    for algorithm in 1..=3 {
        says(&Synth::with_widths(16, 4, 8, algorithm, &[]).bytes, "must be written with -Z0");
    }
    says(&Synth::new(12, &[]).bytes, "version 1.12");
    says(&Synth::new(17, &[]).bytes, "version 1.17");
    says(&Synth::with_widths(14, 2, 8, 0, &[]).bytes, "integers of 2");
    says(b"--\n-- PostgreSQL database dump\n", "no archive");
    let mut tar = Synth::new(14, &[]).bytes;
    tar[10] = 3;
    says(&tar, "format \"tar\"");
}

#[test]
fn an_archive_without_data_is_whole() {
    let mut archive = Synth::new(16, &[schema_only(1, "t")]);
    assert_eq!(prove(&archive.bytes).unwrap().totals.entries, 1);
    archive.bytes.push(1);
    assert!(damage(&archive.bytes).contains("bytes follow the last data block"));
}

#[test]
fn each_entry_gets_exactly_one_block_of_its_type() {
    let toc = Synth::new(16, &[table(7, "a"), table(8, "b"), blobs(9)]);
    let with = |build: &dyn Fn(&mut Synth)| {
        let mut it = toc.clone();
        build(&mut it);
        damage(&it.bytes)
    };
    let twice = with(&|it| {
        it.data(7, rows(&[]));
        it.data(7, rows(&[]));
    });
    assert!(twice.contains("TABLE DATA public.a (dump id 7) comes a second time"), "{twice}");
    let missing = with(&|it| it.data(7, rows(&[])));
    assert!(
        missing.contains("the data of TABLE DATA public.b (dump id 8) is missing, and that of 1"),
        "{missing}"
    );
    let early = with(&|it| it.data(8, rows(&[])));
    assert!(
        early.contains("TABLE DATA public.b (dump id 8) comes out of its order")
            && early.contains("probably that of TABLE DATA public.a"),
        "{early}"
    );
    assert!(with(&|it| it.data(6, rows(&[]))).contains("dump id 6"));
    assert!(with(&|it| it.large_objects(7, &[])).contains("wrong type"));
    assert!(
        with(&|it| {
            it.data(7, rows(&[]));
            it.data(8, rows(&[]));
            it.data(9, []);
        })
        .contains("wrong type")
    );
    assert!(with(&|it| it.bytes.push(2)).contains("unknown type 2"));
    let unfinished = with(&|it| it.data(7, [&b"1\n"[..]]));
    assert!(unfinished.contains("in the data of TABLE DATA public.a"), "{unfinished}");
    let negative = with(&|it| {
        it.data(7, rows(&[]));
        it.bytes.push(1);
        it.int(8);
        it.int(-1);
    });
    assert!(negative.contains("negative length"), "{negative}");
    let after = with(&|it| {
        it.data(7, rows(&[]));
        it.data(8, rows(&[]));
        it.large_objects(9, &[3]);
        it.bytes.push(0);
    });
    assert!(after.contains("bytes follow the last data block"), "{after}");
}

#[test]
fn a_contradictory_table_of_contents_is_damage() {
    let with = |entry: Entry<'_>| {
        let mut it = Synth::new(16, &[entry]);
        it.data(7, rows(&[]));
        damage(&it.bytes)
    };
    let entry = table(7, "a");
    assert!(with(Entry { dump_id: 0, ..entry }).contains("entry 1 of 1: DumpId is 0"));
    assert!(with(Entry { copy: Some("TRUNCATE a"), ..entry }).contains("no COPY"));
    assert!(with(Entry { state: 0, ..entry }).contains("data offset is 0"));
    assert!(with(Entry { name: &"x".repeat(2000), ..entry }).contains("Tag is longer"));
    // The writer knew an offset, and it is not where the block is.
    assert!(with(Entry { state: 2, ..entry }).contains("was to begin at byte 0"));
    for twice in [entry, schema_only(7, "a")] {
        let same = damage(&Synth::new(16, &[entry, twice]).bytes);
        assert!(same.contains("same dump id 7") && same.contains("entry 2 of 2"), "{same}");
    }
    assert!(with(Entry { copy: None, ..entry }).contains("INSERT statement has no end"));
}

#[test]
fn a_partition_that_is_loaded_through_its_root_is_told_by_its_copy_statement() {
    let copy = Some("COPY public.root (a) FROM stdin;\n");
    let own = Some("COPY public.\"leaf 2\" (a) FROM stdin;\n");
    let entries = [Entry { copy, ..table(7, "leaf") }, Entry { copy: own, ..table(8, "leaf 2") }];
    let mut it = Synth::new(14, &entries);
    it.data(7, rows(&[b"1\n"]));
    it.data(8, rows(&[]));
    let seen = prove(&it.bytes).unwrap();
    assert_eq!(seen.entries.iter().map(|it| it.via_root).collect::<Vec<_>>(), [true, false]);
    assert_eq!((seen.totals.tables, seen.totals.tables_via_root), (2, 1));
}

#[test]
fn dump_ids_that_cannot_be_remembered_are_refused() {
    let entries: Vec<_> = (1..10_000).map(|n| schema_only(n * 100_000, "t")).collect();
    let error = prove(&Synth::new(16, &entries).bytes).unwrap_err();
    assert!(
        matches!(&error, FormatError::Unsupported { what } if what.contains("told apart")),
        "{error}"
    );
}

#[test]
fn a_scratch_folder_that_is_gone_is_its_own_error() {
    let entries: Vec<_> = (1..5_000).map(|n| table(n, "t")).collect();
    let archive = Synth::new(16, &entries).bytes;
    let mut proof = Box::new(ArchiveProof::new("/nowhere/at/all"));
    let error = proof.feed(&archive, &mut Vec::new()).unwrap_err();
    let FormatError::Scratch { kind, what } = &error else { panic!("{error}") };
    assert_eq!(*kind, std::io::ErrorKind::NotFound, "{what}");
}

#[test]
fn an_error_stays() {
    let mut proof = Box::new(ArchiveProof::new(std::env::temp_dir()));
    let first = proof.feed(b"no archive at all", &mut Vec::new()).unwrap_err();
    assert_eq!(proof.feed(SMALL, &mut Vec::new()), Err(first.clone()));
    assert_eq!(proof.finish(), Err(first));
}

#[test]
fn names_in_another_encoding_are_shown() {
    let mut archive = Synth::new(14, &[table(7, "caf_")]);
    let at = archive.bytes.windows(4).position(|it| it == b"caf_").unwrap();
    archive.bytes[at + 3] = 0xE9;
    archive.data(7, rows(&[]));
    assert_eq!(prove(&archive.bytes).unwrap().entries[0].name, "caf\\xE9");
}

proptest! {
    #[test]
    fn chunks_of_any_size_give_the_same(
        sizes in prop::collection::vec(1usize..200, 1..60),
        minor in 13u8..=16,
    ) {
        for archive in [SMALL.to_vec(), sample(minor, 4, 8).bytes] {
            let (mut rest, mut pieces, mut sizes) = (&archive[..], Vec::new(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                pieces.push(head);
                rest = tail;
            }
            prop_assert_eq!(prove_in(&pieces), prove_in(&[&archive]));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), minor in 13u8..=16) {
        let mut archive = Synth::new(minor, &[table(7, "a"), blobs(8)]).bytes;
        archive.extend_from_slice(&bytes);
        prop_assert!(prove(&archive).is_err());
        let header = Synth::new(minor, &[]).bytes;
        let mut archive = header[..header.len() - 5].to_vec();
        archive.extend_from_slice(&bytes);
        // Noise can be a whole archive only by stating no entries at all.
        prop_assert!(prove(&archive).is_err() || bytes == [0, 0, 0, 0, 0] || bytes == [1, 0, 0, 0, 0]);
    }
}
