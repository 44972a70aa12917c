//! Any sequence of events, against what must always hold.

use proptest::prelude::*;

use super::*;

const JOBS: [&str; 5] = ["a", "b", "c", "d", "e"];
const DARK: [&[&str]; 4] = [
    &[],
    &["mon-fri 08:00-18:00", "00:00-00:30"],
    &["22:00-04:00"],
    &["sat,sun 00:00-24:00", "02:00-03:00"],
];
const CRONS: [&str; 4] = ["*/5 * * * *", "30 2 * * *", "0 */3 * * *", "15 2,14 * * *"];

/// One step of the world.
#[derive(Debug, Clone)]
enum Step {
    /// Both clocks go on by so many seconds.
    Pass(u32),
    /// The wall clock alone moves by so many seconds.
    Jump(i64),
    Ask(usize),
    /// One of the runs under way ends.
    Finish {
        which: usize,
        verdict: Verdict,
        failed: bool,
        worth: bool,
    },
    Cancel(usize),
    Reload(Vec<JobSpec>, Limits),
    /// The process is killed and starts again.
    Restart,
}

fn any_spec(index: usize) -> impl Strategy<Value = JobSpec> {
    let schedule = (0..CRONS.len(), prop::bool::ANY, 0_u32..1200, 0_u32..30_000);
    let dark = prop_oneof![2 => Just(0), 3 => 0..DARK.len()];
    let claim = (0_usize..4, prop_oneof![Just(0), 1_u64..700]);
    (schedule, claim, 0_u32..4, 0_u32..4000, 0_usize..32, prop::bool::weighted(0.85), dark)
        .prop_map(
            move |(
                (cron, timed, jitter, window),
                (servers, memory),
                attempts,
                backoff,
                after,
                on,
                dark,
            )| {
                let secs = |n: u32| Duration::from_secs(u64::from(n));
                let mut spec = job(JOBS[index]);
                if timed {
                    spec = spec.due_in(CRONS[cron], "Europe/Zurich");
                }
                spec = spec.dark(DARK[dark], "Europe/Zurich");
                // Only after jobs with a smaller index: no cycles.
                let after: Vec<&str> =
                    (0..index).filter(|n| after & (1 << n) != 0).map(|n| JOBS[n]).collect();
                let servers: &[&str] = [&[][..], &["x"], &["y"], &["x", "y"]][servers];
                let backoff = secs(backoff);
                JobSpec { jitter: secs(jitter), backoff, enabled: on, ..spec }
                    .catch_up(secs(window))
                    .attempts(attempts)
                    .after(&after)
                    .uses(servers, memory)
            },
        )
}

