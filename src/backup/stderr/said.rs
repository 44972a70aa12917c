//! What a program said although it succeeded.
//!
//! pg_dump warns and exits with 0, also where it left something out. So each of its messages is told
//! apart: known and harmless; known, and the backup is not what was asked for; unknown, which is
//! kept in the report and warned of. A list of harmless messages only grows by what somebody has looked
//! up in the source: what is not on it is never silent.
//!
//! What can still go wrong: of more than 64 KiB the middle is not kept. Whatever it said, the backup is
//! then in doubt.

use super::QUOTE_MAX;
use crate::{
    checks::login,
    domain::{
        failure::{Class, Failure},
        finding::{CheckName, Finding, Severity},
        manifest::LeftOut,
        target::Target,
    },
    sys::task::Task,
};

/// The check's name in findings.
const CHECK: CheckName = CheckName("tool-output");
/// Unknown messages that a report keeps, and the longest of them in bytes.
const KEPT_MAX: usize = 20;
const LINE_MAX: usize = 300;

/// What a message means for the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Nothing is missing, and nobody has to do anything.
    Harmless,
    /// Nothing is missing; somebody has something to do.
    Trouble,
    /// What was read may be wrong, or a definition is not whole: kept, and in doubt.
    Doubt,
    /// Something was left out: no backup. An entry of `left_out` that has this word in it accepts it.
    Incomplete(Class, &'static str),
}

/// A fragment of a message, its meaning, and what to do about it.
type Known = (&'static str, Meaning, &'static str);

const CATALOG: &str = "the system catalogs are damaged there: restore an older backup into a new \
                       database and compare the definitions";
const PAGES: &str = "look for damaged files on the server: amcheck, the kernel's log, the disk";

/// Fragments of messages in English: programs run with `LC_MESSAGES=C`. The first that fits counts.
/// Names behind are those of functions in PostgreSQL's source, src/bin/pg_dump and src/backend.
const KNOWN: &[Known] = &[
    // pg_dump.c, getSubscriptions
    (
        "subscriptions not dumped because current user is not a superuser",
        Meaning::Incomplete(Class::Privilege, "subscription"),
        "dump as a superuser; up to PostgreSQL 18 nothing else lets a role read subscriptions",
    ),
    // bufmgr.c, WaitReadBuffers and ReadBuffer_common: with zero_damaged_pages = on
    (
        "zeroing out page",
        Meaning::Incomplete(Class::Incomplete, "damaged pages"),
        "rows were skipped without a word to the reader: set zero_damaged_pages = off",
    ),
    // bufpage.c, PageIsVerified: with ignore_checksum_failure = on the page is read all the same
    ("page verification failed", Meaning::Doubt, PAGES),
    // bufmgr.c, buffer_readv_report (18)
    ("ignoring checksum failure", Meaning::Doubt, PAGES),
    // pg_dump.c: dumpType, dumpAccessMethod, dumpCast, dumpTransform, getFormattedOperatorName,
    // appendReloptionsArrayAH; dumpFunc (up to 14). What is named is left out, or a clause of it.
    ("typtype of data type", Meaning::Doubt, CATALOG),
    ("of access method \"", Meaning::Doubt, CATALOG),
    ("bogus value in pg_cast.", Meaning::Doubt, CATALOG),
    ("bogus value in pg_transform.", Meaning::Doubt, CATALOG),
    ("bogus transform definition", Meaning::Doubt, CATALOG),
    ("bogus value in proargmodes array", Meaning::Doubt, CATALOG),
    ("could not find operator with OID", Meaning::Doubt, CATALOG),
    ("could not parse ", Meaning::Doubt, CATALOG),
    // pg_dumpall.c, dumpRoles
    ("role name starting with \"pg_\" skipped", Meaning::Doubt, CATALOG),
    // pg_dump.c, dumpOpr (14 and newer)
    (
        "postfix operators are not supported anymore",
        Meaning::Trouble,
        "a restore stops at it: drop the operator, or replace what uses it",
    ),
    // pg_dump.c, getNamespaces, getTypes, getTables, … (up to 14)
    (
        "appears to be invalid",
        Meaning::Trouble,
        "an owner was dropped behind PostgreSQL's back: give the object another one",
    ),
    // pg_dump_sort.c, repairDependencyLoop
    (
        "could not resolve dependency loop among these items",
        Meaning::Trouble,
        "a restore may need its entries in another order: `pg_restore -l`, then `-L`",
    ),
    // postinit.c, CheckMyDatabase (15 and newer)
    (
        "has a collation version mismatch",
        Meaning::Trouble,
        "the dump is whole; on the server, REINDEX what sorts text, then ALTER DATABASE … REFRESH \
         COLLATION VERSION",
    ),
    // postinit.c, CheckMyDatabase; pg_locale.c, pg_newlocale_from_collation
    ("has no actual collation version, but a version was", Meaning::Harmless, ""),
    // pg_dump_sort.c, repairDependencyLoop: of dumps of the data alone, which pg_restore takes
    // with --disable-triggers
    ("there are circular foreign-key constraints", Meaning::Harmless, ""),
    // pg_dumpall.c, dumpRoleMembership: what is left of roles that were dropped
    ("ignoring role grant for missing role", Meaning::Harmless, ""),
    ("ignoring role grant to missing role", Meaning::Harmless, ""),
    ("has invalid grantor OID", Meaning::Harmless, ""),
    // pg_dump.c, dumpRelationStats (18)
    ("cannot dump statistics for relation kind", Meaning::Harmless, ""),
    // exec.c, resolve_symlinks: started from a folder that the user may not enter
    ("could not change directory to \"", Meaning::Harmless, ""),
    // auth.c (19): a check of the run's own session tells it, once
    (login::MD5, Meaning::Harmless, ""),
    (login::EXPIRES, Meaning::Harmless, ""),
    // fe-connect.c, passwordFromFile: a password that is missing fails by itself
    ("WARNING: password file", Meaning::Harmless, ""),
];

