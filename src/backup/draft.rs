//! A backup that is being made: what the dump of a database and that of the globals share.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        backup::{BackupId, Series, Subject},
        failure::{Class, Failure},
        manifest::{self, DatabaseFacts, LeftOut, Manifest, Plain, Snapshot, Totals},
        scope::{Format, Scope},
        suspicion::Suspicion,
    },
    sys::{host, task::Task},
};

use super::{
    fanout::{Fanout, Placed, Stored},
    files::SmallFile,
    outcome::BackupOutcome,
    plan::DumpPlan,
    restore_notes,
    suspect::{self, Yardstick},
};

/// A backup that is being made.
pub(super) struct Draft<'a> {
    pub(super) plan: &'a DumpPlan<'a>,
    pub(super) id: BackupId,
    pub(super) series: Series,
}

/// What is known of it before its bytes.
pub(super) struct Details<'a> {
    /// `pg_dump` or `pg_dumpall`.
    pub(super) program: &'static str,
    pub(super) command: Vec<String>,
    pub(super) started_at: Timestamp,
    /// None of the globals.
    pub(super) database: Option<DatabaseFacts>,
    pub(super) snapshot: Snapshot,
    pub(super) left_out: Vec<LeftOut>,
    /// Unlogged tables whose rows a standby does not have; none on a primary.
    pub(super) unlogged: Option<u64>,
    pub(super) files: &'a [SmallFile],
}

impl<'a> Draft<'a> {
    /// With a new id, from the host's clock.
    ///
    /// # Errors
    /// When the kernel gives no random bits.
    pub(super) fn new(
        plan: &'a DumpPlan<'a>,
        subject: Subject,
        task: &Task,
    ) -> Result<Self, Failure> {
        let random = host::random_u64()
            .map_err(|error| Failure::from_error(Class::Internal, "make a backup id", &error))?;
        let id = BackupId::new(task.clock.now().wall, random);
        Ok(Self { plan, id, series: plan.series(subject) })
    }

    /// `stem` is the name of its first volume, where it is not encrypted.
    pub(super) fn fanout(&self, stem: String) -> Fanout<'_> {
        Fanout {
            series: &self.series,
            id: &self.id,
            stem,
            repositories: self.plan.repositories,
            compression: self.plan.compression,
            volume_parts: self.plan.volume_parts,
            grace: self.plan.children.grace,
            exited: CancellationToken::new(),
        }
    }

    /// What it will be compared with.
    pub(super) async fn yardstick(&self, task: &Task) -> Yardstick {
        Yardstick::find((self.plan.shrink, self.plan.asked), &self.series, task).await
    }

    /// Judges what is stored, and commits it with a manifest per repository.
    ///
    /// # Errors
    /// When something was left out: what was stored is then given up.
    pub(super) async fn finish(
        &self,
        stored: Stored,
        last: Yardstick,
        details: Details<'_>,
        task: &Task,
    ) -> Result<BackupOutcome, Failure> {
        let backup = suspect::NewBackup {
            series: &self.series,
            id: &self.id,
            program: details.program,
            left_out: &details.left_out,
            command: &details.command,
            unlogged: details.unlogged,
        };
        let (stored, judged) = suspect::judge(stored, backup, last, task).await?;
        let is_archive = details.database.is_some() && self.plan.form.format == Format::Custom;
        let plain = stored.streamed.plain.clone();
        let totals = stored.streamed.structure.totals.clone();
        let make = |placed: Placed| {
            let (plain, totals) = (plain.clone(), totals.clone());
            let suspicions = judged.suspicions.clone();
            let manifest = self.manifest(&details, plain, totals, suspicions, placed);
            let manifest = Manifest { finished_at: task.clock.now().wall, ..manifest }.versioned();
            Manifest { restore: restore_notes::lines(&manifest), ..manifest }
        };
        let delivered = stored.commit(is_archive, details.files, task, make).await;
        Ok(judged.dumped(delivered))
    }

    fn manifest(
        &self,
        details: &Details<'_>,
        plain: Plain,
        totals: Totals,
        suspicions: Vec<Suspicion>,
        placed: Placed,
    ) -> Manifest {
        let Placed { volumes, index, files, recipients } = placed;
        Manifest {
            format_version: 0,
            id: self.id.clone(),
            series: self.series.clone(),
            owner: self.plan.owner.clone(),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
            server_version: self.plan.facts.version.clone(),
            server_version_num: self.plan.facts.version_num,
            tool: self.plan.tool(details.program, details.command.clone()),
            selection: self.selection().cloned(),
            database: details.database.clone(),
            snapshot: details.snapshot.clone(),
            started_at: details.started_at,
            finished_at: details.started_at,
            left_out: details.left_out.clone(),
            plain,
            codec: manifest::codec(&recipients),
            recipients,
            objects: volumes,
            index,
            files,
            totals,
            suspicions,
            restore: Vec::new(),
        }
    }

    /// What of the database it is, where it is not all of it.
    fn selection(&self) -> Option<&Scope> {
        let scope = self.plan.scope;
        (self.series.subject.database().is_some() && !scope.is_whole()).then_some(scope)
    }
}
