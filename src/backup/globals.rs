//! The dump of what belongs to the whole cluster: roles, tablespaces, their settings.
//!
//! It is taken last in a run, so that every role that a dumped database names is in it (unless it
//! was dropped meanwhile). pg_dumpall knows no snapshot: the time is that of its start.

use tokio_util::sync::CancellationToken;

use crate::{
    codec::globals::GlobalsProof,
    domain::{backup::Subject, failure::Failure, manifest::LeftOut},
    postgres::{PgError, command::Globals, snapshot::moment},
    sys::task::Task,
};

use super::{
    dump::{Draft, Dumped, Source, new_id},
    fanout::Fanout,
    stderr,
};

fn left_out(role_passwords: bool) -> Vec<LeftOut> {
    if role_passwords {
        return Vec::new();
    }
    vec![LeftOut {
        what: "passwords of roles".to_owned(),
        reason: "role_passwords = false".to_owned(),
    }]
}

/// Dumps the globals into every repository. Reading `role_passwords` takes a superuser, or a role
/// that may read pg_authid.
///
/// # Errors
/// When there is no backup at all; see [`Fanout::stream`].
pub async fn globals(
    source: &Source<'_>,
    role_passwords: bool,
    task: &Task,
) -> Result<Dumped, Failure> {
    let doing = "dump globals";
    let fail = |error: PgError| error.into_failure(doing);
    let database = source.server.maintenance_database();
    let session = source.server.connect(database, doing, task).await?;
    let env = source.server.child_env(&session, source.scratch)?;
    let snapshot = moment(&session, &task.cancel).await.map_err(fail)?;
    session.close().await;
    let id = new_id(task)?;
    let started_at = task.clock.now().wall;
    let series = source.series(Subject::Globals);
    let dump = Globals {
        database,
        without_passwords: !role_passwords,
        lock_wait: source.lock_wait,
        keepalives: source.server.spec().keepalives,
    };
    let pg_dumpall = source.tools.program("pg_dumpall")?;
    let command = dump.command(&pg_dumpall, source.tools.version.major);
    let fanout = Fanout {
        series: &series,
        id: &id,
        stem: "globals.sql.zst".to_owned(),
        doing: doing.to_owned(),
        repositories: source.repositories,
        compression: source.compression,
        volume_parts: source.volume_parts,
        grace: source.grace,
        exited: CancellationToken::new(),
    };
    let spec = source.child(&command, &env);
    let stored = fanout.stream(spec, Box::new(GlobalsProof::new()), task).await;
    drop(env);
    let stored = match stored {
        Ok(stored) => stored,
        Err(lost) => return Dumped::none(lost),
    };
    let findings = stderr::findings("pg_dumpall", "globals", &stored.stderr);
    let tool = source.tool("pg_dumpall", command);
    let draft = Draft { source, id: &id, series: &series, started_at, tool };
    let delivered = draft.commit(stored, (None, &snapshot, left_out(role_passwords)), task).await;
    Ok(Dumped { delivered, findings: findings.into_iter().collect(), held: None })
}
