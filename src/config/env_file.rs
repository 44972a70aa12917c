//! The environment file: `KEY=VALUE` lines as applications and systemd have them.
//!
//! Comments (`#`), empty lines, `export ` before the name, single quotes (as it stands) and double
//! quotes (`\"`, `\\`, `\$`, `` \` `` and `\n`) are understood. Nothing is expanded inside. A value ends with
//! its line.

use std::collections::BTreeMap;

use super::{
    diagnostic::{Diagnostics, Span, class},
    expand::is_variable_name,
};

/// Reads the text of environment file number `file`. A later line of the same name wins.
pub(super) fn parse(text: &str, file: usize, d: &mut Diagnostics) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let span = Span::new(file, start..start + line.trim_end().len());
        start += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match assignment(line) {
            Ok((name, value)) => {
                variables.insert(name.to_owned(), value);
            }
            Err(what) => {
                d.error(span, what)
                    .class(class::ENVIRONMENT)
                    .hint("each line of an environment file is NAME=value or a # comment");
            }
        }
    }
    variables
}

fn assignment(line: &str) -> Result<(&str, String), &'static str> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').ok_or("there is no \"=\" in this line")?;
    let name = name.trim();
    if !is_variable_name(name) {
        return Err("this is not the name of a variable");
    }
    Ok((name, unquote(value.trim())?))
}

fn unquote(value: &str) -> Result<String, &'static str> {
    match value.chars().next() {
        Some('\'') => {
            let inner = &value[1..];
            let end = inner.find('\'').ok_or("the quotation mark is not closed")?;
            only_comment(&inner[end + 1..])?;
            Ok(inner[..end].to_owned())
        }
        Some('"') => double_quoted(&value[1..]),
        _ => {
            let end = value.find(" #").unwrap_or(value.len());
            Ok(value[..end].trim_end().to_owned())
        }
    }
}

fn double_quoted(inner: &str) -> Result<String, &'static str> {
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                only_comment(chars.as_str())?;
                return Ok(out);
            }
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(c @ ('"' | '\\' | '$' | '`')) => out.push(c),
                Some(other) => out.extend(['\\', other]),
                None => break,
            },
            _ => out.push(c),
        }
    }
    Err("the quotation mark is not closed")
}

fn only_comment(rest: &str) -> Result<(), &'static str> {
    let rest = rest.trim();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(())
    } else {
        Err("there is more after the closing quotation mark")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        let text = "# comment\n\nexport A=1\nB = two words  # comment\nC='s#i$n'\n\
                    D=\"d\\\"o\\nu\" # c\r\nE=\nF=a=b\nA=2\nG=x#y\n";
        let mut d = Diagnostics::new();
        let file = d.add_environment("x.env".into(), text);
        let read = parse(text, file, &mut d);
        assert!(d.is_empty(), "{}", d.render(false));
        let expected = [
            ("A", "2"),
            ("B", "two words"),
            ("C", "s#i$n"),
            ("D", "d\"o\nu"),
            ("E", ""),
            ("F", "a=b"),
            ("G", "x#y"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read, expected.into());
    }

    #[test]
    fn broken_lines_are_reported_without_their_values() {
        let text = "NAME\nA B=hunter2\nC=\"hunter2\nD='hunter2\nE=\"a\"hunter2\n";
        let mut d = Diagnostics::new();
        let file = d.add_environment("x.env".into(), text);
        assert!(parse(text, file, &mut d).is_empty());
        assert_eq!(d.sorted().len(), 5);
        assert!(!d.render(false).contains("hunter2"));
        assert!(!d.to_json().to_string().contains("hunter2"));
    }
}
