//! The options of the kind.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    backup::{courtesy::Courtesy, fanout::Compression, globals::Parts},
    checks::preflight::{self, Accepted},
    config::{self, Diagnostics, Located, Options},
    domain::{
        blocking::WhenBlocking, measure::Share, name::ServerName, pattern::Glob, scope::Format,
    },
    sys::host,
};

use super::{
    super::{Job, Resources, options},
    Dump,
    role::Role,
    selection,
};

/// Lowest and highest level of zstd that may be asked for: `zstd --fast=7`, beyond which little
/// time is left to win, and `ZSTD_maxCLevel` without `--ultra` (zstd.h). 0 would mean zstd's
/// default.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=19;
/// pg_dump takes whole milliseconds; 0 would mean no limit.
const LOCK_WAIT_MIN: Duration = Duration::from_millis(1);
/// While pg_dump waits for a lock, everybody who comes after it in the queue waits too.
const LOCK_WAIT_MAX: Duration = Duration::from_hours(1);
const LOCK_WAIT_DEFAULT: Duration = Duration::from_mins(1);
/// A safe snapshot may be a day away, where somebody keeps serializable transactions open.
const DEFERRABLE_MAX: Duration = Duration::from_hours(24);
const DEFERRABLE_DEFAULT: Duration = Duration::from_mins(10);
/// How much smaller than the last a backup may be, in per cent.
const SHRINK_DEFAULT: Option<Share> = Share::percent(50);

const FORMATS: [(&str, Format); 2] = [("custom", Format::Custom), ("plain", Format::Plain)];

/// Reads them and makes the job.
pub(super) fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let repositories = options::repositories(o, "repositories", resources, d);
    let patterns = options::patterns(o, d);
    let selection = selection::read(o, patterns.as_ref(), d);
    // A job for a part of a database beside the one for all of it need not make them twice; one for
    // all databases is no such job.
    let is_whole = |it: &selection::Selection| it.scopes.general().is_whole();
    let for_all = patterns.as_ref().is_none_or(|it| it.include.iter().any(Glob::is_any));
    let with_globals = for_all || selection.as_ref().is_none_or(is_whole);
    let globals = o.take_or("globals", with_globals, d);
    let parts = Parts {
        role_passwords: o.take_or("role_passwords", true, d),
        server_files: o.take_or("server_files", true, d),
    };
    let accepted = accepted(o, d);
    let format = o.one_of("format", &FORMATS, d).map_or(Format::Custom, |format| format.value);
    let level = o.take_in_or("compression_level", LEVELS, 3, d);
    let workers = o.take_in_or("workers", 1..=64, host::default_workers(), d);
    let lock_wait =
        o.take_in_or("lock_wait_timeout", LOCK_WAIT_MIN..=LOCK_WAIT_MAX, LOCK_WAIT_DEFAULT, d);
    let selection = selection?;
    let shrink = o.take_or("suspicious_shrink", SHRINK_DEFAULT, d);
    Some(Arc::new(Dump {
        server: server?,
        patterns: patterns?,
        scopes: selection.scopes,
        format,
        form_options: selection.form_options,
        globals,
        parts,
        repositories: repositories?,
        compression: Compression { level, workers },
        accepted: accepted?,
        lock_wait,
        role: Role::read(o, d),
        deferrable: deferrable(o, d),
        courtesy: courtesy(o, d),
        shrink,
        children: resources.children.clone(),
        state_dir: resources.state_dir.clone(),
        gate: resources.gate.clone(),
        adopted: resources.config.daemon.adopt.clone(),
    }))
}

fn deferrable(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Duration> {
    let wanted = o.take_or("deferrable", false, d);
    let limits = Duration::from_secs(1)..=DEFERRABLE_MAX;
    let limit = o.take_in_or("deferrable_timeout", limits, DEFERRABLE_DEFAULT, d);
    if let Some(alone) = o.given("deferrable_timeout").filter(|_| !wanted) {
        d.warning(&alone, "`deferrable_timeout` does nothing without `deferrable = true`");
    }
    wanted.then_some(limit)
}

/// Transaction ids are compared modulo 2^32: no age is greater than half of that.
const XMIN_AGE_MAX: u64 = i32::MAX as u64;

fn courtesy(o: &mut Options<'_>, d: &mut Diagnostics) -> Courtesy {
    let policy = o.take::<String>("when_blocking", d).and_then(|text| {
        text.value
            .parse::<WhenBlocking>()
            .map_err(|error| {
                d.error(&text.span, format!("`when_blocking`: {error}")).hint(error.hint);
            })
            .ok()
    });
    let max_xmin_age = o.take_in("max_xmin_age", 1..=XMIN_AGE_MAX, d).map(|age| age.value);
    Courtesy { when_blocking: policy.unwrap_or_default(), max_xmin_age }
}

/// What the job may leave out, by names that stand in a fixed list.
fn accepted(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Accepted> {
    let by = format!("[{}]", o.section());
    let mut names = BTreeSet::new();
    if o.given("accept").is_none() {
        return Some(Accepted { names, by });
    }
    let known: Vec<&'static str> = preflight::acceptable().collect();
    let mut whole = true;
    for name in o.take::<Vec<Located<String>>>("accept", d)?.value {
        if let Some(known) = known.iter().find(|known| **known == name.value) {
            names.insert(*known);
            continue;
        }
        whole = false;
        let all = || format!("what can be accepted: {}", config::listed(known.iter().copied()));
        let hint = config::did_you_mean(&name.value, known.iter().copied()).unwrap_or_else(all);
        d.error(&name.span, format!("{:?} cannot be accepted", name.value)).hint(hint);
    }
    whole.then_some(Accepted { names, by })
}
