//! Indexes as the catalogue has them, what goes on round them, what a build leaves behind, and the
//! plan of what is to be done with each. Pure: facts in, decisions out.

mod debris;
mod obstacle;
mod plan;
mod trouble;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::text;

pub use debris::{Debris, DropDebris, debris};
pub use plan::{Action, DEBRIS, Planned, Wishes, plan, refusal};

/// An index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "these are columns of pg_index")]
pub struct Index {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub table: u32,
    /// The table's name with its schema, for people.
    pub table_name: String,
    /// Whether it is a partitioned index, which has no storage of its own.
    pub partitioned: bool,
    /// The partitioned index that it is a part of.
    pub parent: Option<u32>,
    /// `indisvalid`: queries may use it.
    pub valid: bool,
    /// `indisready`: writes keep it up to date.
    pub ready: bool,
    /// `indislive`: it is not being dropped.
    pub live: bool,
    pub primary: bool,
    pub exclusion: bool,
    pub replica_identity: bool,
    pub temporary: bool,
    pub toast: bool,
    pub system: bool,
    pub permitted: bool,
    /// Its size by the last VACUUM or ANALYZE, in bytes: reading the real one takes a lock.
    pub bytes: u64,
    /// What it indexes and how, as the catalogue has it, without any name: two of the same
    /// definition index the same in the same way.
    pub definition: String,
}

impl Index {
    /// `schema.name`, for people and for patterns.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The same for a statement that a person is to run.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", text::sql_ident(&self.schema), text::sql_ident(&self.name))
    }

    /// Whether it is whole: usable for queries, kept up to date, not being dropped.
    pub fn is_whole(&self) -> bool {
        self.valid && self.ready && self.live
    }
}

/// A build that this host started. Written down before it starts and forgotten once nothing of it
/// is left: whoever finds debris can say whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub system_id: u64,
    /// The database's oid: names come again.
    pub database: u32,
    pub table: u32,
    /// The oid of the index before the build; `_ccold` keeps it.
    pub index: u32,
    pub schema: String,
    pub name: String,
    /// The oids of all indexes that the table had before: none of these is the build's `_ccnew`.
    pub known: BTreeSet<u32>,
    pub started_at: Timestamp,
}

/// What other sessions are doing in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Tables of which an index is being built, rebuilt or dropped, each with the process.
    pub building: Vec<(u32, i32)>,
    /// Tables that are being vacuumed against wraparound, each with the process.
    pub wraparound: Vec<(u32, i32)>,
    pub dumps: Vec<String>,
    /// Whether our role sees what the sessions of other roles do.
    pub sees_all: bool,
}

impl Activity {
    /// Whether an index of the table is being built, rebuilt or dropped.
    pub fn is_building(&self, table: u32) -> bool {
        self.building.iter().any(|(relation, _)| *relation == table)
    }

    /// Why a build on the table is better left for another time.
    pub fn hindrance(&self, table: u32) -> Option<String> {
        let on_table = |list: &[(u32, i32)]| {
            list.iter().find(|(relation, _)| *relation == table).map(|(_, pid)| *pid)
        };
        if let Some(pid) = on_table(&self.building) {
            return Some(format!(
                "deferred: process {pid} builds, rebuilds or drops an index of the same table"
            ));
        }
        if let Some(pid) = on_table(&self.wraparound) {
            return Some(format!(
                "deferred: process {pid} vacuums the table to prevent wraparound, and does not \
                 give way"
            ));
        }
        self.dumps.first().map(|who| {
            format!("deferred: {who} dumps the database, and a build would wait for its snapshot")
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A whole index of table 1.
    pub(in crate::domain) fn index(oid: u32, name: &str, definition: &str) -> Index {
        Index {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            table: 1,
            table_name: "public.t".to_owned(),
            valid: true,
            ready: true,
            live: true,
            permitted: true,
            definition: definition.to_owned(),
            ..Index::default()
        }
    }

    /// The same, left behind before it was valid.
    pub(in crate::domain) fn invalid(oid: u32, name: &str, definition: &str) -> Index {
        Index { valid: false, ready: false, ..index(oid, name, definition) }
    }

    #[test]
    fn what_others_do_with_the_table_hinders() {
        let mut activity = Activity { sees_all: true, ..Activity::default() };
        assert_eq!(activity.hindrance(1), None);
        activity.building.push((2, 22));
        activity.wraparound.push((3, 33));
        assert_eq!(activity.hindrance(1), None);
        assert!(activity.hindrance(2).unwrap().contains("22"));
        assert!(activity.hindrance(3).unwrap().contains("wraparound"));
        activity.dumps.push("process 44".to_owned());
        assert!(activity.hindrance(1).unwrap().contains("process 44 dumps"));
    }
}
