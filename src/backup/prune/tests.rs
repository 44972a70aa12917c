use std::sync::Arc;

use jiff::{SignedDuration, tz::TimeZone};

use super::*;
use crate::{
    backup::{
        copy::tests::{backup, backup_of, repository},
        owner::tests::{OTHER, owners},
    },
    domain::{
        backup::Series,
        finding::Severity,
        retention::{Limit, Period, Rule},
    },
    repository::{
        faulty::{Act, Faults, Faulty, When},
        layout,
        listing::{Listed, Listing, Within},
        memory::MemoryStore,
        store::Store,
    },
    sys::clock::SystemClock,
};

mod crowd;
mod lied;
mod suspicious;

struct Bench {
    repository: Repository,
    store: Arc<MemoryStore>,
    task: Task,
    policy: Policy,
    servers: BTreeSet<ServerName>,
    owners: Owners,
    max_remove: Option<u32>,
    series: Series,
    ids: Vec<BackupId>,
}

fn policy(last: u32) -> Policy {
    let rule = Rule { period: Period::Each, limit: Limit::Count(last) };
    Policy::new([rule], TimeZone::UTC).unwrap()
}

impl Bench {
    /// One backup of each of the last days, the oldest first; the last is kept.
    async fn new(backups: i64) -> Self {
        let (repository, store) = repository().await;
        let task = Task::new(SystemClock::new());
        let mut ids = Vec::new();
        let mut series = None;
        for day in (0..backups).rev() {
            let at = task.clock.now().wall - SignedDuration::from_hours(24 * day + 1);
            ids.push(BackupId::new(at, 1));
            series = Some(backup(&repository, &ids[ids.len() - 1]).await.series);
        }
        let (policy, servers) = (policy(1), BTreeSet::from(["main".parse().unwrap()]));
        let (owners, series) = (owners(&[OTHER]), series.unwrap());
        Self { repository, store, task, policy, servers, owners, max_remove: None, series, ids }
    }

    fn key(&self, at: usize, name: &str) -> String {
        layout::object_key(&self.series, &self.ids[at], name)
    }

    async fn survey(&self, repository: &Repository) -> Result<Survey, Failure> {
        let order = Order {
            policy: &self.policy,
            servers: &self.servers,
            owners: &self.owners,
            max_remove: self.max_remove,
            now: self.task.clock.now().wall,
        };
        let steps = Steps::new("local".parse().unwrap(), 100);
        survey(repository, &order, steps, &self.task).await
    }

    /// The plan of the only series.
    async fn plan(&self) -> (SeriesPlan, Survey) {
        let mut survey = self.survey(&self.repository).await.unwrap();
        assert_eq!(survey.series.len(), 1);
        (survey.series.remove(0), survey)
    }

    async fn listing(&self) -> Listing {
        self.repository.listing(&Within::All).await.unwrap()
    }

    /// Places of the backups that have a manifest.
    async fn complete(&self) -> Vec<usize> {
        let listing = self.listing().await;
        let is_there =
            |id: &&BackupId| listing.backups.iter().any(|it| it.id == **id && it.complete);
        let places = self.ids.iter().enumerate().filter(|(_, id)| is_there(id));
        places.map(|(at, _)| at).collect()
    }
}

/// What goes, as places.
fn goes(bench: &Bench, plan: &SeriesPlan) -> Vec<usize> {
    let place = |goes: &BackupId| bench.ids.iter().position(|id| id == goes).unwrap();
    plan.remove.iter().map(place).collect()
}

fn checks(survey: &Survey) -> Vec<(&str, Severity)> {
    survey.findings.iter().map(|it| (it.check.as_str(), it.severity)).collect()
}

