use std::{path::Path, time::Duration};

use pgkeep::{
    domain::{
        backup::Subject,
        failure::{Class, Failure},
        finding::{Finding, Severity},
        job_memory::JobMemory,
        metric::{MetricDesc, MetricKind},
        protection::Protection,
        report::{Outcome, Report, Sample, TargetReport, Verdict},
        target::Target,
    },
    telemetry::metrics::{
        DATNAME_CAP_DEFAULT, Metrics, MetricsError, RepositoryFacts, Setup, StoredBackups, markdown,
    },
};

use super::{job, metrics, run, series, value};

fn sample(metric: &str, labels: &[&str], value: f64) -> Sample {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Sample { metric: metric.to_owned(), labels, value }
}

fn end(metrics: &Metrics, name: &str, verdict: Verdict, report: &Report) {
    let at = "2026-11-21T02:15:00.5Z".parse().unwrap();
    metrics.run_ended(&job(name), &run(verdict, at, Duration::from_millis(1500), report.clone()));
}

#[test]
fn every_configured_thing_has_its_series_from_the_start() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    metrics.configure(&[series("nightly", "dump")], &["local".parse().unwrap()]);
    let page = metrics.render().unwrap();
    for zero in [
        "job_last_success_timestamp_seconds{job_name=\"nightly\",kind=\"dump\"}",
        "job_last_completion_timestamp_seconds{job_name=\"nightly\",kind=\"dump\"}",
        "job_last_duration_seconds{job_name=\"nightly\",kind=\"dump\"}",
        "job_running_since_timestamp_seconds{job_name=\"nightly\",kind=\"dump\"}",
        "job_next_run_timestamp_seconds{job_name=\"nightly\",kind=\"dump\"}",
        "job_retries_total{job_name=\"nightly\",kind=\"dump\"}",
        "job_runs_total{job_name=\"nightly\",kind=\"dump\",outcome=\"succeeded\"}",
        "job_runs_total{job_name=\"nightly\",kind=\"dump\",outcome=\"interrupted\"}",
        "job_skips_total{job_name=\"nightly\",kind=\"dump\",reason=\"overlap\"}",
        "repository_last_probe_timestamp_seconds{repository=\"local\"}",
        "repository_last_probe_success_timestamp_seconds{repository=\"local\"}",
        "planner_last_tick_timestamp_seconds",
        "heartbeat_missed_total",
        "config_last_reload_successful",
        "databases_dropped_series_total",
    ] {
        assert_eq!(value(&page, &format!("pgkeep_{zero}")), Some(0.0), "{zero}");
    }
    assert_eq!(value(&page, "pgkeep_build_info{version=\"1.2.3\"}"), Some(1.0));
    let max_age = "pgkeep_job_max_age_seconds{job_name=\"nightly\",kind=\"dump\"}";
    assert_eq!(value(&page, max_age), Some(3600.0));
    assert!(page.contains("\nprocess_start_time_seconds "), "without the prefix");
    assert!(!page.contains("pgkeep_backup_"), "what was not measured has no sample");
}

#[test]
fn series_of_a_vanished_job_go_and_others_keep_their_values() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    let both = [series("a", "dump"), series("b", "dump")];
    metrics.configure(&both, &["local".parse().unwrap(), "far".parse().unwrap()]);
    let report = Report {
        samples: vec![sample("dump_last_size_bytes", &["main", "app"], 5.0)],
        findings: vec![Finding::new("owner", Severity::Warning, "")],
        ..Report::default()
    };
    for name in ["a", "b"] {
        end(&metrics, name, Verdict::Succeeded, &report);
    }
    let before = metrics.render().unwrap();
    let mut changed = series("b", "dump");
    changed.max_age = None;
    metrics.configure(&[changed], &["local".parse().unwrap()]);
    let page = metrics.render().unwrap();
    assert!(before.contains("job_name=\"a\"") && !page.contains("job_name=\"a\""));
    assert!(before.contains("repository=\"far\"") && !page.contains("repository=\"far\""));
    assert!(before.contains("max_age") && !page.contains("max_age_seconds{"));
    let size =
        "pgkeep_dump_last_size_bytes{job_name=\"b\",kind=\"dump\",server=\"main\",datname=\"app\"}";
    assert_eq!(value(&page, size), Some(5.0));
    metrics.configure(&[series("b", "wal-check")], &[]);
    let page = metrics.render().unwrap();
    assert!(!page.contains("kind=\"dump\""), "a job of another kind begins anew");
}

