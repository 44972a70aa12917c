//! A lying store as a model check: seeded sequences of dump, copy, prune, sweep, acknowledging, kill and
//! restart over stores whose listings omit, repeat, cut, reorder, loop or are stale, with a recorder of
//! the truth below.
//!
//! After each step: nothing was deleted while its manifest is there; no backup went but by a plan that the
//! truth would have made as well; what was reported as stored is whole; whatever has a manifest is whole;
//! and no step asks without end. In the end, with listings that tell the truth, everything is brought,
//! and nothing half is left.
//!
//! `PGKEEP_SEED` is the seed of the first story; with `PGKEEP_LONG` there are more. One that fails says the
//! seed that repeats it alone, with `PGKEEP_ROUNDS=1`.

mod truth;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    future::Future,
    sync::Arc,
    time::Duration,
};

use jiff::tz::TimeZone;

use self::truth::{Rng, Shelf, Trap};
use super::{
    copy::tests::{series, try_backup},
    owner::tests::{OTHER, owners},
    prune::{Order, Steps, carry_out, survey},
    transfer::{
        Brought, Item, bring,
        survey::{Selection, holdings, stock},
    },
};
use crate::{
    domain::{
        backup::BackupId,
        name::ServerName,
        pattern::DatabasePatterns,
        retention::{Limit, Period, Policy, Rule},
        suspicion::{Acknowledgement, Kind, Suspicion},
        transfer::{Holdings, Limits, decide},
    },
    repository::repo::Repository,
    sys::{
        clock::{Clock as _, ManualClock},
        task::Task,
    },
};

/// Steps of one story.
const STEPS: usize = 40;
/// Stories where nothing else is said, and in a long run.
const STORIES: u64 = 60;
const STORIES_LONG: u64 = 5_000;
const DAY: Duration = Duration::from_hours(24);
/// Far longer than any step takes.
const STEP_LIMIT: Duration = Duration::from_mins(1);

struct World {
    rng: Rng,
    clock: Arc<ManualClock>,
    /// The source of copies, and their target.
    shelves: [Shelf; 2],
    policies: [Policy; 2],
    told: Vec<String>,
}

fn policy(period: Period, count: u32) -> Policy {
    Policy::new([Rule { period, limit: Limit::Count(count) }], TimeZone::UTC).unwrap()
}