fn any_config() -> impl Strategy<Value = (Vec<JobSpec>, Limits)> {
    let specs = (any_spec(0), any_spec(1), any_spec(2), any_spec(3), any_spec(4));
    (specs, 0_u32..32, 1_usize..4, 1_usize..3).prop_map(
        |((a, b, c, d, e), without, running, per_server)| {
            let kept = |index: &usize| without & (1 << index) == 0 || *index == 0;
            let specs = [a, b, c, d, e].into_iter().enumerate();
            let specs = specs.filter(|(index, _)| kept(index)).map(|(_, spec)| spec).collect();
            (specs, Limits { running, per_server, memory: 500 })
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let verdict = prop::sample::select(Verdict::ALL);
    prop_oneof![
        6 => (0_u32..7200).prop_map(Step::Pass),
        1 => (-2000_i64..2000).prop_map(Step::Jump),
        1 => prop_oneof![Just(400_000_000_i64), Just(-400_000_000), -200_000_i64..200_000]
            .prop_map(Step::Jump),
        4 => (0..JOBS.len()).prop_map(Step::Ask),
        8 => (0_usize..8, verdict, prop::bool::ANY, prop::bool::ANY)
            .prop_map(|(which, verdict, failed, worth)| {
                Step::Finish { which, verdict, failed, worth }
            }),
        1 => (0_usize..8).prop_map(Step::Cancel),
        1 => any_config().prop_map(|(jobs, limits)| Step::Reload(jobs, limits)),
        1 => Just(Step::Restart),
    ]
}

/// What the world knows, kept apart from the planner.
struct World {
    planner: Planner,
    now: Now,
    jobs: Vec<JobSpec>,
    limits: Limits,
    stored: BTreeMap<JobName, Remembered>,
    running: BTreeMap<RunId, JobSpec>,
    /// Runs that were begun and have not ended.
    open: BTreeMap<RunId, u32>,
    accepted: BTreeSet<RequestId>,
    next_request: u64,
    /// Slots that were run. A slot in the future of a clock set back by more than the slack may
    /// be run again.
    done: BTreeMap<JobName, BTreeSet<Timestamp>>,
    latest_wall: Timestamp,
    draining: bool,
    exited: bool,
}

impl World {
    fn new(jobs: Vec<JobSpec>, limits: Limits) -> Self {
        let now = Now { wall: at("2026-03-28T20:00:00Z"), mono: Duration::ZERO };
        Self {
            planner: Planner::new(jobs.clone(), limits, BTreeMap::new(), now, 7),
            now,
            jobs,
            limits,
            stored: BTreeMap::new(),
            running: BTreeMap::new(),
            open: BTreeMap::new(),
            accepted: BTreeSet::new(),
            next_request: 0,
            done: BTreeMap::new(),
            latest_wall: now.wall,
            draining: false,
            exited: false,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(secs) => {
                self.now.mono += Duration::from_secs(u64::from(secs));
                self.now.wall += SignedDuration::from_secs(i64::from(secs));
                self.send(Event::Tick);
            }
            Step::Jump(secs) => {
                self.now.wall += SignedDuration::from_secs(secs);
                self.send(Event::Tick);
            }
            Step::Ask(job) => {
                self.next_request += 1;
                let request = RequestId(self.next_request);
                self.send(Event::Trigger { job: name(JOBS[job]), request });
            }
            Step::Finish { which, verdict, failed, worth } => {
                let Some(run) = self.running.keys().nth(which).cloned() else { return };
                self.running.remove(&run);
                let failed = failed.then(|| target("x")).into_iter().collect();
                self.send(Event::Finished { run, verdict, failed, retry_worth: worth });
            }
            Step::Cancel(which) => {
                let Some(run) = self.open.keys().nth(which).cloned() else { return };
                self.send(Event::CancelRun(run));
            }
            Step::Reload(jobs, limits) => {
                // A job that is gone is first seen anew, one with another schedule starts afresh:
                // from now on, never with what was.
                (self.jobs, self.limits) = (jobs.clone(), limits);
                self.send(Event::Reloaded(jobs, limits));
            }
            Step::Restart => {
                self.running.clear();
                self.open.clear();
                self.accepted.clear();
                let (jobs, stored) = (self.jobs.clone(), self.stored.clone());
                self.planner = Planner::new(jobs, self.limits, stored, self.now, self.next_request);
                self.send(Event::Tick);
            }
        }
    }

    fn send(&mut self, event: Event) {
        let slack = SignedDuration::try_from(CLOCK_SLACK).unwrap();
        if self.latest_wall > self.now.wall + slack {
            let now = self.now.wall;
            self.done.values_mut().for_each(|slots| slots.retain(|slot| *slot <= now));
            self.latest_wall = now;
        }
        self.latest_wall = self.latest_wall.max(self.now.wall);
        self.draining |= matches!(event, Event::Drain);
        let before: BTreeSet<RunId> = self.running.keys().cloned().collect();
        let actions = self.planner.handle(event, self.now);
        let woken = actions.iter().filter(|action| matches!(action, Action::WakeAt(_))).count();
        for action in actions {
            self.heed(action);
        }
        assert_eq!(woken, usize::from(!self.exited), "it says when to wake it, once");
        if self.running.keys().any(|run| !before.contains(run)) {
            self.check_permits();
        }
        assert_eq!(self.planner.runs.len(), self.planner.active.len());
    }

    fn heed(&mut self, action: Action) {
        assert!(!self.exited, "nothing after the exit: {action:?}");
        match action {
            Action::Start { run, job, attempt, trigger, .. } => {
                assert!(!self.draining, "a start after the drain");
                let spec = self.jobs.iter().find(|spec| spec.name == job).unwrap().clone();
                assert!(
                    !self.running.values().any(|other| other.name == job),
                    "{job} is under way already"
                );
                let dark = spec.blackout.as_ref().and_then(|dark| dark.ends(self.now.wall));
                assert!(trigger.request().is_some() || dark.is_none(), "{job} starts in the dark");
                let made = self.open.entry(run.clone()).or_default();
                *made += 1;
                assert_eq!(attempt, *made);
                if let Some(slot) = trigger.slot().filter(|_| attempt == 1) {
                    // A slot may lie in the future: queued before the clock was set back.
                    if slot <= self.now.wall {
                        assert!(self.stored[&job].handled >= slot, "not remembered in time");
                        let new = self.done.entry(job.clone()).or_default().insert(slot);
                        assert!(new, "{job} ran its slot {slot} before");
                    }
                }
                assert!(self.running.insert(run, spec).is_none());
            }
            Action::Ended { run, requests, attempts, .. } => {
                assert!(!self.running.contains_key(&run), "an attempt is still under way");
                assert_eq!(self.open.remove(&run).unwrap_or(0), attempts);
                for request in requests {
                    assert!(self.accepted.remove(&request), "not waiting: {request:?}");
                }
            }
            Action::Accepted { request, run } => {
                assert!(self.accepted.insert(request));
                self.open.entry(run).or_default();
            }
            Action::Refuse { request, .. } => {
                let answered = self.accepted.remove(&request);
                assert!(answered || request.0 == self.next_request);
            }
            Action::WillRetry { run, attempt, .. } => {
                assert_eq!(self.open.get(&run), Some(&(attempt - 1)));
            }
            Action::Remember { job, memory } => {
                self.stored.insert(job, memory);
            }
            Action::Forget { job } => {
                self.stored.remove(&job);
            }
            Action::WakeAt(when) => {
                assert!(when >= self.now.mono && when <= self.now.mono + LONGEST_SLEEP);
            }
            Action::Exit => {
                assert!(self.draining && self.running.is_empty());
                self.exited = true;
            }
            Action::Cancel { run } => assert!(self.running.contains_key(&run)),
            Action::Skip { .. } | Action::CancelAll => {}
        }
    }

    /// Whenever something started, no limit is exceeded.
    fn check_permits(&self) {
        assert!(self.running.len() <= self.limits.running);
        for server in ["x", "y"] {
            let touches = |spec: &&JobSpec| spec.servers.iter().any(|s| s.as_str() == server);
            let users: Vec<_> = self.running.values().filter(touches).collect();
            assert!(users.len() <= self.limits.per_server || self.reloaded(), "{users:?}");
        }
        let holders: Vec<u64> =
            self.running.values().map(|spec| spec.memory).filter(|memory| *memory > 0).collect();
        let sum: u64 = holders.iter().sum();
        assert!(sum <= self.limits.memory || holders.len() == 1 || self.reloaded(), "{holders:?}");
    }

    /// Whether something is under way from before a reload: it may use what the new limits and
    /// specifications do not grant.
    fn reloaded(&self) -> bool {
        self.running.values().any(|spec| !self.jobs.contains(spec))
    }

    /// Everything comes to an end.
    fn close(&mut self) {
        self.send(Event::Drain);
        while !self.running.is_empty() {
            let verdict = Verdict::Cancelled;
            self.take(Step::Finish { which: 0, verdict, failed: false, worth: true });
        }
        assert!(self.exited);
        assert!(self.accepted.is_empty(), "unanswered: {:?}", self.accepted);
        assert!(self.open.is_empty(), "never ended: {:?}", self.open);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_must_always_hold(
        (jobs, limits) in any_config(),
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let mut world = World::new(jobs, limits);
        for step in steps {
            world.take(step);
        }
        world.close();
    }

    /// Without limits on time, everything that is queued gets its turn.
    #[test]
    fn everything_queued_gets_its_turn((jobs, limits) in any_config(), seed in 0_usize..8) {
        let jobs: Vec<JobSpec> = jobs
            .into_iter()
            .map(|spec| JobSpec { schedule: None, after: Vec::new(), attempts: 1, ..spec })
            .collect();
        let mut world = World::new(jobs.clone(), limits);
        let mut waited: BTreeMap<JobName, u32> = BTreeMap::new();
        for round in 0..40 {
            for job in 0..JOBS.len() {
                world.take(Step::Ask(job));
            }
            let which = (seed + round) % world.running.len().max(1);
            let verdict = Verdict::Succeeded;
            world.take(Step::Finish { which, verdict, failed: false, worth: false });
            for status in world.planner.status() {
                let waits = matches!(status.state, JobState::Queued { .. });
                let rounds = waited.entry(status.name.clone()).or_default();
                *rounds = if waits { *rounds + 1 } else { 0 };
                prop_assert!(*rounds <= 24, "{} starves", status.name);
            }
        }
    }
}
