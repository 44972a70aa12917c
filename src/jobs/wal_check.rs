//! The kind `wal-check`: whether WAL is archived, what holds pg_wal back, and whether the archive is
//! whole.
//!
//! The server is asked at each run, which is cheap. The archive is looked through on an interval of
//! its own; in between, what the last listing found is said again, from the state directory, so that
//! no finding comes and goes. A server that cannot be asked is a failure; an archive that cannot be
//! read is a finding, and brings no numbers.

mod archive;
mod metrics;
mod options;
pub(crate) mod state;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    checks::{
        self,
        wal::{SERVER, ServerLimits, ServerView},
    },
    domain::{
        failure::{Class, During, Failure},
        name::ServerName,
        report::{Figures, Outcome, Report, TargetReport},
        target::Target,
        wal::{KnownLoss, Since, Sizes},
    },
    postgres::{
        Server, Session,
        wal::{WalFacts, wal_facts},
    },
    wal::{
        archive::Archive,
        end_to_end::{self, Destination, Probed},
        space,
    },
};

use self::state::{Probe, State};
use super::{Job, JobKind, RunContext, visit::Visit};

/// The kind's row in the table.
pub(super) const KIND: JobKind = JobKind {
    name: "wal-check",
    summary: "Checks that WAL is archived, and that the archive is whole",
    time_limit: Duration::from_hours(6),
    metrics: metrics::METRICS,
    build: options::build,
};

/// Memory of a run that lists an archive: a million segments take some hundred kilobytes, a page of a
/// listing less; what is left is for archives that are mostly holes.
const MEMORY_LISTING: u64 = 16 << 20;
/// Memory of a run that only asks the server.
const MEMORY_SQL: u64 = 1 << 20;
/// A bucket is listed from its beginning at least so often: what was removed from it shows only then.
const FULL_LISTING: Duration = Duration::from_hours(24);
/// A run that comes a little early counts as due: schedules and listings start at odd seconds.
const EARLY: Duration = Duration::from_secs(30);

/// The parts of a run, as targets.
const ARCHIVING: &str = "archiving";
const ARCHIVE_TARGET: &str = "archive";
const PROBE: &str = "end-to-end";

struct WalCheck {
    server: Arc<Server>,
    limits: ServerLimits,
    archive: Option<ArchiveOptions>,
    probe: Option<ProbeOptions>,
    state: PathBuf,
}

/// What is asked of an archive.
#[derive(Debug)]
struct ArchiveOptions {
    archive: Archive,
    interval: Duration,
    since: Since,
    known_losses: Vec<KnownLoss>,
    sizes: Sizes,
    deadline: Duration,
}

/// How archiving is tried.
#[derive(Debug)]
struct ProbeOptions {
    interval: Duration,
    timeout: Duration,
}

#[async_trait]
impl Job for WalCheck {
    fn servers(&self) -> Vec<ServerName> {
        vec![self.server.name().clone()]
    }

    fn memory(&self) -> u64 {
        if self.archive.is_some() { MEMORY_LISTING } else { MEMORY_SQL }
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        let ask = cx.task.doing(format!("ask server {} about its WAL", self.server.name()));
        let visit = Visit::start(&self.server, ask).await?;
        let server = visit.facts().await?;
        let Visit { session, task } = visit;
        let facts = wal_facts(session.queries(&task.cancel), server.version_num).await;
        let facts = facts.during(&task)?;
        let subject = self.subject(server.system_id, &facts);
        let state = State::load(&self.state, &subject).map_err(|error| {
            Failure::from_error(Class::State, "read what is remembered", &error)
        })?;
        let facts = Arc::new(facts);
        let mut work = WalCheckRun { job: self, cx, facts, state, report: Report::default() };
        work.archive(&session).await;
        work.server(&session);
        work.probe(&session).await;
        session.close().await;
        let WalCheckRun { state, mut report, .. } = work;
        if let Err(error) = state.save(&self.state) {
            let doing = "remember what the WAL archive holds";
            report.failure = Some(Failure::from_error(Class::State, doing, &error));
        }
        Ok(report)
    }
}

impl WalCheck {
    /// What the state speaks of: with another archive or other rules it is of no use.
    fn subject(&self, system_id: u64, facts: &WalFacts) -> String {
        let archive = self.archive.as_ref().map(|a| {
            let losses: Vec<_> = a.known_losses.iter().map(ToString::to_string).collect();
            let rules = (a.since, losses, a.sizes, a.deadline);
            format!("{} {rules:?}", a.archive.place())
        });
        let (server, size) = (self.server.name(), facts.segment_size.bytes());
        format!("{server} {system_id} {size} {}", archive.unwrap_or_default())
    }

    fn target(&self, part: &str) -> Target {
        Target::server(self.server.name()).with_object(part)
    }
}

