//! Sizes and durations as people write them: a number with its unit.
//!
//! A number without a unit is refused, and so is a unit that tools read in different ways: `64M`
//! is 64 MiB to some and 64 MB to others, `1M` is a minute to some and a month to others. What is
//! left can only mean one thing.

use std::{fmt, str::FromStr, time::Duration};

/// Why a size or a duration was refused. The text never repeats the whole value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct UnitError {
    pub what: String,
    pub hint: String,
}

impl UnitError {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// The units of a size, largest first: binary ones (IEC 80000-13), powers of ten, the byte.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// The units of a duration in milliseconds, largest first. A day has 24 hours here: what follows
/// the calendar is a schedule's business.
const TIME_UNITS: &[(&str, u64)] = &[
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A number of bytes.
///
/// Reads `64MiB`, `8 GiB`, `500MB`, `0B`; writes the form with the fewest digits that is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many times 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many times 1024² bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// So many times 1024³ bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&&(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(bytes);
        let shortest = SIZE_UNITS
            .iter()
            .filter(exact)
            .min_by_key(|(_, bytes)| (self.0 / bytes).checked_ilog10());
        let (unit, bytes) = shortest.copied().unwrap_or(("B", 1));
        f.pad(&format!("{}{unit}", self.0 / bytes))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit, rest) = number_and_unit(text)
            .ok_or_else(|| UnitError::new("this is not a size", "write it like \"64MiB\""))?;
        if !rest.is_empty() {
            return Err(UnitError::new("a size has one number and one unit", "like \"64MiB\""));
        }
        let bytes = size_unit(number, unit)?;
        let number: u64 = number.parse().map_err(|_| too_large_size())?;
        number.checked_mul(bytes).map(Self).ok_or_else(too_large_size)
    }
}

/// Bytes per second: `20MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(pub ByteSize);

impl ByteRate {
    /// The number of bytes per second.
    pub const fn bytes(self) -> u64 {
        self.0.bytes()
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if let Some(size) = text.trim().strip_suffix("/s") {
            return size.parse().map(Self);
        }
        let size: ByteSize = text.parse().map_err(|error| {
            let UnitError { what, .. } = error;
            UnitError::new(what, "write it like \"20MiB/s\"")
        })?;
        Err(UnitError::new("a rate is per second", format!("write \"{size}/s\"")))
    }
}

fn too_large_size() -> UnitError {
    UnitError::new("the size is too large", "at most 16EiB less one byte can be counted")
}

fn size_unit(number: &str, unit: &str) -> Result<u64, UnitError> {
    if let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        return Ok(*bytes);
    }
    if unit == "KB" {
        return Ok(1_000);
    }
    if unit.is_empty() {
        return Err(UnitError::new(
            "a size needs a unit",
            format!("write \"{number}MiB\", \"{number}GiB\", or \"{number}B\" for bytes"),
        ));
    }
    let letter = unit.chars().next().map_or('?', |letter| letter.to_ascii_uppercase());
    if unit.len() == 1 && "KMGTPE".contains(letter) {
        let decimal = if letter == 'K' { 'k' } else { letter };
        return Err(UnitError::new(
            format!("the unit {unit:?} is ambiguous"),
            format!(
                "write \"{number}{letter}iB\" (powers of 1024) or \"{number}{decimal}B\" (powers of 1000)"
            ),
        ));
    }
    let meant = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let hint = match meant {
        Some((name, _)) => format!("did you mean \"{number}{name}\"?"),
        None => "the units are B, kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers \
                 of 1024)"
            .to_owned(),
    };
    Err(UnitError::new(format!("there is no unit {unit:?} of a size"), hint))
}

/// Reads `"90m"`, `"2h 30m"`, `"30s"`, `"500ms"`, `"14d"`, `"2w"`: numbers with units, each unit
/// at most once and the larger first. `"0s"` is zero.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let not_one =
        || UnitError::new("this is not a duration", "write it like \"90m\" or \"2h 30m\"");
    let too_long = || UnitError::new("the duration is too long", "write a shorter one");
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    loop {
        let (number, unit, more) = number_and_unit(rest).ok_or_else(not_one)?;
        let millis = time_unit(number, unit)?;
        if millis >= last {
            return Err(UnitError::new(
                "the units of a duration go from the larger to the smaller, each once",
                "write it like \"2h 30m\"",
            ));
        }
        last = millis;
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let part = number.checked_mul(millis).ok_or_else(too_long)?;
        total = total.checked_add(part).ok_or_else(too_long)?;
        if more.is_empty() {
            return Ok(Duration::from_millis(total));
        }
        rest = more;
    }
}

