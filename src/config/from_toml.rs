//! How a value of the tree becomes a value of Rust.
//!
//! Nothing is coerced: `"3"` is no number. The one exception is text that came from a variable,
//! since variables are always text: `port = "${POSTGRES_PORT}"` is a number.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use jiff::tz::TimeZone;

use super::{
    diagnostic::{Diagnostics, Located, class},
    suggest,
    value::{Item, Value},
};
use crate::domain::{
    name::{DatabaseName, JobName, NotifyName, RepositoryName, RetentionName, ServerName},
    units::{ByteRate, ByteSize, UnitError, format_duration, parse_duration},
};

/// A type that an option can have.
pub trait FromToml: Sized {
    /// Reads a value; what is wrong with it is reported with the name of its key.
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self>;
}

/// A type whose values can be held to a range.
pub trait Ranged: FromToml + PartialOrd {
    /// The value as it is written.
    fn show(&self) -> String;
}

fn mismatch(item: &Item, key: &str, expected: &str, d: &mut Diagnostics) {
    if !matches!(item.value, Value::Broken) {
        d.error(&item.span, format!("`{key}` must be {expected}, but is {}", item.value.kind()))
            .class(class::TYPE);
    }
}

/// The text of a string value.
pub(super) fn text<'a>(
    item: &'a Item,
    key: &str,
    expected: &str,
    d: &mut Diagnostics,
) -> Option<&'a str> {
    if let Value::String(text) = &item.value {
        return Some(&text.text);
    }
    mismatch(item, key, expected, d);
    None
}

impl FromToml for String {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let text = text(item, key, "a string", d)?;
        if text.contains('\0') {
            d.error(&item.span, format!("`{key}` contains a NUL character"));
            return None;
        }
        Some(text.to_owned())
    }
}

impl FromToml for PathBuf {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let text = String::from_toml(item, key, d)?;
        if text.is_empty() {
            d.error(&item.span, format!("`{key}` is empty"));
            return None;
        }
        Some(Self::from(text))
    }
}

impl FromToml for bool {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        match &item.value {
            Value::Boolean(value) => return Some(*value),
            Value::String(text) if text.expanded => match text.text.trim() {
                "true" => return Some(true),
                "false" => return Some(false),
                _ => {
                    d.error(&item.span, format!("`{key}` must be true or false"))
                        .class(class::TYPE);
                }
            },
            Value::String(_) => {
                d.error(&item.span, format!("`{key}` must be true or false, but is a string"))
                    .class(class::TYPE)
                    .hint("write it without quotation marks");
            }
            _ => mismatch(item, key, "true or false", d),
        }
        None
    }
}

/// A number that stands as text: from a variable, or between quotation marks that do not belong there.
fn number<T: FromStr>(item: &Item, key: &str, expected: &str, d: &mut Diagnostics) -> Option<T> {
    match &item.value {
        Value::String(text) if text.expanded => {
            let number = text.text.trim().parse().ok();
            if number.is_none() {
                d.error(&item.span, format!("`{key}` must be {expected}"))
                    .class(class::TYPE)
                    .hint("look at what the variable is set to");
            }
            return number;
        }
        Value::String(text) if text.text.parse::<T>().is_ok() => {
            d.error(&item.span, format!("`{key}` must be {expected}, but is a string"))
                .class(class::TYPE)
                .hint("write it without quotation marks");
        }
        _ => mismatch(item, key, expected, d),
    }
    None
}

impl FromToml for f64 {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        const EXPECTED: &str = "a number";
        let read = match &item.value {
            Value::Float(number) => *number,
            Value::Integer(number) => {
                if let Ok(number) = i32::try_from(*number) {
                    return Some(Self::from(number));
                }
                d.error(&item.span, format!("`{key}` is out of range"));
                return None;
            }
            _ => number(item, key, EXPECTED, d)?,
        };
        if !read.is_finite() {
            d.error(&item.span, format!("`{key}` must be {EXPECTED}")).class(class::TYPE);
        }
        read.is_finite().then_some(read)
    }
}

