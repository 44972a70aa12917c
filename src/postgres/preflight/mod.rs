//! What the role of a session would meet if pg_dump ran as it: facts, asked in a few statements of the
//! catalogue, whose answers are bounded.
//!
//! They follow what pg_dump itself does (src/bin/pg_dump in PostgreSQL's source, versions 11 to 19):
//! which relations it locks and reads, which it leaves alone (those of extensions, but for their
//! configuration tables; all in schemas that begin with `pg_`, so that other sessions' temporary tables
//! are not among them), and what it leaves out without failing. What goes away between our look and
//! pg_dump's does no harm: a right on what is gone is unknown, and then not missing.
//!
//! What can still go wrong: rights that are taken away in between (pg_dump then fails by itself); a role
//! that a pg_dump before version 15 asks for a lock on tables of extensions.

mod read;
mod service;

pub use self::{
    read::{globals, hides_damage, read},
    service::Service,
};
use crate::domain::{relation::RelationName, scope::Scope};

/// A name as a statement has it: quoted where it must be.
pub type Ident = String;

/// What the role of a session would meet in its database.
#[expect(clippy::struct_excessive_bools, reason = "facts, each of which is asked by itself")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub version_num: u32,
    pub database: Ident,
    pub role: Ident,
    /// Whether it is a superuser: nothing is kept from it.
    pub superuser: bool,
    pub role_limit: Option<i32>,
    pub database_limit: Option<i32>,
    /// Whether it is the maintenance database, in which the watching session is.
    pub is_maintenance: bool,
    /// `lc_messages` of its sessions, where that is not English.
    pub language: Option<String>,
    /// What it has of `pg_read_all_data`.
    pub read_all: ReadAll,
    /// Whether it may not export a snapshot: somebody took the function from PUBLIC.
    pub lacks_export: bool,
    /// Tables and sequences that it may not read, by schema and name.
    pub unreadable: Vec<Relation>,
    pub row_security: Vec<Relation>,
    pub large_objects: LargeObjects,
    /// User mappings whose options it may not see.
    pub user_mappings: Vec<UserMapping>,
    /// Whether the options of those mappings are known to be there; else they may be.
    pub mappings_are_certain: bool,
    /// Subscriptions of the database, where pg_dump would leave them out.
    pub subscriptions: Vec<Ident>,
    /// Whether there are some that are not to be dumped anyway: pg_dump warns of them all the same,
    /// whatever is selected (`getSubscriptions`).
    pub subscriptions_beside: bool,
    pub foreign_tables: Vec<RelationName>,
    pub service: Option<Service>,
}

/// What a role has of `pg_read_all_data` (14+).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadAll {
    /// It is no member.
    #[default]
    None,
    /// It is a member, and does not inherit: its sessions have no right by that.
    NotInherited,
    /// It has its rights.
    Held,
}

impl ReadAll {
    /// From what `pg_has_role` says: whether the role is a member, and whether it has the rights.
    pub const fn new(is_member: bool, has_rights: bool) -> Self {
        match (is_member, has_rights) {
            (_, true) => Self::Held,
            (true, false) => Self::NotInherited,
            (false, false) => Self::None,
        }
    }

    /// Whether large objects can be read by it, on a server of that version: since 19
    /// (`pg_largeobject_aclmask_snapshot` in aclchk.c).
    pub fn reads_large_objects(self, version_num: u32) -> bool {
        self == Self::Held && version_num >= READS_LARGE_OBJECTS
    }
}

/// Since that server version `pg_read_all_data` reads large objects.
pub const READS_LARGE_OBJECTS: u32 = 190_000;

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Table,
    Sequence,
}

/// A table or a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    /// The schema's name for a statement.
    pub schema_ident: Ident,
    /// Schema and name for a statement.
    pub ident: Ident,
    pub kind: Kind,
    pub lacks_usage: bool,
    pub lacks_select: bool,
    /// Whether the role owns it, by itself or as a member of the owner.
    pub owned: bool,
}

/// Large objects that may not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LargeObjects {
    pub count: u64,
    /// The ids of the first.
    pub first: Vec<u32>,
}

/// A user mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMapping {
    pub server: Ident,
    /// Whom it is for: a role, or PUBLIC.
    pub user: Ident,
}

impl Facts {
    /// The connections that a dump cannot do without: the one that exports the snapshot, and pg_dump's.
    pub const CONNECTIONS: i32 = 2;

