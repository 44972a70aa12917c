//! Which databases of a server a run works on, and what to say of one that is asked for and
//! cannot be had. The kinds that take patterns share it.

use crate::{
    domain::{
        failure::{Class, Failure},
        name::{DatabaseName, ServerName},
        pattern::{DatabasePatterns, Glob, Problem, Reason, Selection},
        report::{Outcome, TargetReport},
        target::Target,
    },
    postgres::catalog::Database,
};

use super::RunContext;

/// The databases that the patterns choose among those of a server.
pub(super) fn databases(patterns: &DatabasePatterns, known: &[Database]) -> Selection {
    let candidates: Vec<_> = known.iter().map(Database::candidate).collect();
    patterns.select(&candidates)
}

/// Something that the patterns ask for and the server does not have: the database, as a target
/// that failed.
///
/// # Errors
/// When there is nothing to do at all, or what is asked for cannot be a name and so is no target.
pub(super) fn refused(
    problem: &Problem,
    server: &ServerName,
) -> Result<(DatabaseName, Failure), Failure> {
    let (class, name) = match problem {
        Problem::Missing(name) => (Class::DatabaseGone, name.parse().ok()),
        Problem::Named(name, _) | Problem::Unnameable(name) => {
            (Class::Configuration, Some(name.clone()))
        }
        Problem::NothingSelected => (Class::Configuration, None),
    };
    let doing = format!("choose the databases of server {server}");
    let hint = match problem {
        Problem::Unnameable(_) => {
            "give it a name in UTF-8: connect to a database of the encoding that its name was written \
             in, and ALTER DATABASE … RENAME TO …; or leave it out in `exclude`, with * for what is \
             shown as \\xNN"
        }
        _ => "look at `databases` and `exclude` of the job, and at `psql -l`",
    };
    let failure = Failure::new(class, doing, problem.to_string()).hint(hint);
    match name {
        Some(name) => Ok((name, failure)),
        None => Err(failure),
    }
}

/// The targets of a run for what its patterns ask for and the server does not have.
///
/// # Errors
/// As [`refused`].
pub(super) fn refused_targets(
    selection: &Selection,
    server: &ServerName,
    cx: &RunContext,
) -> Result<Vec<TargetReport>, Failure> {
    let mut targets = Vec::new();
    for problem in &selection.problems {
        let (name, failure) = refused(problem, server)?;
        let target = Target::database(&name).on(server);
        if cx.wants(&target) {
            targets.push(cx.ended(target, Err(failure)));
        }
    }
    Ok(targets)
}

/// Whether a database is asked for by its name, and so has to be there.
pub(super) fn is_named(patterns: &DatabasePatterns, name: &DatabaseName) -> bool {
    patterns.include.iter().filter_map(Glob::literal).any(|literal| literal == name.as_str())
}

/// Whether a failure only says that a database is gone which a pattern meant: that is no failure of the
/// run.
pub(super) fn is_gone(patterns: &DatabasePatterns, name: &DatabaseName, failure: &Failure) -> bool {
    failure.class == Class::DatabaseGone && !is_named(patterns, name)
}

/// The target of a database that only a pattern meant, and that the patterns do not choose any more:
/// for that reason, or since it is gone.
pub(super) fn skipped(target: Target, left_out: Option<Reason>) -> TargetReport {
    let gone =
        || "it was dropped or renamed since the run began, and only a pattern meant it".to_owned();
    let why = left_out.map_or_else(gone, |reason| format!("it is not dumped any more: {reason}"));
    TargetReport::new(target, Outcome::Skipped(why))
}

/// What became of a target in a database with which nothing could be done.
pub(super) fn failed(
    patterns: &DatabasePatterns,
    name: &DatabaseName,
    (target, failure): (Target, Failure),
    cx: &RunContext,
) -> TargetReport {
    if is_gone(patterns, name, &failure) {
        return skipped(target, None);
    }
    cx.ended(target, Err(failure))
}
