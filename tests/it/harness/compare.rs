//! Whether two databases are the same: what every test that dumps ends with.

use std::collections::BTreeSet;

use super::{
    postgres::{Cluster, conninfo},
    process::must,
};

const FINGERPRINT_SQL: &str = include_str!("../../../packaging/demo/fingerprint.sql");

/// What a database holds, as sets of lines: contents (tables, sequences, large objects, encoding
/// and locale) and definitions (`pg_dump --schema-only` without what changes by itself).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    contents: BTreeSet<String>,
    definitions: Vec<String>,
}

impl Fingerprint {
    /// Reads a database as superuser.
    #[track_caller]
    pub(crate) fn of(cluster: &Cluster, database: &str) -> Self {
        let contents = cluster.psql(database, FINGERPRINT_SQL);
        let mut dump = cluster.tool("pg_dump");
        let definitions = must(dump.args(["--schema-only", "-d", &conninfo(database)]));
        Self {
            contents: contents.lines().map(str::to_owned).collect(),
            definitions: definitions.lines().filter(|l| !is_noise(l)).map(str::to_owned).collect(),
        }
    }

    /// What differs, in lines for people; none where both are the same.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        found.extend(self.contents.difference(&other.contents).map(|l| format!("- {l}")));
        found.extend(other.contents.difference(&self.contents).map(|l| format!("+ {l}")));
        if self.definitions != other.definitions {
            let (a, b): (BTreeSet<&String>, BTreeSet<&String>) =
                (self.definitions.iter().collect(), other.definitions.iter().collect());
            found.push("the definitions differ, at least in their order:".to_owned());
            found.extend(a.difference(&b).map(|l| format!("- {l}")));
            found.extend(b.difference(&a).map(|l| format!("+ {l}")));
        }
        found
    }
}

/// Lines of a plain dump that change from one run to the next: comments (among them the versions
/// and the object ids) and the random key that guards the script (since 15.14, 16.10, 17.6).
fn is_noise(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("--")
        || line.starts_with("\\restrict ")
        || line.starts_with("\\unrestrict ")
}

/// What differs between two databases of a cluster; none where both are the same.
#[track_caller]
pub(crate) fn compare_databases(cluster: &Cluster, a: &str, b: &str) -> Vec<String> {
    Fingerprint::of(cluster, a).differences(&Fingerprint::of(cluster, b))
}

/// Panics with the differences where there are any.
#[track_caller]
pub(crate) fn assert_same(cluster: &Cluster, a: &str, b: &str) {
    let differences = compare_databases(cluster, a, b);
    assert!(differences.is_empty(), "{a:?} and {b:?} differ:\n{}", differences.join("\n"));
}
