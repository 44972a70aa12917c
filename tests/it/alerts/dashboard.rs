//! The dashboard: valid for Grafana as it lies there, and each of its queries one that Prometheus
//! reads and the code has numbers for.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use serde_json::Value;

use super::{packaging, unknown};
use crate::harness::{
    monitoring::promtool,
    process::{command, must},
};

fn dashboard() -> Value {
    serde_json::from_slice(&fs::read(packaging("grafana/pgkeep.json")).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

/// Title and query of everything that is asked.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels(dashboard).iter().flat_map(of_panel).collect()
}

#[test]
fn every_query_is_one_that_prometheus_reads() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    let queries = queries(&dashboard());
    assert!(queries.len() > 30, "where are the queries?");
    for (at, (_, query)) in queries.iter().enumerate() {
        // What Grafana puts in. Variables in selectors are any text to Prometheus.
        let query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
        let query = serde_json::to_string(&query).unwrap();
        writeln!(rules, "      - {{record: 'query:{at}', expr: {query}}}").unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    let told = must(command(promtool()).args(["check", "rules"]).arg(file.path()));
    assert!(told.contains(&format!("SUCCESS: {} rules found", queries.len())), "{told}");
}

#[test]
fn every_query_asks_for_what_the_code_exports_and_can_be_narrowed() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    let strange: BTreeSet<String> = queries.iter().flat_map(|(_, query)| unknown(query)).collect();
    assert_eq!(strange, BTreeSet::new(), "metrics and labels that the code does not export");
    for (title, query) in queries {
        let metrics = query.matches("pgkeep_").count() + query.matches("process_").count();
        let narrowed = query.matches("{job=~\"$job\",instance=~\"$instance\"").count();
        assert!(metrics <= narrowed, "{title}: {query}");
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap_or_default();
        assert_eq!(unknown(query), Vec::<String>::new(), "{variable}");
    }
}

#[test]
fn it_can_be_provisioned_as_it_is() {
    let dashboard = dashboard();
    assert!(dashboard["id"].is_null() && dashboard.get("__inputs").is_none());
    assert_eq!(dashboard["uid"], "pgkeep");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, [Some("datasource"), Some("job"), Some("instance")]);
    let mut ids = Vec::new();
    let mut places = Vec::new();
    for panel in panels(&dashboard) {
        ids.push(panel["id"].as_u64().unwrap());
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        places.push((place("x"), place("y"), place("w"), place("h")));
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "a panel's id is its own");
    for (at, a) in places.iter().enumerate() {
        let covers = |b: &(u64, u64, u64, u64)| {
            a.0 < b.0 + b.2 && b.0 < a.0 + a.2 && a.1 < b.1 + b.3 && b.1 < a.1 + a.3
        };
        assert!(!places[at + 1..].iter().any(covers), "one panel lies on another: {a:?}");
    }
}
