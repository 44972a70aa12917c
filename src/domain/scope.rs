//! What of a database a backup holds: all of it, its definitions, its data, or a selection.
//!
//! A backup that leaves anything out is of another series than a whole one, under a name that its
//! selection alone decides ([`Scope::series`]), and never counts as the database's backup. What only
//! changes the form of a dump ([`options::Kind::Form`]) is no part of it.
//!
//! What can still go wrong: a table is selected, and what it refers to (a type, a function, its
//! schema) is not. Such a backup restores only where these are.

mod by_database;
pub mod options;

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    pattern::Glob,
    relation::{RelationName, RelationPattern},
};

pub use self::by_database::{Own, Scopes};

/// Begins the series' name of a selection.
const PART: &str = "part-";
/// Bytes of the digest that go into it, as two digits each.
const PART_BYTES: usize = 6;
/// What the canonical text of a selection begins with. Another meaning of the same words would need
/// another number.
const CANON: &str = "pgkeep selection 1\n";

/// Definitions, data, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    #[default]
    All,
    Schema,
    Data,
}

impl Contents {
    /// As it stands in the configuration, and in the name of the series.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Schema => "schema",
            Self::Data => "data",
        }
    }
}

/// How much of a database a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// Only what is named, or only definitions, or only data: what comes to the database tomorrow is
    /// not in it.
    Only,
    AllBut,
    Whole,
}

impl Coverage {
    /// As it stands in JSON, and in the label `coverage`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::AllBut => "all-but",
            Self::Whole => "whole",
        }
    }
}

/// What of a database is dumped. The default is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scope {
    pub contents: Contents,
    /// Only these schemas, with all that is in them; empty: no such limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<Glob>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_schemas: Vec<Glob>,
    /// Only these tables, views and sequences, without their schemas; empty: no such limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<RelationPattern>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_tables: Vec<RelationPattern>,
    /// Of these only the definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_table_data: Vec<RelationPattern>,
    /// Whether large objects are in it, where that is not [`Scope::has_large_objects_by_itself`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<bool>,
    /// Further options of pg_dump that leave something out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Scope {
    /// Brings it into its one form: what was listed is a set, and what goes without saying is not
    /// said.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        fn sort<T: fmt::Display>(list: &mut Vec<T>) {
            list.sort_by_cached_key(ToString::to_string);
            list.dedup_by_key(|it| it.to_string());
        }
        sort(&mut self.schemas);
        sort(&mut self.exclude_schemas);
        sort(&mut self.tables);
        sort(&mut self.exclude_tables);
        sort(&mut self.exclude_table_data);
        sort(&mut self.options);
        let own = self.has_large_objects_by_itself();
        self.large_objects = self.large_objects.filter(|wanted| *wanted != own);
        self
    }

    /// Whether pg_dump takes large objects unless it is told otherwise (`dopt.outputBlobs` in
    /// pg_dump.c): not where schemas, tables or extensions are selected, nor definitions alone.
    pub fn has_large_objects_by_itself(&self) -> bool {
        self.has_what_is_in_no_schema() && self.contents != Contents::Schema
    }

    /// Whether large objects are in it.
    pub fn has_large_objects(&self) -> bool {
        self.has_data() && self.large_objects.unwrap_or_else(|| self.has_large_objects_by_itself())
    }

    /// Whether definitions are in it.
    pub fn has_definitions(&self) -> bool {
        self.contents != Contents::Data
    }

    /// Whether rows and values of sequences are in it.
    pub fn has_data(&self) -> bool {
        self.contents != Contents::Schema
    }

    /// Whether what belongs to no schema is in it (foreign servers, subscriptions): not where schemas,
    /// tables or extensions are selected (`dopt.include_everything` in pg_dump.c).
    pub fn has_what_is_in_no_schema(&self) -> bool {
        let of_extensions = self.options.iter().any(|option| option.starts_with("--extension="));
        self.schemas.is_empty() && self.tables.is_empty() && !of_extensions
    }

    /// Whether the table, view or sequence is in it.
    pub fn takes(&self, schema: &str, name: &str) -> bool {
        let relation = RelationName { schema: schema.to_owned(), name: name.to_owned() };
        let any = |patterns: &[RelationPattern]| patterns.iter().any(|it| it.matches(&relation));
        let within = |patterns: &[Glob]| patterns.iter().any(|it| it.matches(schema));
        (self.schemas.is_empty() || within(&self.schemas))
            && !within(&self.exclude_schemas)
            && (self.tables.is_empty() || any(&self.tables))
            && !any(&self.exclude_tables)
    }

    /// Whether the rows of the table are in it.
    pub fn takes_data(&self, schema: &str, name: &str) -> bool {
        let relation = RelationName { schema: schema.to_owned(), name: name.to_owned() };
        self.has_data()
            && self.takes(schema, name)
            && !self.exclude_table_data.iter().any(|it| it.matches(&relation))
    }

    /// How much of the database it is.
    pub fn coverage(&self) -> Coverage {
        if self.is_whole() {
            Coverage::Whole
        } else if self.contents == Contents::All && self.has_what_is_in_no_schema() {
            Coverage::AllBut
        } else {
            Coverage::Only
        }
    }

    /// Whether nothing of the database is left out.
    pub fn is_whole(&self) -> bool {
        self.contents == Contents::All && self.is_plain()
    }

    /// Whether there is nothing to it but `contents`.
    fn is_plain(&self) -> bool {
        *self == Self { contents: self.contents, ..Self::default() }
    }

    /// What the series is called: `all`, `schema`, `data`, or `part-` and twelve digits that follow
    /// from the selection.
    pub fn series(&self) -> String {
        if self.is_plain() {
            return self.contents.as_str().to_owned();
        }
        let digest = Sha256::digest(self.canonical_text());
        let digits = digest.iter().take(PART_BYTES).map(|byte| format!("{byte:02x}"));
        digits.fold(PART.to_owned(), |name, digits| name + &digits)
    }

    /// The text that the name of a selection is made of. Never changed: the name would change with
    /// it, and a series would break off.
    fn canonical_text(&self) -> String {
        let canonical = self.clone().canonical();
        let mut text = CANON.to_owned();
        for (key, value) in canonical.words() {
            // As JSON writes it: a line end in a name is none here.
            let value = serde_json::Value::String(value);
            // Writing to a string does not fail.
            writeln!(text, "{key} {value}").ok();
        }
        text
    }

    /// The selection, one word after the other, with the keys of the configuration.
    fn words(&self) -> Vec<(&'static str, String)> {
        fn all<'a, T: fmt::Display>(
            key: &'static str,
            list: &'a [T],
        ) -> impl Iterator<Item = (&'static str, String)> + 'a {
            list.iter().map(move |it| (key, it.to_string()))
        }
        let mut words = vec![("contents", self.contents.as_str().to_owned())];
        words.extend(all("schemas", &self.schemas));
        words.extend(all("exclude_schemas", &self.exclude_schemas));
        words.extend(all("tables", &self.tables));
        words.extend(all("exclude_tables", &self.exclude_tables));
        words.extend(all("exclude_table_data", &self.exclude_table_data));
        words.extend(self.large_objects.map(|wanted| ("large_objects", wanted.to_string())));
        words.extend(all("extra_options", &self.options));
        words
    }
}

