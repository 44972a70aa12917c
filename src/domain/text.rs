//! Text that others made, such as the name of a table or what a server said, where a person reads it
//! or pastes it: it stays one line, drives no terminal, and is read as nothing but itself.
//!
//! What can still go wrong: characters that only look like others.

use std::fmt::Write as _;

/// Whether a character does something else than stand there: control characters (C0, DEL and C1),
/// ends of lines, and the marks that turn the direction of the text behind them (Unicode's
/// `Bidi_Control`).
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}')
}

/// The text as one line for a terminal: what is not safe is escaped (`\n`, `\u{1b}`). Doing it again
/// changes nothing.
pub fn line(text: &str) -> String {
    escaped(text, |_| false)
}

/// The same for several lines.
pub fn lines(text: &str) -> String {
    escaped(text, |c| c == '\n')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && !stays(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// The beginning of a text that has more characters than that.
pub fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// ` (and 3 more)` behind the first of so many things; nothing where it is the only one.
pub fn and_more(count: usize) -> String {
    if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() }
}

/// The first of some names, and how many there are beyond: `a, b and 3 more`.
pub fn some(names: impl IntoIterator<Item = String>, max: usize) -> String {
    let mut names = names.into_iter();
    let first: Vec<String> = names.by_ref().take(max).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A size in a message: `17 MiB`, cut down to the unit.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{bytes} B"),
        0x10_0000..0x2_8000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// JSON with the same value that is safe on a terminal. Whatever is not safe stands inside of strings,
/// but for the ends of lines between values.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && c != '\n' {
            // All of them are below U+10000. Writing to a string does not fail.
            write!(safe, "\\u{:04x}", u32::from(c)).ok();
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The text as a POSIX shell reads it as one word, itself on one line. An end of a line at the end of
/// the text is lost (the shell's `$(…)` takes it away).
pub fn shell_word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    if !text.contains(is_unsafe) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut word = "\"$(printf '".to_owned();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b == b' ' {
            word.push(char::from(b));
        } else {
            write!(word, "\\{b:03o}").ok();
        }
    }
    word + "')\""
}

/// The name of a database as `--dbname=` takes it, which reads a name with `=` in it as a connection
/// string.
pub fn conninfo(database: &str) -> String {
    if database.contains(is_unsafe) {
        let mut uri = "postgresql:///".to_owned();
        for b in database.bytes() {
            if b.is_ascii_alphanumeric() {
                uri.push(char::from(b));
            } else {
                write!(uri, "%{b:02X}").ok();
            }
        }
        return uri;
    }
    if database.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return database.to_owned();
    }
    format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"))
}

/// A name as an identifier in a statement that a person is to run.
pub fn sql_ident(name: &str) -> String {
    pasted(&format!("\"{}\"", name.replace('"', "\"\"")))
}

/// Identifiers as the server's `quote_ident` wrote them, for a statement that a person is to run:
/// those that hold something unsafe are written with escapes (`U&"a\000Ab"`).
pub fn pasted(idents: &str) -> String {
    if !idents.contains(is_unsafe) {
        return idents.to_owned();
    }
    let mut parts = idents.split('"');
    let mut safe = parts.next().unwrap_or_default().to_owned();
    // Within quotes a doubled one ends a part and begins the next: what stands between is empty.
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let mut name = part.to_owned();
        let mut after = parts.next().unwrap_or_default();
        while after.is_empty() && parts.peek().is_some() {
            name = name + "\"\"" + parts.next().unwrap_or_default();
            after = parts.next().unwrap_or_default();
        }
        safe = safe + &with_escapes(&name) + after;
    }
    safe
}

/// What stands between the quotes of an identifier, in the quotes that it needs.
fn with_escapes(name: &str) -> String {
    if !name.contains(is_unsafe) {
        return format!("\"{name}\"");
    }
    let mut ident = "U&\"".to_owned();
    for c in name.chars() {
        match c {
            '\\' => ident.push_str(r"\\"),
            c if is_unsafe(c) => write!(ident, "\\{:04X}", u32::from(c)).unwrap_or_default(),
            c => ident.push(c),
        }
    }
    ident + "\""
}

/// Text as a literal in a statement that a person is to run.
pub fn sql_literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if !text.contains(is_unsafe) {
        return format!("'{text}'");
    }
    let mut literal = "E'".to_owned();
    for c in text.chars() {
        match c {
            '\\' => literal.push_str(r"\\"),
            c if is_unsafe(c) => write!(literal, "\\u{:04X}", u32::from(c)).unwrap_or_default(),
            c => literal.push(c),
        }
    }
    literal + "'"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_move_the_cursor_is_escaped() {
        assert_eq!(line("a\u{1b}[2Jb\tc\n🐘"), "a\\u{1b}[2Jb\\tc\\n🐘");
        assert_eq!(line("\u{9b}2J\u{7f}\u{202e}\u{2066}\u{2028}"), {
            "\\u{9b}2J\\u{7f}\\u{202e}\\u{2066}\\u{2028}"
        });
        assert_eq!(lines("a\n\tb\r\u{1b}"), "a\n\\tb\\r\\u{1b}");
        // What people write from right to left stays.
        assert_eq!(line("مرحبا שלום"), "مرحبا שלום");
    }

    #[test]
    fn a_word_is_quoted_only_where_needed() {
        assert_eq!(shell_word("a=2Fb.dump.zst"), "a=2Fb.dump.zst");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("$(x)"), "'$(x)'");
        assert_eq!(shell_word("a\nb'!"), r#""$(printf 'a\012b\047\041')""#);
    }

    #[test]
    fn an_identifier_is_itself_on_one_line() {
        assert_eq!(sql_ident("A \"b\"; DROP"), "\"A \"\"b\"\"; DROP\"");
        assert_eq!(sql_ident("a\\\n\"b"), "U&\"a\\\\\\000A\"\"b\"");
        let quoted = "a.\"b\n\"\"\\\", \"C\".d, \"\"\"\", \"\u{202e}\"";
        assert_eq!(pasted(quoted), "a.U&\"b\\000A\"\"\\\\\", \"C\".d, \"\"\"\", U&\"\\202E\"");
        assert_eq!(sql_literal("it's \\"), "'it''s \\'");
        assert_eq!(sql_literal("it's \\\n"), "E'it''s \\\\\\u000A'");
    }

    #[test]
    fn a_name_is_no_connection_string() {
        assert_eq!(conninfo("app_1"), "app_1");
        assert_eq!(conninfo(r"host=x it's \"), r"dbname='host=x it\'s \\'");
        assert_eq!(conninfo("a\t/?é"), "postgresql:///a%09%2F%3F%C3%A9");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in any::<String>()) {
            let all = [
                line(&text), shell_word(&text), conninfo(&text), sql_ident(&text), sql_literal(&text),
            ];
            for safe in all {
                prop_assert!(!safe.contains(is_unsafe), "{safe:?}");
                prop_assert_eq!(line(&safe), safe);
            }
        }

        #[test]
        fn json_keeps_its_value(text in any::<String>()) {
            let value = serde_json::json!({ "a": [text] });
            let safe = json(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(!safe.contains(|c: char| is_unsafe(c) && c != '\n'), "{safe:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
