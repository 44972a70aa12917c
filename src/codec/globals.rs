//! Proves the plain SQL of `pg_dumpall --globals-only`.
//!
//! The text has no structure but its first and its last comment; what lies between may hold line
//! ends, quotes and that very comment in a role's comment or setting. So literals are followed
//! (`'…'`, `E'…'`, `"…"`), and the last comment counts only outside of them and with nothing but
//! comments, blank lines and `\unrestrict` behind it. The text is in the server's encoding; all
//! server encodings keep ASCII as it is, so bytes suffice.

use super::proof::{FormatError, Proof, Structure};
use crate::domain::manifest::Totals;

/// How pg_dumpall's output begins (`main` in pg_dumpall.c; `TEXT_DUMPALL_HEADER`).
const HEAD: &[u8] = b"--\n-- PostgreSQL database cluster dump\n--\n";
/// The last line but comments.
const COMPLETE: &[u8] = b"-- PostgreSQL database cluster dump complete";
/// As much of a line as is looked at.
const LINE: usize = 64;

/// The proof of a globals dump. Its [`Structure`] has the format `sql`, no entries, and the number
/// of statements as [`Totals::entries`].
#[derive(Debug, Default)]
pub struct GlobalsProof {
    position: u64,
    lex: Lex,
    before: [u8; 2],
    escapes: bool,
    line: Vec<u8>,
    /// The line began or ended within a literal.
    literal: bool,
    complete: bool,
    statements: u64,
    failed: Option<FormatError>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Lex {
    #[default]
    Code,
    Comment,
    Text,
    /// After a backslash in `E'…'`.
    Escaped,
    Name,
}

impl GlobalsProof {
    /// A proof that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn byte(&mut self, byte: u8) {
        self.lex = match (self.lex, byte) {
            (Lex::Code, b'\'') => {
                self.escapes = self.opens_escapes();
                Lex::Text
            }
            (Lex::Code, b'"') => Lex::Name,
            (Lex::Code, b'-') if self.before[1] == b'-' => Lex::Comment,
            (Lex::Code, b';') => {
                self.statements += 1;
                Lex::Code
            }
            (Lex::Comment, b'\n') | (Lex::Text, b'\'') | (Lex::Name, b'"') => Lex::Code,
            (Lex::Text, b'\\') if self.escapes => Lex::Escaped,
            (Lex::Escaped, _) => Lex::Text,
            (same, _) => same,
        };
        self.before = [self.before[1], byte];
        if byte != b'\n' {
            if self.line.len() < LINE {
                self.line.push(byte);
            }
            return;
        }
        let within = !matches!(self.lex, Lex::Code);
        self.literal |= within;
        self.judge_line();
        self.literal = within;
    }

    /// Whether a quote opens a literal with backslash escapes: after an `E` that is a word of its
    /// own, or where a doubled quote goes on with such a literal.
    fn opens_escapes(&self) -> bool {
        match self.before {
            [_, b'\''] => self.escapes,
            [before, b'e' | b'E'] => !(before.is_ascii_alphanumeric() || before == b'_'),
            _ => false,
        }
    }

    fn judge_line(&mut self) {
        let line = self.line.trim_ascii();
        if self.literal {
            self.complete = false;
        } else if line == COMPLETE {
            self.complete = true;
        } else if !(line.is_empty() || line.starts_with(b"--") || line.starts_with(b"\\unrestrict"))
        {
            self.complete = false;
        }
        self.line.clear();
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        for byte in bytes {
            let expected = usize::try_from(self.position).ok().and_then(|at| HEAD.get(at));
            if expected.is_some_and(|expected| expected != byte) {
                let what = "the dump does not begin as pg_dumpall's output does".to_owned();
                return Err(FormatError::Unsupported { what });
            }
            self.byte(*byte);
            self.position += 1;
        }
        Ok(())
    }
}

impl Proof for GlobalsProof {
    fn feed(&mut self, bytes: &[u8], _cuts: &mut Vec<usize>) -> Result<(), FormatError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read(bytes).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn finish(mut self: Box<Self>) -> Result<Structure, FormatError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.position == 0 {
            return Err(FormatError::Empty);
        }
        self.literal |= matches!(self.lex, Lex::Text | Lex::Escaped | Lex::Name);
        self.judge_line();
        if !self.complete {
            let place = "the globals, before their last line".to_owned();
            return Err(FormatError::EndsEarly { offset: self.position, place });
        }
        let totals = Totals { entries: self.statements, ..Totals::default() };
        Ok(Structure { format: "sql".to_owned(), totals, ..Structure::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by pg_dumpall 15.18; the role's comment was made to deceive.
    const GLOBALS: &[u8] = include_bytes!("../../tests/fixtures/archive/globals-15.sql");

    fn prove(text: &[u8], size: usize) -> Result<Structure, FormatError> {
        let mut proof = Box::new(GlobalsProof::new());
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
        assert!(GLOBALS[..end].ends_with(COMPLETE), "the fixture ends as expected");
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
        for more in
            ["DROP ROLE a;\n", "x", "'", "'\n-- PostgreSQL database cluster dump complete\n"]
        {
            assert!(matches!(and(more), Err(FormatError::EndsEarly { .. })), "{more:?}");
        }
        assert!(matches!(prove(b"PGDMP", 1), Err(FormatError::Unsupported { .. })));
    }

    #[test]
    fn quotes_and_escapes_are_followed() {
        let tail = "\n-- PostgreSQL database cluster dump complete\n";
        let count = |sql: &str| {
            let text = [HEAD, sql.as_bytes(), tail.as_bytes()].concat();
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
}
