//! The steps of a story, and what has to hold after each.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use jiff::tz::TimeZone;

use super::{
    plot::{Act, Plot, Rng, Theme},
    shelf::{Shelf, Trap},
    truth::{Backup, Leave},
};
use crate::{
    backup::{
        copy::tests::try_backup,
        owner::tests::{OTHER, owners},
        prune::{Order, SeriesPlan, Steps, Survey, carry_out, survey},
        transfer::{
            Brought, Item, bring,
            survey::{Selection, Stock, holdings, stock},
        },
    },
    domain::{
        backup::{BackupId, Series},
        manifest::MANIFEST_NAME,
        pattern::DatabasePatterns,
        retention::{Limit, Period, Policy, Rule},
        suspicion::{Acknowledgement, Kind, Suspicion},
        transfer::{Holdings, Limits, decide},
    },
    repository::{faulty::When, repo::Repository},
    sys::{
        clock::{Clock as _, ManualClock},
        task::Task,
    },
};

/// Steps of one story.
pub(super) const STEPS: usize = 20;
const HOUR: Duration = Duration::from_hours(1);
/// How old garbage is before a sweep removes it.
const DAY: Duration = Duration::from_hours(24);
/// Far longer than any step takes.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// Kills come at a request below this.
const KILLED_BELOW: u64 = 24;

/// A request of one process, before or after it had its effect.
type Kill = (u64, When);

/// Two repositories, and what happens to them.
pub(super) struct World {
    rng: Rng,
    theme: &'static Theme,
    clock: Arc<ManualClock>,
    /// The source of copies, and their target.
    shelves: [Shelf; 2],
    policies: [Policy; 2],
    /// The request at which a process was killed last.
    killed_at: u64,
    /// Nobody disturbs any more.
    is_over: bool,
    pub(super) told: Vec<String>,
}

fn policy(period: Period, count: u32) -> Policy {
    Policy::new([Rule { period, limit: Limit::Count(count) }], TimeZone::UTC).unwrap()
}

fn selection() -> Selection {
    let patterns = DatabasePatterns { include: vec!["*".parse().unwrap()], exclude: vec![] };
    Selection { servers: vec!["main".parse().unwrap()], patterns, globals: true }
}

impl World {
    /// Repositories with backups that are older than what a sweep removes.
    pub(super) async fn new(seed: u64) -> Self {
        let (theme, mut rng) = (Theme::of(seed), Rng(seed));
        let clock = ManualClock::new("2026-11-21T00:00:00Z".parse().unwrap());
        let names = ["disk", "offsite"];
        let shelves = names.map(|name| Shelf::new(name, Plot::new(theme, &mut rng), clock.clone()));
        let last = 1 + u32::try_from(rng.below(3)).unwrap();
        let policies = [policy(Period::Each, last), policy(Period::Day, last)];
        let told = shelves.iter().map(|it| format!("{}: {:?}", theme.name, it.plot)).collect();
        let mut world =
            Self { rng, theme, clock, shelves, policies, killed_at: seed, is_over: false, told };
        for _ in 0..3 {
            for at in [0, 1] {
                let (series, id) = world.new_backup();
                let honest = world.shelves[at].honest().await;
                try_backup(&honest, &series, &id, &[], std::future::ready(())).await.unwrap();
            }
        }
        for at in [0, 1] {
            // Mostly between its data and its manifest.
            Box::pin(world.dump(at, Some((3, When::After)))).await;
        }
        world.clock.advance(DAY * 2);
        world
    }

    fn task(&self) -> Task {
        Task::new(self.clock.clone())
    }

    fn new_backup(&mut self) -> Backup {
        self.clock.advance(Duration::from_mins(1));
        let path = ["main/7/@globals/all", "main/7/app/all"][usize::from(self.rng.one_of(6))];
        let id = BackupId::new(self.clock.now().wall, self.rng.next());
        (Series::from_path(path).unwrap(), id)
    }

