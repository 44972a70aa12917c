//! Columns of rows, read by their names. Text that is no UTF-8 is read all the same, and in this one place.
//!
//! Whatever belongs to the whole cluster (names of databases and roles, statements of other sessions,
//! settings) has the encoding of the database in which it was written, and the server gives its bytes
//! unchanged to sessions of others. A database in SQL_ASCII holds anything. So each byte that belongs to no
//! character is shown as `\xE9`, and nothing fails for it.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use tokio_postgres::{
    Row,
    row::RowIndex,
    types::{FromSql, Type},
};

use crate::domain::{
    failure::Class,
    name::readable,
    wal::{Lsn, Timeline},
};

use super::PgError;

type Unreadable = Box<dyn std::error::Error + Sync + Send>;

/// Text as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its characters, and in place of what is none of them escapes.
    pub text: String,
    /// Whether there is no escape in it: whether it can be written in a statement.
    pub is_whole: bool,
}

impl Text {
    fn new(bytes: &[u8]) -> Self {
        Self { text: readable(bytes), is_whole: std::str::from_utf8(bytes).is_ok() }
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Unreadable> {
        Ok(Self::new(raw))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

/// A `timestamptz` as it is sent: microseconds since 2000.
#[derive(Debug)]
pub struct Moment(i64);

/// The beginning of 2000, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Unreadable> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// What a column can be read as.
pub trait Column: Sized {
    /// What the driver reads.
    type Raw: for<'a> FromSql<'a>;
    /// What we make of it.
    ///
    /// # Errors
    /// When the server sent nothing of the kind.
    fn of(raw: Self::Raw) -> Result<Self, PgError>;
}

macro_rules! columns_are {
    ($($type:ty: $raw:ty = $of:expr;)*) => {$(
        impl Column for $type {
            type Raw = $raw;
            fn of(raw: $raw) -> Result<Self, PgError> {
                let of: fn($raw) -> Result<Self, PgError> = $of;
                of(raw)
            }
        }
    )*};
}

columns_are!(
    Text: Text = Ok;
    bool: bool = Ok;
    i32: i32 = Ok;
    i64: i64 = Ok;
    u32: u32 = Ok;
    Vec<u8>: Vec<u8> = Ok;
    String: Text = |raw| Ok(raw.text);
    PathBuf: Text = |raw| Ok(raw.text.into());
    // Counts and ages.
    u64: i64 = |raw| Ok(Self::try_from(raw).unwrap_or(0));
    usize: i64 = |raw| Ok(Self::try_from(raw).unwrap_or(0));
    // Seconds. What began in the future has taken no time yet.
    Duration: f64 = |raw| Ok(Self::try_from_secs_f64(raw.max(0.0)).unwrap_or(Self::MAX));
    Timestamp: Moment = |raw| {
        let micros = raw.0.checked_add(POSTGRES_EPOCH);
        micros.and_then(|micros| Self::from_microsecond(micros).ok()).ok_or_else(|| sent_no("time"))
    };
    Lsn: Text = |raw| raw.text.parse().map_err(|_| sent_no("LSN"));
    Timeline: i64 = |raw| {
        u32::try_from(raw).ok().and_then(Self::new).ok_or_else(|| sent_no("timeline"))
    };
);

impl<T: Column> Column for Option<T> {
    type Raw = Option<T::Raw>;
    fn of(raw: Self::Raw) -> Result<Self, PgError> {
        raw.map(T::of).transpose()
    }
}

/// A defect of ours, or no PostgreSQL.
pub fn sent_no(what: &str) -> PgError {
    PgError::new(Class::Internal, format!("the server sent no {what}"))
}

/// The column of that name. Our statements fix the types, so that an error is our own.
pub fn get<T: Column>(row: &Row, name: &str) -> Result<T, PgError> {
    read(row, name)
}

/// The only column.
pub fn only<T: Column>(row: &Row) -> Result<T, PgError> {
    read(row, 0)
}

fn read<T: Column>(row: &Row, column: impl RowIndex + std::fmt::Display) -> Result<T, PgError> {
    let raw = row.try_get::<_, T::Raw>(column);
    raw.map_err(|error| PgError::of_statement(&error)).and_then(T::of)
}

/// A struct whose fields are columns of the same names; behind a semicolon are those that are not.
macro_rules! columns {
    ($row:expr, $type:path { $($field:ident),* $(; $($other:ident: $value:expr),*)? $(,)? }) => {{
        let row: &tokio_postgres::Row = $row;
        $type {
            $($field: $crate::postgres::column::get(row, stringify!($field))?,)*
            $($($other: $value,)*)?
        }
    }};
}
pub(crate) use columns;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_character_is_shown_byte_by_byte() {
        let text = |bytes: &[u8]| (Text::new(bytes).text, Text::new(bytes).is_whole);
        assert_eq!(text("café 🐘".as_bytes()), ("café 🐘".to_owned(), true));
        assert_eq!(text(b""), (String::new(), true));
        assert_eq!(text(b"caf\xe9"), ("caf\\xE9".to_owned(), false));
        assert_eq!(text(b"\xf0\x9fx\xff"), ("\\xF0\\x9Fx\\xFF".to_owned(), false));
    }

    #[test]
    fn times_and_counts_are_within_bounds() {
        let at = |micros: i64| {
            let raw = Moment::from_sql(&Type::TIMESTAMPTZ, &micros.to_be_bytes()).unwrap();
            Timestamp::of(raw)
        };
        assert_eq!(at(0).unwrap(), "2000-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(at(-POSTGRES_EPOCH).unwrap(), Timestamp::UNIX_EPOCH);
        for infinity in [i64::MIN, i64::MAX] {
            assert_eq!(at(infinity).unwrap_err().class(), Class::Internal);
        }
        assert_eq!((u64::of(-1), u64::of(7)), (Ok(0), Ok(7)));
        assert_eq!(Duration::of(-0.5), Ok(Duration::ZERO));
        assert_eq!(Duration::of(f64::INFINITY), Ok(Duration::MAX));
    }
}
