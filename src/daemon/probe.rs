//! Looks at the repositories from time to time, so that what is scraped was measured: what each
//! holds, when its newest backup is of, and what lies there without a manifest.
//!
//! Freshness is read from the repositories, not remembered: it is right after a restart, and when
//! somebody else deleted something.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    domain::{backup::Series, name::RepositoryName},
    repository::{
        handle::Handle,
        listing::{Listing, Within},
        store::StoreError,
    },
    sys::clock::Clock,
    telemetry::metrics::{Metrics, RepositoryFacts, StoredBackups},
};

/// How often a repository is listed, beside after each run that may have changed it. A listing
/// costs one request per thousand objects.
pub const INTERVAL: Duration = Duration::from_mins(15);
/// How often leftovers are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_hours(24);
/// Data without a manifest may belong to a run of another host: it is garbage only when it is
/// older than any run takes.
const GARBAGE_MIN_AGE: Duration = Duration::from_hours(24);
/// Longest time for one repository: a probe that hangs must not stop the probes.
const PROBE_LIMIT: Duration = Duration::from_mins(10);

/// Probes every repository once.
pub async fn probe(
    repositories: BTreeMap<RepositoryName, Arc<Handle>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
) {
    for (name, handle) in repositories {
        let listed = tokio::time::timeout(PROBE_LIMIT, list(&handle)).await;
        let now = clock.now().wall;
        match listed {
            Ok(Ok(listing)) => metrics.repository_probed(&name, now, Some(&facts(&listing))),
            Ok(Err(error)) => {
                metrics.repository_probed(&name, now, None);
                let hint = error.hint.as_deref();
                tracing::warn!(repository = %name, hint, "cannot list the repository: {error}");
            }
            Err(_) => {
                metrics.repository_probed(&name, now, None);
                tracing::warn!(repository = %name, "listing the repository took too long");
            }
        }
    }
}

async fn list(handle: &Handle) -> Result<Listing, StoreError> {
    match handle.open_existing().await? {
        Some(repository) => repository.listing(&Within::All).await,
        None => Ok(Listing::default()),
    }
}

fn facts(listing: &Listing) -> RepositoryFacts {
    let mut held: BTreeMap<&Series, StoredBackups> = BTreeMap::new();
    let mut incomplete = 0;
    for listed in &listing.backups {
        if !listed.complete {
            incomplete += 1;
            continue;
        }
        let backups = held.entry(&listed.series).or_insert_with(|| StoredBackups {
            server: listed.series.server.clone(),
            subject: listed.series.subject.clone(),
            newest: listed.id.time(),
            stored: 0,
            bytes: 0,
        });
        backups.newest = backups.newest.max(listed.id.time());
        backups.stored += 1;
        backups.bytes += listed.bytes();
    }
    RepositoryFacts { backups: held.into_values().collect(), incomplete }
}

/// Removes what runs that died have left behind.
pub async fn sweep(repositories: BTreeMap<RepositoryName, Arc<Handle>>, clock: Arc<dyn Clock>) {
    for (name, handle) in repositories {
        let now = clock.now().wall;
        match tokio::time::timeout(PROBE_LIMIT, sweep_one(&handle, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(repository = %name, "cannot sweep the repository: {error}");
            }
            Err(_) => tracing::warn!(repository = %name, "sweeping the repository took too long"),
        }
    }
}

async fn sweep_one(handle: &Handle, now: Timestamp) -> Result<(), StoreError> {
    let Some(repository) = handle.open_existing().await? else { return Ok(()) };
    let name = repository.name();
    // An unfinished upload whose lock is free belongs to a process that has ended.
    let uploads = repository.sweep_uploads(Duration::ZERO, now).await?;
    if uploads.uploads > 0 {
        tracing::info!(repository = %name, uploads = uploads.uploads, "removed unfinished uploads");
    }
    let plan = repository.garbage(GARBAGE_MIN_AGE, now).await?;
    let report = repository.sweep(plan).await?;
    for listed in &report.removed {
        let (series, id) = (listed.series.path(), &listed.id);
        tracing::info!(repository = %name, series, %id, "removed data without a manifest");
    }
    for (listed, error) in &report.failed {
        let (series, id) = (listed.series.path(), &listed.id);
        tracing::warn!(repository = %name, series, %id, %error, "cannot remove data without a manifest");
    }
    Ok(())
}
