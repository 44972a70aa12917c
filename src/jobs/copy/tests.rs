//! The whole job against repositories in memory.

mod unsound;

use super::{plan::STEPS_MAX, *};
use crate::{
    backup::copy::tests::backup_of,
    domain::{
        Timestamp,
        backup::BackupId,
        failure::Class,
        pattern::DatabasePatterns,
        report::{Outcome, Verdict},
        run::RunId,
    },
    repository::{
        faulty::{Act, Faults, Faulty, When},
        handle::Opener,
        layout,
        listing::Within,
        memory::MemoryStore,
        repo::Repository,
        store::{Store, StoreErrorKind},
    },
    sys::{
        clock::{Clock as _, SystemClock},
        task::Task,
    },
};

const HOUR: Duration = Duration::from_hours(1);

/// Repositories in memory, and where the host remembers things.
struct Bench {
    state: tempfile::TempDir,
    local: Arc<MemoryStore>,
    offsite: Arc<MemoryStore>,
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(SystemClock::new()))
}

fn now() -> Timestamp {
    SystemClock::new().now().wall
}

fn hour(ago: u32) -> BackupId {
    BackupId::new(now() - HOUR * ago, 1)
}

fn series(database: &str) -> Series {
    Series::from_path(&format!("main/7/{database}/all")).unwrap()
}

impl Bench {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), local: memory(), offsite: memory() }
    }

    fn handle(&self, name: &str, store: &Arc<dyn Store>) -> Arc<Handle> {
        let (store, limits) = (Arc::clone(store), store.limits());
        let opener: Opener = Arc::new(move || {
            let store = Arc::clone(&store);
            Box::pin(async move { Ok(store) })
        });
        let memory = self.state.path().join("repositories").join(name);
        Arc::new(Handle::new(name.parse().unwrap(), opener, limits, memory))
    }

    fn job(&self) -> CopyJob {
        self.job_to(&[("offsite", Arc::clone(&self.offsite) as Arc<dyn Store>)])
    }

    fn job_to(&self, to: &[(&str, Arc<dyn Store>)]) -> CopyJob {
        let local: Arc<dyn Store> = self.local.clone();
        let include = vec!["*".parse().unwrap()];
        CopyJob {
            from: self.handle("local", &local),
            to: to.iter().map(|(name, store)| self.handle(name, store)).collect(),
            selection: Selection {
                servers: vec!["main".parse().unwrap()],
                patterns: DatabasePatterns { include, exclude: vec![] },
                globals: true,
            },
            limits: Limits::default(),
            parallel: 2,
            seen: self.state.path().join("copied/job"),
            state_dir: self.state.path().to_owned(),
            adopted: vec![],
        }
    }

    async fn source(&self) -> Repository {
        let store: Arc<dyn Store> = self.local.clone();
        Repository::open("local".parse().unwrap(), store, true).await.unwrap()
    }

    async fn fill(&self, database: &str, hours: impl IntoIterator<Item = u32>) {
        let source = self.source().await;
        for ago in hours {
            backup_of(&source, &series(database), &hour(ago)).await;
        }
    }

    /// How many backups lie off-site.
    async fn offsite(&self) -> usize {
        let store: Arc<dyn Store> = self.offsite.clone();
        let offsite = Repository::open("offsite".parse().unwrap(), store, true).await.unwrap();
        let listing = offsite.listing(&Within::All).await.unwrap();
        assert!(listing.backups.iter().all(|listed| listed.complete));
        listing.backups.len()
    }

    fn context(&self) -> RunContext {
        RunContext {
            task: Task::new(SystemClock::new()),
            run: RunId::new(now(), 1),
            attempt: 1,
            only: None,
            earlier: Report::default(),
            dry_run: false,
            max_age: None,
            scratch: self.state.path().to_owned(),
        }
    }
}

fn count(report: &Report, name: &str) -> u64 {
    let of = |target: &TargetReport| target.figures.counts.get(name).copied();
    report.targets.iter().filter_map(of).sum()
}

fn sample(report: &Report, metric: &str) -> Option<f64> {
    let metric = |sample: &&crate::domain::report::Sample| sample.metric == metric;
    report.samples.iter().find(metric).map(|sample| sample.value)
}