    /// Requests are taken in turn.
    fn kill(&mut self) -> Option<Kill> {
        if self.rng.below(10) >= self.theme.killed {
            return None;
        }
        self.killed_at = (self.killed_at + 1) % KILLED_BELOW;
        Some((self.killed_at, if self.rng.one_of(2) { When::Before } else { When::After }))
    }

    pub(super) async fn step(&mut self) {
        let at = usize::from(self.rng.one_of(4));
        let kills = [self.kill(), self.kill()];
        match self.theme.act(&mut self.rng) {
            Act::Dump => Box::pin(self.dump(at, kills[0])).await,
            Act::Copy => self.copy(kills).await,
            Act::Prune => self.prune(at, kills[0]).await,
            Act::Sweep => self.sweep(at, kills[0]).await,
            Act::Acknowledge => self.acknowledge(at).await,
            Act::Lose => self.lose(at).await,
            Act::Wait => {
                let hours = 1 + u32::try_from(self.rng.below(30)).unwrap();
                self.told.push(format!("{hours} hours later"));
                self.clock.advance(HOUR * hours);
            }
        }
        for shelf in &self.shelves {
            shelf.truth.assert_right();
        }
    }

    /// Does it, unless the process is killed before its end.
    async fn unless_killed<T>(
        &mut self,
        what: String,
        trap: &Trap,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let done = tokio::select! {
            biased;
            () = trap.sprung() => None,
            done = tokio::time::timeout(STEP_LIMIT, work) => Some(done.expect(&what)),
        };
        self.told.push(what);
        if done.is_none() {
            self.told.push("killed".to_owned());
        }
        // Tasks that were dropped end as soon as they may.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        done
    }

    /// Some take days, and the same daemon sweeps meanwhile.
    async fn dump(&mut self, at: usize, kill: Option<Kill>) {
        let backup = self.new_backup();
        let (series, id) = &backup;
        let doubt = Suspicion::new(Kind::NoRows, "0 rows, before 5000");
        let doubt = Vec::from_iter((self.rng.below(3) > 0).then_some(doubt));
        let (is_slow, is_robbed) = (self.rng.one_of(4), self.rng.one_of(10));
        let host = self.host();
        let leave = Leave { host, garbage: Some(DAY), ..Leave::default() };
        let (repository, trap) = self.shelves[at].open(leave, kill).await;
        let Some(repository) = repository else { return };
        let (clock, truth) = (Arc::clone(&self.clock), Arc::clone(&self.shelves[at].truth));
        let meanwhile = async {
            if is_slow {
                clock.advance(DAY * 2);
                sweep(&repository, &clock).await;
            }
            if is_robbed {
                truth.lose(&backup, true);
            }
        };
        let work = Box::pin(try_backup(&repository, series, id, &doubt, meanwhile));
        let stored = self.unless_killed(format!("store {id} in {at}"), &trap, work).await;
        match stored {
            Some(Ok(_)) => self.shelves[at].assert_whole(&backup).await,
            Some(Err(error)) => assert!(is_robbed || self.shelves[at].fails(), "{error}"),
            None => {}
        }
    }

    fn host(&mut self) -> usize {
        usize::from(self.rng.one_of(4))
    }

    async fn copy(&mut self, kills: [Option<Kill>; 2]) {
        let (host, noted) = (self.host(), self.shelves[1].plot.notes);
        let leave = Leave { host, noted, garbage: Some(HOUR), ..Leave::default() };
        let (source, from) = self.shelves[0].open(Leave::default(), kills[0]).await;
        let (target, to) = self.shelves[1].open(leave, kills[1]).await;
        let (Some(source), Some(target)) = (source, target) else { return };
        // What hosts note is written beside: only one after the other comes always in the same order.
        let parallel = if noted { 1 } else { 2 };
        let (task, now) = (self.task(), self.clock.now().wall);
        let before = self.shelves[1].truth.complete();
        let work = async {
            let selection = selection();
            let stock = stock(&source, &selection).await.ok()?;
            let held = holdings(&target, &selection, &stock, now).await.ok()?;
            let items = items(&target, &stock, &held, now);
            Some((bring(&source, items, parallel, &task).await, held))
        };
        let done = self.unless_killed("bring".to_owned(), &from.or(&to), work).await;
        let Some((brought, held)) = done.flatten() else { return };
        let spoiled = self.shelves[1].truth.spoiled();
        for (series, held) in held {
            for id in held.damaged {
                assert_eq!(Some(((*series).clone(), id)), spoiled, "all others are whole");
            }
        }
        for (item, brought) in brought {
            let backup = ((*item.series).clone(), item.id);
            let is_sent = matches!(brought, Brought::Copied(_) | Brought::Unlisted(..));
            assert!(!is_sent || !before.contains(&backup), "{backup:?} was there and sent again");
            self.assert_brought(&backup, &brought).await;
        }
    }

