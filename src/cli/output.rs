//! How facts are printed: tables for people, JSON for programs.

use std::io::{self, Write as _};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::domain::{
    failure::{Class, Failure},
    units::ByteSize,
};

use super::Stop;

/// Prints a value as JSON, with a line end.
///
/// # Errors
/// When standard output is closed or full.
pub(super) fn json(value: &impl Serialize) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error(Class::Internal, "print JSON", &error))?;
    line(&text)
}

/// Prints one line.
///
/// # Errors
/// When standard output is closed or full.
pub(super) fn line(text: &str) -> Result<(), Stop> {
    writeln!(io::stdout().lock(), "{text}")
        .map_err(|error| Failure::from_error(Class::State, "print", &error).into())
}

/// Prints rows in columns under their headings; the last column is not padded.
///
/// # Errors
/// When standard output is closed or full.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Stop> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let print = |cells: [&str; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        line(padded.join("  ").trim_end())
    };
    print(headings)?;
    for row in rows {
        print(std::array::from_fn(|column| row[column].as_str()))?;
    }
    Ok(())
}

/// A time for people: local, to the second, with the offset; `-` for none.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(
        || "-".to_owned(),
        |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
    )
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    ByteSize(count).to_string()
}

/// Makes a name safe for a terminal: control characters are escaped.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}
