//! The dump of what belongs to the whole cluster: roles, tablespaces, their settings.
//!
//! It is taken last in a run, so that every role that a dumped database names is in it (unless it
//! was dropped meanwhile). pg_dumpall knows no snapshot: the time is that of its start.

mod databases;
mod server_files;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    codec::plain::PlainProof,
    domain::{
        backup::Subject,
        failure::{Class, During, Failure},
        finding::{CheckName, Finding, Severity},
        manifest::LeftOut,
        target::Target,
        units::format_duration,
    },
    postgres::{Session, catalog, command::Globals, snapshot::moment, spec::ChildEnv},
    sys::{task::Task, time_limits},
};

use self::server_files::ServerFiles;
use super::{
    draft::{Details, Draft},
    fanout::{Lost, Stored},
    files::SmallFile,
    outcome::BackupOutcome,
    plan::DumpPlan,
    preflight,
};

/// How often the time of an answer pg_dumpall may take for its questions to the catalogue.
const ANSWERS: u32 = 12;
/// So long the client programs may take at least: what they read may be much, and the host busy.
const LIMIT_MIN: Duration = Duration::from_mins(10);

/// How long a client program may take that asks so many questions.
fn limit(answer_timeout: Duration, answers: u32) -> Duration {
    time_limits::limit(LIMIT_MIN).max(answer_timeout * answers)
}

fn left_out(role_passwords: bool) -> Vec<LeftOut> {
    if role_passwords {
        return Vec::new();
    }
    vec![LeftOut {
        what: "passwords of roles".to_owned(),
        reason: "role_passwords = false".to_owned(),
    }]
}

/// The most memory that what lies beside the globals takes, in bytes: as it is, and compressed.
pub const BESIDE_BYTES: u64 = 2 * (databases::SQL_MAX + server_files::FILES_MAX) as u64;

/// How often the list of databases is read, where one of them goes away meanwhile.
const LOOKS: u32 = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The password hashes of roles. It takes a superuser, or a role that may read pg_authid.
    pub role_passwords: bool,
    /// The server's configuration files and settings, as far as the role may read them.
    pub server_files: bool,
}

/// Dumps the globals into every repository. Beside them lie how the databases are made, and how the
/// server is configured. What of that the role has no right to read is named in the
/// manifest, and loses nothing else.
///
/// # Errors
/// When there is no backup at all; see [`super::fanout::Fanout::stream`].
pub async fn globals(
    plan: &DumpPlan<'_>,
    parts: Parts,
    task: &Task,
) -> Result<BackupOutcome, Failure> {
    let task = &task.doing("dump globals");
    let database = plan.server.maintenance_database();
    let session = plan.server.connect(database, task).await?;
    plan.is_of(&session, task).await?;
    preflight::refuse_globals(&session, parts.role_passwords, task).await?;
    let env = plan.server.child_env(&session)?;
    let snapshot = moment(session.queries(&task.cancel)).await.during(task)?;
    let beside = beside(plan, parts, &session, &env, task).await?;
    session.close().await;
    task.progress.set_stage(task.phrase());
    let draft = Draft::new(plan, Subject::Globals, task)?;
    let started_at = task.clock.now().wall;
    let dump = Globals {
        database,
        without_passwords: !parts.role_passwords,
        lock_wait: plan.lock_wait,
        keepalives: plan.server.spec().keepalives,
    };
    let pg_dumpall = plan.tools.program("pg_dumpall")?;
    let command = dump.command(&pg_dumpall, plan.tools.version.major);
    let fanout = draft.fanout("globals.sql.zst".to_owned());
    let spec = plan.child(&command, &env);
    let limit = limit(plan.server.spec().answer_timeout, ANSWERS);
    let stream = within((limit, &fanout.exited), task, async |task: &Task| {
        fanout.stream(spec, Box::new(PlainProof::of_globals()), task).await
    });
    let (stored, yardstick) = tokio::join!(stream, draft.yardstick(task));
    drop(env);
    let stored = match stored {
        Ok(stored) => stored,
        Err(lost) => return BackupOutcome::none(lost),
    };
    let details = Details {
        program: "pg_dumpall",
        command,
        started_at,
        database: None,
        snapshot,
        left_out: [left_out(parts.role_passwords), beside.left_out.clone()].concat(),
        unlogged: None,
        files: &beside.files,
    };
    let mut outcome = draft.finish(stored, yardstick, details, task).await?;
    outcome.findings.extend(unread_finding(&beside));
    Ok(outcome)
}