/// Whether something that is done every `interval` is due.
fn is_due(last: Option<Timestamp>, now: Timestamp, interval: Duration) -> bool {
    let Some(last) = last else { return true };
    // What lies in the future was written by a clock that was wrong.
    match Duration::try_from(now.duration_since(last)) {
        Ok(age) => age + EARLY >= interval,
        Err(_) => true,
    }
}

struct WalCheckRun<'a> {
    job: &'a WalCheck,
    cx: &'a RunContext,
    facts: Arc<WalFacts>,
    state: State,
    report: Report,
}

impl WalCheckRun<'_> {
    fn now(&self) -> Timestamp {
        self.cx.task.clock.now().wall
    }

    fn ended(&mut self, part: &str, result: Result<Figures, Failure>) {
        let target = self.job.target(part);
        self.report.targets.push(self.cx.ended(target, result));
    }

    /// What the server says. Needs what is known of the archive.
    fn server(&mut self, session: &Session) {
        if !self.cx.wants(&self.job.target(ARCHIVING)) {
            return;
        }
        let view = self.view(session);
        self.report.findings.splice(0..0, checks::look(SERVER, &view));
        let fresh = metrics::of_server(&view, self.job.server.name());
        self.report.samples.extend(fresh);
        let ready = self.facts.ready.as_ref().map(|ready| ("ready_segments", ready.segments));
        let bytes = self.facts.directory.map(|directory| ("pg_wal_bytes", directory.bytes));
        self.ended(ARCHIVING, Ok(ready.into_iter().chain(bytes).collect()));
    }

    fn view(&self, session: &Session) -> ServerView {
        let local = session.endpoint().is_socket();
        let folder = self.facts.settings.data_directory.as_ref().filter(|_| local);
        let listed = self.state.listed.as_ref();
        ServerView {
            facts: Arc::clone(&self.facts),
            space: folder.and_then(|folder| space::of(folder)),
            limits: self.job.limits.clone(),
            archive_has_segments: listed.is_some_and(|l| !l.seen.segments.is_empty()),
        }
    }

    /// Tries archiving from end to end where it is time to.
    async fn probe(&mut self, session: &Session) {
        let Some(options) = &self.job.probe else { return };
        let last = self.state.probe.as_ref();
        let target = self.job.target(PROBE);
        let due = is_due(last.map(|last| last.at), self.now(), options.interval);
        if due && self.cx.wants(&target) {
            match self.refusal(session) {
                None => self.try_archiving(session, options).await,
                Some(why) => {
                    let outcome = Outcome::Skipped(why.to_owned());
                    self.report.targets.push(TargetReport::new(target, outcome));
                }
            }
        }
        let last = self.state.probe.as_ref();
        self.report.findings.extend(last.and_then(|last| last.finding.clone()));
        let arrived = last.and_then(|last| last.arrived_at);
        self.report.samples.push(metrics::of_probe(arrived, self.job.server.name()));
    }

    /// Why archiving is not tried now.
    fn refusal(&self, session: &Session) -> Option<&'static str> {
        let view = self.view(session);
        if self.facts.in_recovery {
            Some("a standby writes no WAL")
        } else if !view.archives() && self.job.archive.is_none() {
            Some("the server archives nothing, and no archive is named")
        } else if view.is_stuck() {
            Some("archiving is stuck: nothing more is put into its queue")
        } else {
            None
        }
    }

    async fn try_archiving(&mut self, session: &Session, options: &ProbeOptions) {
        self.cx.task.progress.set_stage("try WAL archiving from end to end");
        let by_archiver = self.view(session).archives();
        let resume = self.state.listed.as_ref().and_then(|listed| listed.resume.as_ref());
        let archive = self.job.archive.as_ref().map(|a| (&a.archive, resume));
        let to = Destination { by_archiver, archive };
        let (at, task) = (self.now(), &self.cx.task);
        let probed = end_to_end::probe(session, &self.facts, to, options.timeout, task).await;
        let before = self.state.probe.as_ref().and_then(|last| last.arrived_at);
        let done = |segment, arrived_at, finding| Some(Probe { at, segment, arrived_at, finding });
        let (probe, result) = match probed {
            Ok(Probed::Arrived(segment)) => {
                (done(segment, Some(self.now()), None), Ok(Figures::default()))
            }
            Ok(Probed::Late(segment, finding)) => {
                (done(segment, before, Some(finding)), Ok(Figures::default()))
            }
            Ok(Probed::NotAllowed(finding)) => {
                let target = self.job.target(PROBE);
                let outcome = Outcome::Skipped("the role may not end a WAL segment".to_owned());
                self.report.targets.push(TargetReport::new(target, outcome));
                self.report.findings.push(finding);
                return;
            }
            Err(failure) => (None, Err(failure)),
        };
        if probe.is_some() {
            self.state.probe = probe;
        }
        self.ended(PROBE, result);
    }
}
