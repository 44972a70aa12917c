//! Names from the configuration and from `PostgreSQL`, and how a name becomes part of a path.
//!
//! Names that a person gives in the configuration are restricted, since they become metric labels
//! and file names. Names of databases are whatever `PostgreSQL` allows (63 bytes of anything but
//! NUL: slashes, quotes, `..`, emoji) and are only ever used in a path through [`escape`].

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest name that a table of the configuration may have, in bytes.
pub const NAME_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct NameError {
    what: String,
}

fn check_configured(text: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let what = if text.is_empty() {
        "a name must not be empty".to_owned()
    } else if text.len() > NAME_MAX {
        format!("a name has at most {NAME_MAX} characters, this one has {}", text.len())
    } else if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        format!("{bad:?} is not allowed in a name: use letters, digits, '_' and '-'")
    } else {
        return Ok(());
    };
    Err(NameError { what })
}

fn check_database(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.contains('\0') {
        let what = "a database's name is neither empty nor contains NUL".to_owned();
        return Err(NameError { what });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a `[server.NAME]`.
    ServerName,
    check_configured
);
name!(
    /// The name of a `[repository.NAME]`.
    RepositoryName,
    check_configured
);
name!(
    /// The name of a `[job.NAME]`.
    JobName,
    check_configured
);
name!(
    /// The name of a `[retention.NAME]`.
    RetentionName,
    check_configured
);
name!(
    /// The name of a `[notify.NAME]`.
    NotifyName,
    check_configured
);
name!(
    /// The name of a database, as `pg_database.datname` has it.
    DatabaseName,
    check_database
);

/// Bytes of whatever encoding as text for people: each that is part of no UTF-8 character as `\xE9`.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            fmt::Write::write_fmt(&mut text, format_args!("\\x{byte:02X}")).unwrap_or_default();
        }
    }
    text
}

/// Writes `text` with every byte outside `[A-Za-z0-9_-]` as `=XX` (upper-case hexadecimal), so
/// that it is one safe path segment: no separator, no `..`, no leading dot, no byte that an S3
/// server or a shell treats in a way of its own.
pub fn escape(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(char::from(byte));
        } else {
            out.push('=');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 0xf)]));
        }
    }
    out
}

/// The reverse of [`escape`]; `None` for text that [`escape`] would never have written.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'=' {
            let (digits, after) = tail.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    let plain = String::from_utf8(bytes).ok()?;
    (escape(&plain) == text).then_some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escaping_is_reversible_and_safe(text in "\\PC{0,30}") {
            let safe = escape(&text);
            prop_assert!(safe.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=".contains(&b)));
            prop_assert_eq!(unescape(&safe), Some(text));
        }

        #[test]
        fn only_canonical_escapes_are_read(text in "[A-Za-z0-9=_.-]{0,12}") {
            if let Some(plain) = unescape(&text) {
                prop_assert_eq!(escape(&plain), text);
            }
        }
    }

    #[test]
    fn hostile_names_become_one_segment() {
        assert_eq!(escape(".."), "=2E=2E");
        assert_eq!(escape("a/b"), "a=2Fb");
        assert_eq!(escape("@globals"), "=40globals");
        assert_eq!(unescape("=2e"), None, "lower-case digits are not canonical");
    }

    #[test]
    fn configured_names_are_restricted() {
        assert!("main-1_a".parse::<ServerName>().is_ok());
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
        }
    }
}
