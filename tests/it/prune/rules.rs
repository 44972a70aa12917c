//! What goes, and what does not.

use std::{collections::BTreeSet, fs};

use pgkeep::domain::manifest::Owner;
use serde_json::json;

use super::{Bench, CLOUD, DISK, JOB, files, lines, names, plant, stored, targets};
use crate::harness::pgkeep::Pgkeep;

const APP: &str = "main/7300000000000000001/app/all";
const CRM: &str = "main/7300000000000000001/crm/all";

#[tokio::test(flavor = "multi_thread")]
async fn both_repositories_are_pruned_as_the_dry_run_said() {
    let policy = "keep_daily = 2\nkeep_monthly = 2\ntimezone = \"Europe/Zurich\"";
    let bench = Bench::start("", policy, "").await;
    // The clocks go back in Zurich: 25 October has 25 hours, and begins at 22:00 of the 24th in UTC.
    let app = [
        "2026-09-30T21:59:59Z",
        "2026-09-30T22:00:00Z",
        "2026-10-24T21:59:59Z",
        "2026-10-24T22:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
    ]
    .map(|at| bench.plant(APP, at));
    let crm = [bench.plant(CRM, "2020-01-01T00:00:00Z")];
    // Of another server, of a selection, without a manifest, and not ours at all.
    let other = bench.plant("old/7300000000000000002/app/all", "2020-01-01T00:00:00Z");
    bench.plant("old/7300000000000000002/app/all", "2020-01-02T00:00:00Z");
    let selection = bench.plant("main/7300000000000000001/app/selection-1", "2020-01-01T00:00:00Z");
    let orphan = bench.plant(APP, "2020-01-01T00:00:00Z");
    for name in [DISK, CLOUD] {
        let root = bench.root(name);
        fs::remove_file(root.join(APP).join(orphan.as_str()).join("manifest.json")).unwrap();
        fs::write(root.join(APP).join("notes.txt"), "mine").unwrap();
        fs::write(root.join("backup.sh"), "mine").unwrap();
    }
    let before = [DISK, CLOUD].map(|name| files(&bench.root(name)));

    let planned = &bench.dry_run()["report"];
    assert_eq!([DISK, CLOUD].map(|name| files(&bench.root(name))), before);
    assert_eq!((&planned["targets"], &planned["samples"]), (&json!([]), &json!(null)));
    let report = bench.run(0);
    assert_eq!(report["report"]["plan"], planned["plan"], "the very same plan");
    let line = |id: &_, action: &str, why: &str| {
        (ToString::to_string(id), action.to_owned(), why.to_owned())
    };
    let expected = [
        line(&orphan, "keep", "no manifest, not a backup"),
        line(&app[0], "keep", "keep_monthly"),
        line(&app[1], "remove", "no rule keeps it"),
        line(&app[2], "keep", "keep_daily"),
        line(&app[3], "remove", "no rule keeps it"),
        line(&app[4], "remove", "no rule keeps it"),
        line(&app[5], "keep", "the newest whole backup; keep_daily; keep_monthly"),
        line(&selection, "keep", "the newest whole backup; keep_daily; keep_monthly"),
        line(&crm[0], "keep", "the newest whole backup; keep_daily; keep_monthly"),
    ];
    let lines = lines(&report["report"]["plan"]);
    assert_eq!(lines[..9], expected);
    assert_eq!(lines[9..], expected, "the other repository");

    for (name, before) in [DISK, CLOUD].into_iter().zip(before) {
        let root = bench.root(name);
        let removed = names([&app[1], &app[3], &app[4]]);
        let [whole, _] = stored(&root, APP);
        assert!(whole.is_disjoint(&removed), "{name}: {whole:?}");
        let after = files(&root);
        for (path, bytes) in before {
            let is_removed = removed.iter().any(|id| path.contains(id.as_str()));
            assert_eq!(after.get(&path), (!is_removed).then_some(&bytes), "{name}: {path}");
        }
        assert!(root.join("old/7300000000000000002/app/all").join(other.as_str()).exists());
        let targets = targets(&report, name);
        let counts = &targets["app"]["figures"]["counts"];
        assert!(counts["removed"] == 3 || counts["kept"] == 1, "{counts}");
        assert_eq!(targets["crm"]["figures"]["counts"]["kept"], 1);
        assert_eq!(targets["crm"]["outcome"]["state"], "succeeded");
    }
    let findings = report["report"]["findings"].as_array().unwrap();
    let checks: BTreeSet<_> = findings.iter().map(|it| it["check"].as_str().unwrap()).collect();
    assert_eq!(checks, BTreeSet::from(["backup-unmanaged"]), "{findings:?}");
    assert!(findings[0]["what"].as_str().unwrap().contains("old (2)"), "{findings:?}");

    let again = bench.run(0);
    let goes = |report| super::lines(report).iter().filter(|line| line.1 == "remove").count();
    assert_eq!(goes(&again["report"]["plan"]), 0);
    assert_eq!(again["report"]["samples"][0]["value"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_is_counted() {
    let bench = Bench::start("", "keep_last = 2", "schedule = \"0 0 29 2 *\"").await;
    let ids = bench.plant_days(APP, 5);
    let bytes: usize = ids[..3]
        .iter()
        .flat_map(|id| files(&bench.root(DISK).join(APP).join(id.as_str())).into_values())
        .map(|bytes| bytes.len())
        .sum();
    let mut daemon = bench.home.ready_daemon();
    bench.run(0);
    let metrics = daemon.metrics();
    let value = |name: &str| metrics.value(name, &[("job_name", JOB), ("repository", DISK)]);
    assert_eq!(value("pgkeep_prune_removed_backups_total"), Some(3.0));
    assert_eq!(value("pgkeep_prune_removed_bytes_total"), Some(bytes as f64));
    assert_eq!(value("pgkeep_prune_kept_backups"), Some(2.0));
    bench.run(0);
    let removed = [("job_name", JOB), ("repository", CLOUD)];
    let again = daemon.metrics().value("pgkeep_prune_removed_backups_total", &removed);
    assert_eq!(again, Some(3.0));
    daemon.stop();
    daemon.assert_log_clean(&[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_removes_nothing_until_it_adopts() {
    let bench = Bench::start("", "keep_last = 1", "").await;
    let owner = Owner { machine_id: "5".repeat(32), host: "db1".to_owned() };
    let root = bench.root(DISK);
    let ids =
        ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(|at| plant(&root, APP, at, &owner));
    let report = bench.run(1);
    assert_eq!(stored(&root, APP)[0], names(&ids));
    let target = targets(&report, DISK)["app"];
    assert_eq!(target["outcome"]["state"], "skipped", "{target}");
    let finding = &report["report"]["findings"][0];
    assert_eq!(
        (&finding["check"], &finding["severity"]),
        (&json!("backup-owner"), &json!("warning"))
    );
    let hint = finding["hint"].as_str().unwrap();
    assert!(hint.contains("adopt = [\"55555555555555555555555555555555\"]"), "{hint}");

    let adopting = bench.home.config().replacen(
        "[daemon]\n",
        "[daemon]\nadopt = [\"55555555555555555555555555555555\"]\n",
        1,
    );
    bench.home.rewrite(&adopting);
    bench.run(0);
    assert_eq!(stored(&root, APP)[0], names(&ids[1..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_newest_backup_is_told_and_not_counted() {
    let bench = Bench::start("", "keep_last = 1", "").await;
    let ids = bench.plant_days(APP, 4);
    let dump = bench.root(CLOUD).join(APP).join(ids[3].as_str()).join("app.dump.zst");
    fs::write(dump, "cut").unwrap();
    let report = bench.run(0);
    assert_eq!(stored(&bench.root(DISK), APP)[0], names(&ids[3..]));
    assert_eq!(stored(&bench.root(CLOUD), APP)[0], names(&ids[2..]));
    let findings = report["report"]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["check"], "backup-damaged");
    assert_eq!(findings[0]["severity"], "critical");
    let what = findings[0]["what"].as_str().unwrap();
    let told = "app.dump.zst has 3 bytes, the manifest says 10";
    assert!(what.contains(ids[3].as_str()) && what.contains(told), "{what}");
}

#[test]
fn an_empty_repository_is_fine_and_a_missing_one_is_not() {
    let home = Pgkeep::new().local(DISK).toml(&format!(
        "[retention.standard]\nkeep_last = 1\n\n[job.{JOB}]\nkind = \"prune\"\n\
         repositories = [\"{DISK}\"]\nretention = \"standard\"\nservers = [\"gone\"]\nattempts = 1"
    ));
    let said = home.run(&["check-config"]).expect_code(0);
    assert!(said.stderr.contains("there is no [server.gone]"), "{}", said.stderr);
    let report = home.run(&["run", JOB, "--json"]).expect_code(0).json();
    assert_eq!(report["report"]["targets"], json!([]));
    assert!(files(&home.repository_dir(DISK)).is_empty(), "none is made");
    fs::remove_dir(home.repository_dir(DISK)).unwrap();
    let report = home.run(&["run", JOB, "--json"]).expect_code(1).json();
    assert_eq!(report["report"]["targets"][0]["outcome"]["detail"]["class"], "repository-refused");
}
