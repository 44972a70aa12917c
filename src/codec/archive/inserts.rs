//! Counts the statements of a block of INSERT statements (`pg_dump --inserts`).
//!
//! A statement ends with a semicolon outside of literals and quoted names. pg_dump doubles a quote
//! within them, and where strings have escapes the backslash too (`appendStringLiteral`), so that
//! each quote opens or closes. No encoding that pg_dump writes uses the bytes of these three
//! characters within others.

#[derive(Debug, Default)]
pub(super) struct Inserts {
    statements: u64,
    /// The quote that was opened.
    quote: Option<u8>,
    /// Something stands behind the last semicolon.
    open: bool,
}

impl Inserts {
    /// Counts what goes by.
    pub(super) fn add(&mut self, mut data: &[u8]) {
        loop {
            if let Some(quote) = self.quote {
                let Some(end) = data.iter().position(|byte| *byte == quote) else { return };
                self.quote = None;
                data = &data[end + 1..];
            }
            let Some(at) = data.iter().position(|byte| matches!(byte, b'\'' | b'"' | b';')) else {
                self.open |= !is_blank(data);
                return;
            };
            if data[at] == b';' {
                self.statements += 1;
                self.open = false;
            } else {
                self.quote = Some(data[at]);
                self.open = true;
            }
            data = &data[at + 1..];
        }
    }

    /// The number of statements; none if the last one has no end.
    pub(super) fn finish(&self) -> Option<u64> {
        (self.quote.is_none() && !self.open).then_some(self.statements)
    }
}

fn is_blank(data: &[u8]) -> bool {
    data.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(data: &[u8]) -> Option<u64> {
        let mut whole = Inserts::default();
        whole.add(data);
        for size in 1..=data.len().min(9) {
            let mut pieces = Inserts::default();
            data.chunks(size).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces.finish(), whole.finish(), "in pieces of {size}");
        }
        whole.finish()
    }

    #[test]
    fn semicolons_outside_of_quotes_end_statements() {
        assert_eq!(statements(b"\n\n"), Some(0));
        assert_eq!(statements(b"INSERT INTO public.t VALUES (1, 'a;b');\n\n\n"), Some(1));
        assert_eq!(
            statements(b"INSERT INTO t DEFAULT VALUES;\nINSERT INTO t VALUES (NULL);\n"),
            Some(2)
        );
        assert_eq!(statements(b"INSERT INTO \"a;'b\"\"\" VALUES ('it''s; ''');\n"), Some(1));
        assert_eq!(statements(b"INSERT INTO t VALUES\n\t('x\n;'),\n\t('\\');\n\n\n"), Some(1));
        assert_eq!(statements(b"INSERT INTO t VALUES ('\"') ON CONFLICT DO NOTHING;\n"), Some(1));
    }

    #[test]
    fn a_statement_without_its_end_is_not_whole() {
        for data in [&b"INSERT"[..], b"INSERT INTO t VALUES ('x;\n\n", b"a;b\n", b"\";", b"';'"] {
            assert_eq!(statements(data), None, "{}", data.escape_ascii());
        }
    }
}
