//! Writes archives of every version, for tests: an installed pg_dump writes only one.

/// An archive to be written.
#[derive(Debug, Clone)]
pub(crate) struct Synth {
    pub(crate) minor: u8,
    pub(crate) int_bytes: u8,
    pub(crate) offset_bytes: u8,
    pub(crate) bytes: Vec<u8>,
}

/// An entry of the table of contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) dump_id: i64,
    pub(crate) kind: &'a str,
    pub(crate) schema: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) copy: Option<&'a str>,
    /// `K_OFFSET_*`
    pub(crate) state: u8,
}

/// A table whose data comes as COPY.
pub(crate) fn table(dump_id: i64, name: &str) -> Entry<'_> {
    let copy = Some("COPY public.t (a) FROM stdin;\n");
    Entry { dump_id, kind: "TABLE DATA", schema: Some("public"), name, copy, state: 1 }
}

/// Large objects.
pub(crate) fn blobs(dump_id: i64) -> Entry<'static> {
    Entry { dump_id, kind: "BLOBS", schema: None, name: "BLOBS", copy: None, state: 1 }
}

/// An entry without data.
pub(crate) fn schema_only(dump_id: i64, name: &str) -> Entry<'_> {
    Entry { dump_id, kind: "TABLE", schema: Some("public"), name, copy: None, state: 3 }
}

impl Synth {
    /// The header and the table of contents.
    pub(crate) fn new(minor: u8, entries: &[Entry<'_>]) -> Self {
        Self::with_widths(minor, 4, 8, 0, entries)
    }

    /// `compression` is the level up to 1.14, the algorithm from 1.15 on.
    pub(crate) fn with_widths(
        minor: u8,
        int_bytes: u8,
        offset_bytes: u8,
        compression: u8,
        entries: &[Entry<'_>],
    ) -> Self {
        let mut it = Self { minor, int_bytes, offset_bytes, bytes: Vec::new() };
        it.bytes.extend_from_slice(b"PGDMP");
        it.bytes.extend_from_slice(&[1, minor, 0, int_bytes, offset_bytes, 1]);
        if minor >= 15 {
            it.bytes.push(compression);
        } else {
            it.int(i64::from(compression));
        }
        for part in [21, 15, 2, 21, 10, 126, 0] {
            it.int(part);
        }
        for name in ["app", "16.4", "16.4"] {
            it.text(Some(name));
        }
        it.int(i64::try_from(entries.len()).unwrap());
        for entry in entries {
            it.entry(entry);
        }
        it
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.int(entry.dump_id);
        self.int(i64::from(entry.state != 3));
        self.text(Some("0"));
        self.text(Some("0"));
        self.text(Some(entry.name));
        self.text(Some(entry.kind));
        self.int(3);
        self.text(Some(""));
        self.text(Some(""));
        self.text(entry.copy);
        self.text(entry.schema);
        self.text(None);
        if self.minor >= 14 {
            self.text(None);
        }
        if self.minor >= 16 {
            self.int(i64::from(b'r'));
        }
        self.text(Some("postgres"));
        self.text(Some("false"));
        self.text(Some("1"));
        self.text(None);
        self.bytes.push(entry.state);
        self.bytes.extend(std::iter::repeat_n(0, usize::from(self.offset_bytes)));
    }

    pub(crate) fn int(&mut self, value: i64) {
        self.bytes.push(u8::from(value < 0));
        let magnitude = value.unsigned_abs().to_le_bytes();
        self.bytes.extend_from_slice(&magnitude[..usize::from(self.int_bytes)]);
    }

    pub(crate) fn text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => {
                self.int(i64::try_from(text.len()).unwrap());
                self.bytes.extend_from_slice(text.as_bytes());
            }
            None => self.int(-1),
        }
    }

    pub(crate) fn chunks<'a>(&mut self, chunks: impl IntoIterator<Item = &'a [u8]>) {
        for chunk in chunks {
            self.int(i64::try_from(chunk.len()).unwrap());
            self.bytes.extend_from_slice(chunk);
        }
        self.int(0);
    }

    /// The data block of a table.
    pub(crate) fn data<'a>(&mut self, id: i64, chunks: impl IntoIterator<Item = &'a [u8]>) {
        self.bytes.push(1);
        self.int(id);
        self.chunks(chunks);
    }

    /// The data block of large objects.
    pub(crate) fn large_objects(&mut self, id: i64, oids: &[i64]) {
        self.bytes.push(3);
        self.int(id);
        for oid in oids {
            self.int(*oid);
            self.chunks([&b"contents\n"[..]]);
        }
        self.int(0);
    }
}

/// The rows of a table as pg_dump before version 19 writes them: each a chunk of its own.
pub(crate) fn rows<'a>(rows: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    rows.iter().copied().chain(std::iter::once(&b"\\.\n\n\n"[..]))
}
