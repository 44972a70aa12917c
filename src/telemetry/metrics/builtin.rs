//! The metrics that are always there. docs/METRICS.md is made from this table.

use crate::domain::metric::metrics;

metrics! {
    /// Every metric that does not belong to a job kind.
    pub CORE:
    BUILD_INFO = Gauge "build_info" ["version"]
        "Always 1; the label has the version that runs.";
    PLANNER_LAST_TICK = Gauge "planner_last_tick_timestamp_seconds" []
        "When the planner last looked at what is due; it does so every few seconds.";
    HEARTBEAT_MISSED = Counter "heartbeat_missed_total" []
        "Heartbeats that did not come in time, so that the planner's own timer stood in.";
    CONFIG_LAST_RELOAD_SUCCESSFUL = Gauge "config_last_reload_successful" []
        "1 if the last (re)load of the configuration succeeded, else 0; the old one runs on then.";
    CONFIG_LAST_RELOAD_SUCCESS = Gauge "config_last_reload_success_timestamp_seconds" []
        "When the configuration was last loaded with success.";
    JOB_CONFIGURED = Gauge "job_configured_timestamp_seconds" ["job_name", "kind"]
        "Since when the job has been configured: a job that never succeeded is as old as this.";
    JOB_MAX_AGE = Gauge "job_max_age_seconds" ["job_name", "kind"]
        "How old the last success may become; no series for a job that has no such objective.";
    JOB_PAUSED = Gauge "job_paused" ["job_name", "kind"]
        "1 if the job is paused (`enabled = false`) and runs only when it is asked to, else 0.";
    JOB_LAST_SUCCESS = Gauge "job_last_success_timestamp_seconds" ["job_name", "kind"]
        "When the job last succeeded with all its targets; 0 if never.";
    JOB_LAST_COMPLETION = Gauge "job_last_completion_timestamp_seconds" ["job_name", "kind"]
        "When the job last ended, with success or not, unless it was interrupted, cancelled or \
         skipped; 0 if never. The last run failed if this is greater than the last success.";
    JOB_LAST_DURATION = Gauge "job_last_duration_seconds" ["job_name", "kind"]
        "How long the run took that set the last completion, with its retries.";
    JOB_RUNNING_SINCE = Gauge "job_running_since_timestamp_seconds" ["job_name", "kind"]
        "When the run that is under way was started; 0 if none is.";
    JOB_NEXT_RUN = Gauge "job_next_run_timestamp_seconds" ["job_name", "kind"]
        "When the schedule will start the job next; 0 if it will not.";
    JOB_RUNS = Counter "job_runs_total" ["job_name", "kind", "outcome"]
        "Runs that ended, by outcome.";
    JOB_RETRIES = Counter "job_retries_total" ["job_name", "kind"]
        "Attempts after the first.";
    JOB_SKIPS = Counter "job_skips_total" ["job_name", "kind", "reason"]
        "Runs that were due and not started, by reason.";
    JOB_LAST_TARGETS = Gauge "job_last_targets" ["job_name", "kind", "state"]
        "Targets of the last run that completed, by how they ended; no series before the first.";
    JOB_FAILURES = Counter "job_failures_total" ["job_name", "kind", "class"]
        "Failures of targets and of whole runs, by class (docs/ERRORS.md); a class has no series \
         before its first failure.";
    FINDINGS = Gauge "findings" ["job_name", "kind", "check", "severity"]
        "What the last run found, by check and severity; no series where nothing was found.";
    BACKUP_NEWEST = Last "backup_newest_timestamp_seconds" ["server", "datname", "repository"]
        "Snapshot time of the newest complete backup that the last probe saw in the repository.";
    BACKUP_STORED = Last "backup_stored" ["server", "datname", "repository"]
        "Complete backups that the last probe counted in the repository.";
    BACKUP_STORED_BYTES = Last "backup_stored_bytes" ["server", "datname", "repository"]
        "Bytes that these backups take in the repository.";
    BACKUP_SUSPICIOUS = Last "backup_suspicious" ["server", "datname", "repository"]
        "Newest backups in a row that are suspicious and that nobody has acknowledged; 0 where the \
         newest is as it should be.";
    BACKUP_INCOMPLETE = Last "backup_incomplete" ["repository"]
        "Backups without a manifest that the last probe saw: being written, or left over.";
    REPOSITORY_LAST_PROBE = Gauge "repository_last_probe_timestamp_seconds" ["repository"]
        "When the repository was last looked at, with success or not; 0 if never.";
    REPOSITORY_LAST_PROBE_SUCCESS = Gauge "repository_last_probe_success_timestamp_seconds" ["repository"]
        "When the repository was last looked at with success; backup_* are as old as this. 0 if \
         never.";
    SERVER_LAST_PROBE = Gauge "server_last_probe_timestamp_seconds" ["server"]
        "When the server was last asked for its databases, with success or not; 0 if never. Servers \
         that a job backs up have a series.";
    SERVER_LAST_PROBE_SUCCESS = Gauge "server_last_probe_success_timestamp_seconds" ["server"]
        "When the server was last asked for its databases with success; 0 if never.";
    DATABASES_UNPROTECTED = Gauge "databases_unprotected" ["server"]
        "Databases that no job backs up or excludes by name or pattern; no series where the server \
         could not be asked.";
    DATABASES_IN_PART = Gauge "databases_in_part" ["server", "coverage"]
        "Databases that jobs back up only in part: `all-but` what a job leaves out by name, or \
         `only` what it names, so that whatever comes to the database later is in no backup.";
    NOTIFICATIONS = Counter "notifications_total" ["notify", "outcome"]
        "Notifications by what became of them: sent, failed (given up after its attempts), dropped \
         (too many waited).";
    NOTIFY_LAST_SUCCESS = Gauge "notify_last_success_timestamp_seconds" ["notify"]
        "When a notification last arrived; 0 if never since the process started.";
    NOTIFY_LAST_FAILURE = Gauge "notify_last_failure_timestamp_seconds" ["notify"]
        "When a notification was last given up or dropped; 0 if never since the process started.";
    DROPPED_SERIES = Counter "databases_dropped_series_total" []
        "Samples left out since a metric had reached the limit of series with a datname.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_metrics_are_well_formed_and_unique() {
        for (at, desc) in CORE.iter().enumerate() {
            assert!(desc.is_well_formed(), "{desc:?}");
            assert!(desc.help.ends_with('.'), "{desc:?}");
            assert!(CORE[..at].iter().all(|other| other.name != desc.name), "{desc:?}");
        }
    }
}
