//! The hashes of passwords, for the globals.

use crate::{
    domain::{
        finding::{Found, Severity},
        text,
    },
    postgres::preflight::GlobalsFacts,
};

/// pg_dumpall fails at `pg_authid`.
pub(super) fn passwords(facts: &GlobalsFacts) -> Vec<Found> {
    let Some(why) = facts.passwords_refused.as_ref().filter(|_| facts.passwords_wanted) else {
        return Vec::new();
    };
    let role = text::pasted(&facts.role);
    let what = format!("role {role} may not read the passwords of roles (pg_authid): {why}");
    let hint = match facts.service {
        Some(service) => format!(
            "{} keeps them to itself: set role_passwords = false in the job; restored roles then have \
             no passwords",
            service.name
        ),
        None => format!(
            "as a superuser, in database {}: GRANT SELECT ON pg_authid TO {role}; or set \
             role_passwords = false in the job, and restored roles have no passwords",
            facts.database
        ),
    };
    vec![Found::new(Severity::Critical, what, hint)]
}
