//! The dump of one database: the linear story.
//!
//! connect → preflight → facts → snapshot → pg_dump through [`super::fanout`] → manifests. The snapshot is
//! exported by a session of our own, so that its time and WAL positions are known; pg_dump reads in
//! it. If that session breaks, pg_dump breaks too, and the run fails: never a backup of an unknown
//! moment.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    checks::preflight::Accepted,
    codec::{archive::ArchiveProof, plain::PlainProof, proof::Proof},
    domain::{
        backup::{BackupId, Series, Subject},
        blocking::Held,
        failure::{Class, Failure},
        finding::Finding,
        manifest::{self, DatabaseFacts, LeftOut, Manifest, Owner, Snapshot, Tool},
        name::{DatabaseName, escape},
        scope::{Format, Scope},
        suspicion::{Share, Suspicion},
    },
    postgres::{
        PgError, Server, Session,
        catalog::{self, ServerFacts},
        command::Dump,
        scope::{self, Form},
        server::application,
        snapshot::{ExportedSnapshot, export_snapshot},
        spec::ChildEnv,
        tools::Installed,
    },
    repository::repo::Repository,
    sys::{host, process::Spec, task::Task},
};

use super::{
    courtesy::{Courtesy, Seen, Watch},
    fanout::{Compression, Delivered, Fanout, Lost, Placed, Stored},
    files::SmallFile,
    locks, preflight,
    restore_notes::{self, About},
    suspect::{self, Yardstick},
};

/// Longest escaped name of a database that becomes a file name, in bytes.
const STEM_MAX: usize = 24;

/// What all backups of one run have in common.
#[derive(Debug)]
pub struct Source<'a> {
    /// The server.
    pub server: &'a Server,
    /// What it is.
    pub facts: &'a ServerFacts,
    /// The client programs that fit it.
    pub tools: &'a Installed,
    /// This host.
    pub owner: &'a Owner,
    /// The repositories.
    pub repositories: &'a [Arc<Repository>],
    /// What of a database is dumped.
    pub scope: &'a Scope,
    /// How pg_dump writes it.
    pub form: Form<'a>,
    /// How to compress.
    pub compression: Compression,
    /// Most parts of a volume.
    pub volume_parts: u32,
    /// What may be left out.
    pub accepted: &'a Accepted,
    /// How long pg_dump waits for a lock.
    pub lock_wait: std::time::Duration,
    /// How long to wait for a safe snapshot; none: the first snapshot will do.
    pub deferrable: Option<std::time::Duration>,
    /// What is done for others meanwhile.
    pub courtesy: Courtesy,
    /// By how much a backup may shrink before it is suspicious; none: backups are not compared.
    pub shrink: Option<Share>,
    /// Nice value of children.
    pub nice: i32,
    /// Time between SIGTERM and SIGKILL.
    pub grace: std::time::Duration,
    /// Where children are recorded.
    pub records: &'a std::path::Path,
    /// A private folder for passfiles, and for what is noted of an archive.
    pub scratch: &'a std::path::Path,
}

/// What came of one subject.
#[derive(Debug)]
pub struct Dumped {
    /// Per repository.
    pub delivered: Vec<Delivered>,
    /// What was noticed.
    pub findings: Vec<Finding>,
    /// What it held up meanwhile; none where that was not seen.
    pub held: Option<Held>,
    /// What the program said and nobody knows the meaning of, line by line.
    pub output: Vec<String>,
}

impl Dumped {
    /// Nothing came of it.
    ///
    /// # Errors
    /// Where that has one reason for all repositories.
    pub(super) fn none(lost: Lost) -> Result<Self, Failure> {
        match lost {
            Lost::All(failure) => Err(failure),
            Lost::Each(delivered) => Ok(Self::failed(delivered)),
        }
    }

    /// Nothing came of it, and something was seen meanwhile.
    fn lost(lost: Lost, source: &Source<'_>, seen: &Seen, task: &Task) -> Self {
        let delivered = match lost {
            Lost::All(failure) => {
                let explained = !task.cancel.is_cancelled();
                let failure =
                    if explained { seen.explain(failure, source.courtesy) } else { failure };
                let names = source.repositories.iter().map(|it| it.name().clone());
                names.map(|name| (name, Err(failure.clone()))).collect()
            }
            Lost::Each(delivered) => delivered,
        };
        Self::failed(delivered)
    }

    const fn failed(delivered: Vec<Delivered>) -> Self {
        Self { delivered, findings: Vec::new(), held: None, output: Vec::new() }
    }

