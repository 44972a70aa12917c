//! The dump of one database: the linear story.
//!
//! connect → preflight → facts → snapshot → pg_dump through [`super::fanout`] → look at what came → manifests.
//! The snapshot is exported by a session of our own, so that its time and WAL positions are known;
//! pg_dump reads in it. If that session breaks before pg_dump has taken the snapshot over, pg_dump fails; if
//! it breaks later, nobody can say that no table was rewritten under the snapshot, and the run fails too.

mod draft;
mod source;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    codec::{archive::ArchiveProof, plain::PlainProof, proof::Proof},
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Class, Failure, IntoFailure},
        manifest::{DatabaseFacts, LeftOut},
        name::{DatabaseName, escape},
        scope::{Format, Scope},
    },
    postgres::{
        PgError, Session, catalog,
        command::Dump,
        scope::{self, Form},
        server::application,
        snapshot::{ExportedSnapshot, export_snapshot},
        spec::ChildEnv,
    },
    sys::task::Task,
};

use super::{
    courtesy::{Seen, Watch},
    fanout::{Fanout, Lost, Stored},
    locks,
    preflight::{self, Preflight},
    suspect::{self, Yardstick},
};

pub use self::source::{Asked, Dumped, Source};
pub(super) use self::{draft::Draft, source::new_id};

/// Longest escaped name of a database that becomes a file name, in bytes.
const STEM_MAX: usize = 24;

/// Which backup is being made.
struct About<'a> {
    source: &'a Source<'a>,
    name: &'a DatabaseName,
    id: BackupId,
    series: Series,
    /// What is being done, for messages.
    doing: String,
}

/// All that there is before pg_dump begins.
struct Ready {
    preflight: Preflight,
    facts: DatabaseFacts,
    /// `application_name` of pg_dump's sessions.
    application: String,
    env: ChildEnv,
    /// pg_dump's.
    command: Vec<String>,
    snapshot: ExportedSnapshot,
    /// What is dumped, with the names of all partitions that the snapshot has.
    all: Scope,
    /// Unlogged tables whose rows a standby does not have; none on a primary.
    unlogged: Option<u64>,
    started_at: Timestamp,
}

/// What came of pg_dump.
struct Read {
    stored: Result<Stored, Lost>,
    /// Tables that changed before pg_dump had its locks.
    changed: Result<Vec<String>, PgError>,
    seen: Seen,
    last: Yardstick,
}

/// Dumps one database into every repository.
///
/// # Errors
/// When there is no backup at all; see [`Fanout::stream`].
pub async fn database(
    source: &Source<'_>,
    name: &DatabaseName,
    task: &Task,
) -> Result<Dumped, Failure> {
    let doing = format!("dump database {name}");
    let series = source.series(Subject::Database(name.clone()));
    let about = About { source, name, id: new_id(task)?, series, doing };
    let ready = Box::pin(about.prepare(task)).await?;
    let Ready { preflight, facts, application, env, command, snapshot, all, unlogged, started_at } =
        ready;
    let moment = snapshot.facts.clone();
    let running = (application.as_str(), env, command.as_slice());
    let no_room = preflight.facts.has_no_room_to_watch();
    let read = Box::pin(about.read(running, (snapshot, &all), no_room, task)).await;
    let Read { stored, changed, seen, last } = read;
    let lost = |why| Dumped::lost(why, source, &seen, task).with(&seen, name, source);
    let stored = match stored {
        Ok(stored) => stored,
        Err(why) => return Ok(lost(why)),
    };
    if let Some(failure) = locks::refusal(changed, &about.doing) {
        stored.abandon().await;
        return Ok(lost(failure.into()));
    }
    let left_out = [left_out(unlogged), preflight.judged.left_out].concat();
    let (id, series, doing) = (&about.id, &about.series, &*about.doing);
    let judging =
        suspect::About { series, id, doing, left_out: &left_out, command: &command, unlogged };
    let judged = suspect::judge(stored, ("pg_dump", judging), last).await;
    let (stored, judged) = match judged {
        Ok(judged) => judged,
        Err(failure) => return Ok(lost(failure.into())),
    };
    let tool = source.tool("pg_dump", command);
    let suspicions = judged.suspicions.clone();
    let draft = Draft { source, id, series, started_at, tool, files: &[], suspicions };
    let delivered = draft.commit(stored, (Some(facts), &moment, left_out), task).await;
    let mut dumped = judged.dumped(delivered);
    dumped.findings.extend(preflight.judged.told);
    Ok(dumped.with(&seen, name, source))
}

