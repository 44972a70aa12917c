//! How long an attempt may take where its job does not say it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use pgkeep::{
    daemon::{
        runner::Attempt,
        table::{self, Configured, Ground},
    },
    domain::{
        failure::{Class, Failure},
        name::ServerName,
        report::Report,
        run::RunId,
    },
    jobs::{Job, KINDS, RunContext},
    postgres::service::Environment,
    sys::{
        clock::{Clock, ManualClock, Now, SystemClock},
        task::Task,
    },
};

use crate::harness::{
    pgkeep::Pgkeep,
    wait::{PATIENCE, eventually},
};

/// One job of each kind, none of which says how long it may take.
const JOBS: &str = "
    [server.main]
    host = \"/nonexistent\"
    [retention.some]
    keep_last = 3
    [job.dump]
    kind = \"dump\"
    server = \"main\"
    repositories = [\"one\"]
    [job.vacuum]
    kind = \"vacuum\"
    server = \"main\"
    [job.reindex]
    kind = \"reindex\"
    server = \"main\"
    invalid = true
    [job.wal-check]
    kind = \"wal-check\"
    server = \"main\"
    [job.copy]
    kind = \"copy\"
    from = \"one\"
    to = [\"two\"]
    [job.prune]
    kind = \"prune\"
    repositories = [\"one\"]
    retention = \"some\"
";

/// Stands still until it is cancelled, as what waits for a peer without a word does.
struct Still;

#[async_trait]
impl Job for Still {
    fn servers(&self) -> Vec<ServerName> {
        Vec::new()
    }

    fn memory(&self) -> u64 {
        0
    }

    async fn run(&self, cx: &RunContext) -> Result<Report, Failure> {
        cx.task.cancel.cancelled().await;
        Err(Failure::new(Class::Interrupted, "stand still", "cancelled"))
    }
}

/// A clock that a test moves, and that counts who looks.
#[derive(Debug)]
struct Watched {
    clock: Arc<ManualClock>,
    looks: AtomicU64,
}

impl Clock for Watched {
    fn now(&self) -> Now {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.clock.now()
    }
}

/// The failure of an attempt at the end of its time. `limit` is the kind's.
fn stopped(configured: &Configured, limit: Duration) -> Failure {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let now = "2026-11-21T02:15:00Z".parse().unwrap();
    let clock = Arc::new(Watched { clock: ManualClock::new(now), looks: AtomicU64::new(0) });
    let scratch = tempfile::tempdir().unwrap();
    let job = Configured {
        common: configured.common.clone(),
        kind: configured.kind,
        job: Arc::new(Still),
        schedule: None,
        max_age: None,
        notify: Vec::new(),
    };
    let attempt = Attempt {
        run: RunId::new(now, 0),
        job: Arc::new(job),
        number: 1,
        only: None,
        earlier: Report::default(),
        dry_run: false,
        task: Task::new(clock.clone()),
        scratch_root: scratch.path().to_owned(),
    };
    let running = runtime.spawn(attempt.run());
    let looked = |more: u64| {
        let from = clock.looks.load(Ordering::SeqCst);
        eventually("another look at the limits", PATIENCE, || {
            (clock.looks.load(Ordering::SeqCst) >= from + more || running.is_finished())
                .then_some(())
        });
    };
    // It has begun, and nothing stops it a second before its time.
    looked(1);
    clock.clock.advance(limit.saturating_sub(Duration::from_secs(1)));
    looked(2);
    assert!(!running.is_finished(), "stopped before {limit:?}");
    clock.clock.advance(Duration::from_secs(1));
    eventually("its end", PATIENCE, || running.is_finished().then_some(()));
    let report = runtime.block_on(running).unwrap();
    report.failures().next().expect("it failed").clone()
}

#[test]
fn an_attempt_that_stands_still_ends_with_the_limit_of_its_kind() {
    let home = Pgkeep::new().local("one").local("two").toml(JOBS);
    let clock = SystemClock::new();
    let ground = Ground {
        now: clock.now().wall,
        clock,
        gate: Arc::default(),
        toolbox: Arc::default(),
        environment: Environment::new(None, Some("pgkeep".to_owned())),
    };
    let loaded = table::load(&home.config_path(), &|_| None, &ground);
    let said = loaded.render();
    let jobs = loaded.table.unwrap_or_else(|| panic!("{said}")).jobs;
    assert_eq!(jobs.len(), KINDS.len(), "one of each");
    std::thread::scope(|scope| {
        for configured in jobs.values() {
            scope.spawn(|| {
                let (kind, limit) = (configured.kind.name, configured.kind.time_limit);
                let failure = stopped(configured, limit);
                assert_eq!(failure.class, Class::TimeLimit, "{kind}: {failure:?}");
                let said = format!("its time limit of {} seconds", limit.as_secs());
                assert!(failure.what.contains(&said), "{kind}: {failure:?}");
            });
        }
    });
}