    /// What is said to have become of it is so.
    async fn assert_brought(&self, backup: &Backup, brought: &Brought) {
        let [source, target] = &self.shelves;
        match brought {
            Brought::Copied(_) => {
                assert!(!target.hides(MANIFEST_NAME), "{backup:?} was never listed");
                target.assert_whole(backup).await;
            }
            Brought::Unlisted(..) => {
                assert!(target.lies(), "{backup:?} is listed");
                target.assert_whole(backup).await;
            }
            // What is damaged there has to wait for a person.
            Brought::Present => assert!(target.truth.complete().contains(backup), "{backup:?}"),
            Brought::Vanished => assert!(!source.truth.complete().contains(backup), "{backup:?}"),
            _ => {}
        }
    }

    async fn plan(&self, at: usize, repository: &Repository) -> Option<Survey> {
        let order = Order {
            policy: &self.policies[at],
            servers: &["main".parse().unwrap()].into(),
            owners: &owners(&[OTHER]),
            max_remove: None,
            now: self.clock.now().wall,
        };
        let steps = Steps::new("local".parse().unwrap(), 100);
        survey(repository, &order, steps, &self.task()).await.ok()
    }

    async fn prune(&mut self, at: usize, kill: Option<Kill>) {
        let truth = Arc::clone(&self.shelves[at].truth);
        let backups = truth.may_go(&self.policies[at]);
        let leave = Leave { backups, ..Leave::default() };
        let (repository, trap) = self.shelves[at].open(leave, kill).await;
        let Some(repository) = repository else { return };
        let planned = tokio::select! {
            biased;
            () = trap.sprung() => None,
            planned = self.plan(at, &repository) => planned,
        };
        let Some(planned) = planned else { return };
        for finding in planned.findings.iter().filter(|it| it.check == "backup-damaged") {
            let whole =
                truth.whole().into_iter().find(|(_, id)| finding.what.contains(id.as_str()));
            assert_eq!(whole, None, "{finding:?}");
        }
        let task = self.task();
        for plan in planned.series {
            self.perhaps_lose_floor(at, &plan);
            let goes: Vec<&str> = plan.remove.iter().map(BackupId::as_str).collect();
            let what = format!("carry out {}: {goes:?}", plan.series.path());
            let done = self.unless_killed(what, &trap, carry_out(&repository, &plan, &task)).await;
            let Some(done) = done else { return };
            let is_done = done.failure.is_none() && done.spared.is_empty();
            if is_done && !plan.remove.is_empty() {
                let there = truth.complete();
                for id in &plan.remove {
                    let backup = (plan.series.clone(), id.clone());
                    assert!(!there.contains(&backup), "{backup:?} is there");
                }
            }
        }
    }

    /// What was to stay is gone when the plan is carried out, as people do.
    fn perhaps_lose_floor(&mut self, at: usize, plan: &SeriesPlan) {
        let Some(floor) = plan.floor.clone() else { return };
        if !self.is_over && !plan.remove.is_empty() && self.rng.one_of(3) {
            self.told.push(format!("somebody removes {floor}"));
            let (truth, floor) = (&self.shelves[at].truth, (plan.series.clone(), floor));
            if !truth.spoil(&floor) {
                truth.lose(&floor, true);
            }
            truth.keep_all(&plan.series);
        }
    }

