//! Patterns for names of databases, and what they select.
//!
//! A pattern matches the whole name: `*` is any run of characters (also none), `?` is one
//! character, `\` takes the next character literally, everything else stands for itself, case and
//! all. There are no classes and no alternatives: a list of patterns says the same.

#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::name::DatabaseName;

/// Databases of managed services that customers cannot read: wildcards pass over them.
const MANAGED: [&str; 4] = ["rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys"];

/// What every server is made with: empty, or with what each new database is to have.
pub const TEMPLATES: [&str; 2] = ["template0", "template1"];

/// Whether a database belongs to the provider of a managed service, who lets nobody read it.
pub fn is_managed(name: &str) -> bool {
    MANAGED.contains(&name)
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern must not be empty")]
    Empty,
    /// It ends in the middle of an escape.
    #[error("the pattern {0:?} ends with a lone backslash: write \\\\ for a backslash")]
    LoneBackslash(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Char(char),
    One,
    Run,
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

impl Glob {
    /// The pattern that this name alone matches.
    pub fn exact(name: &str) -> Self {
        let mut text = String::new();
        for c in name.chars() {
            // The point divides a schema from a table, where one goes before the other.
            if matches!(c, '*' | '?' | '\\' | '.') {
                text.push('\\');
            }
            text.push(c);
        }
        Self { text, tokens: name.chars().map(Token::Char).collect() }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one name that it matches, where it has no wildcard.
    pub fn literal(&self) -> Option<String> {
        let chars = self.tokens.iter().map(|token| match token {
            Token::Char(c) => Some(*c),
            Token::One | Token::Run => None,
        });
        chars.collect()
    }

    /// Whether it matches every name.
    pub fn is_any(&self) -> bool {
        !self.tokens.is_empty() && self.tokens.iter().all(|token| *token == Token::Run)
    }

    /// The pattern as pg_dump and psql have it (`patternToSQLRegex` in src/fe_utils/string_utils.c):
    /// `*` and `?` mean the same there, and everything else stands in double quotes, in which it is
    /// taken literally, case and all.
    pub fn client_pattern(&self) -> String {
        let mut pattern = String::new();
        let mut quoted = false;
        for token in &self.tokens {
            let literal = matches!(token, Token::Char(_));
            if literal != quoted {
                pattern.push('"');
                quoted = literal;
            }
            match token {
                Token::Run => pattern.push('*'),
                Token::One => pattern.push('?'),
                Token::Char('"') => pattern.push_str("\"\""),
                Token::Char(c) => pattern.push(*c),
            }
        }
        if quoted {
            pattern.push('"');
        }
        pattern
    }

    /// The pattern as `LIKE` has it, for a server that is to look through many names.
    pub fn like(&self) -> String {
        let mut like = String::new();
        for token in &self.tokens {
            match token {
                Token::Run => like.push('%'),
                Token::One => like.push('_'),
                Token::Char(c) => {
                    if matches!(c, '%' | '_' | '\\') {
                        like.push('\\');
                    }
                    like.push(*c);
                }
            }
        }
        like
    }

    /// Whether the whole of `name` matches. Takes at most pattern × name steps.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut token) = (0, 0);
        // Where to go on if the run seen last has to take one character more.
        let mut again: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.tokens.get(token) {
                Some(Token::Run) => {
                    token += 1;
                    again = Some((token, at));
                }
                Some(Token::One) => (at, token) = (at + 1, token + 1),
                Some(Token::Char(c)) if *c == name[at] => (at, token) = (at + 1, token + 1),
                _ => {
                    let Some((after, from)) = again else { return false };
                    again = Some((after, from + 1));
                    (at, token) = (from + 1, after);
                }
            }
        }
        self.tokens[token..].iter().all(|token| *token == Token::Run)
    }
}

impl FromStr for Glob {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Run,
                '?' => Token::One,
                '\\' => Token::Char(
                    chars.next().ok_or_else(|| PatternError::LoneBackslash(text.to_owned()))?,
                ),
                other => Token::Char(other),
            });
        }
        if tokens.is_empty() {
            return Err(PatternError::Empty);
        }
        Ok(Self { text: text.to_owned(), tokens })
    }
}

impl TryFrom<String> for Glob {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.text
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Which databases a job works on: those that `include` matches and `exclude` does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabasePatterns {
    pub include: Vec<Glob>,
    pub exclude: Vec<Glob>,
}

/// A database that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// `datname`
    pub name: DatabaseName,
    pub access: Access,
}

