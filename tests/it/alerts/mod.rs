//! What pages people: the rules, their tests, the runbooks, the dashboard, and the whole chain from a
//! failed dump to a webhook.

mod chain;
mod dashboard;
mod shipped;

use std::{collections::BTreeMap, path::PathBuf};

use pgkeep::{
    domain::metric::MetricDesc,
    jobs,
    telemetry::metrics::{PREFIX, builtin::CORE},
};

/// The rules as they are shipped.
const RULES: &str = include_str!("../../../packaging/prometheus/pgkeep.rules.yml");

/// The folder of what is shipped.
fn packaging(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

/// One alert of the rules. The file has one form throughout, which [`rules`] reads: no parser of YAML
/// is worth a dependency, and promtool has read it before.
#[derive(Debug, Default)]
struct Rule {
    alert: String,
    expr: String,
    /// `for`.
    patience: String,
    /// What comes behind it: labels and annotations.
    text: String,
}

impl Rule {
    /// The value of a line `key: value` behind `for`.
    fn value(&self, key: &str) -> Option<&str> {
        let of_line =
            |line: &'_ str| line.trim().strip_prefix(key)?.strip_prefix(": ").map(str::len);
        let line = self.text.lines().find(|line| of_line(line).is_some())?;
        Some(&line[line.len() - of_line(line)?..])
    }
}

/// The alerts of a file of rules.
fn rules(text: &str) -> Vec<Rule> {
    let parts = text.split("- alert: ").skip(1);
    parts
        .map(|part| {
            let (alert, rest) = part.split_once('\n').unwrap();
            let (expr, rest) = rest.split_once(" for: ").unwrap();
            let (patience, text) = rest.split_once('\n').unwrap();
            let expr = expr.trim().strip_prefix("expr:").unwrap().trim_start_matches([' ', '|']);
            Rule {
                alert: alert.to_owned(),
                expr: expr.trim().to_owned(),
                patience: patience.to_owned(),
                text: text.to_owned(),
            }
        })
        .collect()
}

/// Every metric that the code declares, by its full name, with all its labels.
fn declared() -> BTreeMap<String, Vec<&'static str>> {
    let full = |desc: &MetricDesc| format!("{PREFIX}_{}", desc.name);
    let core = CORE.iter().map(|desc| (full(desc), desc.labels.to_vec()));
    let kinds = jobs::metrics();
    let of_kinds = kinds.iter().flat_map(|(_, metrics)| metrics.iter());
    let of_kinds = of_kinds.map(|desc| {
        (full(desc), ["job_name", "kind"].iter().chain(desc.labels).copied().collect())
    });
    let process = ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"];
    let process = process.map(|name| (format!("process_{name}"), Vec::new()));
    core.chain(of_kinds).chain(process).collect()
}

/// The names of metrics in an expression, each with the labels that it is selected by.
fn selected(expr: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expr.match_indices(|c: char| c.is_ascii_alphabetic()) {
        let before = expr[..at].chars().next_back();
        let rest = &expr[at..];
        let ours = ["pgkeep_", "process_"].iter().any(|prefix| rest.starts_with(prefix));
        if !ours || before.is_some_and(|c| is_name(c) || c == '"') {
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = selector.map_or("", |(selector, _)| selector).split("\",");
        let labels = labels.filter_map(|label| label.split_once(['=', '!']));
        let labels = labels.map(|(name, _)| name.trim().to_owned()).collect();
        found.push((rest[..end].to_owned(), labels));
    }
    found
}

/// What of an expression the code does not know: metrics, and labels that they do not have.
fn unknown(expr: &str) -> Vec<String> {
    let declared = declared();
    let mut unknown = Vec::new();
    for (metric, labels) in selected(expr) {
        let Some(known) = declared.get(&metric) else {
            unknown.push(metric);
            continue;
        };
        // Prometheus puts the two on whatever it scrapes.
        let has = |label: &String| {
            known.contains(&label.as_str()) || ["job", "instance"].contains(&label.as_str())
        };
        unknown
            .extend(labels.iter().filter(|label| !has(label)).map(|l| format!("{metric}{{{l}}}")));
    }
    unknown
}

#[test]
fn what_the_code_does_not_know_is_found() {
    assert!(unknown("pgkeep_findings{check=\"a\",job=\"b\"} / up > process_open_fds").is_empty());
    assert_eq!(unknown("sum(pgkeep_nothing) - pgkeep_findings{x=~\"y\", check!=\"z\"}").len(), 2);
}
