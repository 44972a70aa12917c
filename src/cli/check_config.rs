//! `pgkeep check-config`: every error of the configuration at once, and the next runs.

use serde::Serialize;

use crate::daemon::protection::{self, Cost};

use super::{Cli, Outcome, Stop, exit::Exit, output, schedule};

#[derive(Serialize)]
struct Checked {
    valid: bool,
    diagnostics: serde_json::Value,
    next_runs: Vec<schedule::NextRun>,
    selections: Vec<protection::Cost>,
}

pub(super) fn check_config(cli: &Cli) -> Outcome {
    let loaded = cli.load();
    let next_runs = loaded.table.as_ref().map(|table| schedule::next_runs(cli, table, None, 1));
    let next_runs = next_runs.unwrap_or_default();
    let selections = loaded.table.as_ref().map(protection::costs).unwrap_or_default();
    let valid = loaded.table.is_some();
    if cli.json {
        let diagnostics = loaded.diagnostics.to_json();
        output::json(&Checked { valid, diagnostics, next_runs, selections })?;
        return Ok(if valid { Exit::Done } else { Exit::Configuration });
    }
    let text = loaded.render();
    if !valid {
        return Err(Stop::Configuration(text));
    }
    output::say_styled(&text);
    output::line(&format!("{}: the configuration is valid", cli.config.display()))?;
    schedule::print(&next_runs)?;
    for Cost { job, databases, selection, contents, means } in &selections {
        output::line("")?;
        output::line(&format!(
            "job {job} makes selections of databases {databases} ({contents}): {selection}"
        ))?;
        output::line(&format!("  {means}"))?;
    }
    Ok(Exit::Done)
}
