//! Proves plain SQL: that of `pg_dump --format=plain` for one database, and by the same rules that of
//! `pg_dumpall --globals-only`, which has no structure but its first and its last comment.
//!
//! The text is followed from its first comment to its last: literals (`'…'`, `E'…'`, `"…"`, `$tag$…$tag$`)
//! may hold anything, that last comment included; so may the data of a COPY, which goes to the line
//! `\.` and whose lines are the rows. What is left out of sight within them cannot end the dump, so that
//! a cut is always seen. The text is in the database's encoding; all server encodings keep ASCII as it is,
//! so bytes suffice.
//!
//! What can still go wrong: with INSERT in place of COPY, statements are counted, and not rows.

use super::proof::{FormatError, Proof, Structure};
use crate::domain::manifest::Totals;

/// How a program's SQL begins and ends, and what to call it.
#[derive(Debug)]
struct Script {
    head: &'static [u8],
    /// The last line but comments and `\unrestrict`.
    complete: &'static [u8],
    /// Whose it is, in the genitive.
    whose: &'static str,
    end: &'static str,
}

/// `RestoreArchive` in pg_backup_archiver.c.
const DATABASE_SCRIPT: Script = Script {
    head: b"--\n-- PostgreSQL database dump\n--\n",
    complete: b"-- PostgreSQL database dump complete",
    whose: "pg_dump's SQL",
    end: "the SQL, before its last line",
};
/// `main` in pg_dumpall.c.
const GLOBALS_SCRIPT: Script = Script {
    head: b"--\n-- PostgreSQL database cluster dump\n--\n",
    complete: b"-- PostgreSQL database cluster dump complete",
    whose: "pg_dumpall's output",
    end: "the globals, before their last line",
};
/// Stands above the data of a table, before its schema (`_printTocEntry`).
const TABLE_DATA: &[u8] = b"; Type: TABLE DATA; Schema: ";
/// A statement of this beginning and end is followed by data (`dumpTableData`).
const COPY: (&[u8], &[u8]) = (b"COPY ", b" FROM stdin");
/// How each entry's heading begins, where it is of data and where it is not (`_printTocEntry`).
const HEADINGS: [&[u8]; 2] = [b"-- Data for Name: ", b"-- Name: "];
/// A statement that brings rows, within a table's data (`dumpTableData_insert`).
const INSERT: &[u8] = b"INSERT INTO ";
/// Stands before the data of each large object (`StartRestoreLO`).
const LARGE_OBJECT: &[u8] = b"SELECT pg_catalog.lo_open('";
/// The line behind the data of a COPY.
const END_OF_DATA: &[u8] = b"\\.";
/// As much of a line as is looked at: a heading has the names of a table and its schema in it.
const LINE: usize = 512;
/// As much of the beginning of a statement as is looked at.
const BEGIN: usize = 32;
/// pg_dump's own tags have a few bytes.
const TAG_MAX: usize = 64;

/// The proof of a dump in SQL. Its [`Structure`] has the format `sql`, no entries, and the number of
/// statements as [`Totals::entries`].
#[derive(Debug)]
pub struct PlainProof {
    script: &'static Script,
    position: u64,
    lex: Lex,
    before: [u8; 2],
    escapes: bool,
    /// What a dollar quote begins and ends with, both signs included.
    tag: Vec<u8>,
    statement: Statement,
    line: Vec<u8>,
    /// The line began or ended within a literal.
    literal: bool,
    /// The data line that is being read, as far as it matters.
    data: Vec<u8>,
    complete: bool,
    entry: Entry,
    totals: Totals,
    failed: Option<FormatError>,
}

/// What the last heading is of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Entry {
    #[default]
    Other,
    TableData,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Lex {
    #[default]
    Code,
    /// A comment, or a command of psql.
    Comment,
    Text,
    /// After a backslash in `E'…'`.
    Escaped,
    Name,
    /// After a dollar sign that may begin a quote.
    Tag,
    /// Within a dollar quote; so many bytes of its end are there.
    Dollar(usize),
    /// Behind the statement that data follows.
    BeforeData,
    Data,
}

