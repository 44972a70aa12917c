//! docs/METRICS.md, made from the tables.

use super::{JOB_LABELS, KindMetrics, PREFIX, builtin::CORE};
use crate::domain::metric::MetricDesc;

const HEAD: &str = "\
# Metrics

This page is made from the code; a test compares them.

Times are seconds since the epoch, never ages: write `time() - pgkeep_…_timestamp_seconds`. Where 0
means that something never happened, the help says so. A counter starts anew with the process.
`datname` is the name of a database, or `@globals` for what belongs to the whole cluster. What
could not be measured has no sample.
";

const PROCESS: &str = "
## The process

`process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_virtual_memory_bytes`,
`process_resident_memory_bytes`, `process_start_time_seconds` and `process_threads`, without the
prefix, as every client library of Prometheus has them.
";

fn table(out: &mut String, metrics: &[MetricDesc], before: &[&str]) {
    out.push_str("\n| metric | type | labels | what it says |\n|---|---|---|---|\n");
    for desc in metrics {
        let labels: Vec<_> =
            before.iter().chain(desc.labels).map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (desc.name, desc.kind.as_str(), labels.join(", "));
        let line = format!("| `{PREFIX}_{name}` | {kind} | {labels} | {} |", desc.help);
        out.push_str(&line);
        out.push('\n');
    }
}

/// The page for the core and for these kinds, in their order.
pub fn markdown(kinds: &[KindMetrics]) -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n## Always there\n");
    table(&mut out, CORE, &[]);
    out.push_str(PROCESS);
    for (kind, metrics) in kinds.iter().filter(|(_, metrics)| !metrics.is_empty()) {
        let head = format!("\n## Of jobs of kind `{kind}`\n");
        out.push_str(&head);
        table(&mut out, metrics, JOB_LABELS);
    }
    out
}
