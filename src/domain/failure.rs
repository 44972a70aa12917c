//! One kind of failure for all operations: class, what was being done, what went wrong, and a
//! hint that says what to do.
//!
//! The class is the metric's label and the heading in docs/ERRORS.md. Layers below keep error types
//! of their own (thiserror) and become a [`Failure`] where an operation knows what it was doing.

use std::{error::Error, fmt};

use serde::{Deserialize, Serialize};

use super::{named::named, text::shorten};

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal),+ $(,)?) => {
        named! {
            /// What sort of thing went wrong, in the order of docs/ERRORS.md. Stable: alerts and runbooks
            /// name it.
            pub enum Class { $($(#[doc = $doc])+ $variant = $text),+ }
        }

        impl Class {
            /// What the class means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

classes! {
    /// The server could not be reached, or the connection broke.
    Connection = "connection",
    /// The server refused the role: wrong password, no entry in pg_hba.conf, no such role.
    Authentication = "authentication",
    /// The role may not read what it has to.
    Privilege = "privilege",
    /// The database is not there, or went away during the run.
    DatabaseGone = "database-gone",
    /// A statement failed on the server for another reason.
    Sql = "sql",
    /// A lock could not be had in time.
    Lock = "lock",
    /// A standby could not serve the run: replay cancelled what was read there, or is too far behind.
    Standby = "standby",
    /// A program that is needed is not installed, or cannot be started.
    ToolMissing = "tool-missing",
    /// No installed program fits the server's version.
    ToolVersion = "tool-version",
    /// A program ended with an error.
    ToolFailed = "tool-failed",
    /// A program was killed by a signal.
    ToolKilled = "tool-killed",
    /// The stream of a dump is not what its format says: empty, cut off, or damaged.
    ArchiveInvalid = "archive-invalid",
    /// What was dumped is known to lack something, although the program succeeded.
    Incomplete = "incomplete",
    /// Nothing moved for longer than the stall limit.
    Stalled = "stalled",
    /// The run took longer than its time limit.
    TimeLimit = "time-limit",
    /// The filesystem is full, or would fall under `min_free`.
    Space = "space",
    /// The repository could not be reached, or broke off.
    RepositoryUnavailable = "repository-unavailable",
    /// The repository did not take data at the rate that it must.
    RepositorySlow = "repository-slow",
    /// The repository refused: credentials, permissions, a missing bucket or folder.
    RepositoryRefused = "repository-refused",
    /// What the repository holds is not what was stored: missing, of another size, or damaged.
    RepositoryDamaged = "repository-damaged",
    /// What is to be encrypted cannot be, or what is encrypted would have to become something else.
    Encryption = "encryption",
    /// The configuration asks for something that cannot be done.
    Configuration = "configuration",
    /// A file of the state directory cannot be read or written.
    State = "state",
    /// No descriptor, thread, process or memory was left for it: a limit of the host or of the unit.
    Resources = "resources",
    /// A notification could not be delivered.
    Notification = "notification",
    /// pgkeep was stopped while the run was under way.
    Interrupted = "interrupted",
    /// A defect in pgkeep itself: please report it.
    Internal = "internal",
}

impl Class {
    /// Whether trying the same again soon may succeed without anybody doing anything.
    pub const fn is_worth_a_retry(self) -> bool {
        !matches!(
            self,
            Self::Authentication
                | Self::Privilege
                | Self::DatabaseGone
                | Self::ToolVersion
                | Self::ToolMissing
                | Self::RepositoryRefused
                | Self::Encryption
                | Self::Incomplete
                | Self::Configuration
                | Self::Internal
        )
    }
}

/// Something that could not be done.
///
/// `Display` prints one line without the hint: `dump database app: pg_dump exited with 1: …`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: Class,
    /// What was being done, as a phrase: `dump database app`.
    pub doing: String,
    /// What went wrong, the nearest cause last; causes are joined with `: `.
    pub what: String,
    /// What a person can do about it, as a sentence in the imperative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint. Where the system said that there is none left of something, that is its
    /// class, whatever was being done: [`scarce`].
    pub fn new(class: Class, doing: impl Into<String>, what: impl Into<String>) -> Self {
        let (doing, what) = (doing.into(), what.into());
        match scarce(&what) {
            Some(hint) => {
                Self { class: Class::Resources, doing, what, hint: Some(hint.to_owned()) }
            }
            None => Self { class, doing, what, hint: None },
        }
    }

    /// A failure from an error with all its sources.
    pub fn from_error(
        class: Class,
        doing: impl Into<String>,
        error: &(dyn Error + 'static),
    ) -> Self {
        Self::new(class, doing, chain(error))
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        // What there is none left of has its own.
        if self.class != Class::Resources {
            self.hint = Some(hint.into());
        }
        self
    }

    /// The same with texts of so many characters at most.
    #[must_use]
    pub fn shortened(&self, max: usize) -> Self {
        let hint = self.hint.as_deref().map(|hint| shorten(hint, max));
        let (doing, what) = (shorten(&self.doing, max), shorten(&self.what, max));
        Self { class: self.class, doing, what, hint }
    }
}

/// An error of a layer below, which becomes a [`Failure`] where it is known what was being done.
pub trait IntoFailure {
    /// The failure of what was being done: a phrase, or the task that has it.
    fn into_failure(self, doing: impl Into<String>) -> Failure;
}

/// Says where a result passes by what was being done.
pub trait During<T> {
    /// The same result; its error is the failure of what was being done: a phrase, or the task that has it.
    ///
    /// # Errors
    /// The failure, where there is an error.
    fn during(self, doing: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: IntoFailure> During<T> for Result<T, E> {
    fn during(self, doing: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| error.into_failure(doing))
    }
}

/// What an error says where no thread or process could be started.
pub const NO_THREAD: &str = "no thread or process is left";

/// What to do where an error's text ends in one of the system's that there is none left of something. Libraries
/// hand their errors on as text, and each of them may be the first to need a descriptor.
fn scarce(what: &str) -> Option<&'static str> {
    const TASKS: &str = "pgkeep has as many threads and programs as it may: raise TasksMax= of the unit (`systemctl \
        edit pgkeep`), or `ulimit -u` of its user";
    const HINTS: [(&str, &str); 5] = [
        (
            "(os error 24)",
            "pgkeep has as many files and connections open as it may: raise LimitNOFILE= of the unit (`systemctl \
             edit pgkeep`), or `ulimit -n`, or run fewer jobs at once (`max_running`)",
        ),
        (
            "(os error 23)",
            "the host has as many files open as it may: look at fs.file-max, and at who has them",
        ),
        (NO_THREAD, TASKS),
        // It is there: its version was asked for before. What failed is to start it.
        (
            "is needed by pg_dumpall but was not found",
            "pg_dump is there and cannot be started: is a limit on threads and programs met (TasksMax= of the unit, `ulimit \
             -u` of its user), or one on memory (MemoryMax=)?",
        ),
        ("(os error 12)", "look at MemoryMax= of the unit, and at what takes the host's memory"),
    ];
    HINTS.iter().find(|(text, _)| what.contains(text)).map(|(_, hint)| *hint)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.what)
    }
}

impl Error for Failure {}

/// An error and its sources on one line, joined with `: `. `Display` of our errors never prints
/// the source; a source that repeats the text before it is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !more.is_empty() && !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_unique_and_explained() {
        for (index, class) in Class::ALL.iter().enumerate() {
            assert!(
                class.meaning().ends_with('.') || class.meaning().contains("report"),
                "{class}"
            );
            assert!(!Class::ALL[index + 1..].iter().any(|other| other.as_str() == class.as_str()));
            let json = serde_json::to_string(class).unwrap();
            assert_eq!(json, format!("\"{class}\""));
        }
    }

    #[test]
    fn what_there_is_none_left_of_is_no_fault_of_the_other_side() {
        let error = std::io::Error::from_raw_os_error(24);
        let failure = Failure::from_error(Class::Connection, "connect to server main", &error)
            .hint("is the server up?");
        assert_eq!(failure.class, Class::Resources);
        assert!(failure.class.is_worth_a_retry());
        assert!(failure.hint.unwrap().contains("LimitNOFILE"));
        let failure = Failure::new(Class::ToolMissing, "dump", format!("{NO_THREAD}: try again"));
        assert!(failure.hint.unwrap().contains("TasksMax"));
        let said = "pg_dumpall: error: program \"pg_dump\" is needed by pg_dumpall but was not found in the same \
                    directory as \"/bin/pg_dumpall\"";
        let failure = Failure::new(Class::ToolFailed, "dump globals", said).hint("another");
        assert_eq!(failure.class, Class::Resources);
        assert!(failure.hint.unwrap().contains("TasksMax"));
        assert_eq!(Failure::new(Class::Sql, "ask", "relation 24 is gone").class, Class::Sql);
    }
}
