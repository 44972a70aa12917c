//! How facts are printed: tables for people, JSON for programs. All that is printed goes through here,
//! and so through [`text`]: names that others gave do nothing to a terminal.

use std::{
    io::{self, Write as _},
    pin::pin,
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::{
    domain::{
        failure::{Class, Failure},
        text,
    },
    sys::{task::Progress, time_limits},
};

use super::Stop;

/// Prints a value as JSON, with a line end.
///
/// # Errors
/// When standard output is full.
pub(super) fn json(value: &impl Serialize) -> Result<(), Stop> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error(Class::Internal, "print JSON", &error))?;
    print(&text::json(&json))
}

/// Prints one line.
///
/// # Errors
/// When standard output is full. Who closed it has seen enough: that is no error.
pub(super) fn line(line: &str) -> Result<(), Stop> {
    print(&text::line(line))
}

fn print(text: &str) -> Result<(), Stop> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::from_error(Class::State, "print", &error).into())
        }
        _ => Ok(()),
    }
}

/// Says something on standard error. What nobody can hear is not worth a word, and no reason to
/// end in another way (`eprintln!` panics).
pub(super) fn say(said: &str) {
    say_styled(&text::lines(said));
}

/// The same for text that is safe already, and may have colours.
pub(super) fn say_styled(said: &str) {
    drop(io::stderr().lock().write_all(said.as_bytes()));
}

/// How often a command says what it still waits for.
const WORD_EVERY: Duration = Duration::from_secs(5);

/// Does the work, and says now and then on standard error what it waits for.
pub(super) async fn patiently<T>(progress: &Progress, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(time_limits::limit(WORD_EVERY)) => {
                if let Some(waits) = progress.waits() {
                    say(&format!("pgkeep: waits for {}\n", text::line(&waits)));
                }
            }
        }
    }
}

/// Says what failed, and what to do about it.
pub(super) fn say_failure(before: &str, failure: &Failure) {
    let text = text::line(&format!("{before} [{}]: {failure}", failure.class));
    let hint = failure.hint.iter().map(|hint| format!("  hint: {}\n", text::line(hint)));
    say(&format!("{text}\n{}", hint.collect::<String>()));
}

/// Prints rows in columns under their headings; the last column is not padded.
///
/// # Errors
/// When standard output is full.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Stop> {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| text::line(cell))).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let print_row = |cells: [&str; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        line(padded.join("  ").trim_end())
    };
    print_row(headings)?;
    for row in &rows {
        print_row(std::array::from_fn(|column| row[column].as_str()))?;
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

/// A number of bytes for people, to three digits: `1.81 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be rounded to a fourth digit.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let places = if size >= 99.95 {
        0
    } else if size >= 9.995 {
        1
    } else {
        2
    };
    format!("{size:.places$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_810_505, "1.73 MiB"),
            (1023 * 1024, "1.00 MiB"),
            (100 << 20, "100 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