impl About<'_> {
    /// Looks whether the dump would be whole, and holds the moment that it is of.
    async fn prepare(&self, task: &Task) -> Result<Ready, Failure> {
        let (source, name, doing) = (self.source, self.name, &*self.doing);
        let fail = |error: PgError| error.into_failure(doing);
        let major = source.tools.version.major;
        scope::check_version(source.scope, source.form, major).map_err(fail)?;
        let pg_dump = source.tools.program("pg_dump")?;
        let session = source.server.connect(name.as_str(), &task.doing(doing)).await?;
        source.is_of(&session, (doing, task)).await?;
        let wanted = (source.scope, source.accepted);
        let preflight = preflight::refuse(&session, wanted, (doing, task)).await?;
        let facts = catalog::database_facts(session.queries(&task.cancel)).await.map_err(fail)?;
        let application = application(&self.id);
        let env = source.server.child_env_as(&session, &application)?;
        let snapshot = self.export(session, task).await.map_err(fail)?;
        let (all, unlogged) = match self.look(&snapshot, &facts, task).await {
            Ok(looked) => looked,
            Err(failure) => {
                snapshot.close().await;
                return Err(failure);
            }
        };
        let options = [source.form.options, &preflight.options()].concat();
        let dump = Dump {
            database: name.as_str(),
            snapshot: Some(&snapshot.id),
            lock_wait: source.lock_wait,
            scope: scope::for_tool(source.scope, &all, major),
            form: Form { options: &options, ..source.form },
            keepalives: source.server.spec().keepalives,
        };
        let command = dump.command(&pg_dump, major);
        if let Err(error) = scope::check_length(&command, major) {
            snapshot.close().await;
            return Err(fail(error));
        }
        let started_at = task.clock.now().wall;
        Ok(Ready {
            preflight,
            facts,
            application,
            env,
            command,
            snapshot,
            all,
            unlogged,
            started_at,
        })
    }

    /// What the snapshot has of what is to be dumped, with all partitions.
    async fn look(
        &self,
        snapshot: &ExportedSnapshot,
        facts: &DatabaseFacts,
        task: &Task,
    ) -> Result<(Scope, Option<u64>), Failure> {
        let (source, doing, cancel) = (self.source, &*self.doing, &task.cancel);
        let fail = |error: PgError| error.into_failure(doing);
        let (session, major) = (snapshot.session(), source.tools.version.major);
        let ask = session.queries(cancel);
        let all = scope::with_children(ask, source.scope).await.map_err(fail)?;
        let wanted = (source.scope, &all, major);
        scope::check_matches(ask, wanted, &facts.encoding).await.map_err(fail)?;
        let unlogged = if snapshot.facts.standby {
            Some(snapshot.unlogged(&all, cancel).await.map_err(fail)?)
        } else {
            None
        };
        Ok((all, unlogged))
    }

    /// Exports the snapshot; `status` tells where that takes its time.
    async fn export(&self, session: Session, task: &Task) -> Result<ExportedSnapshot, PgError> {
        let deferrable = self.source.deferrable;
        let _waits = deferrable.map(|_| task.progress.waits_for("a safe snapshot"));
        export_snapshot(session, deferrable, &task.cancel).await
    }

    /// Has pg_dump read, while it is watched whom that holds up, and the last backup is looked for.
    async fn read(
        &self,
        (application, env, command): (&str, ChildEnv, &[String]),
        (snapshot, all): (ExportedSnapshot, &Scope),
        has_no_room: bool,
        task: &Task,
    ) -> Read {
        let source = self.source;
        let exited = CancellationToken::new();
        let fanout = Fanout {
            series: &self.series,
            id: &self.id,
            stem: stem(self.name, source.form.format),
            doing: self.doing.clone(),
            repositories: source.repositories,
            compression: source.compression,
            volume_parts: source.volume_parts,
            grace: source.grace,
            exited: exited.clone(),
        };
        let spec = source.child(command, &env);
        let watch = Watch {
            server: source.server,
            application,
            exporter: snapshot.pid,
            courtesy: source.courtesy,
            database: self.name.as_str(),
            has_no_room,
        };
        // Cancelled alone where the backup gives way.
        let backup = task.child();
        // Once pg_dump is done with the snapshot, it goes: a repository that still takes parts must not
        // hold back VACUUM.
        let close = async {
            let looked_at = (all, application);
            let changed = locks::changed(&snapshot, looked_at, &exited, &backup).await;
            if changed.is_err() {
                // Nothing can come of it any more.
                backup.cancel.cancel();
            }
            exited.cancelled().await;
            let lost = snapshot.lost();
            snapshot.close().await;
            drop(env);
            (lost, changed)
        };
        let proof: Box<dyn Proof> = match source.form.format {
            Format::Custom => Box::new(ArchiveProof::new(source.scratch)),
            Format::Plain => Box::new(PlainProof::new()),
        };
        let stream = fanout.stream(spec, proof, &backup);
        let last = Yardstick::find((source.shrink, source.asked), &self.series, &backup);
        let (stored, (gone, changed), mut seen, last) =
            tokio::join!(stream, close, watch.follow(&backup, &exited), last);
        watch.name(&mut seen, task).await;
        let stored = stored.map_err(|lost| self.why_lost(lost, gone, &changed, task));
        Read { stored, changed, seen, last }
    }

    /// Where the snapshot was gone before pg_dump could read in it, pg_dump only says that there is none; and where pg_dump
    /// was stopped since nobody could say that nothing changed, that is why.
    fn why_lost(
        &self,
        lost: Lost,
        gone: Option<PgError>,
        changed: &Result<Vec<String>, PgError>,
        task: &Task,
    ) -> Lost {
        match (lost, gone, changed) {
            (Lost::All(failure), Some(error), _) if failure.class == Class::ToolFailed => {
                let what =
                    format!("the session that held the snapshot ended: {error}; {}", failure.what);
                Lost::All(Failure { what, ..error.into_failure(failure.doing) })
            }
            (Lost::All(failure), _, Err(error))
                if failure.class == Class::Interrupted
                    && !error.is_cancelled()
                    && !task.cancel.is_cancelled() =>
            {
                Lost::All(error.clone().into_failure(&*self.doing))
            }
            (lost, ..) => lost,
        }
    }
}