fn selection() -> Selection {
    let patterns = DatabasePatterns { include: vec!["*".parse().unwrap()], exclude: vec![] };
    Selection { servers: vec!["main".parse().unwrap()], patterns, globals: true }
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let shelves = ["disk", "offsite"].map(|name| Shelf::new(name, seed, clock.clone()));
        let policies = [policy(Period::Each, 2), policy(Period::Day, 3)];
        Self { rng: Rng::new(seed), clock, shelves, policies, told: Vec::new() }
    }

    fn task(&self) -> Task {
        Task::new(self.clock.clone())
    }

    /// Opens a repository, whose process is killed where the dice say so.
    async fn open(&mut self, at: usize) -> (Option<Arc<Repository>>, Trap) {
        let trap = if self.rng.below(10) < 3 { Some(self.rng.below(40)) } else { None };
        self.shelves[at].open(trap).await
    }

    async fn step(&mut self) {
        let at = usize::from(self.rng.below(2) == 1);
        match self.rng.below(12) {
            0..3 => self.dump(at).await,
            3..6 => self.copy().await,
            6..8 => self.prune(at).await,
            8..10 => self.sweep(at).await,
            10 => self.acknowledge(at).await,
            _ => {
                let hours = 1 + self.rng.below(30);
                self.told.push(format!("{hours} hours later"));
                self.clock.advance(Duration::from_hours(hours));
            }
        }
        for shelf in &self.shelves {
            shelf.assert_sound().await;
        }
    }

    /// Does it, unless the process is killed before its end.
    async fn unless_killed<T>(
        &mut self,
        what: &str,
        trap: &Trap,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.told.push(what.to_owned());
        let done = tokio::select! {
            biased;
            () = trap.sprung() => None,
            done = tokio::time::timeout(STEP_LIMIT, work) => Some(done.expect(what)),
        };
        if done.is_none() {
            self.told.push("killed".to_owned());
        }
        // Tasks that were dropped end as soon as they may.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        done
    }

    async fn dump(&mut self, at: usize) {
        self.clock.advance(Duration::from_mins(1));
        let id = BackupId::new(self.clock.now().wall, self.rng.next());
        let in_doubt = self.rng.below(3) == 0;
        let doubt = in_doubt.then(|| Suspicion::new(Kind::NoRows, "0 rows, before 5000"));
        let (repository, trap) = self.open(at).await;
        let Some(repository) = repository else { return };
        let doubt: Vec<Suspicion> = doubt.into_iter().collect();
        let series = series();
        let work = try_backup(&repository, &series, &id, &doubt);
        let stored = self.unless_killed("store one", &trap, work).await;
        if let Some(Ok(_)) = stored {
            self.shelves[at].assert_whole(&series, &id).await;
        }
    }

    async fn copy(&mut self) {
        let (source, from) = self.open(0).await;
        let (target, to) = self.open(1).await;
        let (Some(source), Some(target)) = (source, target) else { return };
        let (task, now) = (self.task(), self.clock.now().wall);
        let work = async {
            let selection = selection();
            let Ok(stock) = stock(&source, &selection).await else { return Vec::new() };
            let held = holdings(&target, &selection, &stock, now).await;
            let Ok(held) = held else { return Vec::new() };
            let mut items = Vec::new();
            for (series, stocked) in &stock {
                let none = Holdings::default();
                let held = held.get(series).unwrap_or(&none);
                for decided in decide(stocked, held, &Limits::default(), now) {
                    if decided.decision.brings() {
                        items.push(Item {
                            target: Arc::clone(&target),
                            series: Arc::clone(series),
                            unfinished: held.incomplete.contains(&decided.id),
                            id: decided.id,
                            rank: decided.rank,
                        });
                    }
                }
            }
            bring(&source, items, 2, &task).await
        };
        let traps = from.or(&to);
        let done = self.unless_killed("bring", &traps, work).await;
        for (item, brought) in done.into_iter().flatten() {
            if matches!(brought, Brought::Copied(_) | Brought::Unlisted(..) | Brought::Present) {
                self.shelves[1].assert_whole(&item.series, &item.id).await;
            }
        }
    }

    /// What a plan by the truth would remove.
    async fn allowed(&self, at: usize) -> BTreeSet<BackupId> {
        let plans = self.plan(at, &self.shelves[at].honest().await).await.expect("a plan");
        plans.iter().flat_map(|plan| plan.remove.iter().cloned()).collect()
    }

    async fn plan(
        &self,
        at: usize,
        repository: &Repository,
    ) -> Option<Vec<super::prune::SeriesPlan>> {
        let servers: BTreeSet<ServerName> = BTreeSet::from(["main".parse().unwrap()]);
        let order = Order {
            policy: &self.policies[at],
            servers: &servers,
            owners: &owners(&[OTHER]),
            max_remove: None,
            now: self.clock.now().wall,
        };
        let steps = Steps::new("local".parse().unwrap(), 100);
        let surveyed = survey(repository, &order, steps, &self.task()).await;
        surveyed.ok().map(|survey| survey.series)
    }

    async fn prune(&mut self, at: usize) {
        let allowed = self.allowed(at).await;
        let (repository, trap) = self.open(at).await;
        let Some(repository) = repository else { return };
        let before = self.shelves[at].complete();
        let task = self.task();
        self.told.push(format!("prune {at}: {allowed:?} may go"));
        let planned = tokio::select! {
            biased;
            () = trap.sprung() => None,
            planned = self.plan(at, &repository) => planned,
        };
        let Some(plans) = planned else { return };
        let work = async {
            for plan in &plans {
                drop(carry_out(&repository, plan, &task).await);
            }
        };
        self.unless_killed("carry out", &trap, work).await;
        let after = self.shelves[at].complete();
        let gone: BTreeSet<BackupId> = before.difference(&after).cloned().collect();
        assert!(gone.is_subset(&allowed), "{gone:?} went, and {allowed:?} might have");
    }

    async fn sweep(&mut self, at: usize) {
        let before = self.shelves[at].complete();
        let (repository, trap) = self.open(at).await;
        let Some(repository) = repository else { return };
        let now = self.clock.now().wall;
        let work = async {
            drop(repository.sweep_uploads(Duration::ZERO, now).await);
            let Ok(plan) = repository.garbage(DAY, now).await else { return };
            drop(repository.sweep(plan).await);
        };
        self.unless_killed("sweep", &trap, work).await;
        assert_eq!(self.shelves[at].complete(), before, "a sweep removes no backup");
    }

    async fn acknowledge(&mut self, at: usize) {
        let there = self.shelves[at].complete();
        let doubted: Vec<BackupId> = self.shelves[at].in_doubt(&there);
        let Some(id) = doubted.get(self.rng.place(doubted.len())).cloned() else { return };
        let by = Acknowledgement {
            at: self.clock.now().wall,
            user: "postgres".to_owned(),
            host: "db1".to_owned(),
        };
        let honest = self.shelves[at].honest().await;
        self.told.push(format!("acknowledge {id} in {at}"));
        honest.acknowledge(&series(), &id, &by).await.expect("written");
    }

    /// With listings that tell the truth, all is as it should be.
    async fn end(&mut self) {
        self.told.push("the end".to_owned());
        self.shelves.iter_mut().for_each(Shelf::be_honest);
        self.rng.calm();
        self.copy().await;
        let [source, target] = &self.shelves;
        let (from, to) = (source.complete(), target.complete());
        let newest = from.last().cloned();
        assert!(newest.is_none_or(|newest| to.contains(&newest)), "{from:?} {to:?}");
        self.clock.advance(DAY * 2);
        for at in [0, 1] {
            self.sweep(at).await;
            self.prune(at).await;
            self.shelves[at].assert_sound().await;
            assert!(self.shelves[at].halves().is_empty(), "nothing half is left");
            assert!(self.allowed(at).await.is_empty(), "pruned is pruned");
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test]
async fn no_listing_makes_a_backup_go_that_the_truth_keeps() {
    let long = env::var_os("PGKEEP_LONG").is_some();
    let first = number("PGKEEP_SEED", 1);
    let stories = number("PGKEEP_ROUNDS", if long { STORIES_LONG } else { STORIES });
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + stories {
        let story = std::panic::AssertUnwindSafe(async {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step().await;
            }
            world.end().await;
            world.told
        });
        let told = futures_util::FutureExt::catch_unwind(story).await.unwrap_or_else(|panic| {
            eprintln!("repeat it with PGKEEP_SEED={seed} PGKEEP_ROUNDS=1");
            std::panic::resume_unwind(panic)
        });
        for line in told {
            let word = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            *counts.entry(word).or_default() += 1;
        }
    }
    for word in ["store", "bring", "carry", "sweep", "killed", "acknowledge"] {
        assert!(counts.contains_key(word), "no {word} in {stories} stories: {counts:?}");
    }
}
