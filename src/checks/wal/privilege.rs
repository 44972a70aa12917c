//! What the role may not see, and what therefore nobody looks at.

use super::ServerView;
use crate::domain::finding::{Found, Severity};

pub(super) fn privilege(view: &ServerView) -> Vec<Found> {
    let each = view.facts.unmeasured.iter().map(|missing| {
        let (severity, why, hint) = match &missing.grant {
            Some(grant) => {
                (Severity::Warning, "the role may not read", format!("as a superuser: {grant}"))
            }
            None => (
                Severity::Info,
                "this version of PostgreSQL has no",
                "PostgreSQL 12 and newer tell; until then watch pg_stat_archiver".to_owned(),
            ),
        };
        Found::new(
            severity,
            format!("{} is not measured: {why} {}", missing.what, missing.from),
            hint,
        )
    });
    each.collect()
}
