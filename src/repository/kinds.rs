//! The kinds of repository: one file each, and one line in [`KINDS`].

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use super::{
    ask::ANSWER_TIMEOUT,
    handle::{Elsewhere, Handle, Opener},
    local,
    pace::Pace,
    recipients, s3,
    store::Limits,
};
use crate::{
    config::{Diagnostics, Options, Section, class, did_you_mean, listed},
    domain::{
        name::RepositoryName,
        units::{ByteRate, ByteSize},
    },
    sys::clock::Clock,
};

/// Every kind of repository.
const KINDS: &[StoreKind] = &[local::KIND, s3::KIND];

/// How long a single request is repeated unless the configuration says otherwise.
pub const GIVE_UP_AFTER: Duration = Duration::from_mins(5);

/// What `max_upload_rate` may be. At the lowest, one part of 8 MiB takes more than two hours.
const RATES: RangeInclusive<ByteRate> = ByteRate(ByteSize::kib(1))..=ByteRate(ByteSize::gib(1024));

/// One kind of repository.
#[derive(Debug, Clone, Copy)]
pub struct StoreKind {
    /// What `kind = "…"` says.
    pub name: &'static str,
    /// Reads the kind's own options. Does no I/O on the network.
    pub build: fn(&mut Options<'_>, &Context, &mut Diagnostics) -> Option<(Opener, Limits)>,
    /// For a kind whose places have neighbours: what reads them, from the same options, which
    /// [`StoreKind::build`] has found right.
    pub elsewhere: Option<fn(&mut Options<'_>, &Context) -> Option<Elsewhere>>,
    /// For a kind that keeps its backups in a folder of this host: which one.
    pub folder: Option<fn(&mut Options<'_>) -> Option<PathBuf>>,
}

/// What building needs beside the options.
#[derive(Debug, Clone)]
pub struct Context {
    /// For what has to be remembered of unfinished uploads.
    pub state_dir: PathBuf,
    pub clock: Arc<dyn Clock>,
}

/// Reads one `[repository.NAME]`.
pub fn build(
    name: &RepositoryName,
    section: &Section,
    context: &Context,
    d: &mut Diagnostics,
) -> Option<Handle> {
    let mut o = section.options();
    let asked = o.require::<String>("kind", d)?;
    let Some(kind) = KINDS.iter().find(|kind| kind.name == asked.value) else {
        let known = || KINDS.iter().map(|kind| kind.name);
        let hint = did_you_mean(&asked.value, known())
            .unwrap_or_else(|| format!("the kinds are {}", listed(known())));
        d.error(&asked.span, format!("there is no kind of repository {:?}", asked.value))
            .class(class::REFERENCE)
            .hint(hint);
        return None;
    };
    let recipients = recipients::read(&mut o, d);
    let rate = o.take_in("max_upload_rate", RATES, d);
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    let answer_timeout = o.take_in_or("answer_timeout", second..=hour, ANSWER_TIMEOUT, d);
    let built = (kind.build)(&mut o, context, d);
    o.finish(d);
    let (recipients, (opener, limits)) = (recipients?, built?);
    let memory = context.state_dir.join("repositories").join(name.as_str());
    let handle = Handle::new(name.clone(), opener, limits, memory)
        .encrypted_to(recipients)
        .answering_within(answer_timeout);
    let handle = match rate {
        Some(rate) => handle.at_pace(Pace::new(rate.value.bytes(), context.clock.clone())),
        None => handle,
    };
    let handle = handle.in_folder(kind.folder.and_then(|read| read(&mut section.options())));
    let elsewhere = kind.elsewhere.and_then(|read| read(&mut section.options(), context));
    Some(match elsewhere {
        Some(elsewhere) => handle.with_elsewhere(elsewhere),
        None => handle,
    })
}
