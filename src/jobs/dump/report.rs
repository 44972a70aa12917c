//! What a run of the kind tells: samples, figures, and what is odd about its tools.

use std::fmt::Display;

use crate::{
    checks::doctor::server::TOOL_VERSION,
    domain::{
        backup::Subject,
        blocking::Held,
        finding::{CheckName, Finding, Severity},
        manifest::Manifest,
        name::RepositoryName,
        pattern::{Reason, Selection},
        report::{Figures, Report},
        scope::Scope,
        target::Target,
        text,
    },
    postgres::{catalog::ServerFacts, tools::Installed},
};

use super::{
    super::RunContext, Attempt, BLOCKED_SECONDS, BLOCKED_SESSIONS, Dump, LAST_PLAIN, LAST_ROWS,
    LAST_SIZE, LAST_SUCCESS, MAX_AGE, SELECTION_LAST_SUCCESS, SNAPSHOT_SECONDS, XMIN_AGE,
};

/// Databases that a finding names; more are counted.
const CLOSED_MAX: usize = 10;

impl Dump {
    /// The name of the series: that of the selection, but for the globals.
    pub(super) fn contents(&self, subject: &Subject) -> String {
        match subject {
            Subject::Database(_) => self.scope(subject).series(),
            Subject::Globals => Scope::default().series(),
        }
    }

    /// Whether what is made of the subject is all of it.
    fn is_whole(&self, subject: &Subject) -> bool {
        subject.database().is_none() || self.scope(subject).is_whole()
    }

    /// How old the newest backup of the subject may become, in each repository.
    ///
    /// A selection has none: the newest backup of the database, which such an age is held
    /// against, is never one. The job's own age tells when it is late.
    pub(super) fn objective(&self, subject: &Subject, cx: &RunContext, report: &mut Report) {
        if !self.is_whole(subject) {
            return;
        }
        let Some(max_age) = cx.max_age else { return };
        let (server, subject) = (self.server.name(), subject.label());
        let samples = self
            .repositories
            .iter()
            .map(|handle| MAX_AGE.sample([server, &subject, handle.name()], max_age.as_secs_f64()));
        report.samples.extend(samples);
    }

    /// What is measured of a backup that was made.
    pub(super) fn samples(
        &self,
        subject: &Subject,
        repository: &RepositoryName,
        manifest: &Manifest,
        report: &mut Report,
    ) {
        let at = manifest.snapshot.at.as_duration().as_secs_f64();
        let label = subject.label();
        let labels: [&dyn Display; 3] = [self.server.name(), &label, repository];
        if !self.is_whole(subject) {
            report.samples.push(SELECTION_LAST_SUCCESS.sample(labels, at));
            return;
        }
        report.samples.extend([
            LAST_SUCCESS.sample(labels, at),
            LAST_SIZE.sample(labels, manifest.stored_bytes() as f64),
            LAST_PLAIN.sample(labels, manifest.plain.bytes as f64),
            LAST_ROWS.sample(labels, manifest.totals.rows as f64),
        ]);
    }
}

impl Attempt<'_> {
    /// What the backup held up; where an earlier attempt held up more, that is the run's.
    pub(super) fn held(&self, subject: &Subject, held: Option<Held>, report: &mut Report) {
        let Some(held) = held else { return };
        let label = subject.label();
        let labels: [&dyn Display; 2] = [self.job.server.name(), &label];
        let measured = [
            Some(BLOCKED_SESSIONS.sample(labels, held.sessions as f64)),
            Some(BLOCKED_SECONDS.sample(labels, held.longest.as_secs_f64())),
            held.xmin_age.map(|age| XMIN_AGE.sample(labels, age as f64)),
            Some(SNAPSHOT_SECONDS.sample(labels, held.snapshot.as_secs_f64())),
        ];
        for mut sample in measured.into_iter().flatten() {
            let same = self.cx.earlier.samples.iter().filter(|it| it.is_of_series(&sample));
            sample.value = same.map(|it| it.value).fold(sample.value, f64::max);
            report.samples.push(sample);
        }
    }
}

/// Databases that the patterns mean and that nobody can connect to: they are not dumped, and it must
/// not go unsaid.
pub(super) fn closed(chosen: &Selection) -> impl Iterator<Item = Finding> {
    let closed = unconnectable(chosen, Reason::NoConnections).map(|(first, names)| {
        let what = format!("not dumped, since they allow no connections (datallowconn): {names}");
        Finding::new(CheckName("database-closed"), Severity::Warning, what)
            .hint(format!(
                "ALTER DATABASE {} ALLOW_CONNECTIONS true, or name them in `exclude`",
                text::sql_ident(&first)
            ))
            .about(Target::object(names))
    });
    let half = unconnectable(chosen, Reason::HalfDropped).map(|(first, names)| {
        let what = format!(
            "not dumped, since DROP DATABASE was interrupted in them, and nobody can connect \
             (datconnlimit = -2): {names}"
        );
        Finding::new(CheckName("database-half-dropped"), Severity::Warning, what)
            .hint(format!(
                "what is left of them cannot be used: DROP DATABASE {} ends it",
                text::sql_ident(&first)
            ))
            .about(Target::object(names))
    });
    closed.into_iter().chain(half)
}

/// The first database that is left out for that reason, and the names of all of them.
fn unconnectable(chosen: &Selection, why: Reason) -> Option<(String, String)> {
    let closed = chosen.left_out.iter().filter(|(_, reason)| *reason == why);
    let names: Vec<String> = closed.map(|(name, _)| name.to_string()).collect();
    Some((names.first()?.clone(), text::some(names, CLOSED_MAX)))
}

/// pg_dump of a newer major version can read the server; what it writes may not restore into one
/// of the server's own version.
pub(super) fn newer_tools(tools: &Installed, facts: &ServerFacts) -> Option<Finding> {
    let (tool, server) = (tools.version.major, facts.major());
    let what =
        format!("PostgreSQL {server} is dumped with the pg_dump of {tool}: restoring needs {tool}");
    let hint = format!("install the client programs of PostgreSQL {server}, or set bin_dir");
    (tool > server).then(|| Finding::new(TOOL_VERSION, Severity::Warning, what).hint(hint))
}

/// What is counted of a backup that was made.
pub(super) fn figures(manifest: &Manifest) -> Figures {
    let taken = manifest.finished_at.duration_since(manifest.started_at).as_millis();
    let counts = Figures::from_iter([
        ("plain_bytes", manifest.plain.bytes),
        ("stored_bytes", manifest.stored_bytes()),
        ("rows", manifest.totals.rows),
        ("tables", manifest.totals.tables),
        ("large_objects", manifest.totals.large_objects),
        ("milliseconds", u64::try_from(taken).unwrap_or(0)),
    ]);
    Figures { backup: Some(manifest.id.clone()), ..counts }
}
