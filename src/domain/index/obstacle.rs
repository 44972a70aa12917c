//! What PostgreSQL will not do with an index, said before it is asked.

use crate::domain::failure::Class;

use super::Index;

/// What PostgreSQL will not do, when it is asked to rebuild the index so.
pub(super) fn obstacle(index: &Index, concurrently: bool) -> Option<(Class, String, String)> {
    let configuration =
        |why: &str, hint: &str| Some((Class::Configuration, why.to_owned(), hint.to_owned()));
    let otherwise = "rebuild it in a job with concurrently = false, which locks its table";
    if index.temporary {
        return configuration("its table is temporary", "it goes with its session: leave it out");
    }
    if index.system && concurrently {
        let why = "indexes of the system catalogue cannot be rebuilt CONCURRENTLY";
        return configuration(why, otherwise);
    }
    if index.exclusion && concurrently {
        let why = "the index of an exclusion constraint cannot be rebuilt CONCURRENTLY";
        return configuration(why, otherwise);
    }
    if index.toast && !index.valid {
        let why = "an invalid index of a TOAST table cannot be rebuilt";
        return configuration(
            why,
            "look whether the table's other TOAST index is valid, and drop \
                                   this one",
        );
    }
    (!index.permitted).then(|| {
        let why = format!("the role may not rebuild indexes of {}", index.table_name);
        let hint = "name a role as maintenance_user that owns the table or is a member of its \
                    owner; from PostgreSQL 17 on, pg_maintain will do";
        (Class::Privilege, why, hint.to_owned())
    })
}