    async fn sweep(&mut self, at: usize, kill: Option<Kill>) {
        let leave = Leave { garbage: Some(DAY), ..Leave::default() };
        let (repository, trap) = self.shelves[at].open(leave, kill).await;
        let Some(repository) = repository else { return };
        let clock = Arc::clone(&self.clock);
        self.unless_killed(format!("sweep {at}"), &trap, sweep(&repository, &clock)).await;
    }

    async fn acknowledge(&mut self, at: usize) {
        let doubted = Vec::from_iter(self.shelves[at].truth.in_doubt());
        if doubted.is_empty() {
            return;
        }
        let (series, id) = self.rng.pick(&doubted);
        let (user, host) = ("postgres".to_owned(), "db1".to_owned());
        let by = Acknowledgement { at: self.clock.now().wall, user, host };
        let honest = self.shelves[at].honest().await;
        self.told.push(format!("acknowledge {id} in {at}"));
        honest.acknowledge(&series, &id, &by).await.expect("written");
    }

    /// A person removes one by hand, mostly a new one, of which listings may still tell; or a bucket
    /// removes data. A prune comes soon.
    async fn lose(&mut self, at: usize) {
        let truth = Arc::clone(&self.shelves[at].truth);
        let mut there = Vec::from_iter(truth.whole());
        there.sort_by_key(|(_, id)| id.time());
        let skipped = usize::try_from(self.rng.below(3)).unwrap();
        let Some(backup) = there.into_iter().rev().nth(skipped) else { return };
        self.shelves[at].be_listed().await;
        self.told.push(format!("lose {} in {at}", backup.1));
        if !self.rng.one_of(3) || !truth.spoil(&backup) {
            truth.lose(&backup, true);
        }
        self.prune(at, None).await;
    }

    /// With listings that tell the truth, all is as it should be.
    pub(super) async fn end(&mut self) {
        self.told.push("the end".to_owned());
        self.is_over = true;
        self.shelves.iter_mut().for_each(Shelf::be_honest);
        self.clock.advance(HOUR * 2);
        self.copy([None; 2]).await;
        let [source, target] = &self.shelves;
        let (from, to) = (source.truth.whole(), target.truth.complete());
        assert!(from.is_subset(&to), "{from:?} {to:?}");
        self.clock.advance(DAY * 2);
        for at in [0, 1] {
            self.sweep(at, None).await;
            self.prune(at, None).await;
            let truth = &self.shelves[at].truth;
            truth.assert_right();
            assert!(truth.halves().is_empty(), "nothing half is left");
            assert_eq!(truth.unfinished(), 0, "no upload is left");
            assert!(truth.unkept(&self.policies[at]).is_empty(), "pruned is pruned");
            for backup in truth.whole() {
                self.shelves[at].assert_whole(&backup).await;
            }
        }
    }
}

/// What is brought to a target that is thought to hold that.
fn items(
    target: &Arc<Repository>,
    stock: &Stock,
    held: &BTreeMap<Arc<Series>, Holdings>,
    now: crate::domain::Timestamp,
) -> Vec<Item> {
    let mut items = Vec::new();
    for (series, stocked) in stock {
        let none = Holdings::default();
        let held = held.get(series).unwrap_or(&none);
        let decided = decide(stocked, held, &Limits::default(), now).into_iter();
        items.extend(decided.filter(|it| it.decision.brings()).map(|decided| Item {
            target: Arc::clone(target),
            series: Arc::clone(series),
            unfinished: held.incomplete.contains(&decided.id),
            id: decided.id,
            rank: decided.rank,
        }));
    }
    items
}

/// As the daemon sweeps.
async fn sweep(repository: &Repository, clock: &ManualClock) {
    let now = clock.now().wall;
    drop(repository.sweep_uploads(Duration::ZERO, now).await);
    let Ok(plan) = repository.garbage(DAY, now).await else { return };
    drop(repository.sweep(plan).await);
}
