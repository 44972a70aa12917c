//! The same of what pg_dumpall writes.

use super::*;

/// Written by pg_dumpall 15.18; the role's comment was made to deceive.
const GLOBALS: &[u8] = include_bytes!("../../../../tests/fixtures/archive/globals-15.sql");

fn prove(text: &[u8], size: usize) -> Result<Structure, FormatError> {
    let mut proof = Box::new(PlainProof::of_globals());
    for piece in text.chunks(size.max(1)) {
        proof.feed(piece, &mut Vec::new())?;
    }
    proof.finish()
}

#[test]
fn real_globals_are_whole() {
    for size in [1, 7, 64, 100_000] {
        let structure = prove(GLOBALS, size).unwrap();
        assert_eq!((structure.format.as_str(), structure.totals.entries), ("sql", 9));
    }
}

#[test]
fn a_cut_before_the_last_comment_is_an_early_end() {
    let end = GLOBALS.len() - b"\n--\n\n".len();
    assert!(GLOBALS[..end].ends_with(GLOBALS_SCRIPT.complete), "the fixture ends as expected");
    assert_eq!(prove(b"", 1), Err(FormatError::Empty));
    for length in 1..end {
        let error = prove(&GLOBALS[..length], 100_000).unwrap_err();
        assert!(matches!(error, FormatError::EndsEarly { .. }), "{length}: {error}");
    }
    // Behind it come `\n`, `--\n` and `\n`; half of the comment sign is no comment.
    for length in [end, end + 1, end + 3, end + 4, end + 5] {
        prove(&GLOBALS[..length], 100_000).unwrap();
    }
    prove(&GLOBALS[..end + 2], 100_000).unwrap_err();
}

#[test]
fn nothing_may_follow_but_comments() {
    let and = |more: &str| prove(&[GLOBALS, more.as_bytes()].concat(), 100_000);
    and("\\unrestrict abc\n-- Completed\n\n").unwrap();
    for more in ["DROP ROLE a;\n", "x", "'", "'\n-- PostgreSQL database cluster dump complete\n"] {
        assert!(matches!(and(more), Err(FormatError::EndsEarly { .. })), "{more:?}");
    }
    assert!(matches!(prove(b"PGDMP", 1), Err(FormatError::Unsupported { .. })));
}

#[test]
fn quotes_and_escapes_are_followed() {
    let tail = "\n-- PostgreSQL database cluster dump complete\n";
    let count = |sql: &str| {
        let text = [GLOBALS_SCRIPT.head, sql.as_bytes(), tail.as_bytes()].concat();
        prove(&text, 100_000).map(|structure| structure.totals.entries).ok()
    };
    assert_eq!(count(r"a 'x;''y;' b;"), Some(1));
    assert_eq!(count(r"a E'x\';''\';' b;"), Some(1));
    assert_eq!(count(r"a 'x\' b;"), Some(1), "standard strings know no escapes");
    assert_eq!(count(r"typE'x\' b;"), Some(1), "the E belongs to a word");
    assert_eq!(count("a \"--;'\"\"\" b; -- it's; \nc;"), Some(2));
    assert_eq!(count("a 'open"), None);
    assert_eq!(count(r"a E'open\'"), None);
}
