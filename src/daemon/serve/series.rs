//! The series of the configured jobs, with what the journal knows of them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    domain::{
        failure::{Class, Failure},
        name::{JobName, RepositoryName},
        run::SkipReason,
    },
    sys::clock::Clock,
    telemetry::metrics::{DATNAME_CAP_DEFAULT, JobSeries, Metrics, Setup},
};

use super::super::{journal::Journal, protection, table::Table};

/// The metrics with every series that the configuration and the journal know of.
pub(super) fn new(
    table: &Table,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
) -> Result<Metrics, Failure> {
    let setup = Setup {
        version: env!("CARGO_PKG_VERSION"),
        kinds: &crate::jobs::metrics(),
        skip_reasons: SkipReason::NAMES,
        datname_cap: DATNAME_CAP_DEFAULT,
    };
    let metrics = Metrics::new(&setup)
        .map_err(|error| Failure::from_error(Class::Internal, "set up metrics", &error))?;
    let now = clock.now().wall;
    configure(&metrics, table, journal, now);
    metrics.config_loaded(now, true);
    Ok(metrics)
}

/// Makes the series of all jobs, with what the journal knows of them: a job may come back that was
/// taken out. Since when each has been configured is remembered.
pub(super) fn configure(metrics: &Metrics, table: &Table, journal: &Journal, now: Timestamp) {
    let since = |name: &JobName, kind: &str| {
        journal.configured(name, kind, now).unwrap_or_else(|failure| {
            tracing::warn!(%failure, "cannot remember since when a job has been configured");
            now
        })
    };
    let series: Vec<JobSeries> = table
        .jobs
        .values()
        .map(|job| JobSeries {
            name: job.common.name.clone(),
            kind: job.kind.name.to_owned(),
            max_age: job.max_age,
            paused: !job.common.enabled,
            configured_at: since(&job.common.name, job.kind.name),
        })
        .collect();
    let repositories: Vec<RepositoryName> = table.repositories.keys().cloned().collect();
    metrics.configure(&series, &repositories);
    metrics.configure_servers(&protection::names(table));
    metrics.configure_notifiers(table.notifiers.keys());
    for name in table.jobs.keys() {
        metrics.restore(name, &journal.job(name));
    }
}