    fn with(self, seen: &Seen, name: &DatabaseName, source: &Source<'_>) -> Self {
        let mut findings = self.findings;
        findings.extend(seen.findings(name.as_str(), source.courtesy));
        Self { findings, held: seen.held(), ..self }
    }
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
    let fail = |error: PgError| error.into_failure(&*doing);
    scope::check_version(source.scope, source.form, source.tools.version.major, &doing)?;
    let session = source.server.connect(name.as_str(), &doing, task).await?;
    let (scope, accepted) = (source.scope, source.accepted);
    let preflight =
        preflight::refuse(source.server, &session, scope, accepted, (&doing, task)).await?;
    let options = [source.form.options, &preflight.options()].concat();
    let facts = catalog::database_facts(&session, &task.cancel).await.map_err(fail)?;
    let id = new_id(task)?;
    let application = application(&id);
    let env = source.server.child_env_as(&session, &application, source.scratch)?;
    let snapshot = export(session, source, task).await.map_err(fail)?;
    let found = scope::check_matches(
        snapshot.session(),
        source.scope,
        &facts.encoding,
        &doing,
        &task.cancel,
    );
    if let Err(failure) = found.await {
        snapshot.close().await;
        return Err(failure);
    }
    let started_at = task.clock.now().wall;
    let series = source.series(Subject::Database(name.clone()));
    let dump = Dump {
        database: name.as_str(),
        snapshot: Some(&snapshot.id),
        lock_wait: source.lock_wait,
        scope: source.scope,
        form: Form { options: &options, ..source.form },
        keepalives: source.server.spec().keepalives,
    };
    let pg_dump = source.tools.program("pg_dump")?;
    let command = dump.command(&pg_dump, source.tools.version.major);
    let exited = CancellationToken::new();
    let fanout = Fanout {
        series: &series,
        id: &id,
        stem: stem(name, source.form.format),
        doing: doing.clone(),
        repositories: source.repositories,
        compression: source.compression,
        volume_parts: source.volume_parts,
        grace: source.grace,
        exited: exited.clone(),
    };
    let spec = source.child(&command, &env);
    let moment = snapshot.facts.clone();
    let watch = Watch {
        server: source.server,
        application: &application,
        exporter: snapshot.pid,
        courtesy: source.courtesy,
        database: name.as_str(),
    };
    // Cancelled alone where the backup gives way.
    let backup = task.child();
    // Once pg_dump is done with the snapshot and its password file, they go: a repository that
    // still takes parts must not hold back VACUUM.
    let close = async {
        let changed = locks::changed(&snapshot, &exited, &backup).await;
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
    let yardstick = Yardstick::find(source, &series, &backup);
    let (stored, (snapshot_lost, changed), mut seen, yardstick) =
        tokio::join!(stream, close, watch.follow(&backup, &exited), yardstick);
    watch.name(&mut seen, task).await;
    let lost = |why| Dumped::lost(why, source, &seen, task).with(&seen, name, source);
    let stored = match stored {
        Ok(stored) => stored,
        Err(why) => return Ok(lost(without_snapshot(why, snapshot_lost))),
    };
    if let Some(failure) = locks::refusal(changed, &doing) {
        stored.abandon().await;
        return Ok(lost(failure.into()));
    }
    let left_out = [left_out(&moment), preflight.judged.left_out].concat();
    let about = suspect::About { series: &series, id: &id, doing: &doing, left_out: &left_out };
    let judged = suspect::judge(stored, ("pg_dump", about), yardstick).await;
    let (stored, judged) = match judged {
        Ok(judged) => judged,
        Err(failure) => return Ok(lost(failure.into())),
    };
    let tool = source.tool("pg_dump", command);
    let suspicions = judged.suspicions.clone();
    let draft =
        Draft { source, id: &id, series: &series, started_at, tool, files: &[], suspicions };
    let delivered = draft.commit(stored, (Some(facts), &moment, left_out), task).await;
    let mut dumped = judged.dumped(delivered);
    dumped.findings.extend(preflight.judged.told);
    Ok(dumped.with(&seen, name, source))
}

/// Exports the snapshot; `status` tells where that takes its time.
async fn export(
    session: Session,
    source: &Source<'_>,
    task: &Task,
) -> Result<ExportedSnapshot, PgError> {
    let stage = task.progress.stage();
    if source.deferrable.is_some() {
        task.progress.set_stage(format!("{stage} (waits for a safe snapshot)"));
    }
    let snapshot = export_snapshot(session, source.deferrable, &task.cancel).await;
    task.progress.set_stage(stage);
    snapshot
}

/// Where the snapshot was gone before pg_dump could read in it, pg_dump only says that there is none.
fn without_snapshot(lost: Lost, why: Option<PgError>) -> Lost {
    match (lost, why) {
        (Lost::All(failure), Some(error)) if failure.class == Class::ToolFailed => {
            let what =
                format!("the session that held the snapshot ended: {error}; {}", failure.what);
            Lost::All(Failure { what, ..error.into_failure(failure.doing) })
        }
        (lost, _) => lost,
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

impl Source<'_> {
    /// The series of a subject: a database's has the name of what is dumped of it.
    pub fn series(&self, subject: Subject) -> Series {
        let contents = match subject {
            Subject::Database(_) => self.scope.series(),
            Subject::Globals => Scope::default().series(),
        };
        let (server, system_id) = (self.server.name().clone(), self.facts.system_id);
        Series { server, system_id, subject, contents }
    }

    /// A child that runs `command`.
    pub(super) fn child(&self, command: &[String], env: &ChildEnv) -> Spec {
        let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
        let mut spec = Spec::new(program).args(arguments).envs(env.vars.iter().cloned());
        spec.nice = self.nice;
        spec.record_in = Some(self.records.to_owned());
        spec
    }

    /// What the manifest says of the program.
    pub(super) fn tool(&self, name: &str, command: Vec<String>) -> Tool {
        Tool { name: name.to_owned(), version: self.tools.version.text.clone(), command }
    }
}

/// A new backup's id, from the host's clock.
///
/// # Errors
/// When the kernel gives no random bits.
pub(super) fn new_id(task: &Task) -> Result<BackupId, Failure> {
    let random = host::random_u64()
        .map_err(|error| Failure::from_error(Class::Internal, "make a backup id", &error))?;
    Ok(BackupId::new(task.clock.now().wall, random))
}

fn left_out(snapshot: &Snapshot) -> Vec<LeftOut> {
    if !snapshot.standby {
        return Vec::new();
    }
    vec![LeftOut {
        what: "rows of unlogged tables".to_owned(),
        reason: "a standby does not have them".to_owned(),
    }]
}

/// A manifest but for what only the end of the stream tells.
pub(super) struct Draft<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) id: &'a BackupId,
    pub(super) series: &'a Series,
    pub(super) started_at: jiff::Timestamp,
    pub(super) tool: Tool,
    /// What lies beside the volumes.
    pub(super) files: &'a [SmallFile],
    pub(super) suspicions: Vec<Suspicion>,
}

