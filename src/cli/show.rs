//! `pgkeep show ID`: one backup with its manifest, in every repository that has it, and whether
//! what lies there has the sizes that the manifest says. What a listing does not show is asked for.

use clap::Args;
use serde::Serialize;

use crate::{
    domain::{
        backup::BackupId,
        failure::{Class, During, Failure, IntoFailure, chain},
        manifest::{Manifest, Totals},
        name::RepositoryName,
        suspicion::Acknowledgement,
    },
    repository::{handle::Handle, listing::Listed, store::StoreError},
};

use super::{Cli, Outcome, Stop, exit::Exit, list, output, runtime};

/// Problems of one copy that are shown.
const PROBLEMS_MAX: usize = 100;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The backup's id, as `list` prints it, or its beginning where that is unique.
    id: String,
}

/// One copy.
#[derive(Debug, Serialize)]
struct Shown {
    repository: RepositoryName,
    place: String,
    folder: String,
    complete: bool,
    /// Something seemed to be missing in it when it was made; the manifest says what.
    suspicious: bool,
    /// Who has said that it is as it should be.
    acknowledged: Option<Acknowledgement>,
    problems: Vec<String>,
    manifest: Option<Manifest>,
}

pub(super) fn show(cli: &Cli, arguments: &Arguments) -> Outcome {
    let table = cli.table()?;
    let doing = format!("show backup {}", arguments.id);
    let mut shown = Vec::new();
    let mut failures = Vec::new();
    let asked = list::ask_all(&table, None, async |handle| find(handle, &arguments.id).await);
    for (_, found) in runtime()?.block_on(asked) {
        match found {
            Ok(found) => shown.extend(found),
            Err(failure) => failures.push(failure),
        }
    }
    list::print_failures(&failures);
    let mut ids: Vec<&BackupId> = shown.iter().map(|(id, _)| id).collect();
    ids.dedup();
    if ids.is_empty() && !failures.is_empty() {
        return Ok(Exit::Failed);
    }
    if ids.is_empty() {
        let failure = Failure::new(Class::Configuration, doing, "no repository has it")
            .hint("`pgkeep list` shows what there is");
        return Err(Stop::Failed(Exit::NotFound, failure));
    }
    ids.sort();
    ids.dedup();
    if ids.len() > 1 {
        let names: Vec<_> = ids.iter().take(10).map(ToString::to_string).collect();
        let what = format!("several begin so: {}", names.join(", "));
        return Err(Stop::Failed(Exit::NotFound, Failure::new(Class::Configuration, doing, what)));
    }
    let shown: Vec<Shown> = shown.into_iter().map(|(_, shown)| shown).collect();
    let whole = shown.iter().all(|shown| shown.problems.is_empty());
    if cli.json {
        output::json(&shown)?;
    } else {
        for shown in &shown {
            print(shown)?;
        }
    }
    Ok(match (whole, failures.is_empty()) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::Partial,
        (true, true) => Exit::Done,
    })
}

/// The copies in one repository.
async fn find(handle: &Handle, id: &str) -> Result<Vec<(BackupId, Shown)>, Failure> {
    let mut shown = Vec::new();
    let listed = list::read(handle).await?;
    for listed in listed.into_iter().filter(|listed| listed.id.as_str().starts_with(id)) {
        shown.push((listed.id.clone(), look(handle, listed).await?));
    }
    Ok(shown)
}

async fn look(handle: &Handle, listed: Listed) -> Result<Shown, Failure> {
    let doing = || format!("read backup {} in {}", listed.id, handle.name());
    let repository = handle.open_existing().await.during(doing())?;
    let Some(repository) = repository else {
        return Err(Failure::new(
            Class::RepositoryDamaged,
            doing(),
            "the repository has gone away",
        ));
    };
    let asked = |error: StoreError| error.into_failure(doing());
    let (series, id) = (&listed.series, &listed.id);
    let complete = listed.complete || repository.has_manifest(series, id).await.map_err(asked)?;
    let mut shown = Shown {
        repository: handle.name().clone(),
        place: repository.place(),
        folder: format!("{}/{}", listed.series.path(), listed.id),
        complete,
        suspicious: listed.was_suspicious(),
        acknowledged: None,
        problems: Vec::new(),
        manifest: None,
    };
    if !complete {
        shown.problems.push("it has no manifest: it is not a backup".to_owned());
        return Ok(shown);
    }
    match repository.manifest(series, id).await {
        Ok(manifest) => {
            shown.suspicious |= !manifest.suspicions.is_empty();
            match repository.problems(&listed, &manifest, PROBLEMS_MAX).await {
                Ok(problems) => shown.problems.extend(problems.iter().map(ToString::to_string)),
                Err(error) => shown.problems.push(chain(&error)),
            }
            shown.manifest = Some(manifest);
        }
        Err(error) => shown.problems.push(chain(&error)),
    }
    if shown.suspicious {
        match repository.acknowledgement(series, id).await {
            Ok(acknowledged) => shown.acknowledged = acknowledged,
            Err(error) => shown.problems.push(chain(&error)),
        }
    }
    Ok(shown)
}

