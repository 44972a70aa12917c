//! Large objects that the role may not read.

use super::{by_a_superuser, counted, readable::read_all};
use crate::{
    domain::{
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::{Facts, READS_LARGE_OBJECTS},
};

/// pg_dump fails at the first of them.
pub(super) fn large_objects(facts: &Facts) -> Vec<Found> {
    let objects = &facts.large_objects;
    if objects.count == 0 {
        return Vec::new();
    }
    let role = text::pasted(&facts.role);
    let first: Vec<String> = objects.first.iter().map(ToString::to_string).collect();
    let first = first.join(", ");
    let more = objects.count.saturating_sub(objects.first.len() as u64);
    let all = counted(objects.count, "large object", "large objects");
    let which = if more == 0 { first.clone() } else { format!("{first} and {more} more") };
    let what = format!("role {role} may not read {all} of database {}: {which}", facts.database);
    let grant = if more == 0 {
        format!("GRANT SELECT ON LARGE OBJECT {first} TO {role};")
    } else {
        // For psql. Each statement names its objects one by one.
        format!(
            "SELECT 'GRANT SELECT ON LARGE OBJECT ' || oid || {} FROM pg_largeobject_metadata \\gexec",
            text::sql_literal(&format!(" TO {role}"))
        )
    };
    let for_all = if facts.version_num >= READS_LARGE_OBJECTS {
        read_all(facts)
    } else {
        format!(
            "Or, for all that there are and will be: ALTER ROLE {role} SET lo_compat_privileges = on;"
        )
    };
    let hint = format!("{grant} {for_all}");
    vec![Found::new(Severity::Critical, what, by_a_superuser(facts, &hint))]
}
