//! What became of one table, from the statement's end and what the server said meanwhile: pure.

use crate::{
    domain::{
        failure::{Failure, IntoFailure},
        vacuum::Skip,
    },
    postgres::{
        PgError,
        notice::{Level, Notice},
    },
    sys::task::Task,
};

/// How one table ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableOutcome {
    Done,
    Skipped(Skip, String),
    Failed(Failure),
    Cancelled,
}

/// The server's codes (Appendix A of the manual).
const LOCK_NOT_AVAILABLE: &str = "55P03";
const UNDEFINED_TABLE: &str = "42P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn skip_of(sqlstate: &str) -> Option<Skip> {
    match sqlstate {
        LOCK_NOT_AVAILABLE => Some(Skip::Locked),
        UNDEFINED_TABLE => Some(Skip::Gone),
        INSUFFICIENT_PRIVILEGE => Some(Skip::NotPermitted),
        _ => None,
    }
}

/// What became of it. A table that was done has lines of INFO, since the statement is VERBOSE. One
/// that was left out has none: the warning that it has instead has a code where a lock or the table
/// itself was missing, and none of its own where the role may not.
pub(super) fn of(task: &Task, ended: Result<(), PgError>, said: &[Notice]) -> TableOutcome {
    match ended {
        Ok(()) => {}
        Err(PgError::Cancelled) => return TableOutcome::Cancelled,
        Err(error) => {
            return match error.sqlstate().and_then(skip_of) {
                Some(skip) => TableOutcome::Skipped(skip, error.to_string()),
                None => TableOutcome::Failed(error.into_failure(task)),
            };
        }
    }
    if said.iter().any(|notice| notice.severity == Level::Info) {
        return TableOutcome::Done;
    }
    let warning = said.iter().rev().find(|notice| notice.severity == Level::Warning);
    let text = warning.map_or("the server said nothing", |warning| warning.message.as_str());
    let skip = warning.and_then(|warning| skip_of(&warning.sqlstate));
    TableOutcome::Skipped(skip.unwrap_or(Skip::NotPermitted), text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::failure::Class, sys::clock::SystemClock};

    fn said(severity: Level, sqlstate: &str) -> Notice {
        let (sqlstate, message) = (sqlstate.to_owned(), "text".to_owned());
        Notice { severity, sqlstate, message, detail: None }
    }

    fn error(sqlstate: &str) -> PgError {
        PgError::Failed {
            class: Class::Sql,
            what: "text".to_owned(),
            hint: None,
            sqlstate: Some(sqlstate.to_owned()),
        }
    }

    #[test]
    fn what_was_said_decides_in_every_language() {
        let task = Task::new(SystemClock::new()).doing("vacuum x");
        let info = said(Level::Info, "00000");
        let text = || "text".to_owned();
        let cases = [
            (Ok(()), vec![info.clone()], TableOutcome::Done),
            (Ok(()), vec![said(Level::Warning, "01000"), info], TableOutcome::Done),
            (
                Ok(()),
                vec![said(Level::Warning, "01000")],
                TableOutcome::Skipped(Skip::NotPermitted, text()),
            ),
            (
                Ok(()),
                vec![said(Level::Warning, "55P03")],
                TableOutcome::Skipped(Skip::Locked, text()),
            ),
            (
                Ok(()),
                vec![said(Level::Warning, "42P01")],
                TableOutcome::Skipped(Skip::Gone, text()),
            ),
            (Err(error("55P03")), vec![], TableOutcome::Skipped(Skip::Locked, text())),
            (Err(error("42P01")), vec![], TableOutcome::Skipped(Skip::Gone, text())),
            (
                Err(error("53100")),
                vec![],
                TableOutcome::Failed(Failure::new(Class::Sql, "vacuum x", "text")),
            ),
            (Err(PgError::Cancelled), vec![], TableOutcome::Cancelled),
        ];
        for (ended, notices, expected) in cases {
            assert_eq!(of(&task, ended.clone(), &notices), expected, "{ended:?} {notices:?}");
        }
        let silent = of(&task, Ok(()), &[]);
        assert!(matches!(silent, TableOutcome::Skipped(..)), "silence is no success");
    }
}