fn print(shown: &Shown) -> Result<(), Stop> {
    output::line(&format!("repository    {}", shown.repository))?;
    output::line(&format!("folder        {}/{}", shown.place, shown.folder))?;
    let state = match (shown.complete, shown.problems.is_empty()) {
        (true, true) if shown.suspicious && shown.acknowledged.is_none() => "SUSPICIOUS",
        (true, true) => "complete",
        (true, false) => "DAMAGED",
        (false, _) => "incomplete",
    };
    output::line(&format!("state         {state}"))?;
    for problem in &shown.problems {
        output::line(&format!("PROBLEM       {problem}"))?;
    }
    if let Some(Acknowledgement { at, user, host }) = &shown.acknowledged {
        let at = output::time(Some(*at));
        output::line(&format!("acknowledged  {at} by {user} on {host}"))?;
    }
    if let Some(manifest) = &shown.manifest {
        print_manifest(manifest)?;
    }
    output::line("")
}

/// What an archive holds, and what a restore does beside loading it.
fn holds(totals: &Totals) -> Vec<String> {
    let some = |count: u64, text: String| (count > 0).then_some(text);
    let Totals { statements, tables_via_root, .. } = *totals;
    let inserts = some(statements, format!(" and {statements} INSERT statements"));
    let root = some(tables_via_root, format!(" ({tables_via_root} through their root)"));
    let size = output::bytes(totals.large_object_bytes);
    let mut lines = vec![format!(
        "holds         {} rows{} in {} tables{}, {} large objects{}",
        totals.rows,
        inserts.unwrap_or_default(),
        totals.tables,
        root.unwrap_or_default(),
        totals.large_objects,
        some(totals.large_object_bytes, format!(" of {size}")).unwrap_or_default(),
    )];
    let others = [
        (totals.sequences, "sequences"),
        (totals.refreshes, "materialized views to refresh"),
        (totals.statistics, "entries of statistics"),
    ];
    let others: Vec<_> =
        others.iter().filter(|it| it.0 > 0).map(|it| format!("{} {}", it.0, it.1)).collect();
    if !others.is_empty() {
        lines.push(format!("and           {}", others.join(", ")));
    }
    lines
}

fn print_manifest(manifest: &Manifest) -> Result<(), Stop> {
    let subject = manifest.series.subject.to_string();
    let totals = &manifest.totals;
    let tool = &manifest.tool;
    let lines = [
        format!("backup        {} of {subject}, {}", manifest.id, manifest.series.contents),
        format!("server        {}, PostgreSQL {}", manifest.series.server, manifest.server_version),
        format!("snapshot      {}", output::time(Some(manifest.snapshot.at))),
        format!(
            "WAL position  {} to {}",
            manifest.snapshot.lsn_before, manifest.snapshot.lsn_after
        ),
        format!("made by       {} {}, pgkeep {}", tool.name, tool.version, manifest.pgkeep_version),
        format!("owner         {} ({})", manifest.owner.host, manifest.owner.machine_id),
        format!("plain         {} {}", output::bytes(manifest.plain.bytes), manifest.plain.format),
        format!("stored        {}", output::bytes(manifest.stored_bytes())),
    ];
    for line in lines {
        output::line(&line)?;
    }
    if let Some(selection) = &manifest.selection {
        output::line(&format!("selection     {selection}"))?;
    }
    // The globals have no tables.
    if manifest.database.is_some() {
        for line in holds(totals) {
            output::line(&line)?;
        }
    }
    for suspicion in &manifest.suspicions {
        output::line(&format!("suspicious    {}", suspicion.what))?;
    }
    for recipient in manifest.recipients.iter() {
        output::line(&format!("encrypted to  {recipient}"))?;
    }
    for left_out in &manifest.left_out {
        output::line(&format!("left out      {}: {}", left_out.what, left_out.reason))?;
    }
    for object in manifest.stored() {
        output::line(&format!("object        {}  {}", object.sha256, object.name))?;
    }
    for file in &manifest.files {
        let path = file.path.as_deref().unwrap_or("made for the backup");
        let name = &file.object.name;
        output::line(&format!(
            "file          {name}: {path}, {}",
            output::bytes(file.plain_bytes)
        ))?;
    }
    output::line("restore")?;
    for line in &manifest.restore {
        output::line(&format!("  {line}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_said() {
        let plain = Totals { tables: 2, rows: 5, ..Totals::default() };
        assert_eq!(holds(&plain), ["holds         5 rows in 2 tables, 0 large objects"]);
        let all = Totals {
            statements: 3,
            tables_via_root: 1,
            large_objects: 4,
            large_object_bytes: 2048,
            sequences: 6,
            refreshes: 7,
            statistics: 8,
            ..plain
        };
        let expected = [
            "holds         5 rows and 3 INSERT statements in 2 tables (1 through their root), 4 large objects of 2.00 KiB",
            "and           6 sequences, 7 materialized views to refresh, 8 entries of statistics",
        ];
        assert_eq!(holds(&all), expected);
    }
}