#[tokio::test]
async fn what_no_rule_keeps_goes_and_nothing_else() {
    let bench = Bench::new(4).await;
    let foreign = ["README", "main/x", "main/7/app/all/20200101T000000Z-k3f9q2x7/sub/x"];
    for key in foreign {
        bench.store.plant(key, "not yours", Timestamp::UNIX_EPOCH);
    }
    // Data without a manifest is the sweep's.
    let garbage = format!("{}/20200101T000000Z-k3f9q2x7/a.dump.zst", bench.series.path());
    bench.store.plant(&garbage, "x", Timestamp::UNIX_EPOCH);
    let before = bench.store.keys();
    let stored = bench.listing().await;
    let (plan, survey) = bench.plan().await;
    assert!(survey.findings.is_empty(), "{:?}", survey.findings);
    assert_eq!(goes(&bench, &plan), [0, 1, 2]);
    assert_eq!(bench.store.keys(), before, "a survey changes nothing");
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    assert!(done.failure.is_none() && done.spared.is_empty(), "{done:?}");
    let gone = stored.backups.iter().filter(|it| plan.remove.contains(&it.id));
    assert_eq!((done.removed, done.bytes), (3, gone.map(Listed::bytes).sum()));
    let removed: Vec<String> =
        bench.ids[..3].iter().map(|id| layout::folder(&bench.series, id)).collect();
    let is_left = |key: &String| !removed.iter().any(|folder| key.starts_with(folder.as_str()));
    let left: Vec<String> = before.into_iter().filter(is_left).collect();
    assert_eq!(bench.store.keys(), left);
    let (again, survey) = bench.plan().await;
    assert!(again.remove.is_empty());
    assert_eq!(survey.steps.finish().len(), 2, "the backup, and what is none");
}

#[tokio::test]
async fn a_damaged_newest_backup_stands_in_for_nothing() {
    let bench = Bench::new(6).await;
    // Nothing but the manifest; cut off; not to be read.
    bench.store.lose(&bench.key(3, "globals.sql.zst")).unwrap();
    bench.store.plant(&bench.key(4, "globals.sql.zst"), "cut", Timestamp::UNIX_EPOCH);
    bench.store.plant(&bench.key(5, "manifest.json"), "{", Timestamp::UNIX_EPOCH);
    let (plan, survey) = bench.plan().await;
    assert_eq!(checks(&survey), [("backup-damaged", Severity::Critical); 3]);
    assert_eq!(plan.floor.as_ref(), Some(&bench.ids[2]));
    assert_eq!(goes(&bench, &plan), [0, 1]);
    carry_out(&bench.repository, &plan, &bench.task).await;
    assert_eq!(bench.complete().await, [2, 3, 4, 5]);

    // Now there is none that is whole: nothing may go, whatever the policy says.
    bench.store.lose(&bench.key(2, "globals.sql.zst")).unwrap();
    let (plan, _) = bench.plan().await;
    assert_eq!((plan.held, plan.remove.len()), (Some(Obstacle::NoneWhole), 0));
}

#[tokio::test]
async fn a_manifest_that_the_store_does_not_give_stops_no_other_series() {
    let bench = Bench::new(3).await;
    let other = Series::from_path("main/7/other/all").unwrap();
    for id in &bench.ids {
        backup_of(&bench.repository, &other, id).await;
    }
    // Opening, the listing, and the newest manifest of the first series.
    let at = Some((2, When::Before, Act::Fail(StoreErrorKind::Refused)));
    let faults = Faults { at, ..Faults::default() };
    let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
    let repository = Repository::open("local".parse().unwrap(), store, false).await.unwrap();
    let survey = bench.survey(&repository).await.unwrap();
    assert!(survey.findings.is_empty(), "it is not called damaged: {:?}", survey.findings);
    assert!(matches!(survey.series[0].held, Some(Obstacle::Refused(_))), "{survey:?}");
    assert_eq!(survey.series[1].held, None);
    let floors: Vec<_> = survey.series.iter().map(|plan| plan.floor.clone().unwrap()).collect();
    assert_eq!(floors, [bench.ids[1].clone(), bench.ids[2].clone()]);
}

