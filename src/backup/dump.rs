//! The dump of one database: the linear story.
//!
//! connect → preflight → facts → snapshot → pg_dump through [`super::fanout`] → look at what came → manifests.
//! The snapshot is exported by a session of our own, so that its time and WAL positions are known;
//! pg_dump reads in it. If that session breaks before pg_dump has taken the snapshot over, pg_dump fails; if
//! it breaks later, nobody can say that no table was rewritten under the snapshot, and the run fails too.

use std::path::Path;

use jiff::Timestamp;

use crate::{
    codec::{archive::ArchiveProof, plain::PlainProof, proof::Proof},
    domain::{
        backup::Subject,
        failure::{Class, During, Failure, IntoFailure},
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
    courtesy::{Observations, Watch},
    draft::{Details, Draft},
    fanout::{Lost, Stored},
    locks,
    outcome::BackupOutcome,
    plan::DumpPlan,
    preflight::{self, Preflight},
    suspect::Yardstick,
};

/// Longest escaped name of a database that becomes a file name, in bytes.
const STEM_MAX: usize = 24;

/// The dump of one database, under way.
struct DatabaseDump<'a> {
    draft: Draft<'a>,
    name: &'a DatabaseName,
}

/// All that there is before pg_dump begins.
struct Ready {
    preflight: Preflight,
    facts: DatabaseFacts,
    command: Vec<String>,
    reader: Reader,
    /// Unlogged tables whose rows a standby does not have; none on a primary.
    unlogged: Option<u64>,
    started_at: Timestamp,
}

/// What lives as long as pg_dump reads.
struct Reader {
    /// `application_name` of pg_dump's sessions.
    application: String,
    env: ChildEnv,
    snapshot: ExportedSnapshot,
    /// What is dumped, with the names of all partitions that the snapshot has.
    all: Scope,
}

/// What came of pg_dump.
struct Read {
    stored: Result<Stored, Lost>,
    /// Tables that changed before pg_dump had its locks.
    changed: Result<Vec<String>, PgError>,
    seen: Observations,
    last: Yardstick,
}

/// Dumps one database into every repository.
///
/// # Errors
/// When there is no backup at all; see [`super::fanout::Fanout::stream`].
pub async fn database(
    plan: &DumpPlan<'_>,
    name: &DatabaseName,
    task: &Task,
) -> Result<BackupOutcome, Failure> {
    let task = &task.doing(format!("dump database {name}"));
    let draft = Draft::new(plan, Subject::Database(name.clone()), task)?;
    let dump = DatabaseDump { draft, name };
    let ready = Box::pin(dump.prepare(task)).await?;
    let (made, seen) = Box::pin(dump.make(ready, task)).await;
    let made = made.or_else(|lost| BackupOutcome::none(dump.in_each(lost, &seen, task)));
    let mut outcome = made?;
    outcome.findings.extend(seen.findings(name.as_str(), plan.courtesy));
    outcome.held = seen.held();
    Ok(outcome)
}

