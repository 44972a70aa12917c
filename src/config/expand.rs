//! `${NAME}`, `${NAME:-default}` and `$$` in string values.
//!
//! Values are expanded after the file was parsed: no variable can change what a file means. A lone
//! dollar is refused rather than guessed at.

use std::collections::BTreeMap;

/// A part of a string value.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
}

/// Why a value could not be expanded. Never holds a value of a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(super) struct ExpandError {
    pub what: String,
    pub hint: String,
    /// The text that is at fault, to be looked for in the file.
    pub at: String,
}

/// A string after expansion. `Debug` leaves the text out: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    /// Whether a variable had a part in it. Such text may stand for a number or a boolean.
    pub expanded: bool,
    /// The file (by its number) that holds a part of the text and that others may read.
    pub exposed: Option<usize>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.text.len())
    }
}

/// Where variables come from: the process first, then the environment file.
pub(super) struct Environment<'a> {
    pub process: &'a dyn Fn(&str) -> Option<String>,
    pub file: BTreeMap<String, String>,
    /// The number of the environment file, if others may read it.
    pub exposed: Option<usize>,
}

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<(String, Option<usize>)> {
        if let Some(value) = (self.process)(name) {
            return Some((value, None));
        }
        self.file.get(name).map(|value| (value.clone(), self.exposed))
    }

    /// Expands `raw`, which stands in a file that others may read if `exposed` is its number.
    pub(super) fn expand(&self, raw: &str, exposed: Option<usize>) -> Result<Text, ExpandError> {
        let mut out =
            Text { text: String::with_capacity(raw.len()), expanded: false, exposed: None };
        for piece in pieces(raw)? {
            match piece {
                Piece::Text(text) => {
                    out.text.push_str(text);
                    out.exposed = out.exposed.or(exposed);
                }
                Piece::Variable { name, default } => {
                    out.expanded = true;
                    // As in a shell, an empty variable counts as unset where there is a default.
                    let found = self.get(name).filter(|(v, _)| default.is_none() || !v.is_empty());
                    match (found, default) {
                        (Some((value, shown)), _) => {
                            out.text.push_str(&value);
                            out.exposed = out.exposed.or(shown);
                        }
                        (None, Some(default)) => {
                            out.text.push_str(default);
                            out.exposed = out.exposed.or(exposed.filter(|_| !default.is_empty()));
                        }
                        (None, None) => return Err(unset(name)),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn unset(name: &str) -> ExpandError {
    ExpandError {
        what: format!("the variable {name} is not set"),
        hint: format!(
            "set it in the daemon's environment or in env_file, or give a default: ${{{name}:-…}}"
        ),
        at: format!("${{{name}}}"),
    }
}

fn pieces(raw: &str) -> Result<Vec<Piece<'_>>, ExpandError> {
    let mut pieces = Vec::new();
    let mut rest = raw;
    while let Some(dollar) = rest.find('$') {
        if dollar > 0 {
            pieces.push(Piece::Text(&rest[..dollar]));
        }
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            pieces.push(Piece::Text("$"));
            rest = after;
        } else if let Some(inner) = after.strip_prefix('{') {
            let Some(end) = inner.find('}') else {
                return Err(malformed("\"${\" without its \"}\""));
            };
            pieces.push(variable(&inner[..end])?);
            rest = &inner[end + 1..];
        } else {
            return Err(malformed("a \"$\" that begins no variable"));
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

fn malformed(what: &str) -> ExpandError {
    ExpandError {
        what: what.to_owned(),
        hint: "variables are written ${NAME} or ${NAME:-default}; a dollar itself is $$".to_owned(),
        at: "$".to_owned(),
    }
}

fn variable(inner: &str) -> Result<Piece<'_>, ExpandError> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    if !is_variable_name(name) {
        return Err(malformed("this is not the name of a variable"));
    }
    if default.is_some_and(|default| default.contains('$')) {
        return Err(malformed("a default cannot hold another variable"));
    }
    Ok(Piece::Variable { name, default })
}

/// Whether `name` is a name as POSIX has it for variables.
pub(super) fn is_variable_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(process: &dyn Fn(&str) -> Option<String>) -> Environment<'_> {
        let file = [("BOTH", "file"), ("FILE", "file")];
        let file = file.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Environment { process, file, exposed: Some(7) }
    }

    fn process(name: &str) -> Option<String> {
        match name {
            "BOTH" | "PROCESS" => Some("process".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        let environment = environment(&process);
        for (raw, text) in [
            ("plain", "plain"),
            ("a${PROCESS}b", "aprocessb"),
            ("${BOTH}", "process"),
            ("${FILE}", "file"),
            ("${NONE:-5432}", "5432"),
            ("${EMPTY:-5432}", "5432"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("pa$$word", "pa$word"),
            ("$${PROCESS}", "${PROCESS}"),
            ("${PROCESS}${FILE}", "processfile"),
        ] {
            assert_eq!(environment.expand(raw, None).unwrap().text, text, "{raw}");
        }
    }

    #[test]
    fn exposure_follows_the_text() {
        let environment = environment(&process);
        let exposed = |raw: &str| environment.expand(raw, Some(3)).unwrap().exposed;
        assert_eq!(exposed("literal"), Some(3));
        assert_eq!(exposed("${NONE:-literal}"), Some(3));
        assert_eq!(exposed("${PROCESS}"), None);
        assert_eq!(exposed("${FILE}"), Some(7));
        assert_eq!(exposed("${NONE:-}"), None);
    }

    #[test]
    fn what_is_not_a_variable_is_refused() {
        let environment = environment(&process);
        for raw in ["${NONE}", "$HOME", "a$", "${", "${}", "${1A}", "${A:-${B}}", "${a b}"] {
            assert!(environment.expand(raw, None).is_err(), "{raw}");
        }
        let debug = format!("{:?}", environment.expand("hunter2", None).unwrap());
        assert!(!debug.contains("hunter2"));
    }

    proptest! {
        #[test]
        fn doubled_dollars_are_the_text_itself(text in "\\PC{0,20}") {
            let raw = text.replace('$', "$$");
            let environment = environment(&process);
            prop_assert_eq!(environment.expand(&raw, None).unwrap().text, text);
        }

        #[test]
        fn nothing_panics(text in "[${}:a-cA-C_-]{0,20}") {
            let _text = environment(&process).expand(&text, None);
        }
    }
}
