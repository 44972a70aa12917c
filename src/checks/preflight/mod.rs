//! Checks before a dump: whether the role would see everything that the dump is to hold.
//!
//! Two sorts of trouble: pg_dump would fail at the first thing that it may not read, and name that
//! alone; or, which is worse, it would leave something out, warn at most, and succeed. Both are refused
//! before anything is dumped. The second sort can be accepted by name; what was accepted stands in the
//! manifest of every backup made so.

mod large_objects;
mod left_out;
mod passwords;
mod readable;
mod row_security;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::Check;
use crate::{
    domain::{
        failure::{Class, Failure},
        finding::{CheckName, Finding, Found, Severity},
        manifest::LeftOut,
        text,
    },
    postgres::preflight::{Facts, GlobalsFacts},
};

/// Names that a message lists.
const LISTED_MAX: usize = 20;
/// Longest name that a message lists whole, in characters.
const NAME_CHARS: usize = 130;
/// Longest identifier that a statement holds, in characters: schema and name of 63 bytes each
/// (`NAMEDATALEN`), all of them quotes.
const IDENT_CHARS: usize = 2 * (2 * 63 + 2) + 1;

/// A check of what a dump of a database would meet.
#[derive(Debug)]
pub struct Row {
    /// What it finds at or above `warning` refuses the dump.
    pub check: Check<Facts>,
    /// The class of a dump that is refused for it.
    pub class: Class,
    pub accept: Option<Acceptance>,
}

/// Something that a job may go without.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// What the option `accept` of a job calls it.
    pub name: &'static str,
    /// What is then missing from the backup.
    pub missing: fn(&Facts) -> String,
}

const fn row(name: CheckName, class: Class, look: fn(&Facts) -> Vec<Found>) -> Row {
    Row { check: Check { name, look }, class, accept: None }
}

/// The same for what can be accepted by the name of its check.
const fn acceptable_row(
    name: CheckName,
    look: fn(&Facts) -> Vec<Found>,
    missing: fn(&Facts) -> String,
) -> Row {
    let accept = Some(Acceptance { name: name.0, missing });
    Row { check: Check { name, look }, class: Class::Privilege, accept }
}

/// Every check of a database.
pub const DATABASE: &[Row] = &[
    row(CheckName("snapshot-export"), Class::Privilege, session::export),
    row(CheckName("unreadable-tables"), Class::Privilege, readable::unreadable),
    row(CheckName("row-security"), Class::Privilege, row_security::row_security),
    row(CheckName("large-objects"), Class::Privilege, large_objects::large_objects),
    acceptable_row(
        CheckName("user-mapping-options"),
        left_out::user_mappings,
        left_out::missing_mappings,
    ),
    acceptable_row(
        CheckName("subscriptions"),
        left_out::subscriptions,
        left_out::missing_subscriptions,
    ),
    row(CheckName("connection-limit"), Class::Configuration, session::connection_limit),
    row(CheckName("server-language"), Class::Configuration, session::language),
];

/// Every check of the globals.
pub const GLOBALS: &[Check<GlobalsFacts>] =
    &[Check { name: CheckName("role-passwords"), look: passwords::passwords }];

/// What a job accepts to be left out of its backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Names of [`acceptable`] things.
    pub names: BTreeSet<&'static str>,
    pub by: String,
}

/// What can be accepted, by the names that configurations use.
pub fn acceptable() -> impl Iterator<Item = &'static str> {
    DATABASE.iter().filter_map(|row| row.accept.map(|accept| accept.name))
}

/// What the checks of a database come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// What refuses the dump, each with its class.
    pub refused: Vec<(Class, Finding)>,
    pub told: Vec<Finding>,
    pub left_out: Vec<LeftOut>,
    /// The names of what is left out because it was accepted.
    pub accepted: BTreeSet<&'static str>,
}

