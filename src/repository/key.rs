//! What a key may look like. A store checks every key itself, so that no name from outside (a
//! manifest that somebody else wrote, say) leads out of its root.

use super::store::{StoreError, StoreErrorKind};

/// Longest segment: `NAME_MAX` of Linux's filesystems, in bytes.
pub const SEGMENT_MAX: usize = 255;

/// Whether `text` is one segment of a key: `[A-Za-z0-9=@._-]+` without a dot in front, at most
/// [`SEGMENT_MAX`] bytes.
pub fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"=@._-".contains(&b);
    (1..=SEGMENT_MAX).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
}

/// Whether `text` is a key: segments joined by `/`.
pub fn is_key(text: &str) -> bool {
    text.split('/').all(is_segment)
}

/// Refuses what is no key.
///
/// # Errors
/// [`StoreErrorKind::Refused`].
pub fn check(key: &str) -> Result<(), StoreError> {
    if is_key(key) {
        return Ok(());
    }
    let what = format!("{key:?} is not a key of this repository");
    Err(StoreError::bare(StoreErrorKind::Refused, what))
}

/// Whether `key` is `prefix` or lies below it; whole segments count, the empty prefix is above
/// everything.
pub fn is_under(key: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    match key.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_the_root_are_refused() {
        for bad in
            ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "a b", "é", "a\0"]
        {
            assert!(!is_key(bad), "{bad:?}");
            assert_eq!(check(bad).unwrap_err().kind, StoreErrorKind::Refused);
        }
        assert!(!is_key(&"x".repeat(SEGMENT_MAX + 1)));
        for good in ["a", "a/b.c", "@globals/=2E=2E/a-b_c", "a..b"] {
            assert!(is_key(good), "{good:?}");
        }
    }

    #[test]
    fn prefixes_count_whole_segments() {
        assert!(is_under("a/b/c", "a/b"));
        assert!(is_under("a/b/c", "a/b/"));
        assert!(is_under("a", ""));
        assert!(is_under("a", "a"));
        assert!(!is_under("a/bc", "a/b"));
        assert!(!is_under("a", "a/b"));
    }
}
