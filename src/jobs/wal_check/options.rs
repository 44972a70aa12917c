//! The options of a `[job.NAME]` of the kind `wal-check`.

use std::{sync::Arc, time::Duration};

use super::{ArchiveOptions, ProbeOptions, WalCheck};
use crate::{
    checks::wal::ServerLimits,
    config::{Diagnostics, Located, Options, class},
    domain::{
        name::{RepositoryName, ServerName},
        units::ByteSize,
        wal::{KnownLoss, Since, Sizes},
    },
    jobs::{Job, Resources, options},
    repository::handle::Place,
    wal::archive::Archive,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Three failed attempts and a minute's rest take a minute; a large segment over a slow line some.
const READY_AGE: Duration = Duration::from_mins(15);
/// A command that hands files to a queue of its own needs some time.
const DEADLINE: Duration = Duration::from_mins(10);
const PROBE_TIMEOUT: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// Options that need an archive.
const OF_ARCHIVES: [&str; 7] = [
    "archive_prefix",
    "archive_bucket",
    "archive_interval",
    "archive_deadline",
    "archive_sizes",
    "since",
    "known_losses",
];

const SIZES: &[(&str, Sizes)] = &[("exact", Sizes::Exact), ("any", Sizes::Any)];

pub(super) fn build(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Arc<dyn Job>> {
    let server = o.require::<ServerName>("server", d);
    let server = server.and_then(|name| resources.server(&name, d));
    let limits = ServerLimits {
        expect_archiving: o.take_or("expect_archiving", true, d),
        max_ready_age: o.take_in_or("max_ready_age", SECOND..=DAY, READY_AGE, d),
        max_backlog: o.take::<ByteSize>("max_wal_backlog", d).map(|size| size.value.bytes()),
    };
    let archive = archive(o, resources, d).ok();
    let probe = probe(o, d);
    // The section is called job.NAME, and NAME is safe as a file's.
    let file = format!("{}.json", o.section().trim_start_matches("job."));
    let state = resources.state_dir.join("wal-archives").join(file);
    Some(Arc::new(WalCheck { server: server?, limits, archive: archive?, probe, state }))
}

/// What is wrong was reported.
struct Reported;

/// The archive, where one is named.
fn archive(
    o: &mut Options<'_>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Result<Option<ArchiveOptions>, Reported> {
    let alone = o.at_most_one(&["archive", "archive_repository"], d);
    let folder = o.absolute_path("archive", d);
    let given = o.given("archive").is_some();
    let repository = o.take::<RepositoryName>("archive_repository", d);
    if !given && repository.is_none() {
        for key in OF_ARCHIVES {
            if let Some(span) = o.given(key) {
                d.error(&span, format!("`{key}` needs an archive"))
                    .class(class::MISSING)
                    .hint("name its folder with archive, or a bucket with archive_repository");
            }
        }
        return Ok(None);
    }
    let archive = match (&folder, &repository) {
        (Some(folder), _) => {
            for key in ["archive_prefix", "archive_bucket"] {
                if let Some(span) = o.given(key) {
                    d.error(&span, format!("`{key}` belongs to `archive_repository`"))
                        .class(class::CONFLICT);
                }
            }
            Some(Archive::Folder(folder.value.clone()))
        }
        (None, Some(name)) => bucket(o, name, resources, d),
        (None, None) => None,
    };
    let interval = o.take_in_or("archive_interval", Duration::ZERO..=LONGEST, HOUR, d);
    let deadline = o.take_in_or("archive_deadline", Duration::ZERO..=LONGEST, DEADLINE, d);
    let sizes = o.one_of("archive_sizes", SIZES, d).map_or(Sizes::Exact, |sizes| sizes.value);
    let since = since(o, d);
    let known_losses = known_losses(o, d);
    let archive = archive.filter(|_| alone);
    Ok(Some(ArchiveOptions {
        archive: archive.ok_or(Reported)?,
        interval,
        since: since.ok_or(Reported)?,
        known_losses: known_losses.ok_or(Reported)?,
        sizes,
        deadline,
    }))
}

fn bucket(
    o: &mut Options<'_>,
    name: &Located<RepositoryName>,
    resources: &Resources<'_>,
    d: &mut Diagnostics,
) -> Option<Archive> {
    let bucket = o.take::<String>("archive_bucket", d).map(|bucket| bucket.value);
    let prefix = o.require::<String>("archive_prefix", d);
    let handle = resources.repository(name, d)?;
    if !handle.has_elsewhere() {
        d.error(&name.span, format!("repository {} has no buckets", name.value))
            .class(class::REFERENCE)
            .hint("name a repository of kind \"s3\", or a folder with `archive`");
        return None;
    }
    Some(Archive::Bucket(handle, Place { bucket, prefix: prefix?.value }))
}

fn since(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Since> {
    let Some(text) = o.take::<String>("since", d) else {
        return o.given("since").is_none().then_some(Since::OldestBackup);
    };
    match text.value.as_str() {
        "oldest-backup" => return Some(Since::OldestBackup),
        "newest-backup" => return Some(Since::NewestBackup),
        other => {
            if let Ok(lsn) = other.parse() {
                return Some(Since::Lsn(lsn));
            }
            if let Ok(segment) = other.parse() {
                return Some(Since::Segment(segment));
            }
        }
    }
    d.error(&text.span, "`since` does not know this value").hint(
        "write \"oldest-backup\", \"newest-backup\", an LSN (\"16/B374D848\") or the name of a \
         segment",
    );
    None
}

fn known_losses(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<Vec<KnownLoss>> {
    if o.given("known_losses").is_none() {
        return Some(Vec::new());
    }
    let losses =
        options::list(o, "known_losses", d, |text, d| match text.value.parse::<KnownLoss>() {
            Ok(loss) => Some(loss),
            Err(error) => {
                let example = "000000010000000000000005..000000010000000000000009";
                d.error(&text.span, error.to_string()).hint(format!("write it like {example:?}"));
                None
            }
        });
    Some(losses?.value)
}

fn probe(o: &mut Options<'_>, d: &mut Diagnostics) -> Option<ProbeOptions> {
    let wanted = o.take_or("end_to_end", false, d);
    // Each probe fills a segment: at most hourly, and a day is often enough.
    let interval = o.take_in_or("end_to_end_interval", HOUR..=LONGEST, DAY, d);
    let timeout = o.take_in_or("end_to_end_timeout", SECOND..=HOUR, PROBE_TIMEOUT, d);
    if !wanted {
        for key in ["end_to_end_interval", "end_to_end_timeout"] {
            if let Some(span) = o.given(key) {
                d.error(&span, format!("`{key}` needs `end_to_end = true`")).class(class::MISSING);
            }
        }
    }
    wanted.then_some(ProbeOptions { interval, timeout })
}