/// What lies beside the globals: how the databases are made first, then how the server is configured.
async fn beside(
    plan: &DumpPlan<'_>,
    parts: Parts,
    session: &Session,
    env: &ChildEnv,
    task: &Task,
) -> Result<ServerFiles, Failure> {
    let mut beside = ServerFiles::default();
    if parts.server_files {
        beside = server_files::read(plan, session, task).await.during(task)?;
    }
    let made = how_made(plan, session, env, task).await?;
    let sql = SmallFile { name: databases::NAME.to_owned(), path: None, plain: made.sql };
    beside.files.insert(0, sql);
    beside.left_out.extend(made.left_out);
    beside.is_cut |= made.is_cut;
    Ok(beside)
}

/// Cancels what takes longer than that: pg_dumpall asks the catalogue some questions, and no more. Once it
/// has `exited`, what is still on its way to the repositories has limits of its own.
async fn within(
    (limit, exited): (Duration, &CancellationToken),
    task: &Task,
    stream: impl AsyncFnOnce(&Task) -> Result<Stored, Lost>,
) -> Result<Stored, Lost> {
    let bounded = task.child();
    let stream = stream(&bounded);
    tokio::pin!(stream);
    tokio::select! {
        stored = &mut stream => return stored,
        () = exited.cancelled() => return stream.await,
        () = tokio::time::sleep(limit) => bounded.cancel.cancel(),
    }
    match stream.await {
        Err(_) if !task.cancel.is_cancelled() => {
            let what = format!("pg_dumpall took longer than {}", format_duration(limit));
            let failure = task.failure(Class::Stalled, what);
            Err(failure.hint(
                "does the server, or the network between, stand still? pg_dumpall has twelve times the \
                 server's answer_timeout, and ten minutes at least",
            ).into())
        }
        ended => ended,
    }
}

/// How the databases are made. One that is dropped or renamed meanwhile is looked for once more under
/// whatever names there are then.
async fn how_made(
    plan: &DumpPlan<'_>,
    session: &Session,
    env: &ChildEnv,
    task: &Task,
) -> Result<databases::Definitions, Failure> {
    let mut looks = LOOKS;
    loop {
        let databases =
            catalog::databases(session.queries(&task.cancel), false).await.during(task)?;
        looks -= 1;
        match databases::sql(plan, env, &databases, task).await {
            Err(failure) if failure.class == Class::DatabaseGone && looks > 0 => {}
            result => return result,
        }
    }
}

/// What could not be read, in one finding.
fn unread_finding(found: &ServerFiles) -> Option<Finding> {
    let first = found.left_out.first()?;
    let more = match found.left_out.len() {
        1 => String::new(),
        count => format!(", and {} more (`pgkeep show`)", count - 1),
    };
    let severity = if found.is_cut { Severity::Warning } else { Severity::Info };
    let what = format!("the backup of the globals lacks {}: {}{more}", first.what, first.reason);
    let finding = Finding::new(CheckName("globals-unread"), severity, what);
    Some(Finding { hint: found.hint.clone(), ..finding }.about(Target::subject(&Subject::Globals)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::SystemClock;

    /// What a stream gives that ends after so many milliseconds, where pg_dumpall exits after so many and may take
    /// a fifth of a second.
    async fn streamed(exits: u64, ends: u64) -> Lost {
        let (task, exited) = (Task::new(SystemClock::new()), CancellationToken::new());
        let wait = |it| tokio::time::sleep(Duration::from_millis(it));
        let limit = Duration::from_millis(200);
        let stream = within((limit, &exited), &task, async |task: &Task| {
            let end = async {
                wait(exits).await;
                exited.cancel();
                wait(ends - exits).await;
                "its own end"
            };
            let what = tokio::select! {
                what = end => what,
                () = task.cancel.cancelled() => "cancelled",
            };
            Err(Failure::new(Class::Space, "dump globals", what).into())
        });
        stream.await.err().unwrap()
    }

    #[tokio::test]
    async fn slow_uploads_are_not_pg_dumpalls() {
        let class = |lost| match lost {
            Lost::All(failure) => failure.class,
            Lost::Each(_) => Class::Internal,
        };
        assert_eq!(class(streamed(1, 400).await), Class::Space, "it exited in time");
        assert_eq!(limit(Duration::from_secs(1), ANSWERS), LIMIT_MIN);
        assert_eq!(class(streamed(30_000, 30_000).await), Class::Stalled);
    }
}
