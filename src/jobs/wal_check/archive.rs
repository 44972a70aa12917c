//! The archive's part of a run: what is remembered for it, when it is listed, and what it is held against.

use std::{sync::Arc, time::Duration};

use crate::{
    checks::wal::UNREADABLE,
    domain::{
        failure::IntoFailure,
        finding::{Finding, Severity},
        report::{Figures, Outcome, TargetReport},
        wal::{Expectation, History, Inventory, Lsn, SegmentName, Span, Timeline, WalFile, untold},
    },
    postgres::{
        Session,
        wal::{ArchiveMode, history},
    },
    wal::archive::ListError,
};

use super::{
    ARCHIVE_TARGET, ArchiveOptions, FULL_LISTING, WalCheckRun, is_due, metrics, state::Listing,
};

impl WalCheckRun<'_> {
    /// Remembers what the server says of its WAL now: the archive is held against it once
    /// `archive_deadline` is over.
    fn remember(&mut self) {
        let facts = &self.facts;
        if let Some((name, at)) = &facts.archiver.last_archived
            && let Some(WalFile::Segment(segment)) = WalFile::parse(name)
        {
            self.state.claims.saw(*at, segment);
        }
        // The control file remembers one moment by itself: a first look finds what stopped long ago.
        self.state.written.saw(facts.checkpoint_at, (facts.redo_timeline, facts.redo));
        self.state.written.saw(facts.at, (facts.timeline, facts.lsn));
    }

    /// Looks through the archive where it is time to; says what is known of it in any case.
    pub(super) async fn archive(&mut self, session: &Session) {
        let Some(options) = &self.job.archive else { return };
        self.remember();
        let target = self.job.target(ARCHIVE_TARGET);
        let last = self.state.listed.as_ref().map(|listed| listed.at);
        let due = is_due(last, self.now(), options.interval);
        // A retry that does not look at the archive again knows what the first attempt found.
        let mut readable =
            !self.cx.earlier.findings.iter().any(|found| found.check == UNREADABLE.0);
        if due && self.cx.wants(&target) {
            match self.list(options, session).await {
                Ok(figures) => {
                    readable = true;
                    self.ended(ARCHIVE_TARGET, Ok(figures));
                }
                Err(ListError::Failed(failure)) => self.ended(ARCHIVE_TARGET, Err(failure)),
                Err(ListError::Unreadable { what, hint }) => {
                    readable = false;
                    let outcome = Outcome::Skipped(format!("it cannot be read: {what}"));
                    self.report.targets.push(TargetReport::new(target, outcome));
                    let what =
                        format!("the WAL archive cannot be read, and is not checked: {what}");
                    let finding = Finding::new(UNREADABLE, Severity::Critical, what).hint(hint);
                    self.report.findings.push(finding);
                }
            }
        }
        let server = self.job.server.name();
        let listed = self.state.listed.as_ref();
        self.report.samples.extend(metrics::of_archive(listed, readable, server));
        let max_age = metrics::archive_max_age(options.interval, self.cx.max_age, server);
        self.report.samples.push(max_age);
        if let Some(listed) = listed.filter(|_| readable) {
            self.report.findings.extend(listed.findings.iter().cloned());
        }
    }

    /// Lists the archive and remembers what that brought.
    async fn list(
        &mut self,
        options: &ArchiveOptions,
        session: &Session,
    ) -> Result<Figures, ListError> {
        let place = options.archive.place();
        self.cx.task.progress.set_stage(format!("list the WAL archive {place}"));
        let (at, size, head) = (self.now(), self.facts.segment_size, self.facts.timeline);
        let (claimed, written) = self.due(options.deadline);
        let last = self.state.listed.as_ref();
        let recent = last.filter(|last| !is_due(Some(last.full_at), at, FULL_LISTING));
        let (seen, resume, full_at) = match recent.and_then(|last| Some((last, last.resume(head)?)))
        {
            Some((last, resume)) => (last.seen.clone(), Some(resume), last.full_at),
            None => (Inventory::new(size, options.sizes), None, at),
        };
        let listed = options.archive.list(seen, resume, head, &self.cx.task).await?;
        let losses: Vec<Span> =
            options.known_losses.iter().filter_map(|loss| loss.span(size)).collect();
        let mut expected = Expectation {
            since: options.since,
            head,
            may_lag: self.facts.in_recovery,
            claimed,
            written,
            told: None,
            known_losses: &losses,
        };
        let told = self.told(session, untold(&listed.seen, &expected)).await?;
        expected.told = told.as_ref().map(|(timeline, history)| (*timeline, history));
        let listing = Listing::of(listed, place, (at, full_at), &expected);
        let counts = [
            ("segments", listing.seen.segments.len()),
            ("missing_recent", listing.missing_recent),
            ("missing_old", listing.missing_old),
            ("foreign_files", listing.seen.foreign),
            ("misnamed_files", listing.seen.misnamed),
        ];
        self.state.listed = Some(listing);
        Ok(counts.into_iter().collect())
    }

    /// What has to be in the archive by now: what the server takes for archived, where archiving is its
    /// own affair; what it had written, where something else brings it there.
    fn due(&mut self, deadline: Duration) -> (Option<SegmentName>, Option<(Timeline, Lsn)>) {
        let (facts, now) = (Arc::clone(&self.facts), self.facts.at);
        let expects = self.job.limits.expect_archiving;
        let claimed = self.state.claims.due(now, deadline);
        let written = self.state.written.due(now, deadline);
        let own = expects && facts.settings.archive_mode != ArchiveMode::Off;
        (claimed.filter(|_| own), written.filter(|_| !expects || !facts.archives()))
    }

    /// The history of a timeline by the server's word.
    async fn told(
        &self,
        session: &Session,
        timeline: Option<Timeline>,
    ) -> Result<Option<(Timeline, History)>, ListError> {
        let Some(timeline) = timeline else { return Ok(None) };
        match history(session.queries(&self.cx.task.cancel), timeline).await {
            Ok(history) => Ok(history.map(|history| (timeline, history))),
            Err(error) => {
                let doing = format!("ask the server for the history of timeline {timeline}");
                Err(ListError::Failed(error.into_failure(doing)))
            }
        }
    }
}
