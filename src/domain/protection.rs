//! How much of a server's databases its jobs back up.

use serde::{Deserialize, Serialize};

use super::{
    name::DatabaseName,
    pattern::{Candidate, DatabasePatterns, Glob, noticed},
    scope::{Coverage, Scopes},
};

/// What one job backs up.
#[derive(Debug, Clone)]
pub struct Backed {
    pub patterns: DatabasePatterns,
    pub scopes: Scopes,
}

impl Backed {
    /// How much the job backs up of a database; nothing where it does not think of it. One that a job
    /// excludes was thought of, unless the job is for a few tables of others.
    fn coverage(&self, name: &DatabaseName) -> Option<Coverage> {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name.as_str()));
        if any(&self.patterns.exclude) {
            let thinks_of_all = self.scopes.general().coverage() > Coverage::Only;
            return thinks_of_all.then_some(Coverage::Whole);
        }
        any(&self.patterns.include).then(|| self.scopes.of(name).coverage())
    }
}

/// A database of which no job backs up everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPart {
    pub database: DatabaseName,
    pub coverage: Coverage,
}

/// The databases that are not backed up whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// Those that no job thinks of: none backs up anything of them, or excludes them.
    pub none: Vec<DatabaseName>,
    pub in_part: Vec<InPart>,
}

impl Protection {
    /// Holds the databases of a server against all jobs that back it up.
    pub fn of(candidates: &[Candidate], jobs: &[Backed]) -> Self {
        let mut found = Self::default();
        for name in noticed(candidates) {
            match jobs.iter().filter_map(|job| job.coverage(name)).max() {
                None => found.none.push(name.clone()),
                Some(Coverage::Whole) => {}
                Some(coverage) => found.in_part.push(InPart { database: name.clone(), coverage }),
            }
        }
        found
    }

    /// How many are backed up to that degree.
    pub fn count(&self, coverage: Coverage) -> usize {
        self.in_part.iter().filter(|it| it.coverage == coverage).count()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            pattern::Access,
            scope::{Own, Scope},
        },
        *,
    };

    fn candidate(name: &str, access: Access) -> Candidate {
        Candidate { name: name.parse().unwrap(), access }
    }

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn job(include: &[&str], exclude: &[&str], scopes: Scopes) -> Backed {
        let patterns = DatabasePatterns { include: globs(include), exclude: globs(exclude) };
        Backed { patterns, scopes }
    }

    fn only() -> Scope {
        Scope { tables: vec!["a.b".parse().unwrap()], ..Scope::default() }
    }

    fn all_but() -> Scope {
        Scope { exclude_table_data: vec!["a.b".parse().unwrap()], ..Scope::default() }
    }

    fn in_part(found: &Protection) -> Vec<(&str, Coverage)> {
        found.in_part.iter().map(|it| (it.database.as_str(), it.coverage)).collect()
    }

    #[test]
    fn what_no_pattern_thinks_of_is_unprotected() {
        let candidates = [
            candidate("app", Access::Open),
            candidate("new", Access::Open),
            candidate("scratch", Access::Open),
            candidate("template0", Access::Open),
            candidate("template1", Access::Open),
            candidate("closed", Access::Closed),
            candidate("half", Access::HalfDropped),
        ];
        let nightly = job(&["app"], &["scratch"], Scopes::default());
        let found = Protection::of(&candidates, std::slice::from_ref(&nightly));
        assert_eq!(found.none, ["new".parse().unwrap()]);
        let all = job(&["*"], &[], Scopes::default());
        assert_eq!(Protection::of(&candidates, &[nightly, all]), Protection::default());
    }

    #[test]
    fn a_part_is_neither_nothing_nor_everything() {
        let candidates = ["app", "crm", "shop"].map(|name| candidate(name, Access::Open));
        let own = Own { pattern: "shop".parse().unwrap(), scope: all_but() };
        let nightly = job(&["*"], &[], Scopes::new(Scope::default(), vec![own]));
        let found = Protection::of(&candidates, std::slice::from_ref(&nightly));
        assert_eq!(in_part(&found), [("shop", Coverage::AllBut)]);
        assert!(found.none.is_empty());

        let lookups = job(&["app", "shop"], &["crm"], Scopes::new(only(), Vec::new()));
        let found = Protection::of(&candidates, std::slice::from_ref(&lookups));
        assert_eq!(in_part(&found), [("app", Coverage::Only), ("shop", Coverage::Only)]);
        assert_eq!(found.none, ["crm".parse().unwrap()], "a job for a few tables excludes nothing");
        let found = Protection::of(&candidates, &[lookups, nightly]);
        assert_eq!(in_part(&found), [("shop", Coverage::AllBut)], "the best of all jobs");
        assert_eq!((found.count(Coverage::AllBut), found.count(Coverage::Only)), (1, 0));

        let everywhere = job(&["*"], &["crm"], Scopes::new(all_but(), Vec::new()));
        let found = Protection::of(&candidates, &[everywhere]);
        assert_eq!(in_part(&found), [("app", Coverage::AllBut), ("shop", Coverage::AllBut)]);
        assert!(found.none.is_empty(), "crm was thought of");
    }
}
