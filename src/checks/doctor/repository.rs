//! A repository that answers: whether its store keeps what it promises.

use super::{Line, SKEW_MAX, skew};
use crate::{
    checks::Check,
    domain::{
        finding::{CheckName, Found, Severity},
        text::size,
    },
    repository::{probe::Probed, survey::Compliance},
};

/// What a repository is looked at with.
#[derive(Debug)]
pub struct RepositoryView {
    pub probed: Probed,
    /// Bytes of the databases that jobs dump to it, where servers told.
    pub databases: u64,
}

/// What is looked at.
pub const LINES: &[&Line<RepositoryView>] =
    &[&INTEGRITY, &PARTS, &OVERWRITE, &DIGEST, &DELETE, &VERSIONS, &EXPIRY, &SPACE, &CLOCK];

/// What is so where nothing was found: over a finding that says the opposite it would be a lie.
fn unless_found(
    view: &RepositoryView,
    look: fn(&RepositoryView) -> Vec<Found>,
    fine: &str,
) -> String {
    if look(view).is_empty() { fine } else { "see below" }.to_owned()
}

const INTEGRITY: Line<RepositoryView> = Line {
    label: "writing",
    state: |view| {
        let fine = "an object was written, read back, in part as well, and listed";
        Some(unless_found(view, integrity, fine))
    },
    check: Check { name: CheckName("repository-integrity"), look: integrity },
};

const PARTS: Line<RepositoryView> = Line {
    label: "parts",
    state: |view| {
        view.probed.survey.parts.as_ref()?;
        let fine = "an object was written in two parts, as a dump is, and read back";
        Some(unless_found(view, parts, fine))
    },
    check: Check { name: CheckName("repository-parts"), look: parts },
};

const OVERWRITE: Line<RepositoryView> = Line {
    label: "overwriting",
    state: |view| Some(unless_found(view, overwrite, "what is there is not replaced")),
    check: Check { name: CheckName("repository-overwrite"), look: overwrite },
};

const DIGEST: Line<RepositoryView> = Line {
    label: "digests",
    state: |view| {
        view.probed.survey.digest?;
        Some(unless_found(view, digest, "bytes with a wrong digest are refused, parts as well"))
    },
    check: Check { name: CheckName("repository-digest"), look: digest },
};

const DELETE: Line<RepositoryView> = Line {
    label: "removing",
    state: |view| Some(unless_found(view, delete, "the object was removed again")),
    check: Check { name: CheckName("repository-delete"), look: delete },
};

const VERSIONS: Line<RepositoryView> = Line {
    label: "versions",
    state: |view| {
        let survey = &view.probed.survey;
        let kept = match (survey.versioned?, &survey.lock) {
            (_, Some(lock)) => format!("kept, under a lock: {lock}"),
            (true, None) => "those of removed objects stay".to_owned(),
            (false, None) => "none".to_owned(),
        };
        Some(kept)
    },
    check: Check { name: CheckName("repository-versions"), look: versions },
};

const EXPIRY: Line<RepositoryView> = Line {
    label: "rules",
    state: |view| {
        view.probed.survey.expiry.as_ref()?;
        Some(unless_found(view, expiry, "no rule of the bucket removes backups"))
    },
    check: Check { name: CheckName("repository-expiry"), look: expiry },
};

const SPACE: Line<RepositoryView> = Line {
    label: "space",
    state: |view| {
        let (free, min_free) = view.probed.survey.space?;
        let databases = match view.databases {
            0 => String::new(),
            bytes => format!("; the databases dumped to it have {}", size(bytes)),
        };
        Some(format!("{} are free, {} stay so{databases}", size(free), size(min_free)))
    },
    check: Check { name: CheckName("repository-space"), look: space },
};

const CLOCK: Line<RepositoryView> = Line {
    label: "clock",
    state: |view| view.probed.clock_ahead.map(skew),
    check: Check { name: CheckName("repository-clock"), look: clock },
};

fn integrity(view: &RepositoryView) -> Vec<Found> {
    let mut found = Vec::new();
    let place = &view.probed.place;
    if !view.probed.reads_back {
        found.push(Found::new(
            Severity::Critical,
            format!("{place} gives other bytes back than were written, or not the part that was asked for"),
            "do not trust it with backups: look for a cache or a proxy in front, and at the store's own log",
        ));
    }
    if !view.probed.lists {
        found.push(Found::new(
            Severity::Critical,
            format!("{place} does not list an object that was just written"),
            "backups there would not be found: a store that is consistent only after a while, or a \
             cache in front, cannot be a repository",
        ));
    }
    found
}

fn parts(view: &RepositoryView) -> Vec<Found> {
    let trouble = view.probed.survey.parts.as_ref().and_then(|parts| parts.trouble.as_ref());
    let Some((what, hint)) = trouble else { return Vec::new() };
    let what = format!(
        "{} takes no object in parts, so that no dump can be stored: {what}",
        view.probed.place
    );
    let hint = hint.as_deref().unwrap_or(
        "small objects pass, so that address and credentials are right: look at the store's own log, and at \
         what stands before it",
    );
    vec![Found::new(Severity::Critical, what, hint)]
}

