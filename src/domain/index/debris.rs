//! What an interrupted REINDEX CONCURRENTLY leaves behind, and what proves it.
//!
//! PostgreSQL builds the new index as `NAME_ccnew`, swaps the names, and drops the old one, by then
//! `NAME_ccold`; a number follows where that name is taken. An interrupted build leaves one of them
//! behind, invalid. `_ccnew` is of no use; with `_ccold` the rebuild is done but for the drop. Both
//! cost every write to the table as long as they are there.
//!
//! The name alone proves nothing: it is anybody's to give. What can still go wrong: somebody else
//! rebuilds the index that a record of ours names, is interrupted as well, and we drop what that
//! left behind; it is as useless as ours would be.

use super::{Build, Index};

/// Longest name of a server, in bytes (NAMEDATALEN - 1; pg_config_manual.h).
const NAME_MAX: usize = 63;

/// Which of the two a name tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// `_ccnew`
    New,
    /// `_ccold`
    Old,
}

/// Which debris may be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DropDebris {
    None,
    /// What builds left behind that this host has started.
    #[default]
    Own,
    /// What belongs to an index of the same table with the same definition, whoever built it.
    Matching,
}

/// An invalid index that looks as if an interrupted rebuild had left it behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debris<'a> {
    pub index: &'a Index,
    /// The index that was being rebuilt: of the same table and schema, of the same definition, and
    /// of the name that the debris' own comes from.
    pub base: Option<&'a Index>,
    half: Half,
}

/// What the index is the debris of, where it looks like debris. `all`: at least the indexes of the
/// same table.
pub fn debris<'a>(index: &'a Index, all: &'a [Index]) -> Option<Debris<'a>> {
    if index.valid || index.partitioned {
        return None;
    }
    let (_, _, half) = parts(&index.name)?;
    let is_base = |base: &&Index| {
        base.oid != index.oid
            && (base.table, &base.schema) == (index.table, &index.schema)
            && (half == Half::New || base.is_whole())
            && comes_from(&index.name, &base.name)
            && base.definition == index.definition
    };
    Some(Debris { index, base: all.iter().find(is_base), half })
}

impl Debris<'_> {
    /// Why it may be dropped, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn may_be_dropped(
        &self,
        policy: DropDebris,
        builds: &[Build],
    ) -> Result<String, &'static str> {
        let Some(base) = self.base else {
            return Err("its table has no index of that name with the same definition");
        };
        let own = builds.iter().any(|build| self.is_of(build));
        let built = match self.half {
            Half::New => "left behind by an interrupted build of",
            Half::Old => "the old copy, left behind by a rebuild of",
        };
        match policy {
            DropDebris::None => Err("drop_debris = \"none\" forbids it"),
            DropDebris::Own | DropDebris::Matching if own => {
                Ok(format!("{built} {}, which pgkeep started", base.label()))
            }
            DropDebris::Matching => Ok(format!("{built} {}", base.label())),
            DropDebris::Own => Err("pgkeep has no record of having started that build"),
        }
    }

    /// Whether that build left it behind.
    pub fn is_of(&self, build: &Build) -> bool {
        let index = self.index;
        let same_place = (build.table, &build.schema) == (index.table, &index.schema)
            && comes_from(&index.name, &build.name);
        same_place
            && match self.half {
                Half::New => !build.known.contains(&index.oid),
                Half::Old => build.index == index.oid,
            }
    }
}

/// The name before the suffix, the longest that may stand there in bytes, and which half it is.
fn parts(name: &str) -> Option<(&str, usize, Half)> {
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let (stem, half) = match plain.strip_suffix("_ccnew") {
        Some(stem) => (stem, Half::New),
        None => (plain.strip_suffix("_ccold")?, Half::Old),
    };
    let suffix = name.len() - stem.len();
    (!stem.is_empty()).then_some((stem, NAME_MAX.saturating_sub(suffix), half))
}

