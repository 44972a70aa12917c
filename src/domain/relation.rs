//! Tables by name, and patterns for them: `public.*`, `shop.order?`.
//!
//! A pattern is two patterns of [`super::pattern`], for the schema and for the name, with a point
//! between them. The first point that is not escaped divides them: a schema with a point in its
//! name is written `my\.schema.table`, a table with one needs nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::pattern::{Glob, PatternError};

/// Why a text is not a pattern of tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelationPatternError {
    #[error("the pattern {0:?} has no schema: write \"public.{0}\", or \"*.{0}\" for any")]
    NoSchema(String),
    /// One of its halves is no pattern.
    #[error("{0}")]
    Half(PatternError),
}

/// A table, a materialized view: whatever stands in a schema under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationName {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelationPattern {
    schema: Glob,
    name: Glob,
}

impl TryFrom<String> for RelationPattern {
    type Error = RelationPatternError;
    fn try_from(text: String) -> Result<Self, RelationPatternError> {
        text.parse()
    }
}

impl From<RelationPattern> for String {
    fn from(pattern: RelationPattern) -> Self {
        pattern.to_string()
    }
}

impl RelationPattern {
    /// The pattern that this one alone matches.
    pub fn exact(relation: &RelationName) -> Self {
        Self { schema: Glob::exact(&relation.schema), name: Glob::exact(&relation.name) }
    }

    /// Whether it matches.
    pub fn matches(&self, relation: &RelationName) -> bool {
        self.schema.matches(&relation.schema) && self.name.matches(&relation.name)
    }

    /// The one table that it matches, where it has no wildcard.
    pub fn literal(&self) -> Option<RelationName> {
        Some(RelationName { schema: self.schema.literal()?, name: self.name.literal()? })
    }

    /// The pattern for the schema, and the one for the name.
    pub fn halves(&self) -> (&Glob, &Glob) {
        (&self.schema, &self.name)
    }

    /// Whether the schema is named, and not matched by a wildcard.
    pub fn names_schema(&self) -> bool {
        self.schema.literal().is_some()
    }
}

impl fmt::Display for RelationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl FromStr for RelationPattern {
    type Err = RelationPatternError;
    fn from_str(text: &str) -> Result<Self, RelationPatternError> {
        let mut escaped = false;
        let point = text.char_indices().find(|(_, c)| {
            let divides = *c == '.' && !escaped;
            escaped = *c == '\\' && !escaped;
            divides
        });
        let Some((at, _)) = point else {
            return Err(RelationPatternError::NoSchema(text.to_owned()));
        };
        let half = |text: &str| text.parse().map_err(RelationPatternError::Half);
        Ok(Self { schema: half(&text[..at])?, name: half(&text[at + 1..])? })
    }
}

/// Which tables a job works on: those that `include` matches and `exclude` does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelationPatterns {
    pub include: Vec<RelationPattern>,
    pub exclude: Vec<RelationPattern>,
}

impl RelationPatterns {
    /// Whether the table is one of them.
    pub fn select(&self, relation: &RelationName) -> bool {
        let any = |patterns: &[RelationPattern]| patterns.iter().any(|p| p.matches(relation));
        any(&self.include) && !any(&self.exclude)
    }

    /// Whether the table's schema is named by a pattern that matches it.
    pub fn names_schema_of(&self, relation: &RelationName) -> bool {
        self.include.iter().any(|pattern| pattern.names_schema() && pattern.matches(relation))
    }

    /// The tables that are named without a wildcard.
    pub fn literals(&self) -> Vec<RelationName> {
        self.include.iter().filter_map(RelationPattern::literal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(schema: &str, name: &str) -> RelationName {
        RelationName { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn the_first_bare_point_divides() {
        let cases = [
            ("public.*", ("public", "a"), true),
            ("public.*", ("shop", "a"), false),
            ("*.*", ("../..", "a\nb"), true),
            ("public.a.b", ("public", "a.b"), true),
            (r"my\.schema.t", ("my.schema", "t"), true),
            (r"my\.schema.t", ("my", "schema.t"), false),
            (r"a\\.t", (r"a\", "t"), true),
            ("shop.order?", ("shop", "orders"), true),
            ("shop.order?", ("shop", "order"), false),
        ];
        for (pattern, (schema, name), expected) in cases {
            let pattern: RelationPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&relation(schema, name)), expected, "{pattern}");
        }
        for bad in ["orders", "*", ".a", "a.", "", r"a\.b"] {
            assert!(bad.parse::<RelationPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_exact_pattern_matches_its_table_alone() {
        for (schema, name) in
            [("public", "a"), ("a.b", "c.d"), ("*", "?"), (r"\", r"x\*"), ("é", "\"")]
        {
            let exact = RelationPattern::exact(&relation(schema, name));
            assert_eq!(exact.literal(), Some(relation(schema, name)));
            assert_eq!(exact.to_string().parse::<RelationPattern>().unwrap(), exact, "{exact}");
            assert!(!exact.matches(&relation(schema, "other")));
        }
    }

    #[test]
    fn what_is_excluded_is_not_selected() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let patterns = RelationPatterns {
            include: parse(&["shop.*", "*.log", "public.a"]),
            exclude: parse(&["*.old_*"]),
        };
        assert!(patterns.select(&relation("shop", "orders")));
        assert!(!patterns.select(&relation("shop", "old_orders")));
        assert!(!patterns.select(&relation("public", "b")));
        assert!(patterns.names_schema_of(&relation("shop", "x")));
        assert!(!patterns.names_schema_of(&relation("x", "log")));
        assert_eq!(patterns.literals(), [relation("public", "a")]);
    }
}