#[tokio::test]
async fn thousands_of_backups_make_a_short_report_and_are_copied_once() {
    let bench = Bench::new();
    for database in ["app", "shop", "wiki"] {
        bench.fill(database, 1..=900).await;
    }
    let job = bench.job();
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Succeeded);
    assert_eq!((report.targets.len(), count(&report, "copied")), (3, 2700));
    assert_eq!(sample(&report, "copied_backups_total"), Some(2700.0));
    assert_eq!(sample(&report, "copied_bytes_total"), Some(5.0 * 2700.0));
    assert_eq!(sample(&report, "copy_pending"), Some(0.0));
    assert_eq!(sample(&report, "copy_oldest_pending_timestamp_seconds"), Some(0.0));
    assert_eq!(report.plan.len(), STEPS_MAX + 1);
    assert!(report.plan[STEPS_MAX].reason.contains("2200"), "{:?}", report.plan[STEPS_MAX]);
    assert!(report.targets.iter().all(|target| target.output.len() <= 51));
    assert!(serde_json::to_vec(&report).unwrap().len() < 256 << 10);
    let again = job.run(&bench.context()).await.unwrap();
    assert_eq!(again.verdict(), Verdict::Succeeded);
    assert_eq!((count(&again, "copied"), count(&again, "present")), (0, 2700));
    assert_eq!(sample(&again, "copied_backups_total"), Some(0.0));
    assert_eq!(again.plan.len(), 3);
}

#[tokio::test]
async fn the_newest_of_every_database_comes_first() {
    let bench = Bench::new();
    bench.fill("app", [1, 2, 3]).await;
    bench.fill("shop", [10, 20]).await;
    let report = bench.job().run(&bench.context()).await.unwrap();
    let order: Vec<String> = report
        .plan
        .iter()
        .map(|step| {
            let id: BackupId = step.target.object.as_ref().unwrap().parse().unwrap();
            let minutes = now().duration_since(id.time()).as_mins();
            format!("{} {}", step.target.subject.as_ref().unwrap(), (minutes + 30) / 60)
        })
        .collect();
    assert_eq!(order, ["app 1", "shop 10", "app 2", "shop 20", "app 3"]);
}

#[tokio::test]
async fn what_was_removed_there_is_not_copied_again_but_a_loss_is() {
    let bench = Bench::new();
    bench.fill("app", 1..=5).await;
    let job = bench.job();
    job.run(&bench.context()).await.unwrap();
    let keys = bench.offsite.keys();
    let ids: BTreeSet<String> =
        keys.iter().filter_map(|key| Some(key.split('/').nth(4)?.to_owned())).collect();
    let remove = |id: &String| {
        let of = keys.iter().filter(|key| key.contains(id.as_str()));
        of.for_each(|key| drop(bench.offsite.lose(key)));
    };
    ids.iter().take(3).for_each(remove);
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((count(&report, "copied"), count(&report, "removed")), (0, 3));
    assert_eq!(sample(&report, "copy_pending"), Some(0.0), "nothing waits");
    assert_eq!(bench.offsite().await, 2);
    // The newest is never removed by a retention: that was a loss.
    remove(ids.last().unwrap());
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!(count(&report, "copied"), 1);
    // All of it is gone.
    ids.iter().for_each(remove);
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!(count(&report, "copied"), 5);
    // Without what was seen, what was removed is missing.
    ids.iter().take(1).for_each(remove);
    std::fs::remove_dir_all(&job.seen).unwrap();
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!(count(&report, "copied"), 1);
}

#[tokio::test]
async fn a_loss_is_made_good_although_the_first_try_breaks_off() {
    let mut was_partial = false;
    for step in 0..24 {
        let bench = Bench::new();
        bench.fill("app", 1..=5).await;
        bench.job().run(&bench.context()).await.unwrap();
        for key in bench.offsite.keys().iter().filter(|key| *key != layout::MARKER_KEY) {
            bench.offsite.lose(key).unwrap();
        }
        let at = Some((step, When::Before, Act::Fail(StoreErrorKind::Unavailable)));
        let store: Arc<dyn Store> = bench.offsite.clone();
        let faulty = Faulty::new(store, Faults { at, ..Faults::default() });
        let mut job = bench.job_to(&[("offsite", faulty)]);
        job.parallel = 1;
        let broken = job.run(&bench.context()).await.unwrap();
        was_partial |= (1..5).contains(&count(&broken, "copied"));
        let report = bench.job().run(&bench.context()).await.unwrap();
        assert_eq!(report.verdict(), Verdict::Succeeded, "step {step}: {report:?}");
        assert_eq!(bench.offsite().await, 5, "step {step}: {report:?}");
    }
    assert!(was_partial, "no run brought some and not all");
}

