//! What pg_dump leaves out, and succeeds.

use super::{counted, some};
use crate::{
    domain::{
        finding::{Found, Severity},
        manifest::LeftOut,
    },
    postgres::preflight::{Facts, UserMapping},
};

fn mappings(facts: &Facts) -> String {
    counted(facts.user_mappings.len() as u64, "user mapping", "user mappings")
}

fn named(mapping: &UserMapping) -> String {
    format!("{} on server {}", mapping.user, mapping.server)
}

/// What is missing where the options of user mappings are.
pub(super) fn missing_mappings(facts: &Facts) -> String {
    let names = some(facts.user_mappings.iter().map(named));
    format!("options of {}: {names}", mappings(facts))
}

/// The user mapping is dumped without its options, and nothing says so.
pub(super) fn user_mappings(facts: &Facts) -> Vec<Found> {
    if facts.user_mappings.is_empty() {
        return Vec::new();
    }
    let certain = if facts.mappings_are_certain { "" } else { ", should there be any" };
    let what = format!(
        "role {} may not see the options of {} of database {}{certain}: {}; pg_dump would leave them \
         out without a word",
        facts.role,
        mappings(facts),
        facts.database,
        some(facts.user_mappings.iter().map(named))
    );
    let hint = "dump as a superuser (`user` of the server), or leave them out: accept = \
                [\"user-mapping-options\"] in the job; note them elsewhere then";
    vec![Found::new(Severity::Critical, what, hint)]
}

/// What is missing where subscriptions are.
pub(super) fn missing_subscriptions(facts: &Facts) -> String {
    let count = facts.subscriptions.len() as u64;
    let names = some(&facts.subscriptions);
    format!("{}: {names}", counted(count, "subscription", "subscriptions"))
}

/// pg_dump warns, and goes on.
pub(super) fn subscriptions(facts: &Facts) -> Vec<Found> {
    if facts.subscriptions.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "database {} has {}, which pg_dump leaves out for role {}, since it is no superuser: {}",
        facts.database,
        counted(facts.subscriptions.len() as u64, "subscription", "subscriptions"),
        facts.role,
        some(&facts.subscriptions)
    );
    let hint = "dump as a superuser (`user` of the server), or leave them out: accept = \
                [\"subscriptions\"] in the job; note CREATE SUBSCRIPTION elsewhere then";
    vec![Found::new(Severity::Critical, what, hint)]
}

/// The rows of foreign tables: as it is meant to be, they are those of other servers.
pub(super) fn foreign_rows(facts: &Facts) -> LeftOut {
    LeftOut {
        what: format!(
            "rows of {}",
            counted(facts.foreign_tables.len() as u64, "foreign table", "foreign tables")
        ),
        reason: "they belong to other servers".to_owned(),
    }
}
