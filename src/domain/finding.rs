//! What a check found. A check that finds trouble is a successful run with findings; alerts read
//! the finding.

use serde::{Deserialize, Serialize};

use super::{named::named, target::Target, text::shorten};

named! {
    /// How bad a finding is; the least first.
    pub enum Severity {
        /// Good to know.
        Info = "info",
        /// Will become trouble, or weakens a promise.
        Warning = "warning",
        /// Somebody has to act now.
        Critical = "critical",
    }
}

/// The stable name of a check: `backup-owner`. Each stands once, beside its check or what else makes the
/// finding, and is a heading in docs/ERRORS.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckName(pub &'static str);

impl From<CheckName> for String {
    fn from(name: CheckName) -> Self {
        name.0.to_owned()
    }
}

/// One thing that a check found. The same check of the same target is the same finding, run after run,
/// whatever the text says by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check's stable name: `backup-owner`, `pg-dump-warning`.
    pub check: String,
    pub severity: Severity,
    /// What it is about; nothing is named where it is the whole job.
    #[serde(default, skip_serializing_if = "Target::is_empty")]
    pub target: Target,
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// A finding without a hint, about the whole job.
    pub fn new(check: impl Into<String>, severity: Severity, what: impl Into<String>) -> Self {
        let (check, what) = (check.into(), what.into());
        Self { check, severity, target: Target::default(), what, hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with texts of so many characters at most.
    #[must_use]
    pub fn shortened(&self, max: usize) -> Self {
        let object = self.target.object.as_deref().map(|object| shorten(object, max));
        Self {
            check: self.check.clone(),
            severity: self.severity,
            target: Target { object, ..self.target.clone() },
            what: shorten(&self.what, max),
            hint: self.hint.as_deref().map(|hint| shorten(hint, max)),
        }
    }

    /// The same, which is about a part of something.
    #[must_use]
    pub fn within(self, wider: &Target) -> Self {
        Self { target: self.target.within(wider), ..self }
    }

    /// Whether it is the same finding: check, severity and target, whatever the text says.
    pub fn is(&self, other: &Self) -> bool {
        self.check == other.check && self.severity == other.severity && self.target == other.target
    }

    /// The same about something.
    #[must_use]
    pub fn about(self, target: Target) -> Self {
        Self { target, ..self }
    }
}

/// What a check found, without the check's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How bad it is, by what it leads to.
    pub severity: Severity,
    /// What tells it from other things that the same check finds: a slot, a timeline.
    pub object: Option<String>,
    pub what: String,
    pub hint: String,
}

impl Found {
    /// Something that was found.
    pub fn new(severity: Severity, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity, object: None, what: what.into(), hint: hint.into() }
    }

    /// The same about one of several things.
    #[must_use]
    pub fn of(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }

    /// The finding of a check of that name.
    pub fn named(self, check: CheckName) -> Finding {
        let target = Target { object: self.object, ..Target::default() };
        Finding::new(check, self.severity, self.what).hint(self.hint).about(target)
    }
}