#[test]
fn an_interrupted_run_sets_no_time_and_a_failed_one_the_completion_alone() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    metrics.configure(&[series("a", "dump")], &[]);
    let times = || {
        let page = metrics.render().unwrap();
        ["success", "completion"].map(|what| {
            let name = format!("pgkeep_job_last_{what}_timestamp_seconds");
            value(&page, &format!("{name}{{job_name=\"a\",kind=\"dump\"}}"))
        })
    };
    let at = 1_795_227_300.5;
    metrics.run_started(&job("a"), "2026-11-21T02:00:00Z".parse().unwrap());
    end(&metrics, "a", Verdict::Interrupted, &Report::default());
    end(&metrics, "a", Verdict::Cancelled, &Report::default());
    assert_eq!(times(), [Some(0.0), Some(0.0)]);
    let failure = Failure::new(Class::Space, "dump", "full");
    let target = |outcome| TargetReport::new(Target::default(), outcome);
    let targets = vec![target(Outcome::Succeeded), target(Outcome::Failed(failure))];
    end(&metrics, "a", Verdict::Partial, &Report { targets, ..Report::default() });
    assert_eq!(times(), [Some(0.0), Some(at)]);
    let page = metrics.render().unwrap();
    let of = |name: &str, label: &str| {
        value(&page, &format!("pgkeep_{name}{{job_name=\"a\",kind=\"dump\",{label}}}"))
    };
    assert_eq!(of("job_failures_total", "class=\"space\""), Some(1.0));
    assert_eq!(of("job_last_targets", "state=\"failed\""), Some(1.0));
    assert_eq!(of("job_last_targets", "state=\"cancelled\""), Some(0.0));
    end(&metrics, "a", Verdict::Succeeded, &Report::default());
    assert_eq!(times(), [Some(at), Some(at)]);
}

#[test]
fn what_a_run_could_not_measure_has_no_sample() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    metrics.configure(&[series("wal", "wal-check"), series("a", "dump")], &[]);
    let measured = vec![sample("wal_ready_files", &["main"], 0.0)];
    let sizes = vec![
        sample("dump_last_size_bytes", &["main", "app"], 5.0),
        sample("dump_rows_total", &["main", "app"], 3.0),
    ];
    let report = |samples| Report { samples, ..Report::default() };
    for _ in 0..2 {
        end(&metrics, "wal", Verdict::Succeeded, &report(measured.clone()));
        end(&metrics, "a", Verdict::Succeeded, &report(sizes.clone()));
    }
    let ready = "pgkeep_wal_ready_files{job_name=\"wal\",kind=\"wal-check\",server=\"main\"}";
    let labels = "{job_name=\"a\",kind=\"dump\",server=\"main\",datname=\"app\"}";
    let page = metrics.render().unwrap();
    assert_eq!(value(&page, ready), Some(0.0));
    assert_eq!(value(&page, &format!("pgkeep_dump_rows_total{labels}")), Some(6.0), "added up");
    end(&metrics, "wal", Verdict::Failed, &Report::default());
    end(&metrics, "a", Verdict::Failed, &Report::default());
    let page = metrics.render().unwrap();
    assert_eq!(value(&page, ready), None, "nobody measured it");
    let size = format!("pgkeep_dump_last_size_bytes{labels}");
    assert_eq!(value(&page, &size), Some(5.0), "the last dump is what it was");
    let broken = vec![sample("dump_last_size_bytes", &["main", "app"], f64::NAN)];
    end(&metrics, "a", Verdict::Succeeded, &report(broken));
    assert_eq!(value(&metrics.render().unwrap(), &size), Some(5.0));
}