/// Whether `name` is what the server would make of `base`. A base that is too long is cut off
/// before a character that does not fit (makeObjectName in indexcmds.c). In an encoding other than
/// UTF-8 characters are shorter there than here: then more is taken for cut off.
fn comes_from(name: &str, base: &str) -> bool {
    let Some((stem, room, _)) = parts(name) else { return false };
    match base.strip_prefix(stem).map(|rest| rest.chars().next()) {
        None => false,
        Some(None) => true,
        Some(Some(next)) => stem.len() + next.len_utf8() > room,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{
        super::tests::{index, invalid},
        *,
    };

    fn build(oid: u32, name: &str) -> Build {
        Build {
            system_id: 7,
            database: 5,
            table: 1,
            index: oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            known: BTreeSet::from([oid]),
            started_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn names_tell_what_was_being_rebuilt() {
        let long = "x".repeat(63);
        let cut = |suffix: &str| format!("{}{suffix}", "x".repeat(63 - suffix.len()));
        let elephants = "🐘".repeat(15);
        let cases = [
            ("a_ccnew", "a", true),
            ("a_ccold", "a", true),
            ("a_ccnew1", "a", true),
            ("a_ccnew12", "a", true),
            ("a1_ccnew", "a", false),
            ("a_ccnew", "ab", false),
            ("a_ccnewx", "a", false),
            ("a_ccnew", "a_ccnew", false),
            ("a_ccnew_ccnew", "a_ccnew", true),
            ("_ccnew", "", false),
            (&cut("_ccnew"), &long, true),
            (&cut("_ccold3"), &long, true),
            (&cut("_ccnew")[1..], &long, false),
            // 60 bytes; 57 have room, and so 14 elephants.
            (&format!("{}_ccnew", "🐘".repeat(14)), &elephants, true),
            (&format!("{}_ccnew", "🐘".repeat(13)), &elephants, false),
        ];
        for (name, base, expected) in cases {
            assert_eq!(comes_from(name, base), expected, "{name} {base}");
        }
    }

    #[test]
    fn only_what_is_proven_may_be_dropped() {
        let base = index(10, "a", "i");
        let new = invalid(11, "a_ccnew", "i");
        let all = [base.clone(), new.clone()];
        let found = debris(&new, &all).unwrap();
        assert_eq!(found.base, Some(&base));
        let may = |builds: &[Build], policy| found.may_be_dropped(policy, builds).is_ok();
        let ours = [build(10, "a")];
        assert!(may(&ours, DropDebris::Own) && may(&ours, DropDebris::Matching));
        assert!(!may(&ours, DropDebris::None));
        assert!(!may(&[], DropDebris::Own) && may(&[], DropDebris::Matching));
        assert!(!may(&[build(10, "b")], DropDebris::Own));
        // It was there before: not ours.
        let known = Build { known: BTreeSet::from([10, 11]), ..build(10, "a") };
        assert!(!may(&[known], DropDebris::Own));
        let elsewhere = Build { table: 2, ..build(10, "a") };
        assert!(!may(&[elsewhere], DropDebris::Own));
    }

    #[test]
    fn the_old_copy_is_known_by_its_oid() {
        let base = index(12, "a", "i");
        let old = invalid(10, "a_ccold", "i");
        let all = [base, old.clone()];
        let found = debris(&old, &all).unwrap();
        assert!(found.may_be_dropped(DropDebris::Own, &[build(10, "a")]).is_ok());
        assert!(found.may_be_dropped(DropDebris::Own, &[build(9, "a")]).is_err());
        // Without a whole index of that name nothing has taken its place.
        let all = [invalid(12, "a", "i"), old.clone()];
        assert_eq!(debris(&old, &all).unwrap().base, None);
    }

    #[test]
    fn what_only_looks_like_debris_is_never_dropped() {
        let new = invalid(11, "a_ccnew", "i");
        let other_table = Index { table: 2, ..index(10, "a", "i") };
        let other_schema = Index { schema: "x".to_owned(), ..index(10, "a", "i") };
        for base in [index(10, "a", "j"), index(10, "b", "i"), other_table, other_schema] {
            let all = [base, new.clone()];
            let found = debris(&new, &all).unwrap();
            assert_eq!(found.base, None);
            for policy in [DropDebris::Own, DropDebris::Matching] {
                assert!(found.may_be_dropped(policy, &[build(10, "a")]).is_err());
            }
        }
        let valid = index(11, "a_ccnew", "i");
        assert_eq!(debris(&valid, &[index(10, "a", "i")]), None, "somebody named it so");
        assert_eq!(debris(&invalid(11, "a", "i"), &[]), None);
    }

    proptest! {
        #[test]
        fn what_the_server_makes_of_a_name_is_recognised(
            base in "[a-z🐘é\"_0-9]{1,63}",
            old: bool,
            number in 0u32..30,
        ) {
            let fits = |text: &str, room: usize| text.floor_char_boundary(room.min(text.len()));
            let base = &base[..fits(&base, NAME_MAX)];
            let label = format!(
                "{}{}",
                if old { "ccold" } else { "ccnew" },
                if number == 0 { String::new() } else { number.to_string() }
            );
            let stem = &base[..fits(base, NAME_MAX - label.len() - 1)];
            let made = format!("{stem}_{label}");
            prop_assert!(made.len() <= NAME_MAX);
            prop_assert!(comes_from(&made, base), "{made} {base}");
        }
    }
}