fn overwrite(view: &RepositoryView) -> Vec<Found> {
    let place = &view.probed.place;
    if !view.probed.keeps_what_is_there {
        return vec![Found::new(
            Severity::Critical,
            format!("{place} replaced an object that was there"),
            "backups there could be overwritten: use another store",
        )];
    }
    match view.probed.survey.condition {
        Some(Compliance::Ignored) => vec![Found::new(
            Severity::Warning,
            format!(
                "{place} ignores If-None-Match: two that write one key at once overwrite each other"
            ),
            "pgkeep looks before it writes, and ids hold the millisecond and 30 random bits; keep other writers \
             out of the prefix",
        )],
        Some(Compliance::Unsupported) => vec![Found::new(
            Severity::Info,
            format!("{place} has no If-None-Match, and says so"),
            "pgkeep looks before it writes instead; keep other writers out of the prefix",
        )],
        _ => Vec::new(),
    }
}

fn digest(view: &RepositoryView) -> Vec<Found> {
    let survey = &view.probed.survey;
    let of_parts = survey.parts.as_ref().map(|parts| parts.digest);
    digest_of(view, survey.digest, "bytes")
        .or_else(|| digest_of(view, of_parts, "parts"))
        .into_iter()
        .collect()
}

fn digest_of(view: &RepositoryView, kept: Option<Compliance>, what: &str) -> Option<Found> {
    let place = &view.probed.place;
    match kept? {
        Compliance::Ignored => Some(Found::new(
            Severity::Warning,
            format!("{place} takes {what} whose digest is wrong: it does not check what arrives"),
            "what is damaged on its way would show only when it is read: try another `integrity` \
             (md5, crc32, crc64nvme), or use TLS",
        )),
        Compliance::Unsupported => Some(Found::new(
            Severity::Warning,
            format!("{place} does not know the digest that goes with each part"),
            "set `integrity` to one that it knows: md5, crc32, crc64nvme",
        )),
        Compliance::NotAsked if view.probed.survey.digest == Some(Compliance::NotAsked) => {
            Some(Found::new(
                Severity::Info,
                format!("no digests are sent to {place}: integrity = \"none\""),
                "leave `integrity` out, unless the store refuses digests",
            ))
        }
        Compliance::NotAsked | Compliance::Yes => None,
    }
}

fn delete(view: &RepositoryView) -> Vec<Found> {
    let probed = &view.probed;
    let Some(why) = &probed.not_removed else { return Vec::new() };
    let what = format!("{} does not let an object be removed: {why}", probed.place);
    // A credential that may only write is a good thing; prune then has no business there.
    let hint = "prune can remove nothing there: on purpose (a lock, credentials that may only add)? Then let \
                the store's own rules remove what is old. Else allow s3:DeleteObject, or writing to the folder";
    let severity = if probed.survey.lock.is_some() { Severity::Info } else { Severity::Warning };
    vec![Found::new(severity, what, hint)]
}

fn versions(view: &RepositoryView) -> Vec<Found> {
    let survey = &view.probed.survey;
    if survey.versioned != Some(true) || survey.lock.is_some() {
        return Vec::new();
    }
    vec![Found::new(
        Severity::Info,
        format!("{} keeps older versions of what is removed", view.probed.place),
        "they protect against somebody who deletes, and cost space: a lifecycle rule on noncurrent \
         versions ends them",
    )]
}

fn expiry(view: &RepositoryView) -> Vec<Found> {
    let rules = view.probed.survey.expiry.iter().flatten();
    let found = rules.map(|rule| {
        Found::new(
            Severity::Warning,
            format!("a lifecycle rule of the bucket removes backups: {rule}"),
            "it knows no floors, and may remove the last good backup: let the kind prune do it, and take \
             the prefix out of the rule",
        )
    });
    found.collect()
}

fn space(view: &RepositoryView) -> Vec<Found> {
    let Some((free, min_free)) = view.probed.survey.space else { return Vec::new() };
    let place = &view.probed.place;
    let usable = free.saturating_sub(min_free);
    if usable == 0 {
        return vec![Found::new(
            Severity::Critical,
            format!(
                "{} are free at {place}, and min_free is {}: nothing can be written",
                size(free),
                size(min_free)
            ),
            "free space, enlarge the filesystem, lower min_free, or keep fewer backups",
        )];
    }
    if usable >= view.databases {
        return Vec::new();
    }
    // Dumps are smaller than databases: without indexes, and compressed.
    vec![Found::new(
        Severity::Info,
        format!(
            "{} can be written to {place}, less than the databases have ({})",
            size(usable),
            size(view.databases)
        ),
        "dumps are mostly much smaller than their databases: compare with the sizes in `pgkeep list`",
    )]
}

fn clock(view: &RepositoryView) -> Vec<Found> {
    let Some(ahead) = view.probed.clock_ahead.filter(|ahead| ahead.abs() > SKEW_MAX) else {
        return Vec::new();
    };
    vec![Found::new(
        Severity::Warning,
        format!("the clock of {} is {}", view.probed.place, skew(ahead)),
        "check the time service of this host: S3 refuses requests of more than 15 minutes' difference",
    )]
}