#[tokio::test]
async fn nothing_is_added_to_a_series_of_another_host_until_it_is_adopted() {
    let bench = Bench::new();
    bench.fill("app", [2]).await;
    bench.fill("shop", [2]).await;
    let mut job = bench.job();
    job.run(&bench.context()).await.unwrap();
    let is_app = |key: &&String| key.contains("/app/") && key.ends_with("manifest.json");
    let key = bench.offsite.keys().iter().find(is_app).unwrap().clone();
    let manifest = String::from_utf8(bench.offsite.lose(&key).unwrap().to_vec()).unwrap();
    let other = "2".repeat(32);
    bench.offsite.plant(&key, manifest.replace(&"0".repeat(32), &other), now());
    bench.fill("app", [1]).await;
    bench.fill("shop", [1]).await;
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((report.verdict(), bench.offsite().await), (Verdict::Partial, 3));
    let (_, failure) = report.failed().next().unwrap();
    assert_eq!(failure.class, Class::Configuration, "{failure}");
    assert!(failure.hint.as_ref().unwrap().contains(&other), "{failure:?}");
    assert_eq!(sample(&report, "copy_pending"), Some(1.0));
    job.adopted.push(other.parse().unwrap());
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((report.verdict(), bench.offsite().await), (Verdict::Succeeded, 4));
}

#[tokio::test]
async fn limits_and_patterns_choose() {
    let bench = Bench::new();
    bench.fill("app", [1, 2, 3, 50]).await;
    bench.fill("scratch", [1]).await;
    let mut job = bench.job();
    job.selection.patterns.exclude = vec!["scratch*".parse().unwrap()];
    job.limits = Limits { newest: Some(3), within: None };
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((count(&report, "copied"), count(&report, "left_out")), (3, 1));
    let reasons: Vec<&str> = report.plan.iter().map(|step| &*step.reason).collect();
    assert!(reasons.iter().any(|reason| reason.contains("(newest)")), "{reasons:?}");
    job.limits = Limits { newest: None, within: Some(HOUR * 24) };
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((count(&report, "copied"), count(&report, "left_out")), (0, 1));
    assert_eq!(bench.offsite().await, 3);
}

#[tokio::test]
async fn a_dry_run_says_all_and_changes_nothing() {
    let bench = Bench::new();
    bench.fill("app", [1, 2]).await;
    let job = bench.job();
    let dry = RunContext { dry_run: true, ..bench.context() };
    let report = job.run(&dry).await.unwrap();
    assert!(bench.offsite.keys().is_empty(), "not even the repository is made");
    assert!(report.targets.is_empty() && report.samples.is_empty());
    assert_eq!(report.plan.iter().filter(|step| step.action == "copy").count(), 2);
    let real = job.run(&bench.context()).await.unwrap();
    assert_eq!(real.plan, report.plan, "the plan is the same");
    let seen = std::fs::read(job.seen.join("offsite")).unwrap();
    bench.fill("app", [3]).await;
    let report = job.run(&dry).await.unwrap();
    let actions: Vec<&str> = report.plan.iter().map(|step| &*step.action).collect();
    assert_eq!(actions, ["copy", "leave"]);
    assert!(report.plan[1].reason.starts_with("2 backups"), "{report:?}");
    assert_eq!(std::fs::read(job.seen.join("offsite")).unwrap(), seen);
    assert_eq!(bench.offsite().await, 2);
}

