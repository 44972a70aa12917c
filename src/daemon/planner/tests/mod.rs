//! The planner against a simulated daemon: it stores what is to be remembered, wakes when it was
//! asked to, and writes down what was done as one line each.

mod after;
mod blackout;
mod clock;
mod drain;
mod overlap;
mod queue;
mod random;
mod reload;
mod restart;
mod retry;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::*;
use crate::domain::{
    blackout::{Blackout, Window},
    report::Verdict,
    run::RequestId,
    schedule::Schedule,
    target::Target,
};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn name(text: &str) -> JobName {
    text.parse().unwrap()
}

/// A job that does nothing by itself: one attempt, no permits but one run.
fn job(text: &str) -> JobSpec {
    JobSpec {
        name: name(text),
        schedule: None,
        blackout: None,
        jitter: Duration::ZERO,
        catch_up: Duration::ZERO,
        after: Vec::new(),
        servers: Vec::new(),
        memory: 0,
        attempts: 1,
        backoff: MINUTE,
        backoff_max: HOUR,
        enabled: true,
    }
}

impl JobSpec {
    fn due(self, cron: &str) -> Self {
        self.due_in(cron, "Etc/UTC")
    }

    fn due_in(self, cron: &str, zone: &str) -> Self {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(cron, zone, at("2026-01-01T00:00:00Z")).unwrap();
        Self { schedule: Some(schedule), ..self }
    }

    fn dark(self, windows: &[&str], zone: &str) -> Self {
        let windows = windows.iter().map(|text| Window::parse(text).unwrap()).collect();
        let blackout = Blackout::new(windows, TimeZone::get(zone).unwrap()).unwrap();
        Self { blackout, ..self }
    }

    fn catch_up(self, catch_up: Duration) -> Self {
        Self { catch_up, ..self }
    }

    fn after(self, jobs: &[&str]) -> Self {
        Self { after: jobs.iter().map(|job| name(job)).collect(), ..self }
    }

    fn uses(self, servers: &[&str], memory: u64) -> Self {
        Self { servers: servers.iter().map(|s| s.parse().unwrap()).collect(), memory, ..self }
    }

    fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    fn disabled(self) -> Self {
        Self { enabled: false, ..self }
    }
}

const LIMITS: Limits = Limits { running: 8, per_server: 1, memory: 500 };

fn target(text: &str) -> Target {
    Target { object: Some(text.to_owned()), ..Target::default() }
}

/// One line for what a person would see; `None` for housekeeping.
fn line(action: &Action) -> Option<String> {
    Some(match action {
        Action::Start { job, attempt, trigger, only, .. } => {
            let slot = trigger.slot().map(|slot| format!(" {slot}")).unwrap_or_default();
            let only = only.iter().flatten().map(|target| format!(" only {target}"));
            format!("start {job} {attempt} {}{slot}{}", trigger.as_str(), only.collect::<String>())
        }
        Action::Cancel { .. } => "cancel".to_owned(),
        Action::WillRetry { job, attempt, at, .. } => format!("retry {job} {attempt} {at}"),
        Action::Ended { job, verdict, attempts, cause, requests, .. } => {
            let answers = requests.iter().map(|request| format!("answers {}", request.0));
            let end = format!("ended {job} {verdict} {attempts} {cause:?}");
            std::iter::once(end).chain(answers).collect::<Vec<_>>().join(" ")
        }
        Action::Accepted { request, .. } => format!("accepted {}", request.0),
        Action::Refuse { request, reason } => format!("refuse {} {reason:?}", request.0),
        Action::Skip { job, reason, slot } => format!("skip {job} {reason} {slot}"),
        Action::Forget { job } => format!("forget {job}"),
        Action::CancelAll => "cancel all".to_owned(),
        Action::Exit => "exit".to_owned(),
        Action::Remember { .. } | Action::WakeAt(_) => return None,
    })
}

struct Rig {
    planner: Planner,
    limits: Limits,
    now: Now,
    wake: Duration,
    stored: BTreeMap<JobName, Remembered>,
    lines: Vec<String>,
    /// Attempts end as soon as they are started, with success.
    instant: bool,
}

impl Rig {
    fn new(jobs: Vec<JobSpec>, wall: &str) -> Self {
        Self::with_limits(jobs, wall, LIMITS)
    }

    fn with_limits(jobs: Vec<JobSpec>, wall: &str, limits: Limits) -> Self {
        let now = Now { wall: at(wall), mono: Duration::from_secs(7) };
        let planner = Planner::new(jobs, limits, BTreeMap::new(), now, 1);
        let stored = BTreeMap::new();
        let mut rig =
            Self { planner, limits, now, wake: now.mono, stored, lines: vec![], instant: false };
        rig.send(Event::Tick);
        rig
    }

    fn instant(mut self) -> Self {
        self.instant = true;
        self
    }

    fn send(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let actions = self.planner.handle(event, self.now);
            for action in &actions {
                match action {
                    Action::WakeAt(wake) => self.wake = *wake,
                    Action::Remember { job, memory } => {
                        self.stored.insert(job.clone(), memory.clone());
                    }
                    Action::Forget { job } => drop(self.stored.remove(job)),
                    Action::Start { run, .. } if self.instant => {
                        events.push(finished(run.clone(), Verdict::Succeeded, &[]));
                    }
                    _ => {}
                }
            }
            self.lines.extend(actions.iter().filter_map(line));
        }
    }

    /// What was done since this was last asked.
    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Lets time go by, as the daemon's loop does.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while self.now.mono < end {
            let next = self.wake.min(end);
            assert!(self.wake > self.now.mono, "the planner keeps the daemon awake");
            let passed = next.saturating_sub(self.now.mono);
            self.now.wall += SignedDuration::try_from(passed).unwrap();
            self.now.mono = next;
            self.send(Event::Tick);
        }
    }

    /// Sets the clock; the daemon notices at its next wake-up.
    fn step_to(&mut self, wall: &str) {
        self.now.wall = at(wall);
        self.send(Event::Tick);
    }

    /// The process is killed and starts again, with other jobs perhaps.
    fn restart(&mut self, jobs: Vec<JobSpec>, wall: &str) {
        self.now = Now { wall: at(wall), mono: Duration::from_secs(3) };
        // What is stored survives being written and read.
        let stored = serde_json::to_string(&self.stored).unwrap();
        let stored = serde_json::from_str(&stored).unwrap();
        self.planner = Planner::new(jobs, self.limits, stored, self.now, 2);
        self.send(Event::Tick);
    }

    fn run_of(&self, job: &str) -> RunId {
        self.planner.active[job].clone()
    }

    fn finish(&mut self, job: &str, verdict: Verdict, failed: &[&str]) {
        self.send(finished(self.run_of(job), verdict, failed));
    }

    fn ask(&mut self, job: &str, request: u64) {
        self.send(Event::Trigger { job: name(job), request: RequestId(request) });
    }

    fn state(&self, job: &str) -> JobState {
        let status = self.planner.status();
        status.into_iter().find(|status| status.name.as_str() == job).unwrap().state
    }

    fn why(&self, job: &str) -> Option<Wait> {
        match self.state(job) {
            JobState::Queued { why, .. } => Some(why),
            _ => None,
        }
    }
}

fn finished(run: RunId, verdict: Verdict, failed: &[&str]) -> Event {
    let failed: BTreeSet<Target> = failed.iter().map(|text| target(text)).collect();
    Event::Finished { run, verdict, failed, retry_worth: true }
}