/// Where nothing can be read it is not said that nothing is whole: the run has to fail.
#[tokio::test]
async fn a_series_of_which_no_manifest_may_be_read_is_refused() {
    let bench = Bench::new(1).await;
    let at = Some((2, When::Before, Act::Fail(StoreErrorKind::Refused)));
    let faults = Faults { at, ..Faults::default() };
    let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
    let repository = Repository::open("local".parse().unwrap(), store, false).await.unwrap();
    let survey = bench.survey(&repository).await.unwrap();
    assert!(survey.findings.is_empty(), "{:?}", survey.findings);
    let [plan] = &survey.series[..] else { panic!("{survey:?}") };
    assert!(matches!(plan.held, Some(Obstacle::Refused(_))), "{plan:?}");
    assert_eq!((&plan.floor, plan.remove.len()), (&None, 0));
}

#[tokio::test]
async fn what_has_to_stay_is_looked_at_again_before_anything_goes() {
    let bench = Bench::new(3).await;
    let (plan, _) = bench.plan().await;
    let lost = bench.store.lose(&bench.key(2, "globals.sql.zst")).unwrap();
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    let failure = done.failure.unwrap();
    assert_eq!(failure.class, Class::RepositoryDamaged, "{failure}");
    assert!(failure.what.contains(bench.ids[2].as_str()), "{failure}");
    assert_eq!(bench.complete().await, [0, 1, 2]);
    bench.store.plant(&bench.key(2, "globals.sql.zst"), lost, Timestamp::UNIX_EPOCH);
    bench.store.lose(&bench.key(2, "manifest.json")).unwrap();
    assert!(carry_out(&bench.repository, &plan, &bench.task).await.failure.is_some());
    assert_eq!(bench.complete().await, [0, 1]);
}

#[tokio::test]
async fn a_series_of_another_host_is_only_looked_at() {
    let mut bench = Bench::new(3).await;
    bench.owners = owners(&[]);
    let (plan, survey) = bench.plan().await;
    assert!(matches!(plan.held, Some(Obstacle::Stranger(_))) && plan.remove.is_empty());
    assert_eq!(checks(&survey), [("backup-owner", Severity::Warning)]);
    let hint = survey.findings[0].hint.as_ref().unwrap();
    assert!(hint.contains("adopt") && hint.contains(OTHER), "{hint}");
    let steps = survey.steps.finish();
    assert!(steps.iter().all(|step| step.action == "keep"), "{steps:?}");
    assert!(steps[0].reason.contains("another host, db1"), "{steps:?}");
}

#[tokio::test]
async fn servers_that_are_not_meant_are_left_alone_and_named_once() {
    let mut bench = Bench::new(3).await;
    bench.servers = BTreeSet::from(["other".parse().unwrap()]);
    let survey = bench.survey(&bench.repository).await.unwrap();
    assert!(survey.series.is_empty());
    assert_eq!(checks(&survey), [("backup-unmanaged", Severity::Info)]);
    assert!(survey.findings[0].what.contains("main (3)"), "{:?}", survey.findings);
}

#[tokio::test]
async fn more_than_may_go_at_once_does_not_go_at_all() {
    let mut bench = Bench::new(4).await;
    for (most, goes) in [(2, 0), (3, 3)] {
        bench.max_remove = Some(most);
        let (plan, _) = bench.plan().await;
        assert_eq!(plan.remove.len(), goes);
        assert_eq!(plan.held.is_some(), goes == 0);
    }
}

#[tokio::test]
async fn what_is_being_written_is_spared_and_a_store_that_refuses_is_a_failure() {
    let bench = Bench::new(4).await;
    let (plan, _) = bench.plan().await;
    let writing = bench.repository.start_copy(&bench.series, &bench.ids[1], "globals.sql.zst");
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    assert!(done.failure.is_none(), "{done:?}");
    assert_eq!((done.removed, &done.spared[0].0), (2, &bench.ids[1]));
    drop(writing);
    let refused = Act::Die(StoreErrorKind::Refused);
    // The fourth request is the first that deletes: after two for the floor, and a listing.
    let faults = Faults { at: Some((4, When::Before, refused)), ..Faults::default() };
    let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
    let name = "local".parse().unwrap();
    let repository = Repository::open(name, store, false).await.unwrap();
    let (plan, _) = bench.plan().await;
    let done = carry_out(&repository, &plan, &bench.task).await;
    let failure = done.failure.expect("a store that refuses to delete");
    assert_eq!((failure.class, done.spared.len()), (Class::RepositoryRefused, 0), "{failure}");
}

