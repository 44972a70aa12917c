//! What a person can do about an index that is not whole and that nobody asked to have rebuilt.

use crate::domain::{failure::Class, finding::CheckName};

use super::{Index, obstacle::obstacle, refusal};

/// The finding about such an index.
pub(super) const INVALID: CheckName = CheckName("invalid-index");

/// What is wrong with an index.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: &'static str,
    pub(super) hint: String,
}

/// An index that is not whole, on a server of that version.
pub(super) fn trouble(index: &Index, version_num: u32) -> Trouble {
    if index.live {
        let what = "it is invalid: no query uses it, and every write to its table pays for it";
        return Trouble { what, hint: rebuild(index, version_num) };
    }
    Trouble {
        what: "it is half dropped: a DROP INDEX CONCURRENTLY was interrupted",
        hint: format!("DROP INDEX CONCURRENTLY {}", index.sql_name()),
    }
}

/// A partitioned index without all its parts.
pub(super) fn unattached(index: &Index) -> Trouble {
    Trouble {
        what: "not every partition has an index that is attached to it",
        hint: format!(
            "make what is missing, and ALTER INDEX {} ATTACH PARTITION …; REINDEX does not",
            index.sql_name()
        ),
    }
}

/// How it can be rebuilt: CONCURRENTLY only where the server does that, and does it well.
fn rebuild(index: &Index, version_num: u32) -> String {
    // Who runs the statement need not be our role: what that may not do is no obstacle.
    let obstacle = |concurrently| {
        obstacle(index, concurrently).filter(|(class, ..)| *class != Class::Privilege)
    };
    if let Some((_, _, hint)) = obstacle(false) {
        return hint;
    }
    let label = index.sql_name();
    let refused = refusal(version_num, true).map(|(why, _)| why.to_owned());
    match refused.or_else(|| obstacle(true).map(|(_, why, _)| why)) {
        None => format!(
            "REINDEX INDEX CONCURRENTLY {label}, or drop it; a job with invalid = true does the \
             former"
        ),
        Some(why) => format!(
            "REINDEX INDEX {label}, which locks the table against writes, and most queries wait as \
             well ({why}); a job with invalid = true and concurrently = false does the same"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::invalid, *};

    #[test]
    fn a_hint_asks_for_nothing_that_the_server_cannot_or_must_not_do() {
        let plain = || invalid(1, "a", "i");
        let with = |change: fn(&mut Index)| {
            let mut index = plain();
            change(&mut index);
            index
        };
        let (concurrent, locking) =
            ("REINDEX INDEX CONCURRENTLY \"public\".\"a\",", "REINDEX INDEX \"public\".\"a\",");
        let cases = [
            (plain(), 150_018, concurrent),
            (plain(), 120_000, concurrent),
            (plain(), 140_004, concurrent),
            (with(|it| it.permitted = false), 150_018, concurrent),
            (plain(), 110_022, locking),
            (plain(), 140_000, locking),
            (plain(), 140_003, locking),
            (with(|it| it.exclusion = true), 150_018, locking),
            (with(|it| it.system = true), 150_018, locking),
            (with(|it| it.toast = true), 150_018, "look whether the table's other TOAST index"),
            (with(|it| it.temporary = true), 150_018, "it goes with its session"),
            (with(|it| it.live = false), 150_018, "DROP INDEX CONCURRENTLY \"public\".\"a\""),
        ];
        for (index, version, begin) in cases {
            let hint = trouble(&index, version).hint;
            assert!(hint.starts_with(begin), "{version} {index:?}: {hint}");
            let locks = hint.contains("locks the table") && hint.contains("concurrently = false");
            assert_eq!(locks, begin == locking, "{hint}");
        }
    }
}