#[test]
fn findings_are_those_of_the_last_run_that_looked() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    metrics.configure(&[series("a", "dump")], &[]);
    let finding = |check: &str| Finding::new(check, Severity::Critical, "");
    let report = |findings| Report { findings, ..Report::default() };
    let count = |check: &str| {
        let labels = format!("job_name=\"a\",kind=\"dump\",check=\"{check}\"");
        let series = format!("pgkeep_findings{{{labels},severity=\"critical\"}}");
        value(&metrics.render().unwrap(), &series)
    };
    end(&metrics, "a", Verdict::Succeeded, &report(vec![finding("x"), finding("x")]));
    assert_eq!(count("x"), Some(2.0));
    end(&metrics, "a", Verdict::Failed, &report(vec![finding("y")]));
    assert_eq!((count("x"), count("y")), (Some(2.0), Some(1.0)));
    end(&metrics, "a", Verdict::Succeeded, &report(vec![]));
    assert_eq!((count("x"), count("y")), (None, None));
}

#[test]
fn what_is_remembered_is_there_after_a_restart() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    metrics.configure(&[series("a", "dump")], &[]);
    let past = JobMemory {
        last_success: Some("2026-11-20T00:00:00Z".parse().unwrap()),
        last_completion: Some("2026-11-21T00:00:00Z".parse().unwrap()),
        last_duration_ms: Some(7000),
        targets: [("failed".to_owned(), 2)].into(),
        samples: vec![sample("dump_last_size_bytes", &["main", "app"], 5.0)],
        findings: vec![Finding::new("x", Severity::Warning, "")],
        ..JobMemory::default()
    };
    metrics.restore(&job("a"), &past);
    metrics.restore(&job("unknown"), &past);
    let page = metrics.render().unwrap();
    let of = |name: &str| value(&page, &format!("pgkeep_{name}{{job_name=\"a\",kind=\"dump\"}}"));
    assert_eq!(of("job_last_success_timestamp_seconds"), Some(1_795_132_800.0));
    assert_eq!(of("job_last_duration_seconds"), Some(7.0));
    assert!(page.contains("pgkeep_dump_last_size_bytes{job_name=\"a\""));
    let found = "pgkeep_findings{job_name=\"a\",kind=\"dump\",check=\"x\",severity=\"warning\"}";
    assert_eq!(value(&page, found), Some(1.0));
    let failed = "pgkeep_job_last_targets{job_name=\"a\",kind=\"dump\",state=\"failed\"}";
    assert_eq!(value(&page, failed), Some(2.0));
    assert!(!page.contains("unknown"));
}

#[test]
fn databases_beyond_the_cap_are_counted_and_left_out() {
    let metrics = metrics(2);
    metrics.configure(&[series("a", "dump")], &["local".parse().unwrap()]);
    let samples: Vec<_> =
        (0..5).map(|n| sample("dump_last_size_bytes", &["main", &format!("db{n}")], 1.0)).collect();
    end(&metrics, "a", Verdict::Succeeded, &Report { samples, ..Report::default() });
    let page = metrics.render().unwrap();
    assert_eq!(page.matches("pgkeep_dump_last_size_bytes{").count(), 2);
    assert_eq!(value(&page, "pgkeep_databases_dropped_series_total"), Some(3.0));
}

#[test]
fn a_probe_replaces_what_the_last_one_saw() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    let repository = "local".parse().unwrap();
    metrics.configure(&[], std::slice::from_ref(&repository));
    let stored = |subject: Subject| StoredBackups {
        server: "main".parse().unwrap(),
        subject,
        newest: "2026-11-21T00:00:00Z".parse().unwrap(),
        stored: 3,
        bytes: 30,
        suspicious: 1,
    };
    let database = |name: &str| stored(Subject::Database(name.parse().unwrap()));
    let at = "2026-11-21T01:00:00Z".parse().unwrap();
    let backups = vec![
        database("app"),
        database("evil\"\n\\"),
        stored(Subject::Globals),
        database("@globals"),
        database("app"),
    ];
    metrics.repository_probed(&repository, at, Some(&RepositoryFacts { backups, incomplete: 1 }));
    let page = metrics.render().unwrap();
    let of = |page: &str, metric: &str, datname: &str| {
        let labels = format!("server=\"main\",datname=\"{datname}\",repository=\"local\"");
        value(page, &format!("pgkeep_{metric}{{{labels}}}"))
    };
    assert_eq!(of(&page, "backup_stored", "app"), Some(6.0));
    assert_eq!(of(&page, "backup_stored_bytes", "evil\\\"\\n\\\\"), Some(30.0));
    assert_eq!(of(&page, "backup_suspicious", "app"), Some(2.0));
    assert_eq!(of(&page, "backup_stored", "@globals"), Some(3.0));
    assert_eq!(of(&page, "backup_stored", "=40globals"), Some(3.0));
    let later = "2026-11-21T02:00:00Z".parse().unwrap();
    metrics.repository_probed(&repository, later, None);
    let facts = RepositoryFacts { backups: vec![database("new")], incomplete: 0 };
    let failed = metrics.render().unwrap();
    assert_eq!(of(&failed, "backup_stored", "app"), Some(6.0));
    let success = "pgkeep_repository_last_probe_success_timestamp_seconds{repository=\"local\"}";
    let probe = "pgkeep_repository_last_probe_timestamp_seconds{repository=\"local\"}";
    assert!(value(&failed, success) < value(&failed, probe));
    metrics.repository_probed(&repository, later, Some(&facts));
    let page = metrics.render().unwrap();
    assert_eq!(of(&page, "backup_stored", "app"), None);
    assert_eq!(of(&page, "backup_suspicious", "app"), None);
    assert_eq!(of(&page, "backup_stored", "new"), Some(3.0));
}