/// Whether a database can be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Open,
    /// `datallowconn = false`
    Closed,
    /// `datconnlimit = -2`: DROP DATABASE was interrupted (11.21 and newer), and all that can be done is
    /// to end it.
    HalfDropped,
    /// Its name is no UTF-8 (it was made in a database of another encoding), and nothing here can write
    /// it: what stands in its place has escapes.
    Unnameable,
}

/// Why a database is not worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    NotIncluded,
    Excluded,
    /// It is `template0` or `template1`. A database that somebody marked as a template is one like
    /// all others.
    Template,
    NoConnections,
    HalfDropped,
    Unnameable,
    /// It belongs to the provider of a managed service.
    Managed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotIncluded => "no pattern includes it",
            Self::Excluded => "a pattern excludes it",
            Self::Template => "it is one of the templates that every server has",
            Self::NoConnections => "it does not allow connections (datallowconn)",
            Self::Unnameable => "its name is not UTF-8",
            Self::HalfDropped => "it is half dropped: DROP DATABASE was interrupted",
            Self::Managed => "it belongs to the provider of the service",
        })
    }
}

/// Something that was asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A database was named, and the server has none of that name.
    Missing(String),
    /// A database was named that is left out all the same.
    Named(DatabaseName, Reason),
    /// A database is meant whose name cannot be written. It is shown with escapes.
    Unnameable(DatabaseName),
    NothingSelected,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "there is no database {name:?}"),
            Self::Named(name, reason) => {
                write!(f, "database {:?} is named but left out: {reason}", name.as_str())
            }
            Self::Unnameable(name) => write!(
                f,
                "the name of database \"{name}\" is not UTF-8, so that no program can be told to read it"
            ),
            Self::NothingSelected => f.write_str("the patterns select no database"),
        }
    }
}

/// What patterns select on a server. Every candidate is in `chosen` or in `left_out`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// To work on, sorted by name.
    pub chosen: Vec<DatabaseName>,
    /// Not to work on, and why, sorted by name.
    pub left_out: Vec<(DatabaseName, Reason)>,
    /// What was asked for and cannot be had.
    pub problems: Vec<Problem>,
}

impl DatabasePatterns {
    /// Decides for each database. A database of a managed service that is named literally is
    /// chosen; `template0`, `template1` or one without connections never is, and naming it is a problem.
    pub fn select(&self, candidates: &[Candidate]) -> Selection {
        let named: Vec<String> = self.include.iter().filter_map(Glob::literal).collect();
        let mut selection = Selection::default();
        for candidate in candidates {
            let name = &candidate.name;
            let is_named = named.iter().any(|literal| literal == name.as_str());
            match self.reason_against(candidate, is_named) {
                None => selection.chosen.push(name.clone()),
                Some(reason) => {
                    if reason == Reason::Unnameable {
                        selection.problems.push(Problem::Unnameable(name.clone()));
                    } else if is_named {
                        selection.problems.push(Problem::Named(name.clone(), reason));
                    }
                    selection.left_out.push((name.clone(), reason));
                }
            }
        }
        let missing = named
            .into_iter()
            .filter(|literal| !candidates.iter().any(|known| known.name.as_str() == literal));
        selection.problems.extend(missing.map(Problem::Missing));
        if selection.chosen.is_empty() && selection.problems.is_empty() {
            selection.problems.push(Problem::NothingSelected);
        }
        selection.chosen.sort();
        selection.left_out.sort();
        selection
    }

    /// Whether a name is meant, whatever the database of that name is.
    pub fn mean(&self, name: &str) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        any(&self.include) && !any(&self.exclude)
    }

    fn reason_against(&self, candidate: &Candidate, is_named: bool) -> Option<Reason> {
        let name = candidate.name.as_str();
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        if !any(&self.include) {
            Some(Reason::NotIncluded)
        } else if any(&self.exclude) {
            Some(Reason::Excluded)
        } else if TEMPLATES.contains(&name) {
            Some(Reason::Template)
        } else if candidate.access == Access::Closed {
            Some(Reason::NoConnections)
        } else if candidate.access == Access::HalfDropped {
            Some(Reason::HalfDropped)
        } else if candidate.access == Access::Unnameable {
            Some(Reason::Unnameable)
        } else if !is_named && is_managed(name) {
            Some(Reason::Managed)
        } else {
            None
        }
    }
}

/// The databases that somebody would miss: the templates that every server has, and databases that nobody
/// can connect to, are not looked for.
pub fn noticed(candidates: &[Candidate]) -> impl Iterator<Item = &DatabaseName> {
    let candidates = candidates.iter().filter(|known| {
        matches!(known.access, Access::Open | Access::Unnameable)
            && !TEMPLATES.contains(&known.name.as_str())
    });
    candidates.map(|known| &known.name)
}
