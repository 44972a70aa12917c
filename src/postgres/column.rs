//! Columns of rows. Text that is no UTF-8 is read all the same, and in this one place.
//!
//! Whatever belongs to the whole cluster (names of databases and roles, statements of other sessions,
//! settings) has the encoding of the database in which it was written, and the server gives its bytes
//! unchanged to sessions of others. A database in SQL_ASCII holds anything. So each byte that belongs to no
//! character is shown as `\xE9`, and nothing fails for it.

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use crate::domain::name::readable;

use super::PgError;

/// Text as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its characters, and in place of what is none of them escapes.
    pub text: String,
    /// Whether there is no escape in it: whether it can be written in a statement.
    pub is_whole: bool,
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        Self { text: readable(bytes), is_whole: std::str::from_utf8(bytes).is_ok() }
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::of(raw))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

/// What a column can be read as.
pub trait Column: Sized {
    /// What the driver reads.
    type Raw: for<'a> FromSql<'a>;
    /// What we make of it.
    fn of(raw: Self::Raw) -> Self;
}

impl Column for String {
    type Raw = Text;
    fn of(raw: Text) -> Self {
        raw.text
    }
}

impl Column for Option<String> {
    type Raw = Option<Text>;
    fn of(raw: Option<Text>) -> Self {
        raw.map(|text| text.text)
    }
}

impl Column for Vec<String> {
    type Raw = Vec<Text>;
    fn of(raw: Vec<Text>) -> Self {
        raw.into_iter().map(|text| text.text).collect()
    }
}

macro_rules! as_it_is {
    ($($type:ty),*) => {$(
        impl Column for $type {
            type Raw = $type;
            fn of(raw: $type) -> Self {
                raw
            }
        }
    )*};
}

as_it_is!(
    Text,
    bool,
    i16,
    i32,
    i64,
    u32,
    f64,
    Vec<u8>,
    Option<bool>,
    Option<i32>,
    Option<i64>,
    Option<u32>,
    Option<f64>,
    Option<Vec<u8>>,
    Vec<i16>
);

/// A column of a row. Our statements fix the types, so that an error is our own.
pub fn get<T: Column>(row: &Row, column: usize) -> Result<T, PgError> {
    let raw = row.try_get::<_, T::Raw>(column);
    raw.map(T::of).map_err(|error| PgError::of_statement(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_character_is_shown_byte_by_byte() {
        let text = |bytes: &[u8]| (Text::of(bytes).text, Text::of(bytes).is_whole);
        assert_eq!(text("café 🐘".as_bytes()), ("café 🐘".to_owned(), true));
        assert_eq!(text(b""), (String::new(), true));
        assert_eq!(text(b"caf\xe9"), ("caf\\xE9".to_owned(), false));
        assert_eq!(text(b"\xf0\x9fx\xff"), ("\\xF0\\x9Fx\\xFF".to_owned(), false));
    }
}