/// Whatever step it breaks off at, on either side of its effect: whatever has a manifest is whole,
/// what has to stay is there, and the next run does the rest.
#[tokio::test]
async fn a_break_at_any_step_leaves_whole_backups_and_the_next_run_goes_on() {
    let mut ended_well = 0;
    for step in 0..60 {
        for when in [When::Before, When::After] {
            let bench = Bench::new(4).await;
            let act = Act::Die(StoreErrorKind::Unavailable);
            let faults = Faults { at: Some((step, when, act)), ..Faults::default() };
            let store = Faulty::new(Arc::clone(&bench.store) as Arc<dyn Store>, faults);
            let opened = Repository::open("local".parse().unwrap(), store, false).await;
            if let Ok(repository) = opened
                && let Ok(survey) = bench.survey(&repository).await
            {
                let done = carry_out(&repository, &survey.series[0], &bench.task).await;
                ended_well += u32::from(done.failure.is_none());
                if let Some(failure) = &done.failure {
                    let said = format!("{} of 3 were removed", done.removed);
                    let early = done.removed == 0 && !failure.what.contains("of 3");
                    assert!(early || failure.what.contains(&said), "{failure}");
                }
            }
            for listed in bench.listing().await.backups.iter().filter(|it| it.complete) {
                let examined = bench.repository.examine(&listed.series, &listed.id, Some(listed));
                let verdict = examined.await.unwrap().verdict;
                assert!(matches!(verdict, Verdict::Whole { .. }), "{step}, {when:?}: {verdict:?}");
            }
            assert!(bench.complete().await.contains(&3), "step {step}, {when:?}");
            let (plan, _) = bench.plan().await;
            let done = carry_out(&bench.repository, &plan, &bench.task).await;
            assert!(done.failure.is_none(), "{done:?}");
            assert_eq!(bench.complete().await, [3]);
        }
    }
    assert!((2..100).contains(&ended_well), "the steps were not all tried: {ended_well}");
}

#[tokio::test]
async fn a_cancelled_run_starts_nothing_more() {
    let bench = Bench::new(4).await;
    let (plan, _) = bench.plan().await;
    bench.task.cancel.cancel();
    let done = carry_out(&bench.repository, &plan, &bench.task).await;
    assert_eq!(done.failure.unwrap().class, Class::Interrupted);
    assert_eq!(bench.survey(&bench.repository).await.unwrap_err().class, Class::Interrupted);
}

#[test]
fn a_long_plan_is_cut_and_says_so() {
    let series = Series::from_path("main/7/app/all").unwrap();
    let mut steps = Steps::new("local".parse().unwrap(), 3);
    let mut keep = crate::domain::retention::Reasons::default();
    keep.add(crate::domain::retention::Reason::Held);
    let mut at = Timestamp::UNIX_EPOCH;
    let mut push = |goes: bool, reasons| {
        at += SignedDuration::from_secs(1);
        steps.push(&series, &BackupId::new(at, 1), goes, reasons, None);
    };
    for goes in [false, true, false, false, true, true, true, false] {
        push(goes, if goes { crate::domain::retention::Reasons::default() } else { keep });
    }
    let lines: Vec<(String, String)> =
        steps.finish().into_iter().map(|step| (step.action, step.reason)).collect();
    let line = |action: &str, reason: &str| (action.to_owned(), reason.to_owned());
    assert_eq!(
        lines,
        [
            line("remove", "no rule keeps it"),
            line("remove", "no rule keeps it"),
            line("remove", "no rule keeps it"),
            line("remove", "and 1 more that are not listed: no rule keeps it"),
            line("keep", "and 4 more that are not listed: pinned"),
        ]
    );
}
