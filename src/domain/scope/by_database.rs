//! What is dumped of each database of a job: one scope for all, or scopes of their own for some.

use super::{super::name::DatabaseName, Glob, Scope};

/// A scope that holds for some databases alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub pattern: Glob,
    pub scope: Scope,
}

/// What is dumped of each database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes {
    general: Scope,
    own: Vec<Own>,
}

impl Scopes {
    /// `general` where nothing of `own` holds. A full name goes before patterns, and of patterns the
    /// first that matches.
    pub const fn new(general: Scope, own: Vec<Own>) -> Self {
        Self { general, own }
    }

    /// What is dumped of a database.
    pub fn of(&self, database: &DatabaseName) -> &Scope {
        let name = database.as_str();
        let named = self.own.iter().find(|own| own.pattern.literal().as_deref() == Some(name));
        let matched = || self.own.iter().find(|own| own.pattern.matches(name));
        named.or_else(matched).map_or(&self.general, |own| &own.scope)
    }

    /// What is dumped of databases that have nothing of their own.
    pub const fn general(&self) -> &Scope {
        &self.general
    }

    /// What holds for some databases alone.
    pub fn own(&self) -> &[Own] {
        &self.own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_patterns_and_of_patterns_the_first() {
        let own = |pattern: &str, table: &str| Own {
            pattern: pattern.parse().unwrap(),
            scope: Scope { exclude_table_data: vec![table.parse().unwrap()], ..Scope::default() },
        };
        let all = vec![own("shop_*", "a.a"), own("*", "b.b"), own("shop_eu", "c.c")];
        let scopes = Scopes::new(Scope::default(), all);
        for (database, table) in [("shop_eu", "c.c"), ("shop_us", "a.a"), ("crm", "b.b")] {
            let found = scopes.of(&database.parse().unwrap());
            assert_eq!(found.exclude_table_data[0].to_string(), table, "{database}");
        }
        let some = Scopes::new(Scope::default(), vec![own("shop", "a.a")]);
        assert!(some.of(&"crm".parse().unwrap()).is_whole(), "all others stay whole");
        assert!(!some.of(&"shop".parse().unwrap()).is_whole());
    }
}
