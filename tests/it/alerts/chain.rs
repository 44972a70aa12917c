//! From a server that is gone to the person who is told, and back: a real Prometheus with the shipped
//! rules scrapes a real daemon, and a real Alertmanager tells a webhook.

use std::fs;

use serde_json::Value;

use super::{RULES, rules};
use crate::harness::{
    monitoring::{Monitor, Webhook},
    pgkeep::{Daemon, Pgkeep},
    postgres::{APP, Cluster},
    wait::{PATIENCE, eventually},
};

/// What every longer `for` is cut to.
const FOR: &str = "2s";

/// The shipped rules for a test that has no ten minutes: every `for` but 0 is [`FOR`], and nothing
/// else is changed.
fn impatient(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, duration)) if indent.trim().is_empty() && duration != "0m" => {
            format!("{indent}for: {FOR}\n")
        }
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

#[test]
fn only_the_patience_of_the_rules_is_cut() {
    let cut = impatient(RULES);
    let (old, new) = (rules(RULES), rules(&cut));
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((&old.alert, &old.expr, &old.text), (&new.alert, &new.expr, &new.text));
        assert!(new.patience == "0m" || new.patience == FOR, "{new:?}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn alertmanager(webhook: &Webhook) -> Monitor {
    let config = format!(
        "route:\n  receiver: person\n  group_by: ['...']\n  group_wait: 0s\n  group_interval: 1s\n\
         receivers:\n  - name: person\n    webhook_configs:\n      - url: {}\n",
        webhook.url()
    );
    Monitor::alertmanager(folder(&[("alertmanager.yml", &config)]))
}

fn prometheus(daemon: &Daemon, alertmanager: &Monitor) -> Monitor {
    let (target, manager) = (daemon.address().unwrap(), alertmanager.address());
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: [rules.yml]\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{manager}']}}]}}]}}\n\
         scrape_configs:\n  - job_name: pgkeep\n    static_configs: [{{targets: ['{target}']}}]\n"
    );
    let files = [("prometheus.yml", config.as_str()), ("rules.yml", &impatient(RULES))];
    Monitor::prometheus(folder(&files))
}

/// What alerts were told of, without those that are expected.
fn told_beside(webhook: &Webhook, expected: &[&str]) -> Vec<Value> {
    let mut told: Vec<Value> = webhook.alerts().iter().map(|a| a["labels"].clone()).collect();
    told.retain(|labels| !expected.iter().any(|name| labels["alertname"] == *name));
    told
}

#[test]
fn a_server_that_is_gone_pages_and_the_next_success_resolves() {
    let mut cluster = Cluster::start();
    let home = Pgkeep::new().server("main", &cluster).local("disk").dump(
        "nightly",
        "main",
        &[APP],
        &["disk"],
        "attempts = 1\nexclude = [\"postgres\", \"we*\"]",
    );
    let mut daemon = home.ready_daemon();
    home.run(&["run", "nightly"]).expect_code(0);
    eventually("a probe that saw the backup", PATIENCE, || {
        daemon.metrics().value("pgkeep_backup_stored", &[("datname", APP)])
    });
    let webhook = Webhook::start();
    let alertmanager = alertmanager(&webhook);
    let prometheus = prometheus(&daemon, &alertmanager);
    let since =
        |metric: &str| prometheus.query(&format!("pgkeep_job_last_{metric}_timestamp_seconds"));
    let first = eventually("a scrape", PATIENCE, || since("success").filter(|at| *at > 0.0));

    cluster.stop();
    home.run(&["run", "nightly"]).expect_code(1);
    let alert = webhook.wait("PgkeepJobLastRunFailed", "firing");
    let (labels, annotations) = (&alert["labels"], &alert["annotations"]);
    assert_eq!(labels["job_name"], "nightly", "{alert}");
    assert_eq!(labels["severity"], "warning", "{alert}");
    assert_eq!(labels["instance"], daemon.address().unwrap(), "{alert}");
    assert!(annotations["summary"].as_str().unwrap().contains("nightly"), "{alert}");
    assert!(annotations["runbook_url"].as_str().unwrap().ends_with("#pgkeepjoblastrunfailed"));
    assert_eq!(since("success"), Some(first), "a failed run is no success");

    cluster.start_again();
    home.run(&["run", "nightly"]).expect_code(0);
    let resolved = webhook.wait("PgkeepJobLastRunFailed", "resolved");
    assert_eq!(resolved["fingerprint"], alert["fingerprint"]);
    assert_eq!(told_beside(&webhook, &["PgkeepJobLastRunFailed"]), Vec::<Value>::new());

    daemon.stop();
    let down = webhook.wait("PgkeepDown", "firing");
    assert_eq!(down["labels"]["severity"], "critical", "{down}");
    daemon.assert_log_clean(&["cannot connect", "ended", "failed", "server main"]);
}