impl DatabaseDump<'_> {
    /// Has pg_dump read, judges what came, and commits it.
    async fn make(&self, ready: Ready, task: &Task) -> (Result<BackupOutcome, Lost>, Observations) {
        let Ready { preflight, facts, command, reader, unlogged, started_at } = ready;
        let snapshot = reader.snapshot.facts.clone();
        let no_room = preflight.facts.has_no_room_to_watch();
        let read = Box::pin(self.read(reader, &command, no_room, task)).await;
        let Read { stored, changed, seen, last } = read;
        let finish = async {
            let stored = stored?;
            if let Some(failure) = locks::refusal(changed, task) {
                stored.abandon().await;
                return Err(failure.into());
            }
            let details = Details {
                program: "pg_dump",
                command,
                started_at,
                database: Some(facts),
                snapshot,
                left_out: [left_out(unlogged), preflight.judged.left_out].concat(),
                unlogged,
                files: &[],
            };
            let mut outcome = self.draft.finish(stored, last, details, task).await?;
            outcome.findings.extend(preflight.judged.told);
            Ok(outcome)
        };
        (finish.await, seen)
    }

    /// Why there is no backup in each repository, as far as locks explain it.
    fn in_each(&self, lost: Lost, seen: &Observations, task: &Task) -> Lost {
        let plan = self.draft.plan;
        let Lost::All(mut failure) = lost else { return lost };
        if !task.cancel.is_cancelled() {
            failure = seen.explain(failure, plan.courtesy);
        }
        let names = plan.repositories.iter().map(|it| it.name().clone());
        Lost::Each(names.map(|name| (name, Err(failure.clone()))).collect())
    }

    /// Looks whether the dump would be whole, and holds the moment that it is of.
    async fn prepare(&self, task: &Task) -> Result<Ready, Failure> {
        let plan = self.draft.plan;
        let major = plan.tools.version.major;
        scope::check_version(plan.scope, plan.form, major).during(task)?;
        let pg_dump = plan.tools.program("pg_dump")?;
        let session = plan.server.connect(self.name.as_str(), task).await?;
        plan.is_of(&session, task).await?;
        let preflight = preflight::refuse(&session, plan.scope, plan.accepted, task).await?;
        let facts = catalog::database_facts(session.queries(&task.cancel)).await.during(task)?;
        let application = application(&self.draft.id);
        let env = plan.server.child_env_as(&session, &application)?;
        let snapshot = self.export(session, task).await.during(task)?;
        let looked = self.look(&snapshot, &facts, task).await.and_then(|(all, unlogged)| {
            let command = self.command(&pg_dump, (&snapshot, &all), &preflight, task)?;
            Ok((all, unlogged, command))
        });
        let (all, unlogged, command) = match looked {
            Ok(looked) => looked,
            Err(failure) => {
                snapshot.close().await;
                return Err(failure);
            }
        };
        let reader = Reader { application, env, snapshot, all };
        let started_at = task.clock.now().wall;
        Ok(Ready { preflight, facts, command, reader, unlogged, started_at })
    }

    /// pg_dump's command line.
    fn command(
        &self,
        pg_dump: &Path,
        (snapshot, all): (&ExportedSnapshot, &Scope),
        preflight: &Preflight,
        task: &Task,
    ) -> Result<Vec<String>, Failure> {
        let plan = self.draft.plan;
        let major = plan.tools.version.major;
        let options = [plan.form.options, &preflight.options()].concat();
        let dump = Dump {
            database: self.name.as_str(),
            snapshot: Some(&snapshot.id),
            lock_wait: plan.lock_wait,
            scope: scope::for_tool(plan.scope, all, major),
            form: Form { options: &options, ..plan.form },
            keepalives: plan.server.spec().keepalives,
        };
        let command = dump.command(pg_dump, major);
        scope::check_length(&command, major).during(task)?;
        Ok(command)
    }

    /// What the snapshot has of what is to be dumped, with all partitions.
    async fn look(
        &self,
        snapshot: &ExportedSnapshot,
        facts: &DatabaseFacts,
        task: &Task,
    ) -> Result<(Scope, Option<u64>), Failure> {
        let (plan, cancel) = (self.draft.plan, &task.cancel);
        let (ask, major) = (snapshot.session().queries(cancel), plan.tools.version.major);
        let all = scope::with_children(ask, plan.scope).await.during(task)?;
        let wanted = (plan.scope, &all, major);
        scope::check_matches(ask, wanted, &facts.encoding).await.during(task)?;
        let unlogged = if snapshot.facts.standby {
            Some(snapshot.unlogged(&all, cancel).await.during(task)?)
        } else {
            None
        };
        Ok((all, unlogged))
    }

    /// Exports the snapshot; `status` tells where that takes its time.
    async fn export(&self, session: Session, task: &Task) -> Result<ExportedSnapshot, PgError> {
        let deferrable = self.draft.plan.deferrable;
        let _waits = deferrable.map(|_| task.progress.waits_for("a safe snapshot"));
        export_snapshot(session, deferrable, &task.cancel).await
    }

    /// Has pg_dump read, while it is watched who waits behind it, and the last backup is looked for.
    async fn read(
        &self,
        Reader { application, env, snapshot, all }: Reader,
        command: &[String],
        has_no_room: bool,
        task: &Task,
    ) -> Read {
        let plan = self.draft.plan;
        let fanout = self.draft.fanout(stem(self.name, plan.form.format));
        let exited = fanout.exited.clone();
        let spec = plan.child(command, &env);
        // Cancelled alone where the backup gives way.
        let backup = task.child();
        let watch = Watch {
            server: plan.server,
            application: &application,
            exporter: snapshot.pid,
            courtesy: plan.courtesy,
            database: self.name.as_str(),
            has_no_room,
            backup: &backup,
            done: &exited,
        };
        // Once pg_dump is done with the snapshot, it goes: a repository that still takes parts must not
        // hold back VACUUM.
        let close = async {
            let changed = locks::changed(&snapshot, &all, &application, &exited, &backup).await;
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
        let proof: Box<dyn Proof> = match plan.form.format {
            Format::Custom => Box::new(ArchiveProof::new(plan.scratch)),
            Format::Plain => Box::new(PlainProof::of_database()),
        };
        let stream = fanout.stream(spec, proof, &backup);
        let last = self.draft.yardstick(&backup);
        let (stored, (gone, changed), mut seen, last) =
            tokio::join!(stream, close, watch.follow(), last);
        watch.name(&mut seen, task).await;
        let stored = stored.map_err(|lost| why_lost(lost, gone, &changed, task));
        Read { stored, changed, seen, last }
    }
}

/// Where the snapshot was gone before pg_dump could read in it, pg_dump only says that there is none; and where pg_dump
/// was stopped since nobody could say that nothing changed, that is why.
fn why_lost(
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
            Lost::All(error.clone().into_failure(task))
        }
        (lost, ..) => lost,
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