/// A look that was under way when the configuration changed: its series would never move again, and page.
#[test]
fn what_is_no_longer_configured_gets_no_series_back() {
    let metrics = metrics(DATNAME_CAP_DEFAULT);
    let at = "2026-11-21T01:00:00Z".parse().unwrap();
    let (kept, gone) = ("local".parse().unwrap(), "gone".parse().unwrap());
    metrics.configure(&[], &["local".parse().unwrap(), "gone".parse().unwrap()]);
    metrics.configure_servers(&["main".parse().unwrap(), "old".parse().unwrap()]);
    metrics.configure(&[], &["local".parse().unwrap()]);
    metrics.configure_servers(&["main".parse().unwrap()]);
    for name in [&kept, &gone] {
        metrics.repository_probed(name, at, Some(&RepositoryFacts::default()));
        metrics.repository_probed(name, at, None);
    }
    for name in ["main", "old"] {
        metrics.server_probed(&name.parse().unwrap(), at, Some(&Protection::default()));
        metrics.server_probed(&name.parse().unwrap(), at, None);
    }
    let page = metrics.render().unwrap();
    assert!(page.contains("repository=\"local\"") && page.contains("server=\"main\""));
    assert!(!page.contains("repository=\"gone\"") && !page.contains("server=\"old\""), "{page}");
}

#[test]
fn declarations_that_collide_are_refused() {
    const TAKEN: MetricDesc =
        MetricDesc { name: "job_runs_total", help: "X.", kind: MetricKind::Counter, labels: &[] };
    const ONE: MetricDesc =
        MetricDesc { name: "x", help: "X.", kind: MetricKind::Gauge, labels: &["a"] };
    const OTHER: MetricDesc = MetricDesc { labels: &["b"], ..ONE };
    const BAD: MetricDesc = MetricDesc { labels: &["job_name"], ..ONE };
    let new = |kinds: &[(&'static str, &'static [MetricDesc])]| {
        let setup = Setup { version: "1", kinds, skip_reasons: &[], datname_cap: 1 };
        Metrics::new(&setup).map(|_| ())
    };
    assert!(matches!(new(&[("a", &[TAKEN])]), Err(MetricsError::Conflict(_))));
    assert!(matches!(new(&[("a", &[ONE]), ("b", &[OTHER])]), Err(MetricsError::Conflict(_))));
    assert!(matches!(new(&[("a", &[BAD])]), Err(MetricsError::Malformed(_))));
    new(&[("a", &[ONE]), ("b", &[ONE])]).unwrap();
}

#[test]
fn the_page_of_metrics_is_made_from_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let made = markdown(&pgkeep::jobs::metrics());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    assert_eq!(there, made, "run this test with UPDATE_DOCS=1 and look at the difference");
    for metric in pgkeep::jobs::metrics().iter().flat_map(|(_, metrics)| metrics.iter()) {
        assert!(there.contains(&format!("| `pgkeep_{}` |", metric.name)), "{}", metric.name);
    }
    assert!(markdown(super::KINDS).contains("| `pgkeep_dump_rows_total` | counter | `job_name`, "));
}