fn time_unit(number: &str, unit: &str) -> Result<u64, UnitError> {
    if let Some((_, millis)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) {
        return Ok(*millis);
    }
    let (what, hint) = match unit {
        "" => (
            "a duration needs a unit".to_owned(),
            format!(
                "write \"{number}s\" for seconds, \"{number}m\" for minutes, \"{number}h\" for hours"
            ),
        ),
        "M" => (
            "the unit \"M\" is ambiguous: minutes or months".to_owned(),
            format!("write \"{number}m\" for minutes, or months as days: \"30d\""),
        ),
        "mo" | "mon" | "month" | "months" | "y" | "Y" | "year" | "years" => (
            format!("the unit {unit:?} has no fixed length"),
            "write months and years as days: \"30d\", \"365d\"".to_owned(),
        ),
        _ => {
            let meant = match unit.to_ascii_lowercase().as_str() {
                "sec" | "secs" | "second" | "seconds" | "s" => Some("s"),
                "min" | "mins" | "minute" | "minutes" => Some("m"),
                "hr" | "hrs" | "hour" | "hours" | "h" => Some("h"),
                "day" | "days" | "d" => Some("d"),
                "wk" | "week" | "weeks" | "w" => Some("w"),
                "msec" | "millis" | "millisecond" | "milliseconds" | "ms" => Some("ms"),
                _ => None,
            };
            let hint = match meant {
                Some(name) => format!("did you mean \"{number}{name}\"?"),
                None => "the units are ms, s, m, h, d and w".to_owned(),
            };
            (format!("there is no unit {unit:?} of a duration"), hint)
        }
    };
    Err(UnitError::new(what, hint))
}

/// Writes a duration as [`parse_duration`] reads it: `2h 30m`. What is below a millisecond is left
/// out.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, millis) in TIME_UNITS {
        let count = rest / u128::from(*millis);
        rest %= u128::from(*millis);
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Splits `"2h 30m"` into `("2", "h", "30m")`. `None` where no number starts the text.
fn number_and_unit(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim();
    let (number, rest) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if number.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let ends = |c: char| c.is_ascii_digit() || c.is_whitespace();
    let (unit, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    Some((number, unit, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sizes_round_trip(bytes in prop_oneof![any::<u64>(), (0u64..2000).prop_map(|n| n << 20), (0u64..2000).prop_map(|n| n * 1_000_000)]) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn durations_round_trip(millis in any::<u64>()) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn nothing_makes_the_readers_panic(text in "[0-9]{0,25} ?\\PC{0,6}[0-9]{0,3}\\PC{0,3}") {
            let _size = text.parse::<ByteSize>();
            let _duration = parse_duration(&text);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("8 GiB", 8 << 30),
            (" 1TiB ", 1 << 40),
            ("10kB", 10_000),
            ("10KB", 10_000),
            ("1GB", 1_000_000_000),
            ("0B", 0),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize::mib(128).to_string(), "128MiB");
        assert_eq!(ByteSize(64_000_000).to_string(), "64MB");
        assert_eq!(ByteSize::gib(1).to_string(), "1GiB");
    }

    #[test]
    fn ambiguous_sizes_are_refused_with_both_readings() {
        for text in ["64M", "64m", "64k", "64K", "64G", "64 T"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.what.contains("ambiguous"), "{text}: {error}");
            assert!(
                error.hint.contains("iB\"") && error.hint.contains("powers of 1000"),
                "{error:?}"
            );
        }
        for text in ["64", "", "MiB", "-1MiB", "1.5GiB", "64mib", "1GiB 2MiB", "16EiB", "1e3B"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert!("64mib".parse::<ByteSize>().unwrap_err().hint.contains("64MiB"));
    }

    #[test]
    fn rates_are_read() {
        assert_eq!("20MiB/s".parse(), Ok(ByteRate(ByteSize::mib(20))));
        assert_eq!(" 500 kB/s".parse::<ByteRate>().unwrap().to_string(), "500kB/s");
        for (text, hint) in [
            ("20MiB", "20MiB/s"),
            ("20M/s", "20MiB"),
            ("20Mbit/s", "KiB"),
            ("fast", "20MiB/s"),
            ("/s", "MiB"),
        ] {
            let error = text.parse::<ByteRate>().unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {error:?}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("90m", 5_400_000),
            ("2h 30m", 9_000_000),
            ("2h30m", 9_000_000),
            ("30s", 30_000),
            ("500ms", 500),
            ("14d", 1_209_600_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(format_duration(Duration::from_mins(150)), "2h 30m");
        assert_eq!(format_duration(Duration::from_nanos(1)), "0s");
    }

    #[test]
    fn ambiguous_durations_are_refused() {
        for text in
            ["30", "", "1M", "1mo", "1y", "30m 2h", "1h 1h", "h", "-1s", "1.5h", "99999999999w"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("1M").unwrap_err().what.contains("months"));
        assert!(parse_duration("30min").unwrap_err().hint.contains("30m"));
    }
}
