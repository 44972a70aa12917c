//! The options of a `[job.NAME]` of the kind `vacuum`.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{Diagnostics, Located, Options, class},
    domain::{
        name::ServerName,
        pattern::DatabasePatterns,
        relation::{RelationPattern, RelationPatterns},
        units::ByteSize,
        vacuum::{Mode, Thresholds, VacuumRules},
    },
    jobs::{Job, Resources, options},
    maintenance::vacuum::{Settings, StatementOptions},
};

use super::{MODES, Vacuum};

/// The server takes whole milliseconds, and 0 would mean no limit.
const LOCK_TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Whoever wants a lock that ours conflicts with waits behind us as long as we wait.
const LOCK_TIMEOUT_MAX: Duration = Duration::from_hours(1);
const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Limits of `vacuum_cost_delay` and `vacuum_cost_limit` (guc_tables.c); 2 ms is what autovacuum
/// does.
const COST_DELAY_MAX: Duration = Duration::from_millis(100);
const COST_DELAY_DEFAULT: Duration = Duration::from_millis(2);
const COST_LIMIT_MAX: u32 = 10_000;
/// `MAX_PARALLEL_WORKER_LIMIT` (bgworker_internals.h).
const PARALLEL_MAX: u32 = 1024;
/// `MIN_BAS_VAC_RING_SIZE_KB` and `MAX_BAS_VAC_RING_SIZE_KB` (miscadmin.h).
const BUFFERS: std::ops::RangeInclusive<ByteSize> = ByteSize::kib(128)..=ByteSize::gib(16);
const YEAR: Duration = Duration::from_hours(24 * 366);

pub(super) fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let databases = options::patterns(o, d);
    let mode = o.given("mode");
    let mode = match mode {
        Some(_) => o.one_of("mode", &MODES, d),
        None => Some(Located { value: Mode::VacuumAnalyze, span: o.span() }),
    };
    let include = options::relations(o, "tables", &["*.*"], d);
    let exclude = options::relations(o, "exclude_tables", &[], d);
    let thresholds = thresholds(o, mode.as_ref().map(|mode| mode.value), d);
    let fits =
        mode.as_ref().is_none_or(|mode| fits(o, mode, databases.as_ref(), include.as_ref(), d));
    let options = StatementOptions {
        truncate: o.take_or("truncate", false, d),
        parallel: o.take_in_or("parallel", 0..=PARALLEL_MAX, 0, d),
        buffer_usage_limit: o.take_in("buffer_usage_limit", BUFFERS, d).map(|size| size.value),
    };
    let lock_timeout =
        o.take_in_or("lock_timeout", LOCK_TIMEOUT_MIN..=LOCK_TIMEOUT_MAX, LOCK_TIMEOUT_DEFAULT, d);
    let cost_delay =
        o.take_in_or("cost_delay", Duration::ZERO..=COST_DELAY_MAX, COST_DELAY_DEFAULT, d);
    let cost_limit = o.take_in("cost_limit", 1..=COST_LIMIT_MAX, d).map(|limit| limit.value);
    let window = o.take_in("window", Duration::from_secs(1)..=YEAR, d).map(|window| window.value);
    let xmin_held_for =
        o.take_in_or("xmin_held_for", Duration::ZERO..=YEAR, Duration::from_hours(1), d);
    let tables = RelationPatterns { include: include?, exclude: exclude? };
    let rules = VacuumRules { mode: mode?.value, tables, thresholds };
    fits.then_some(())?;
    Some(Arc::new(Vacuum {
        server: server?,
        databases: databases?,
        settings: Settings { rules, options, lock_timeout, cost_delay, cost_limit },
        window,
        xmin_held_for,
        gate: resources.gate.clone(),
    }))
}

/// When a table is due. What the mode does not do cannot be asked for.
fn thresholds(o: &mut Options<'_>, mode: Option<Mode>, d: &mut Diagnostics) -> Thresholds {
    let of_vacuum = ["min_dead_tuples", "min_dead_ratio", "xid_age", "not_vacuumed_for"];
    let of_analyze = ["min_changed_tuples", "not_analyzed_for"];
    for (keys, done, verb) in [
        (&of_vacuum[..], mode.is_none_or(Mode::vacuums), "vacuums"),
        (&of_analyze[..], mode.is_none_or(Mode::analyzes), "analyzes"),
    ] {
        for key in keys.iter().filter(|_| !done) {
            if let Some(span) = o.given(key) {
                d.error(&span, format!("`{key}` is for a mode that {verb}")).class(class::CONFLICT);
            }
        }
    }
    let second = Duration::from_secs(1);
    Thresholds {
        min_dead_tuples: o.take_in("min_dead_tuples", 1..=u64::MAX, d).map(|n| n.value),
        min_dead_ratio: o.take_in("min_dead_ratio", 0.0..=1.0, d).map(|n| n.value),
        xid_age: o.take_in("xid_age", 1..=u64::MAX, d).map(|n| n.value),
        not_vacuumed_for: o.take_in("not_vacuumed_for", second..=10 * YEAR, d).map(|n| n.value),
        min_changed_tuples: o.take_in("min_changed_tuples", 1..=u64::MAX, d).map(|n| n.value),
        not_analyzed_for: o.take_in("not_analyzed_for", second..=10 * YEAR, d).map(|n| n.value),
    }
}

/// VACUUM FULL is for tables and databases that somebody wrote down, and takes no options.
fn fits(
    o: &mut Options<'_>,
    mode: &Located<Mode>,
    databases: Option<&DatabasePatterns>,
    tables: Option<&Vec<RelationPattern>>,
    d: &mut Diagnostics,
) -> bool {
    if mode.value != Mode::Full {
        return true;
    }
    let before = d.error_count();
    let named = tables.is_none_or(|all| all.iter().all(|one| one.literal().is_some()))
        && databases.is_none_or(|all| all.include.iter().all(|one| one.literal().is_some()));
    if !named {
        d.error(
            &mode.span,
            "VACUUM FULL needs its databases and tables by name, without wildcards",
        )
        .class(class::CONFLICT)
        .hint(
            "it writes each table anew under an ACCESS EXCLUSIVE lock: nobody can read it \
                 until that is done, and the disk holds it twice. Name them: databases = \
                 [\"app\"], tables = [\"public.log\"]; to remove dead rows no such lock is needed",
        );
    }
    for key in ["truncate", "parallel", "buffer_usage_limit", "cost_delay", "cost_limit"] {
        if let Some(span) = o.given(key) {
            d.error(&span, format!("`{key}` does nothing to VACUUM FULL")).class(class::CONFLICT);
        }
    }
    d.error_count() == before
}
