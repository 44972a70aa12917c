//! Tests of the proof of plain SQL.

mod globals;

use super::*;
use proptest::prelude::*;

/// Written by pg_dump 15.18; its names, rows and functions were made to deceive.
const DUMP: &[u8] = include_bytes!("../../../tests/fixtures/archive/plain-15.sql");
const COMPLETE: &[u8] = DATABASE_SCRIPT.complete;
const TAIL: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n";

fn prove(text: &[u8], size: usize) -> Result<Structure, FormatError> {
    let mut proof = Box::new(PlainProof::of_database());
    for piece in text.chunks(size.max(1)) {
        proof.feed(piece, &mut Vec::new())?;
    }
    proof.finish()
}

fn of(sql: &str) -> Result<Totals, FormatError> {
    let text = [DATABASE_SCRIPT.head, sql.as_bytes(), TAIL.as_bytes()].concat();
    for size in [1, 2, 3, 5] {
        assert_eq!(prove(&text, size), prove(&text, 100_000), "{sql}");
    }
    prove(&text, 100_000).map(|structure| structure.totals)
}

fn statements(sql: &str) -> Option<u64> {
    of(sql).map(|totals| totals.entries).ok()
}

#[test]
fn a_real_dump_is_whole_and_its_rows_are_counted() {
    for size in [1, 7, 64, 100_000] {
        let structure = prove(DUMP, size).unwrap();
        assert_eq!(structure.format, "sql");
        let Totals { tables, rows, large_objects, .. } = structure.totals;
        assert_eq!((tables, rows, large_objects), (3, 6, 1));
    }
}

#[test]
fn a_cut_anywhere_is_an_early_end() {
    let at = DUMP.windows(COMPLETE.len()).rposition(|it| it == COMPLETE).unwrap();
    assert_eq!(prove(b"", 1), Err(FormatError::Empty));
    for length in 1..at + COMPLETE.len() {
        let error = prove(&DUMP[..length], 100_000).unwrap_err();
        assert!(matches!(error, FormatError::EndsEarly { .. }), "{length}: {error}");
    }
    prove(&DUMP[..at + COMPLETE.len()], 100_000).unwrap();
    let more = |more: &str| prove(&[DUMP, more.as_bytes()].concat(), 100_000);
    for wrong in ["DROP TABLE a;\n", "x", "'", "COPY a FROM stdin;\n", "$$"] {
        assert!(matches!(more(wrong), Err(FormatError::EndsEarly { .. })), "{wrong:?}");
    }
    assert!(matches!(prove(b"PGDMP", 1), Err(FormatError::Unsupported { .. })));
}

#[test]
fn literals_are_followed_whatever_they_hold() {
    assert_eq!(statements("a 'x;''y;' b;"), Some(1));
    assert_eq!(statements(r"a E'x\';''\';' b;"), Some(1));
    assert_eq!(statements(r"a 'x\' b;"), Some(1), "standard strings know no escapes");
    assert_eq!(statements("a \"--;'\"\"\" b; -- it's; \nc;"), Some(2));
    assert_eq!(statements("a $$;'$ $x$ \";$$;b;"), Some(2));
    assert_eq!(statements("a $_$ $$;$$ ;$_X$ $_$;"), Some(1));
    assert_eq!(statements("a $_$;$$_$;"), Some(1), "a dollar sign before the end");
    assert_eq!(statements("SELECT $1 + $2; b$c; d;"), Some(3), "parameters and names");
    assert_eq!(statements("a x$$;b;c$$;"), Some(3), "it belongs to a word");
    assert_eq!(statements("a $é$;$é$;"), Some(1));
    for open in ["a 'open", r"a E'open\'", "a \"open", "a $$open", "a $x$open$$", "a $_$x$_"] {
        assert_eq!(statements(open), None, "{open}");
    }
    assert_eq!(statements("\\restrict it's\na;"), Some(1));
}

/// A function of SQL, or a rule, may have such statements too.
#[test]
fn statements_that_bring_rows_are_counted() {
    let inserts = |sql: &str| of(sql).map(|totals| (totals.tables, totals.statements)).unwrap();
    let data = "--\n-- Data for Name: a; Type: TABLE DATA; Schema: public; Owner: o\n--\n\n\
                INSERT INTO public.a VALUES (1, 'x;\n-- Name: b; Type: y; Schema: z');\n\
                INSERT INTO public.a VALUES\n\t(2),\n\t(3);\n\n\n";
    let function = "--\n-- Name: f(); Type: FUNCTION; Schema: public; Owner: o\n--\n\n\
                    CREATE FUNCTION f() BEGIN ATOMIC\n INSERT INTO a VALUES (1);\nEND;\n";
    assert_eq!(inserts(data), (1, 2));
    assert_eq!(inserts(function), (0, 0));
    assert_eq!(inserts(&[data, function].concat()), (1, 2));
    assert_eq!(inserts(&[function, data].concat()), (1, 2));
}

#[test]
fn data_goes_to_its_end_mark() {
    let rows = |sql: &str| of(sql).map(|totals| totals.rows).ok();
    assert_eq!(rows("COPY a (b) FROM stdin;\n1\n'\n\\\\.\n\n\\.\nx;\n"), Some(4));
    assert_eq!(rows("COPY a FROM stdin;\n\\.\n\n\n"), Some(0));
    assert_eq!(rows("COPY \"a;\nCOPY b FROM stdin;\n\" FROM stdin;\n1\n\\.\n"), Some(1));
    assert_eq!(rows("COPY a FROM stdin;\n\\.x\n \\.\n\\.\n"), Some(2));
    // Only a statement of that name takes data.
    assert_eq!(rows("INSERT INTO a FROM stdin;\n1;\n"), Some(0));
    assert_eq!(rows("SELECT 'COPY a FROM stdin;\n1\n';"), Some(0));
    let mark = "COPY a FROM stdin;\n1\n-- PostgreSQL database dump complete\n";
    assert_eq!(rows(mark), None, "the data has no end");
}

proptest! {
    /// Whatever is in rows, literals and names, the end is found, and any cut is seen.
    #[test]
    fn what_is_quoted_hides_nothing(
        text in "[-a$'\";\\\\.\n ]{0,30}", row in "[-a$'\";. ]{0,10}", cut in 0.0..1.0_f64,
    ) {
        let literal = text.replace('\'', "''");
        let name = text.replace('"', "\"\"");
        let sql = format!(
            "A '{literal}' \"{name}\";\nCOPY \"{name}\" FROM stdin;\n{row}\n\\.\nB $q${text}$q$;\n"
        );
        let totals = of(&sql).unwrap();
        prop_assert_eq!((totals.entries, totals.rows), (3, 1));
        let whole = [DATABASE_SCRIPT.head, sql.as_bytes(), TAIL.as_bytes()].concat();
        let end = whole.len() - TAIL.len() + COMPLETE.len() + 4;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
        let cut = (cut * end as f64) as usize;
        prop_assert!(prove(&whole[..cut], 7).is_err(), "{}", cut);
    }
}
