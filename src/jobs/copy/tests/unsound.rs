//! Backups that do not count: in doubt in the source, or damaged in the target.

use super::*;
use crate::domain::{finding::Severity, suspicion::MARK_NAME};

/// The hours of what lies off-site, the newest first.
async fn there(bench: &Bench) -> Vec<i64> {
    let store: Arc<dyn Store> = bench.offsite.clone();
    let offsite = Repository::open("offsite".parse().unwrap(), store, true).await.unwrap();
    let listing = offsite.listing(&Within::All).await.unwrap();
    let hours = |id: &BackupId| (now().duration_since(id.time()).as_mins() + 30) / 60;
    listing.backups.iter().rev().map(|listed| hours(&listed.id)).collect()
}

#[tokio::test]
async fn what_is_in_doubt_keeps_the_last_good_one_neither_here_nor_there_from_being_copied() {
    for limits in [
        Limits { newest: Some(1), within: None },
        Limits { newest: None, within: Some(HOUR * 2 + HOUR / 2) },
    ] {
        let bench = Bench::new();
        bench.fill("app", [1, 2, 3, 4]).await;
        let ids: BTreeSet<String> =
            bench.local.keys().iter().filter_map(|key| folder(key)).collect();
        let newest: Vec<&String> = ids.iter().rev().take(2).collect();
        for folder in &newest {
            bench.local.plant(&format!("{folder}/{MARK_NAME}"), "[]", now());
        }
        let mut job = bench.job();
        job.limits = limits;
        let report = job.run(&bench.context()).await.unwrap();
        assert_eq!(report.verdict(), Verdict::Succeeded);
        assert_eq!(there(&bench).await, [1, 2, 3], "{limits:?}");
        // It is lost there: the marks beside the others say that they do not take its place.
        for folder in &newest {
            bench.offsite.plant(&format!("{folder}/{MARK_NAME}"), "[]", now());
        }
        let good = ids.iter().rev().nth(2).unwrap();
        for key in bench.offsite.keys().iter().filter(|key| key.starts_with(good.as_str())) {
            bench.offsite.lose(key).unwrap();
        }
        let report = job.run(&bench.context()).await.unwrap();
        assert_eq!(count(&report, "copied"), 1, "{report:?}");
        assert_eq!(there(&bench).await, [1, 2, 3], "{limits:?}");
    }
}

/// The folder of the backup that an object belongs to.
fn folder(key: &str) -> Option<String> {
    Some(key.rsplit_once('/')?.0.to_owned())
}

#[tokio::test]
async fn a_target_with_only_the_manifest_does_not_have_it() {
    let bench = Bench::new();
    bench.fill("app", [1, 2, 3]).await;
    let job = bench.job();
    job.run(&bench.context()).await.unwrap();
    let keys = bench.offsite.keys();
    let data: Vec<&String> = keys.iter().filter(|key| key.ends_with("globals.sql.zst")).collect();
    // The newest, and the oldest.
    for key in [data[0], data[2]] {
        bench.offsite.lose(key).unwrap();
    }
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((count(&report, "present"), count(&report, "copied")), (1, 0), "{report:?}");
    assert_eq!(sample(&report, "copy_pending"), Some(2.0));
    let oldest = sample(&report, "copy_oldest_pending_timestamp_seconds").unwrap();
    assert!((now().as_duration().as_secs_f64() - oldest - 3.0 * 3600.0).abs() < 60.0);
    let found: Vec<_> = report.findings.iter().map(|it| (&*it.check, it.severity)).collect();
    let check = "copy-target-damaged";
    assert_eq!(found, [(check, Severity::Critical), (check, Severity::Warning)]);
    assert!(report.plan.iter().any(|step| step.reason.contains("only the manifest")));
    // Nothing was deleted. A person does it, and the next run brings both.
    assert_eq!(bench.offsite.keys().len(), keys.len() - 2);
    for finding in &report.findings {
        let of = |key: &&String| finding.hint.as_ref().unwrap().contains(&folder(key).unwrap());
        let key = keys.iter().filter(|key| key.ends_with("manifest.json")).find(of).unwrap();
        bench.offsite.lose(key).unwrap();
    }
    let report = job.run(&bench.context()).await.unwrap();
    assert_eq!((count(&report, "copied"), report.findings.len()), (2, 0), "{report:?}");
    assert_eq!((sample(&report, "copy_pending"), bench.offsite().await), (Some(0.0), 3));
}