/// What the server sends that is no warning (elog.c, error_severity), as libpq prints it.
const CHATTER: [&str; 4] = ["NOTICE:  ", "INFO:  ", "LOG:  ", "DEBUG:  "];
/// How lines begin that belong to the message before them: fe-protocol3.c,
/// pqBuildErrorMessage3, and logging.c, pg_log_generic_v.
const CONTINUED: [&str; 7] =
    ["DETAIL:  ", "HINT:  ", "QUERY:  ", "LINE ", "CONTEXT:  ", "LOCATION:  ", "STATEMENT:  "];
/// What pg_dump up to 14 says behind a warning, in messages of their own (pg_dump_sort.c).
const ADVICE: [&str; 2] = ["You might not be able to restore", "Consider using a full dump"];

/// What a program said, message by message.
#[derive(Debug, Default)]
pub struct Said {
    known: Vec<(String, &'static Known)>,
    unknown: Vec<String>,
}

/// What follows from it.
#[derive(Debug, Default)]
pub struct Judged {
    /// What casts doubt on the backup.
    pub doubts: Vec<String>,
    pub findings: Vec<Finding>,
    pub output: Vec<String>,
}

impl Said {
    /// Reads what `program` (`pg_dump`) wrote to its error output.
    pub fn read(program: &str, stderr: &str) -> Self {
        let mut said = Self::default();
        for message in messages(program, stderr) {
            if CHATTER.iter().any(|begin| message.starts_with(begin)) {
                continue;
            }
            match KNOWN.iter().find(|known| message.contains(known.0)) {
                Some(known) => said.known.push((message, known)),
                None => said.unknown.push(message),
            }
        }
        said
    }

