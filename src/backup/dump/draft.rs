//! The manifest of a new backup, which is committed with it.

use crate::{
    domain::{
        backup::{BackupId, Series},
        manifest::{self, DatabaseFacts, LeftOut, Manifest, Snapshot, Tool},
        scope::{Format, Scope},
        suspicion::Suspicion,
    },
    sys::task::Task,
};

use super::{
    super::{
        fanout::{Delivered, Placed, Stored},
        files::SmallFile,
        restore_notes::{self, About},
    },
    Source,
};

/// A manifest but for what only the end of the stream tells.
pub(in crate::backup) struct Draft<'a> {
    pub(in crate::backup) source: &'a Source<'a>,
    pub(in crate::backup) id: &'a BackupId,
    pub(in crate::backup) series: &'a Series,
    pub(in crate::backup) started_at: jiff::Timestamp,
    pub(in crate::backup) tool: Tool,
    /// What lies beside the volumes.
    pub(in crate::backup) files: &'a [SmallFile],
    pub(in crate::backup) suspicions: Vec<Suspicion>,
}

impl Draft<'_> {
    /// What of the database it is, where it is not all of it.
    fn selection(&self) -> Option<&Scope> {
        let scope = self.source.scope;
        (self.series.subject.database().is_some() && !scope.is_whole()).then_some(scope)
    }

    /// Commits what is stored, with a manifest per repository.
    pub(in crate::backup) async fn commit(
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
                has_statistics: self.tool.has_statistics(),
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