/// Looks at facts with every check.
pub fn judge(facts: &Facts, accepted: &Accepted) -> Judged {
    let mut judged = Judged::default();
    for row in DATABASE {
        for finding in row.check.findings(facts) {
            if finding.severity < Severity::Warning {
                judged.told.push(finding);
                continue;
            }
            match row.accept.filter(|accept| accepted.names.contains(accept.name)) {
                None => judged.refused.push((row.class, finding)),
                Some(accept) => {
                    judged.accept(accept.name, (accept.missing)(facts), finding, &accepted.by);
                }
            }
        }
    }
    if !facts.foreign_tables.is_empty() {
        judged.left_out.push(left_out::foreign_rows(facts));
    }
    judged
}

impl Judged {
    fn accept(&mut self, name: &'static str, what: String, finding: Finding, by: &str) {
        let reason = format!("accepted in {by}");
        let text = format!("{}: {reason}", finding.what);
        self.told.push(Finding { severity: Severity::Info, what: text, hint: None, ..finding });
        self.left_out.push(LeftOut { what, reason });
        self.accepted.insert(name);
    }

    /// The failure of a dump that is refused: all of it at once.
    pub fn failure(&self, doing: &str) -> Option<Failure> {
        let (class, _) = self.refused.first()?;
        let texts = self.refused.iter().map(|(_, finding)| finding.what.as_str());
        let hints = self.refused.iter().filter_map(|(_, finding)| finding.hint.as_deref());
        let what = texts.collect::<Vec<_>>().join("; ");
        Some(Failure::new(*class, doing, what).hint(hints.collect::<Vec<_>>().join("; ")))
    }
}

/// What the checks of the globals find: a failure where they cannot be dumped as wanted.
///
/// # Errors
/// Where something is found.
pub fn judge_globals(facts: &GlobalsFacts, doing: &str) -> Result<(), Failure> {
    for found in GLOBALS.iter().flat_map(|check| (check.look)(facts)) {
        if found.severity >= Severity::Warning {
            return Err(Failure::new(Class::Privilege, doing, found.what).hint(found.hint));
        }
    }
    Ok(())
}

/// The first of some names, and how many there are beyond: `a, b and 3 more`. The names of the objects
/// of a hostile database may be long, and may hold line ends. Not for statements: see [`whole`].
pub(super) fn some<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    text::some(names.into_iter().map(|it| short(it.as_ref())), LISTED_MAX)
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return text::line(name);
    }
    text::line(&name.chars().take(NAME_CHARS).collect::<String>()) + "…"
}

/// Identifiers for a statement, each whole; none where they are too many, or cannot be pasted.
fn whole<T: AsRef<str>>(idents: impl IntoIterator<Item = T>) -> Option<Vec<T>> {
    let fits = |it: &str| it.chars().count() <= IDENT_CHARS && !it.contains(text::is_unsafe);
    let mut idents = idents.into_iter();
    let first: Vec<T> = idents.by_ref().take(LISTED_MAX).collect();
    (idents.next().is_none() && first.iter().all(|it| fits(it.as_ref()))).then_some(first)
}

/// The same, as a list.
fn listed<T: AsRef<str>>(idents: impl IntoIterator<Item = T>) -> Option<String> {
    let idents = whole(idents)?;
    Some(idents.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))
}

/// For psql: makes a statement for each row of `rows`, and runs it. What `before` and `after` the
/// column `name` is text; `%I` or `%s` is the column in it.
fn for_each([before, column, after]: [&str; 3], name: &str, rows: &str) -> String {
    let plain = |text: &str| text.replace('%', "%%");
    let format = text::sql_literal(&format!("{}{column}{}", plain(before), plain(after)));
    format!("SELECT format({format}, {name}) FROM {rows} \\gexec")
}

/// Statements to be run one after the other: what stands behind psql's `\gexec` would else belong to it.
fn in_turn(statements: &[String]) -> String {
    let mut all = String::new();
    for statement in statements {
        if !all.is_empty() {
            all.push_str(if all.ends_with("\\gexec") { " \\\\ " } else { " " });
        }
        all.push_str(statement);
    }
    all
}

/// `1 table`, `2 tables`.
fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Where, and as whom, the statements of a hint are to be run.
fn by_a_superuser(facts: &Facts, statements: &str) -> String {
    format!("as a superuser, in database {}: {statements}", facts.database)
}