/// For people: `contents all, tables shop.*, exclude_tables shop.log_*`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words();
        let words: Vec<String> =
            words.iter().map(|(key, value)| format!("{key} {value}")).collect();
        f.pad(&words.join(", "))
    }
}

/// How a dump is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// pg_dump's custom format, an archive from which parts can be restored.
    #[default]
    Custom,
    Plain,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn tables(texts: &[&str]) -> Vec<RelationPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_whole_is_called_all() {
        assert!(Scope::default().is_whole());
        assert_eq!(Scope::default().series(), "all");
        for contents in [Contents::Schema, Contents::Data] {
            let scope = Scope { contents, ..Scope::default() };
            assert!(!scope.is_whole());
            assert_eq!(scope.series(), contents.as_str());
        }
        let said = Scope { large_objects: Some(true), ..Scope::default() }.canonical();
        assert!(said.is_whole(), "what goes without saying leaves nothing out");
        let options = vec!["--extension=x".to_owned()];
        let said = Scope { large_objects: Some(true), options, ..Scope::default() }.canonical();
        assert_eq!(said.large_objects, Some(true), "pg_dump leaves them out with --extension");
    }

    /// The names must stay what they are, or series break off when pgkeep is upgraded.
    #[test]
    fn a_selection_keeps_its_name() {
        let shop = Scope { tables: tables(&["shop.*", "b.c"]), ..Scope::default() };
        assert_eq!(
            shop.canonical_text(),
            CANON.to_owned() + "contents \"all\"\ntables \"b.c\"\ntables \"shop.*\"\n"
        );
        assert_eq!(shop.series(), "part-32c8457ec56e");
        let other = Scope { tables: tables(&["b.c", "shop.*", "b.c"]), ..Scope::default() };
        assert_eq!(other.series(), shop.series(), "order and repetition say nothing");
    }

    #[test]
    fn each_selection_has_a_name_of_its_own() {
        let base = Scope::default;
        let all = [
            Scope { schemas: globs(&["a"]), ..base() },
            Scope { exclude_schemas: globs(&["a"]), ..base() },
            Scope { schemas: globs(&["a", "b"]), ..base() },
            Scope { schemas: globs(&["a\nschemas \"b\""]), ..base() },
            Scope { tables: tables(&["a.b"]), ..base() },
            Scope { exclude_tables: tables(&["a.b"]), ..base() },
            Scope { exclude_table_data: tables(&["a.b"]), ..base() },
            Scope { large_objects: Some(false), ..base() },
            Scope { options: vec!["--no-comments".to_owned()], ..base() },
            Scope { contents: Contents::Data, schemas: globs(&["a"]), ..base() },
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(Scope::series).collect();
        assert_eq!(names.len(), all.len());
        for scope in &all {
            assert!(!scope.is_whole());
            let name = scope.series();
            assert!(name.len() == 17 && name.starts_with("part-"), "{name}");
            let json = serde_json::to_string(scope).unwrap();
            assert_eq!(serde_json::from_str::<Scope>(&json).unwrap(), *scope, "{json}");
        }
    }

    #[test]
    fn it_reads_as_the_configuration_has_it() {
        let scope = Scope {
            tables: tables(&["shop.*"]),
            exclude_tables: tables(&["*.log"]),
            large_objects: Some(true),
            ..Scope::default()
        };
        let text = "contents all, tables shop.*, exclude_tables *.log, large_objects true";
        assert_eq!(scope.to_string(), text);
    }
}
