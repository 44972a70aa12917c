//! What a server says when a role logs in and is let in all the same (PostgreSQL 19 and newer).
//!
//! Client programs repeat it at each of their connections; it is told once a run, and by `doctor`.

use super::Check;
use crate::{
    domain::finding::{CheckName, Found, Severity},
    postgres::notice::Notice,
};

/// The role will not get in for ever.
pub const LOGIN: Check<[Notice]> = Check { name: CheckName("role-login"), look: login };

/// A role whose password is kept as MD5 logged in (src/backend/libpq/auth.c).
pub const MD5: &str = "authenticated with an MD5-encrypted password";
/// `password_expiration_warning_threshold` (by default seven days) before `VALID UNTIL`.
pub const EXPIRES: &str = "role password will expire soon";

/// What is found in what a session was told.
pub fn login(said: &[Notice]) -> Vec<Found> {
    let each = said.iter().filter_map(|notice| {
        let hint = if notice.message.contains(MD5) {
            "a later version of PostgreSQL refuses it: set the password again with password_encryption = \
             'scram-sha-256' (psql: \\password)"
        } else if notice.message.contains(EXPIRES) {
            "backups fail from then on: set a new password, or ALTER ROLE … VALID UNTIL 'infinity'"
        } else {
            return None;
        };
        let detail = notice.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
        let what = format!("the server warns pgkeep's role: {}{detail}", notice.message);
        Some(Found::new(Severity::Warning, what, hint).of(&notice.message))
    });
    each.collect()
}
