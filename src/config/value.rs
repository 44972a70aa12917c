//! The tree of a configuration file: values with their places, variables expanded.
//!
//! TOML's own deserializer stops at the first error of a table and loses the places inside it;
//! this tree keeps every place, and a value that could not be expanded stays in it as
//! [`Value::Broken`], so that it is reported once and its key still counts as known.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{Diagnostics, Span, class},
    expand::{Environment, ExpandError, Text},
};

/// A value of a configuration file.
#[derive(Debug, Clone)]
pub enum Value {
    String(Text),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Item>),
    Table(Table),
    /// Something that was reported already.
    Broken,
}

impl Value {
    /// What kind of value it is, with its article.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a point",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date or time",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Broken => "broken",
        }
    }
}

/// A value and its place. A table's place is its header.
#[derive(Debug, Clone)]
pub struct Item {
    pub value: Value,
    pub span: Span,
}

/// A key's place and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Span,
    pub item: Item,
}

/// Entries by key.
pub type Table = BTreeMap<String, Entry>;

/// Turns what the TOML parser made of one file into our tree.
pub(super) struct Reader<'a> {
    pub file: usize,
    pub text: &'a str,
    pub exposed: bool,
    pub environment: &'a Environment<'a>,
}

impl Reader<'_> {
    /// Reads a table with all that is in it.
    pub(super) fn table(&self, table: &DeTable<'_>, d: &mut Diagnostics) -> Table {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            let key = Span::new(self.file, key.span());
            (name.to_string(), Entry { key, item: self.item(value, d) })
        };
        table.iter().map(entry).collect()
    }

    fn item(&self, value: &toml::Spanned<DeValue<'_>>, d: &mut Diagnostics) -> Item {
        let span = Span::new(self.file, value.span());
        let value = match value.get_ref() {
            DeValue::String(raw) => self.string(raw, &span, d),
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                i64::from_str_radix(&digits, number.radix()).map_or_else(
                    |_| {
                        d.error(&span, "this number is too large");
                        Value::Broken
                    },
                    Value::Integer,
                )
            }
            // What the parser took for one is one; "inf" and "nan" are refused where it is read.
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => {
                Value::Array(items.iter().map(|item| self.item(item, d)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, d)),
        };
        Item { value, span }
    }

    fn string(&self, raw: &str, span: &Span, d: &mut Diagnostics) -> Value {
        match self.environment.expand(raw, self.exposed.then_some(self.file)) {
            Ok(text) => Value::String(text),
            Err(ExpandError { what, hint, at }) => {
                d.error(self.within(span, &at), what).class(class::ENVIRONMENT).hint(hint);
                Value::Broken
            }
        }
    }

    /// The place of `text` inside of a value, if it stands there as it is.
    fn within(&self, span: &Span, text: &str) -> Span {
        let found = self.text.get(span.range.clone()).and_then(|value| value.find(text));
        match found {
            Some(at) => {
                let start = span.range.start + at;
                Span::new(span.file, start..start + text.len())
            }
            None => span.clone(),
        }
    }
}