/// The statement that is being read.
#[derive(Debug, Default)]
struct Statement {
    begin: Vec<u8>,
    end: [u8; COPY.1.len()],
}

impl Statement {
    fn push(&mut self, byte: u8) {
        if self.begin.len() < BEGIN && !(self.begin.is_empty() && byte.is_ascii_whitespace()) {
            self.begin.push(byte);
        }
        self.end.rotate_left(1);
        self.end[COPY.1.len() - 1] = byte;
    }

    fn is_copy(&self) -> bool {
        self.begin.starts_with(COPY.0) && self.end == *COPY.1
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

impl PlainProof {
    /// A proof of what pg_dump writes, which has seen nothing yet.
    pub fn of_database() -> Self {
        Self::of(&DATABASE_SCRIPT)
    }

    /// The same of what pg_dumpall writes.
    pub fn of_globals() -> Self {
        Self::of(&GLOBALS_SCRIPT)
    }

    fn of(script: &'static Script) -> Self {
        Self {
            script,
            position: 0,
            lex: Lex::default(),
            before: [0; 2],
            escapes: false,
            tag: Vec::new(),
            statement: Statement::default(),
            line: Vec::new(),
            literal: false,
            data: Vec::new(),
            complete: false,
            entry: Entry::default(),
            totals: Totals::default(),
            failed: None,
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.lex == Lex::Tag {
            self.tag_byte(byte);
        }
        let was_code = self.lex == Lex::Code;
        match self.lex {
            Lex::Code => self.code(byte),
            Lex::Comment if byte == b'\n' => self.lex = Lex::Code,
            Lex::Text if byte == b'\'' => self.lex = Lex::Code,
            Lex::Name if byte == b'"' => self.lex = Lex::Code,
            Lex::Text if byte == b'\\' && self.escapes => self.lex = Lex::Escaped,
            Lex::Escaped => self.lex = Lex::Text,
            Lex::Dollar(there) => self.dollar(byte, there),
            Lex::BeforeData => self.lex = if byte == b'\n' { Lex::Data } else { Lex::Code },
            _ => {}
        }
        // What closes a literal belongs to the statement; a comment does not.
        if self.lex != Lex::Comment && !(was_code && byte == b';') {
            self.statement.push(byte);
        }
        self.before = [self.before[1], byte];
        if byte != b'\n' {
            if self.line.len() < LINE {
                self.line.push(byte);
            }
            return;
        }
        let within = !matches!(self.lex, Lex::Code | Lex::Data);
        self.literal |= within;
        self.judge_line();
        self.literal = within;
    }

    fn code(&mut self, byte: u8) {
        match byte {
            b'\'' => {
                self.escapes = self.opens_escapes();
                self.lex = Lex::Text;
            }
            b'"' => self.lex = Lex::Name,
            b'$' if !is_word(self.before[1]) && self.before[1] != b'$' => {
                self.tag = vec![b'$'];
                self.lex = Lex::Tag;
            }
            b'-' if self.before[1] == b'-' => {
                // The first of the two was taken for a part of the statement.
                if self.statement.begin == b"-" {
                    self.statement.begin.clear();
                }
                self.lex = Lex::Comment;
            }
            b'\\' if self.statement.begin.is_empty() => self.lex = Lex::Comment,
            b';' => self.end_statement(),
            _ => {}
        }
    }

    fn end_statement(&mut self) {
        self.totals.entries += 1;
        let inserts = self.entry == Entry::TableData && self.statement.begin.starts_with(INSERT);
        self.totals.statements += u64::from(inserts);
        self.totals.large_objects += u64::from(self.statement.begin.starts_with(LARGE_OBJECT));
        if self.statement.is_copy() {
            self.lex = Lex::BeforeData;
        }
        self.statement = Statement::default();
    }

    /// Goes on with what may be the beginning of a dollar quote. A parameter (`$1`) is none.
    fn tag_byte(&mut self, byte: u8) {
        let first = self.tag.len() == 1;
        let fits = is_word(byte) && !(first && byte.is_ascii_digit()) && self.tag.len() < TAG_MAX;
        if byte == b'$' {
            self.tag.push(byte);
            // The byte itself is that of the tag, not of its end.
            self.lex = Lex::Dollar(usize::MAX);
        } else if fits {
            self.tag.push(byte);
        } else {
            self.lex = Lex::Code;
        }
    }

    /// A tag has no dollar sign but at its ends: what does not go on with it can only begin it.
    fn dollar(&mut self, byte: u8, there: usize) {
        let there = if there == usize::MAX {
            0
        } else if self.tag.get(there) == Some(&byte) {
            there + 1
        } else {
            usize::from(byte == b'$')
        };
        self.lex = if there == self.tag.len() { Lex::Code } else { Lex::Dollar(there) };
    }

    /// Whether a quote opens a literal with backslash escapes: after an `E` that is a word of its
    /// own, or where a doubled quote goes on with such a literal.
    fn opens_escapes(&self) -> bool {
        match self.before {
            [_, b'\''] => self.escapes,
            [before, b'e' | b'E'] => !is_word(before),
            _ => false,
        }
    }

    fn judge_line(&mut self) {
        let line = self.line.trim_ascii();
        if self.literal {
            self.complete = false;
        } else if line == self.script.complete {
            self.complete = self.statement.begin.is_empty();
        } else if line.starts_with(b"--") {
            if HEADINGS.iter().any(|it| line.starts_with(it)) {
                let is_data = line.windows(TABLE_DATA.len()).any(|it| it == TABLE_DATA);
                let is_data = is_data && line.starts_with(HEADINGS[0]);
                self.entry = if is_data { Entry::TableData } else { Entry::Other };
                self.totals.tables += u64::from(is_data);
            }
        } else if !line.is_empty() && !line.starts_with(b"\\unrestrict") {
            self.complete = false;
        }
        self.line.clear();
    }

    /// Reads data up to its end, or to that of `bytes`: the answer is how many were read.
    fn data(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let length = rest.iter().position(|byte| *byte == b'\n');
            let piece = &rest[..length.unwrap_or(rest.len())];
            // A byte more than the end mark has is enough to tell it apart.
            let room = (END_OF_DATA.len() + 1).saturating_sub(self.data.len());
            self.data.extend_from_slice(&piece[..piece.len().min(room)]);
            at += piece.len();
            if length.is_none() {
                break;
            }
            at += 1;
            let is_end = self.data == END_OF_DATA;
            self.data.clear();
            if is_end {
                self.lex = Lex::Code;
                self.before = [0, b'\n'];
                break;
            }
            self.totals.rows += 1;
        }
        at
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let mut at = 0;
        while at < bytes.len() {
            if self.lex == Lex::Data {
                let read = self.data(&bytes[at..]);
                at += read;
                self.position += read as u64;
                continue;
            }
            let byte = bytes[at];
            let expected =
                usize::try_from(self.position).ok().and_then(|at| self.script.head.get(at));
            if expected.is_some_and(|expected| *expected != byte) {
                let what = format!("the dump does not begin as {} does", self.script.whose);
                return Err(FormatError::Unsupported { what });
            }
            self.byte(byte);
            at += 1;
            self.position += 1;
        }
        Ok(())
    }
}

impl Proof for PlainProof {
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
        let early = |position, place: &str| {
            Err(FormatError::EndsEarly { offset: position, place: place.to_owned() })
        };
        if matches!(self.lex, Lex::Data | Lex::BeforeData) {
            return early(self.position, "the data of a table");
        }
        self.literal |= !matches!(self.lex, Lex::Code | Lex::Comment);
        self.judge_line();
        if !self.complete {
            return early(self.position, self.script.end);
        }
        Ok(Structure { format: "sql".to_owned(), totals: self.totals, ..Structure::default() })
    }
}

#[cfg(test)]
mod tests;
