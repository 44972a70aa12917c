//! The files below packaging/prometheus, by Prometheus's own tools and against code and runbooks.

use std::{collections::BTreeSet, fs, path::Path};

use super::{RULES, declared, packaging, rules, selected, unknown};
use crate::harness::{
    monitoring::{program, promtool},
    process::{command, must},
};

/// The tests of the rules.
const TESTS: [&str; 2] =
    ["prometheus/pgkeep.rules.test.yml", "prometheus/pgkeep.long.rules.test.yml"];
/// Where runbooks are; packages install docs/ERRORS.md there.
const RUNBOOKS: &str = "file:///usr/share/doc/pgkeep/ERRORS.md#";

#[test]
fn prometheus_takes_rules_and_configuration() {
    must(
        command(promtool()).args(["check", "rules"]).arg(packaging("prometheus/pgkeep.rules.yml")),
    );
    let folder = tempfile::tempdir().unwrap();
    // The example names the rules where they belong: next to it.
    let config = fs::read_to_string(packaging("prometheus/prometheus.yml")).unwrap();
    fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    fs::write(folder.path().join("pgkeep.rules.yml"), RULES).unwrap();
    let checked = must(
        command(promtool()).args(["check", "config"]).arg(folder.path().join("prometheus.yml")),
    );
    assert!(checked.contains("SUCCESS: 1 rule files found"), "{checked}");
    let alertmanager = packaging("prometheus/alertmanager.yml");
    must(command(program(&["amtool"])).arg("check-config").arg(alertmanager));
}

fn alerts_fire_as_said_in(tests: &str) {
    let told = must(command(promtool()).args(["test", "rules"]).arg(packaging(tests)));
    assert!(told.contains("SUCCESS"), "{told}");
}

#[test]
fn alerts_fire_and_are_silent_where_they_should() {
    alerts_fire_as_said_in(TESTS[0]);
}

#[test]
fn alerts_that_take_hours_fire_and_are_silent_where_they_should() {
    alerts_fire_as_said_in(TESTS[1]);
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let tests = TESTS.map(|tests| fs::read_to_string(packaging(tests)).unwrap()).concat();
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in tests.split("- alertname: ").skip(1) {
        let name = case.lines().next().unwrap().to_owned();
        let nothing = case.contains("exp_alerts: []");
        assert!(nothing || case.contains("exp_labels:"), "{case}");
        if nothing {
            silent.insert(name)
        } else {
            fires.insert(name)
        };
    }
    let all: BTreeSet<String> = rules(RULES).into_iter().map(|rule| rule.alert).collect();
    assert!(all.len() >= 20, "where are the alerts?");
    assert_eq!(all, fires, "alerts, and those with a case that fires");
    assert_eq!(all, silent, "alerts, and those with a case that does not");
}

#[test]
fn alerts_speak_of_what_the_code_exports() {
    let declared = declared();
    let rules = rules(RULES);
    let strange: BTreeSet<String> = rules.iter().flat_map(|rule| unknown(&rule.expr)).collect();
    assert_eq!(strange, BTreeSet::new(), "metrics and labels that the code does not export");
    for rule in rules {
        let mut labels: BTreeSet<&str> = ["job", "instance"].into();
        for (metric, _) in selected(&rule.expr) {
            labels.extend(&declared[&metric]);
        }
        for placeholder in rule.text.split("$labels.").skip(1) {
            let end = placeholder.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap();
            let label = &placeholder[..end];
            assert!(labels.contains(label), "{}: $labels.{label}", rule.alert);
        }
    }
}

/// What GitHub and others make of a heading of letters alone.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    headings.map(|heading| heading.trim().to_lowercase()).collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_has_its_runbook() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ERRORS.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, alerts) = page.split_once("\n# Alerts\n").expect("the part on alerts");
    let anchors = anchors(alerts);
    let mut linked = BTreeSet::new();
    for rule in rules(RULES) {
        let name = &rule.alert;
        assert!(["critical", "warning"].contains(&rule.value("severity").unwrap()), "{name}");
        assert!(rule.value("summary").is_some_and(|text| text.len() > 20), "{name}");
        assert!(rule.text.contains("description: >-\n"), "{name}");
        let url = rule.value("runbook_url").unwrap();
        let anchor = url.strip_prefix(RUNBOOKS).unwrap_or_else(|| panic!("{name}: {url}"));
        assert_eq!(anchor, name.to_lowercase());
        assert!(anchors.contains(anchor), "docs/ERRORS.md has no runbook for {name}");
        linked.insert(anchor.to_owned());
    }
    assert_eq!(anchors, linked, "runbooks, and those that an alert leads to");
}
