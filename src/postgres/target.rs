//! `target_session_attrs`: which of several hosts is the right one. As in libpq 14 and newer, whatever
//! the server's version, which is asked in words that all of them know.

use super::{PgError, params::SpecError};
use crate::domain::failure::Class;

/// What a session has to be of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Target {
    /// Whatever answers.
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby; where there is none among the hosts, whatever answers.
    PreferStandby,
}

/// What is asked of the server.
pub(super) const QUESTION: &str = "SELECT pg_catalog.concat(pg_catalog.pg_is_in_recovery(), ' ', \
     pg_catalog.current_setting('default_transaction_read_only'))";

impl Target {
    const ALL: [(&'static str, Self); 6] = [
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// Reads libpq's name for it.
    pub(super) fn parse(text: &str) -> Result<Self, SpecError> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, target)| target).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            SpecError::new(format!("target_session_attrs {text:?} does not exist"))
                .hint(format!("use one of: {names}"))
        })
    }

    /// What is looked for among all hosts, one after the other.
    pub(super) const fn passes(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Why a server in this state is not the right one; nothing where it is.
    pub(super) const fn refuses(self, in_recovery: bool, read_only: bool) -> Option<&'static str> {
        match self {
            Self::ReadWrite if in_recovery || read_only => Some("it is read-only"),
            Self::ReadOnly if !in_recovery && !read_only => Some("it is not read-only"),
            Self::Primary if in_recovery => Some("it is in hot standby mode"),
            Self::Standby if !in_recovery => Some("it is not in hot standby mode"),
            _ => None,
        }
    }

    /// The error for such a server.
    pub(super) fn error(self, at: &dyn std::fmt::Display, why: &str) -> PgError {
        let names = Self::ALL.into_iter().find(|(_, target)| *target == self);
        let name = names.map_or("any", |(name, _)| name);
        let what = format!("the server at {at} is not what target_session_attrs asks for: {why}");
        PgError::new(Class::Connection, what).with_hint(format!(
            "`host` names no other that is {name}: name all hosts of the cluster"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_libpq() {
        for (name, target) in Target::ALL {
            assert_eq!(Target::parse(name).unwrap(), target);
        }
        let error = Target::parse("master").unwrap_err();
        assert!(error.hint.unwrap().contains("standby, prefer-standby"));
    }

    #[test]
    fn each_server_is_taken_by_those_that_libpq_lets_take_it() {
        use Target::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
        // (in recovery, read-only by default, who takes it)
        let cases: [(bool, bool, &[Target]); 4] = [
            (false, false, &[Any, ReadWrite, Primary]),
            (false, true, &[Any, ReadOnly, Primary]),
            (true, false, &[Any, ReadOnly, Standby]),
            (true, true, &[Any, ReadOnly, Standby]),
        ];
        for (in_recovery, read_only, takers) in cases {
            for (_, target) in Target::ALL.into_iter().filter(|it| it.1 != PreferStandby) {
                let takes = target.refuses(in_recovery, read_only).is_none();
                assert_eq!(takes, takers.contains(&target), "{target:?} {in_recovery} {read_only}");
            }
        }
        assert_eq!(PreferStandby.passes(), [Standby, Any]);
    }
}
