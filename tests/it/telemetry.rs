//! What the outside sees, and what outlives the process: metrics over real HTTP, messages to a
//! service manager, the control socket, the journal, signals.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions only")]

mod control;
mod http;
mod journal;
mod metrics;
mod notify;
mod signals;

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use pgkeep::{
    domain::{
        Timestamp,
        metric::{MetricDesc, MetricKind},
        name::JobName,
        report::{Report, Verdict},
        run::EndedRun,
    },
    telemetry::metrics::{JobSeries, KindMetrics, Metrics, Setup},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const KINDS: &[KindMetrics] = &[
    (
        "dump",
        &[
            MetricDesc {
                name: "dump_last_size_bytes",
                help: "Size of the last dump.",
                kind: MetricKind::Last,
                labels: &["server", "datname"],
            },
            MetricDesc {
                name: "dump_rows_total",
                help: "Rows dumped.",
                kind: MetricKind::Counter,
                labels: &["server", "datname"],
            },
        ],
    ),
    (
        "wal-check",
        &[MetricDesc {
            name: "wal_ready_files",
            help: "Segments that wait to be archived.",
            kind: MetricKind::Gauge,
            labels: &["server"],
        }],
    ),
];

fn metrics(datname_cap: usize) -> Metrics {
    let skip_reasons: &[&str] = &["overlap", "window"];
    Metrics::new(&Setup { version: "1.2.3", kinds: KINDS, skip_reasons, datname_cap }).unwrap()
}

fn job(name: &str) -> JobName {
    name.parse().unwrap()
}

fn series(name: &str, kind: &str) -> JobSeries {
    JobSeries {
        name: job(name),
        kind: kind.to_owned(),
        max_age: Some(Duration::from_hours(1)),
        paused: false,
        configured_at: "2026-11-21T00:00:00Z".parse().unwrap(),
    }
}

/// A run that ended then.
fn run(verdict: Verdict, ended: Timestamp, took: Duration, report: Report) -> EndedRun {
    EndedRun {
        run: "r1".to_owned(),
        trigger: "schedule".to_owned(),
        started: "2026-11-21T02:15:00Z".parse().unwrap(),
        ended,
        took,
        verdict,
        attempts: 1,
        report,
    }
}

/// The value of a series in a rendered page.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Runs one ignored test of this binary as a process of its own.
fn child(test: &str, variables: &[(&str, &str)]) -> Child {
    child_of_user(None, test, variables).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the child is this very binary")]
fn child_of_user(
    uid: Option<u32>,
    test: &str,
    variables: &[(&str, &str)],
) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .envs(variables.iter().copied())
        .env(CHILD, "1")
        .stdout(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid).current_dir("/");
    }
    command.spawn()
}

/// Set for children, so that their tests fail when somebody runs them by hand.
const CHILD: &str = "PGKEEP_TEST_CHILD";