    /// Decides what follows for a backup of `about` from which this was left out with leave.
    ///
    /// # Errors
    /// When something is missing in it: it is no backup.
    pub fn judge(
        self,
        program: &str,
        about: &str,
        left_out: &[LeftOut],
        task: &Task,
    ) -> Result<Judged, Failure> {
        let mut judged = Judged::default();
        let mut told: Vec<&str> = Vec::new();
        for (message, (fragment, meaning, hint)) in self.known {
            let accepted = |word| left_out.iter().any(|entry| entry.what.contains(word));
            let severity = match meaning {
                Meaning::Incomplete(_, word) if accepted(*word) => continue,
                Meaning::Incomplete(class, _) => {
                    let what = format!("{program} exited with 0 and left something out: {message}");
                    return Err(task.failure(*class, what).hint(*hint));
                }
                Meaning::Harmless => continue,
                Meaning::Trouble => Severity::Warning,
                Meaning::Doubt => Severity::Critical,
            };
            // A thousand pages say the same.
            if told.contains(fragment) {
                continue;
            }
            told.push(fragment);
            if *meaning == Meaning::Doubt {
                judged.doubts.push(cut(&message, LINE_MAX));
            }
            let what = format!("{program} of {about}: {}", cut(&message, QUOTE_MAX));
            let finding = Finding::new(CHECK, severity, what).hint(*hint);
            judged.findings.push(finding.about(Target::object(*fragment)));
        }
        if !self.unknown.is_empty() {
            let quote = cut(&self.unknown.join("; "), QUOTE_MAX);
            let what = format!("{program} of {about} succeeded and said: {quote}");
            let finding = Finding::new(CHECK, Severity::Warning, what);
            judged.findings.push(finding.about(Target::object(steady(&quote))));
        }
        let kept = self.unknown.iter().take(KEPT_MAX).map(|message| cut(message, LINE_MAX));
        judged.output = kept.collect();
        if let Some(more) = self.unknown.len().checked_sub(KEPT_MAX).filter(|more| *more > 0) {
            judged.output.push(format!("and {more} more"));
        }
        Ok(judged)
    }
}

/// A message without what moves from run to run: words that have a digit in them.
fn steady(message: &str) -> String {
    let words = message.split_whitespace();
    let words = words.map(|word| if word.contains(|c: char| c.is_numeric()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

/// The messages, each on one line with the lines that belong to it.
fn messages(program: &str, stderr: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in stderr.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        let own = line.strip_prefix(program).and_then(|rest| rest.strip_prefix(": "));
        let text = own.unwrap_or(line);
        match messages.last_mut() {
            Some(last) if goes_on(text, own.is_some()) => {
                last.push_str(" / ");
                last.push_str(text.trim_start());
            }
            _ => messages.push(text.to_owned()),
        }
    }
    messages
}

/// Whether a line belongs to the message before it. `own`: the program says it, not the server.
fn goes_on(text: &str, own: bool) -> bool {
    let begins = |all: &[&str]| all.iter().any(|begin| text.starts_with(begin));
    if own {
        return text.starts_with(' ') || begins(&["detail: ", "hint: "]) || begins(&ADVICE);
    }
    text.starts_with([' ', '\t']) || begins(&CONTINUED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;

    fn task() -> Task {
        Task::new(SystemClock::new())
    }

    fn judge(stderr: &str) -> Result<Judged, Failure> {
        Said::read("pg_dump", stderr).judge("pg_dump", "app", &[], &task())
    }

    fn severities(judged: &Judged) -> Vec<Severity> {
        judged.findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn what_is_harmless_is_not_told() {
        // As pg_dump 15 and 13 print it, and what a trigger on login may say.
        let fifteen = "pg_dump: warning: there are circular foreign-key constraints on this table:\n\
             pg_dump: detail: employees\n\
             pg_dump: hint: You might not be able to restore the dump without using \
             --disable-triggers or temporarily dropping the constraints.\n\
             pg_dump: hint: Consider using a full dump instead of a --data-only dump to avoid this \
             problem.\n";
        let thirteen = "pg_dump: warning: there are circular foreign-key constraints among these \
             tables:\npg_dump:   a\npg_dump:   b\npg_dump: You might not be able to restore the dump \
             without using --disable-triggers or temporarily dropping the constraints.\n\
             pg_dump: Consider using a full dump instead of a --data-only dump to avoid this \
             problem.\n";
        // As pg_dump 19 prints them at each of its connections.
        let login = "WARNING:  authenticated with an MD5-encrypted password\nDETAIL:  MD5 password \
             support is deprecated and will be removed in a future release of PostgreSQL.\n\
             WARNING:  role password will expire soon\n";
        let notice = "NOTICE:  hello\nDETAIL:  to you\n\ttwice\n";
        for text in ["", " \n\n", fifteen, thirteen, login, notice, &[fifteen, notice].concat()] {
            let judged = judge(text).unwrap();
            assert!(judged.findings.is_empty() && judged.output.is_empty(), "{judged:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_no_backup_unless_somebody_accepted_it() {
        let text = "pg_dump: warning: subscriptions not dumped because current user is not a \
                    superuser\n";
        let failure = judge(text).unwrap_err();
        assert_eq!(failure.class, Class::Privilege);
        assert!(failure.hint.is_some());
        let left_out = |what: &str| {
            [LeftOut { what: what.to_owned(), reason: "the configuration says so".to_owned() }]
        };
        let judged = |what| {
            Said::read("pg_dump", text).judge("pg_dump", "app", &left_out(what), &task()).is_ok()
        };
        assert!(judged("the subscription moved"));
        assert!(!judged("rows of unlogged tables"));
        let zeroed =
            "WARNING:  invalid page in block 3 of relation base/5/16384; zeroing out page\n";
        assert_eq!(judge(zeroed).unwrap_err().class, Class::Incomplete);
    }

    #[test]
    fn doubt_is_told_once_for_all_pages() {
        let page = "WARNING:  page verification failed, calculated checksum 1 but expected 2\n";
        let judged = judge(&page.repeat(500)).unwrap();
        assert_eq!((judged.doubts.len(), severities(&judged)), (1, vec![Severity::Critical]));
        let judged =
            judge("pg_dump: warning: typtype of data type \"x\" appears to be invalid\n").unwrap();
        assert_eq!((judged.doubts.len(), severities(&judged)), (1, vec![Severity::Critical]));
    }

    #[test]
    fn a_collation_of_another_version_loses_nothing() {
        let text = "WARNING:  database \"app\" has a collation version mismatch\n\
             DETAIL:  The database was created using collation version 2.31, but the operating \
             system provides version 2.36.\nHINT:  Rebuild all objects in this database.\n";
        let judged = judge(text).unwrap();
        assert!(judged.doubts.is_empty() && judged.output.is_empty(), "{judged:?}");
        assert_eq!(severities(&judged), [Severity::Warning]);
        assert!(judged.findings[0].hint.as_ref().is_some_and(|hint| hint.contains("REINDEX")));
    }

    #[test]
    fn what_nobody_knows_is_kept_and_warned_of() {
        let text = "pg_dump: warning: from tomorrow\npg_dump: detail: on\nhello\nWARNING:  x\n";
        let judged = judge(text).unwrap();
        assert_eq!(judged.output, ["warning: from tomorrow / detail: on", "hello", "WARNING:  x"]);
        assert_eq!(severities(&judged), [Severity::Warning]);
        let long = "ä".repeat(1000);
        let many: Vec<String> = (0..1000).map(|n| format!("{n} {long}")).collect();
        let many = many.join("\n");
        let judged = judge(&many).unwrap();
        assert_eq!(judged.output.len(), KEPT_MAX + 1);
        assert!(judged.output.iter().all(|line| line.len() <= LINE_MAX + '…'.len_utf8()));
        assert_eq!(judged.output[KEPT_MAX], "and 980 more");
        assert!(judged.findings[0].what.len() < QUOTE_MAX + 100);
    }
}
