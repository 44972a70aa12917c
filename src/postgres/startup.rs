//! Settings that a session has from its first moment, so that what is set for the role or the database
//! does not end it before it can say a word: with `ALTER ROLE … SET statement_timeout = '1ms'` the first
//! statement already fails, and with `default_transaction_isolation = serializable` each one does on
//! a standby.
//!
//! They go into the start-up packet (`options`), which stands above the role's and the database's
//! settings. A server refuses a session for a setting that it does not know, and tells its version
//! only then: what came with newer versions is sent once one session has told it. What the configuration has as
//! `options` comes behind ours, and so wins.
//!
//! What can still go wrong: a connection pooler that takes no `options` (PgBouncer without
//! `ignore_startup_parameters = options`). They are then left out for that server.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Settings, and the major version that brought them; 0: they are older than what is supported. A
/// space in a value is escaped as `pg_split_opts` reads it (postinit.c).
const SETTINGS: &[(&str, &str, u32)] = &[
    ("statement_timeout", "0", 0),
    ("lock_timeout", "0", 0),
    // PostgreSQL's own default: pg_dump has nothing else that tells of pages which were skipped.
    ("client_min_messages", "notice", 0),
    ("idle_in_transaction_session_timeout", "0", 0),
    ("idle_session_timeout", "0", 14),
    ("transaction_timeout", "0", 17),
    ("default_transaction_isolation", r"read\ committed", 0),
    ("default_transaction_deferrable", "off", 0),
    // pg_dump writes literals as the session has it; PostgreSQL 19 has no `off` any more, and takes those with
    // another meaning (findings/standard-strings-off.sh).
    ("standard_conforming_strings", "on", 0),
];

/// What only a superuser may set. A server whose messages are in another language is understood by its
/// codes; what pg_dump repeats of them has none.
const AS_SUPERUSER: &str = "-c lc_messages=C";

/// What is known of the server that sessions are opened on. Shared by all who connect to it.
#[derive(Debug, Default)]
pub struct Startup {
    /// The major version; 0: not known yet.
    major: AtomicU32,
    /// Whether the role was one when it last connected.
    superuser: AtomicBool,
    refused: AtomicBool,
}

impl Startup {
    /// `options` of a session; `own` are the configuration's.
    pub(super) fn options(&self, own: Option<&str>) -> Option<String> {
        if self.refused.load(Ordering::Relaxed) {
            return own.map(str::to_owned);
        }
        let major = self.major.load(Ordering::Relaxed);
        let known = SETTINGS.iter().filter(|(_, _, since)| *since <= major);
        let ours = known.map(|(name, value, _)| format!("-c {name}={value}"));
        let more = self.superuser.load(Ordering::Relaxed).then(|| AS_SUPERUSER.to_owned());
        let all: Vec<String> = ours.chain(more).chain(own.map(str::to_owned)).collect();
        Some(all.join(" "))
    }

    /// Notes what a session told: the version (`server_version`: `15.18 (Debian …)`, `18beta1`), and
    /// whether the role is a superuser. Says whether the next session is opened in another way than this
    /// one was.
    pub(super) fn learn(&self, server_version: &str, superuser: bool) -> bool {
        let end = server_version.find(|c: char| !c.is_ascii_digit());
        let digits = &server_version[..end.unwrap_or(server_version.len())];
        let Ok(major) = digits.parse::<u32>() else { return false };
        let before = self.major.swap(major, Ordering::Relaxed);
        let newer = |since: u32| since > before && since <= major;
        let promoted = !self.superuser.swap(superuser, Ordering::Relaxed) && superuser;
        !self.refused.load(Ordering::Relaxed)
            && (promoted || SETTINGS.iter().any(|(_, _, since)| newer(*since)))
    }

    /// Forgets what was told: a server refused a session for a setting that it does not have, or that
    /// the role may not make any more.
    pub(super) fn forget(&self) {
        self.major.store(0, Ordering::Relaxed);
        self.superuser.store(false, Ordering::Relaxed);
    }

    /// Whether a refusal with that code may be about one of the settings.
    pub(super) fn may_have_caused(&self, sqlstate: Option<&str>) -> bool {
        match sqlstate {
            Some(UNKNOWN_SETTING) => true,
            Some(FORBIDDEN) => self.superuser.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Leaves ours out from now on. Says whether they had been in.
    pub(super) fn refuse(&self) -> bool {
        !self.refused.swap(true, Ordering::Relaxed)
    }
}

/// `undefined_object`: with it a server refuses a setting that came with a newer version.
const UNKNOWN_SETTING: &str = "42704";
/// `insufficient_privilege`: the role was a superuser before.
const FORBIDDEN: &str = "42501";

/// Whether somebody in between does not take the settings.
pub(super) fn is_refusal(message: &str) -> bool {
    message.contains("startup parameter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_that_the_version_has() {
        let startup = Startup::default();
        let has = |name: &str| startup.options(None).unwrap().contains(name);
        assert!(has("-c statement_timeout=0 ") && has(r"isolation=read\ committed "));
        assert!(!has("idle_session_timeout"), "the version is not known");
        assert!(!startup.learn("13.21", false));
        assert!(!has("idle_session_timeout"));
        assert!(startup.learn("15.18 (Debian 15.18-0+deb12u1)", false));
        assert!(has("-c idle_session_timeout=0 ") && !has("transaction_timeout"));
        assert!(!startup.learn("15.18", false));
        // The server was upgraded, or is another one by now.
        assert!(startup.learn("18beta1", false) && has("-c transaction_timeout=0 "));
        assert!(!startup.learn("11.22", false) && !has("idle_session_timeout"));
        assert!(!startup.learn("none", false));
    }

    #[test]
    fn a_superuser_has_messages_in_english() {
        let startup = Startup::default();
        let has = || startup.options(None).unwrap().contains("-c lc_messages=C");
        assert!(!startup.learn("15.18", false) || !has());
        assert!(startup.learn("15.18", true) && has(), "the next session is opened so");
        assert!(!startup.learn("15.18", true) && has());
        assert!(startup.may_have_caused(Some("42501")));
        startup.forget();
        assert!(!has() && !startup.may_have_caused(Some("42501")));
        assert!(startup.may_have_caused(Some("42704")));
    }

    #[test]
    fn what_is_configured_comes_last_and_stays_alone_behind_a_pooler() {
        let startup = Startup::default();
        let own = Some("-c statement_timeout=9s");
        assert!(startup.options(own).unwrap().ends_with(" -c statement_timeout=9s"));
        assert!(is_refusal("FATAL: unsupported startup parameter: options"));
        assert!(startup.refuse() && !startup.refuse());
        assert_eq!(startup.options(own).as_deref(), own);
        assert_eq!(startup.options(None), None);
        assert!(!startup.learn("17.2", false), "nothing changes any more");
    }
}