/// The name of the first volume, where it is not encrypted: for people who look into the folder. A long name would only make
/// the key longer, which stores that keep objects as files may refuse; the folder says it anyway.
/// A leading hyphen would make it an option of `cat` and `sha256sum` in the manifest's lines.
fn stem(name: &DatabaseName, format: Format) -> String {
    let escaped = escape(name.as_str());
    let is_handy = escaped.len() <= STEM_MAX && !escaped.starts_with('-');
    let short = if is_handy { escaped.as_str() } else { "database" };
    match format {
        Format::Custom => format!("{short}.dump.zst"),
        Format::Plain => format!("{short}.sql.zst"),
    }
}

fn left_out(unlogged: Option<u64>) -> Vec<LeftOut> {
    let Some(count) = unlogged.filter(|count| *count > 0) else { return Vec::new() };
    let tables = if count == 1 { "table" } else { "tables" };
    vec![LeftOut {
        what: format!("rows of {count} unlogged {tables}"),
        reason: "a standby does not have them".to_owned(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_archive_is_for_a_shell() {
        assert_eq!(stem(&"app".parse().unwrap(), Format::Plain), "app.sql.zst");
        let stem = |name: &str| stem(&name.parse().unwrap(), Format::Custom);
        assert_eq!(stem("app"), "app.dump.zst");
        assert_eq!(stem("-x"), "database.dump.zst");
        assert_eq!(stem(&"🐘".repeat(15)), "database.dump.zst");
    }
}
