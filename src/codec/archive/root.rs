//! Whether a table's data is loaded through the root of its partitioned table
//! (`--load-via-partition-root`, and hash partitions on an enum on pg_dump's own account).
//!
//! pg_dump says so in the entry's definition since the releases of 2023 (`dumpTableData`); before it
//! only the COPY statement names another table. It quotes names as it thinks fit, so they are
//! compared without their quotes.

/// How the definition of such an entry begins.
const COMMENT: &[u8] = b"-- load via partition root ";

/// Whether the definition says so.
pub(super) fn is_in_definition(definition: &[u8]) -> bool {
    definition.starts_with(COMMENT)
}

/// Whether the COPY statement, or its beginning, names another table than this one.
pub(super) fn names_another(copy: &[u8], schema: Option<&[u8]>, table: &[u8]) -> bool {
    let Some((first, rest)) = copy.strip_prefix(b"COPY ").and_then(name) else { return false };
    let Some((second, _)) = rest.strip_prefix(b".").and_then(name) else { return first != table };
    second != table || schema.is_some_and(|schema| schema != first)
}

/// The name at the beginning, and what follows it; none where it is cut off.
fn name(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b'.' | b' ' | b'('))?;
        return (end > 0).then(|| (text[..end].to_vec(), &text[end..]));
    };
    let mut found = Vec::new();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        found.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(more) => {
                found.push(b'"');
                rest = more;
            }
            None => return Some((found, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_copy_statement_is_compared_without_quotes() {
        let another =
            |copy: &str, table: &str| names_another(copy.as_bytes(), Some(b"s"), table.as_bytes());
        assert!(!another("COPY s.t (a) FROM stdin;\n", "t"));
        assert!(!another("COPY s.t  FROM stdin;\n", "t"));
        assert!(!another("COPY \"s\".\"T \"\"x.y\" (a) FROM stdin;\n", "T \"x.y"));
        assert!(another("COPY s.root (a) FROM stdin;\n", "t"));
        assert!(another("COPY other.t (a) FROM stdin;\n", "t"));
        assert!(another("COPY s.\"t t\" (a) FROM stdin;\n", "t"));
        // What cannot be read is not claimed.
        assert!(!another("COPY \"s", "t"));
        assert!(!another("COPY ", "t"));
        assert!(is_in_definition(b"-- load via partition root public.root"));
        assert!(!is_in_definition(b"-- something"));
    }
}