#[tokio::test]
async fn a_damaged_source_fails_its_target_and_is_a_finding() {
    let bench = Bench::new();
    bench.fill("app", [1, 2, 3]).await;
    bench.fill("shop", [1, 2]).await;
    let data = |database: &str, manifest: &str| {
        let is = |key: &String| key.contains(&format!("/{database}/")) && key.ends_with(manifest);
        bench.local.keys().into_iter().filter(is).collect::<Vec<_>>()
    };
    // The newest of `app`, and the older one of `shop`.
    let app = data("app", "globals.sql.zst").pop().unwrap();
    let shop = data("shop", "globals.sql.zst").swap_remove(0);
    for key in [&app, &shop] {
        bench.local.lose(key).unwrap();
        bench.local.plant(key, "DAMAG", now());
    }
    let report = bench.job().run(&bench.context()).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Failed, "each database has one that is not off-site");
    assert_eq!(bench.offsite().await, 3, "the others go on");
    for target in &report.targets {
        let Outcome::Failed(failure) = &target.outcome else { panic!("{target:?}") };
        assert_eq!(failure.class, Class::RepositoryDamaged);
        assert_eq!(target.figures.counts["failed"], 1);
    }
    let found: Vec<_> = report.findings.iter().map(|f| (&*f.check, f.severity)).collect();
    let check = "copy-source-damaged";
    assert_eq!(found, [(check, Severity::Critical), (check, Severity::Warning)]);
    assert!(app.contains(report.findings[0].what.split(' ').nth(1).unwrap()));
    assert_eq!(sample(&report, "copy_pending"), Some(2.0));
    let oldest = sample(&report, "copy_oldest_pending_timestamp_seconds").unwrap();
    let age = now().as_duration().as_secs_f64() - oldest;
    assert!((age - 7200.0).abs() < 60.0, "{age}");
}

#[tokio::test]
async fn a_target_that_cannot_be_listed_brings_no_number_and_is_retried_alone() {
    let bench = Bench::new();
    bench.fill("app", [1, 2]).await;
    let offsite: Arc<dyn Store> = bench.offsite.clone();
    let store = memory();
    // Opening takes three steps; then the listing.
    let at = Some((3, When::Before, Act::Fail(StoreErrorKind::Unavailable)));
    let faulty = Faulty::new(store.clone(), Faults { at, ..Faults::default() });
    let job = bench.job_to(&[("offsite", offsite), ("third", faulty)]);
    let mut first = job.run(&bench.context()).await.unwrap();
    assert_eq!(first.verdict(), Verdict::Partial);
    let labels: BTreeSet<&str> = first.samples.iter().map(|s| &*s.labels[0]).collect();
    assert_eq!(labels, BTreeSet::from(["offsite"]), "what could not be measured has no sample");
    let failed: BTreeSet<Target> = first.failed().map(|(target, _)| target.clone()).collect();
    assert_eq!(failed.len(), 1);
    let retry = RunContext { only: Some(failed), attempt: 2, ..bench.context() };
    let second = job.run(&retry).await.unwrap();
    assert_eq!(second.targets.len(), 1);
    first.merge(second);
    assert_eq!(first.verdict(), Verdict::Succeeded);
    assert_eq!(store.keys().len(), 5, "a marker, and two backups of two objects");
}

#[tokio::test]
async fn one_repository_under_two_names_is_refused() {
    let bench = Bench::new();
    bench.fill("app", [1]).await;
    let (same, offsite): (Arc<dyn Store>, Arc<dyn Store>) =
        (bench.local.clone(), bench.offsite.clone());
    let job = bench.job_to(&[("mirror", same), ("offsite", offsite)]);
    let before = bench.local.keys();
    let report = job.run(&bench.context()).await.unwrap();
    let (target, failure) = report.failed().next().unwrap();
    assert_eq!(target.repository.as_ref().unwrap().as_str(), "mirror");
    assert_eq!(failure.class, Class::Configuration);
    assert!(failure.hint.is_some() && failure.what.contains("one repository"), "{failure}");
    assert_eq!((report.verdict(), bench.offsite().await), (Verdict::Partial, 1));
    assert_eq!(bench.local.keys(), before);
}

#[tokio::test]
async fn an_empty_source_is_a_finding_and_a_cancelled_run_no_failure() {
    let bench = Bench::new();
    let report = bench.job().run(&bench.context()).await.unwrap();
    assert_eq!((report.verdict(), report.findings.len()), (Verdict::Succeeded, 1));
    assert_eq!(report.findings[0].check, "copy-source-empty");
    bench.fill("app", [1]).await;
    let mut job = bench.job();
    job.selection.patterns.include.push("shop".parse().unwrap());
    let report = job.run(&bench.context()).await.unwrap();
    assert!(report.findings[0].what.contains("shop"), "{report:?}");
    bench.fill("app", [2]).await;
    let cx = bench.context();
    cx.task.cancel.cancel();
    let failure = job.run(&cx).await.unwrap_err();
    assert_eq!(failure.class, Class::Interrupted);
    assert!(layout::place(&bench.offsite.keys()[0]) != layout::Place::Foreign);
}