impl Draft<'_> {
    /// What of the database it is, where it is not all of it.
    fn selection(&self) -> Option<&Scope> {
        let scope = self.source.scope;
        (self.series.subject.database().is_some() && !scope.is_whole()).then_some(scope)
    }

    /// Commits what is stored, with a manifest per repository.
    pub(super) async fn commit(
        self,
        stored: Stored,
        (database, snapshot, left_out): (Option<DatabaseFacts>, &Snapshot, Vec<LeftOut>),
        task: &Task,
    ) -> Vec<Delivered> {
        let plain = stored.streamed.plain.clone();
        let totals = stored.streamed.structure.totals.clone();
        let scope = self.selection();
        let is_archive = database.is_some() && self.source.form.format == Format::Custom;
        let make = |placed: Placed| {
            let Placed { volumes, index, files, recipients } = placed;
            let names: Vec<String> = volumes.iter().map(|object| object.name.clone()).collect();
            let about = About {
                database: database.as_ref(),
                scope,
                is_script: !is_archive,
                volumes: &names,
                files: &files,
                tool_major: self.source.tools.version.major,
                recipients: &recipients,
            };
            let restore = restore_notes::lines(&about);
            let manifest = Manifest {
                format_version: 0,
                id: self.id.clone(),
                series: self.series.clone(),
                owner: self.source.owner.clone(),
                pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
                server_version: self.source.facts.version.clone(),
                server_version_num: self.source.facts.version_num,
                tool: self.tool.clone(),
                selection: scope.cloned(),
                database: database.clone(),
                snapshot: snapshot.clone(),
                started_at: self.started_at,
                finished_at: task.clock.now().wall,
                left_out: left_out.clone(),
                plain: plain.clone(),
                codec: manifest::codec(&recipients),
                recipients,
                objects: volumes,
                index,
                files,
                totals: totals.clone(),
                suspicions: self.suspicions.clone(),
                restore,
            };
            manifest.versioned()
        };
        stored.commit(is_archive, self.files, task, make).await
    }
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