impl Ranged for f64 {
    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl FromToml for $type {
            fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
                let number: i64 = match &item.value {
                    Value::Integer(number) => *number,
                    _ => number(item, key, "a whole number", d)?,
                };
                let fitting = Self::try_from(number).ok();
                if fitting.is_none() {
                    let hint = format!("from {} to {}", Self::MIN, Self::MAX);
                    d.error(&item.span, format!("`{key}` is out of range")).hint(hint);
                }
                fitting
            }
        }
        impl Ranged for $type {
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

integers!(u16, u32, u64, i32, i64, usize);

/// Reads a value with a unit; a bare number gets the hint that its text would get.
fn with_unit<T>(
    item: &Item,
    key: &str,
    expected: &str,
    parse: impl Fn(&str) -> Result<T, UnitError>,
    d: &mut Diagnostics,
) -> Option<T> {
    let parsed = match &item.value {
        Value::Integer(number) => parse(&number.to_string()),
        _ => parse(text(item, key, expected, d)?),
    };
    parsed
        .map_err(|UnitError { what, hint }| {
            d.error(&item.span, format!("`{key}`: {what}")).hint(hint);
        })
        .ok()
}

impl FromToml for ByteSize {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        with_unit(item, key, "a size like \"64MiB\"", Self::from_str, d)
    }
}

impl Ranged for ByteSize {
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl FromToml for ByteRate {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        with_unit(item, key, "a rate like \"20MiB/s\"", Self::from_str, d)
    }
}

impl Ranged for ByteRate {
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl FromToml for Duration {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        with_unit(item, key, "a duration like \"90m\"", parse_duration, d)
    }
}

impl Ranged for Duration {
    fn show(&self) -> String {
        format!("\"{}\"", format_duration(*self))
    }
}

impl FromToml for SocketAddr {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let address = text(item, key, "an address like \"127.0.0.1:9479\"", d)?.parse().ok();
        if address.is_none() {
            d.error(&item.span, format!("`{key}` is not an address"))
                .hint("write an IP address and a port: \"127.0.0.1:9479\", \"[::1]:9479\"");
        }
        address
    }
}

impl FromToml for TimeZone {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let name = text(item, key, "a time zone like \"Europe/Zurich\"", d)?;
        let zone = Self::get(name).ok();
        if zone.is_none() {
            let known: Vec<String> =
                jiff::tz::db().available().map(|name| name.to_string()).collect();
            let iana = "write a name of the IANA database: \"Europe/Zurich\", \"UTC\"";
            let hint = suggest::did_you_mean(name, known.iter().map(String::as_str))
                .unwrap_or_else(|| iana.to_owned());
            d.error(&item.span, format!("`{key}` is not a time zone")).hint(hint);
        }
        zone
    }
}

macro_rules! names {
    ($($type:ty => $expected:literal),+ $(,)?) => {$(
        impl FromToml for $type {
            fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
                text(item, key, $expected, d)?
                    .parse()
                    .map_err(|error| {
                        d.error(&item.span, format!("`{key}`: {error}"));
                    })
                    .ok()
            }
        }
    )+};
}

names! {
    ServerName => "the name of a server",
    RepositoryName => "the name of a repository",
    RetentionName => "the name of a retention policy",
    JobName => "the name of a job",
    NotifyName => "the name of a [notify.NAME]",
    DatabaseName => "the name of a database",
}

impl<T: FromToml> FromToml for Located<T> {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        Some(Self { value: T::from_toml(item, key, d)?, span: item.span.clone() })
    }
}

impl<T: FromToml> FromToml for Vec<T> {
    fn from_toml(item: &Item, key: &str, d: &mut Diagnostics) -> Option<Self> {
        let Value::Array(items) = &item.value else {
            if matches!(item.value, Value::String(_)) {
                d.error(&item.span, format!("`{key}` must be a list, but is a string"))
                    .class(class::TYPE)
                    .hint("put it into brackets: [\"…\"]");
            } else {
                mismatch(item, key, "a list", d);
            }
            return None;
        };
        // All are read before any is given up, so that each is reported.
        let read: Vec<Option<T>> = items.iter().map(|item| T::from_toml(item, key, d)).collect();
        read.into_iter().collect()
    }
}