    /// Whether a session beside these two, which watches whom they hold up, would have no connection, or take
    /// pg_dump's.
    pub fn has_no_room_to_watch(&self) -> bool {
        let is_tight = |limit: Option<i32>| limit == Some(Self::CONNECTIONS);
        let in_database = self.is_maintenance && is_tight(self.database_limit);
        !self.superuser && (is_tight(self.role_limit) || in_database)
    }

    /// What of it concerns a dump of that scope, which is to have the names of all partitions: what is not dumped need not be readable. A sequence
    /// that pg_dump takes along with a selected table is not seen here; pg_dump fails at it by itself.
    #[must_use]
    pub fn within(mut self, scope: &Scope) -> Self {
        let taken = |it: &Relation| scope.takes(&it.schema, &it.name);
        // Tables are locked for definitions, too, which takes SELECT.
        self.unreadable.retain(|it| taken(it) && (scope.has_data() || it.kind == Kind::Table));
        self.row_security.retain(|it| scope.takes_data(&it.schema, &it.name));
        if !scope.has_large_objects() {
            self.large_objects = LargeObjects::default();
        }
        if !(scope.has_definitions() && scope.has_what_is_in_no_schema()) {
            self.user_mappings.clear();
            self.subscriptions_beside |= !self.subscriptions.is_empty();
            self.subscriptions.clear();
        }
        if scope.options.iter().any(|option| option == "--no-subscriptions") {
            self.subscriptions.clear();
        }
        self.foreign_tables.retain(|it| scope.takes_data(&it.schema, &it.name));
        self
    }
}

/// What the role of a session would meet when it dumps the globals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GlobalsFacts {
    pub database: Ident,
    pub role: Ident,
    pub passwords_wanted: bool,
    /// Why the hashes of passwords cannot be read; none: they can.
    pub passwords_refused: Option<String>,
    pub service: Option<Service>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::Contents;

    fn relation(schema: &str, name: &str, kind: Kind) -> Relation {
        Relation {
            schema: schema.to_owned(),
            name: name.to_owned(),
            schema_ident: schema.to_owned(),
            ident: format!("{schema}.{name}"),
            kind,
            lacks_usage: false,
            lacks_select: true,
            owned: false,
        }
    }

    #[test]
    fn what_is_not_taken_need_not_be_readable() {
        let facts = Facts {
            unreadable: vec![
                relation("a", "t", Kind::Table),
                relation("a", "s", Kind::Sequence),
                relation("b", "t", Kind::Table),
            ],
            row_security: vec![relation("a", "t", Kind::Table)],
            large_objects: LargeObjects { count: 1, first: vec![7] },
            user_mappings: vec![UserMapping { server: "s".into(), user: "u".into() }],
            subscriptions: vec!["s".into()],
            foreign_tables: vec![RelationName { schema: "a".into(), name: "f".into() }],
            ..Facts::default()
        };
        assert_eq!(facts.clone().within(&Scope::default()), facts);
        let some = Scope { schemas: vec!["a".parse().unwrap()], ..Scope::default() };
        let of_a = facts.clone().within(&some);
        assert_eq!((of_a.unreadable.len(), of_a.row_security.len()), (2, 1));
        assert_eq!((of_a.large_objects.count, of_a.user_mappings.len()), (0, 0));
        assert!(of_a.subscriptions.is_empty());
        assert_eq!(of_a.foreign_tables.len(), 1, "its definition is in it, and its rows are not");
        let other = Scope { schemas: vec!["b".parse().unwrap()], ..Scope::default() };
        assert!(facts.clone().within(&other).foreign_tables.is_empty());
        let definition = vec!["a.t".parse().unwrap()];
        let empty = Scope { exclude_table_data: definition, ..Scope::default() };
        let of_empty = facts.clone().within(&empty);
        assert_eq!((of_empty.unreadable.len(), of_empty.row_security.len()), (3, 0));
        let only = |contents| Scope { contents, ..Scope::default() };
        let schema = facts.clone().within(&only(Contents::Schema));
        assert_eq!((schema.unreadable.len(), schema.row_security.len()), (2, 0));
        assert_eq!((schema.large_objects.count, schema.subscriptions.len()), (0, 1));
        let data = facts.within(&only(Contents::Data));
        assert_eq!((data.large_objects.count, data.subscriptions.len()), (1, 0));
        assert!(data.subscriptions_beside, "pg_dump is told to leave them out");
    }
}
